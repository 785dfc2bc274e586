from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.systems.revgan import RevGAN

HALVES = {
    "b": ("encoder_a", "core", "decoder_b"),
    "a": ("encoder_b", "core", "decoder_a"),
}


def small(**changes: Any) -> RevGAN:
    torch.manual_seed(0)
    given: dict[str, Any] = {"depth": 2, "features": 4, "patch": 1, "patch_features": 4}
    return RevGAN(**(given | changes))


def batch_of(channels: int = 1, outputs: int = 1, seed: int = 0, dims: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    shape = [16 if dims == 2 else 10] * dims
    source, target = (
        2 * torch.rand(2, count, *shape, generator=random) - 1 for count in (channels, outputs)
    )
    return Batch(source, target)


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def generators(system: RevGAN) -> list[nn.Module]:
    return [system.get_submodule(name) for name in system.players["generators"]]


def reached(system: RevGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    names = {name for player in system.players for name in system.players[player]}
    return {
        name
        for name in names
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


# ---- the published sizes


@pytest.mark.parametrize(
    ("arguments", "whole"),
    [
        ({"depth": 6}, 5_030_402),
        ({}, 6_801_410),
        ({"depth": 18}, 12_114_434),
        ({"features": 32}, 1_704_962),
        ({"features": 128}, 27_168_770),
        ({"dims": 3, "depth": 2}, 458_882),
        ({"dims": 3, "depth": 4}, 680_322),
        ({"dims": 3, "depth": 8}, 1_123_202),
        ({"dims": 3, "depth": 4, "features": 64}, 2_687_746),
    ],
)
def test_generator_parameters(arguments: dict[str, Any], whole: int) -> None:
    with torch.device("meta"):
        assert count(*generators(RevGAN(**arguments))) == whole


def test_parts_and_discriminators() -> None:
    with torch.device("meta"):
        paired, unpaired = RevGAN(), RevGAN(objective="unpaired")
        solid = RevGAN(dims=3, objective="unpaired")
    assert count(paired.encoder_a) == count(paired.encoder_b) == 372_224
    assert count(paired.decoder_a) == count(paired.decoder_b) == 371_969
    assert count(paired.core) == 9 * 590_336
    assert (count(paired.judge_a), count(unpaired.judge_b)) == (2_763_713, 2_762_689)
    # the authors' 3-D discriminator has batch norm: scale and shift instead of biases
    assert count(solid.judge_a) == 2_642_753 - (128 + 256)


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        paired, unpaired = RevGAN(), RevGAN(objective="unpaired")
        solid = RevGAN(dims=3, objective="unpaired")
    assert (paired.l1, paired.gan, paired.game) == (100, 1, "vanilla")
    assert (unpaired.cycle, unpaired.identity, unpaired.game) == (10, 0.5, "least-squares")
    assert solid.identity == 0
    assert (paired.multiple, solid.multiple) == (4, 2)
    assert (paired.pairing, unpaired.pairing) == (Pairing.PAIRED, Pairing.UNPAIRED)
    assert RevGAN.pairing is Pairing.PAIRED


# ---- what makes it reversible


@pytest.mark.parametrize("dims", [2, 3])
def test_saved_activations_do_not_grow_with_depth(dims: int) -> None:
    """Those of 3, 9 and 18 blocks are the same within 5 %; a round's turns, both directions."""
    kept = {(depth, True): 0 for depth in (3, 9, 18)} | {(3, False): 0, (9, False): 0}
    for depth, recompute in kept:
        system = small(depth=depth, dims=dims, recompute=recompute, features=8)
        weights = {p.untyped_storage().data_ptr() for p in system.parameters()}
        seen: dict[int, Tensor] = {}

        def pack(
            tensor: Tensor, weights: set[int] = weights, seen: dict[int, Tensor] = seen
        ) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                seen[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            next(system.play(batch_of(dims=dims)))
        kept[depth, recompute] = sum(t.untyped_storage().nbytes() for t in seen.values())
    assert kept[9, True] == pytest.approx(kept[3, True], rel=0.05)
    assert kept[18, True] == pytest.approx(kept[3, True], rel=0.05)
    assert kept[9, False] > 1.5 * kept[3, False] > 1.5 * kept[3, True]


@pytest.mark.parametrize("changes", [{"recompute": False}, {"frugal": True}])
@pytest.mark.parametrize("objective", ["paired", "unpaired"])
@pytest.mark.parametrize("dims", [2, 3])
def test_recomputing_changes_no_gradient(dims: int, objective: str, changes: Any) -> None:
    found = []
    both: list[dict[str, Any]] = [{}, changes]
    for one in both:
        system = small(dims=dims, objective=objective, depth=3, **one).double()
        if dims == 3:  # away from the identity, so that there is something to invert
            for parameter in system.core.parameters():
                nn.init.normal_(parameter, 0, 0.1)
        batch = batch_of(dims=dims)
        batch = Batch(batch.source.double(), batch.target.double())
        for turn in system.play(batch):
            turn.objective.backward(inputs=system.parameters_of(turn.player))
        found.append({name: p.grad for name, p in system.named_parameters()})
    for name, gradient in found[0].items():
        other = found[1][name]
        assert gradient is not None
        assert other is not None
        assert (gradient - other).norm() < 1e-6 * other.norm().clamp_min(1e-3), name


def test_the_cycle_error_is_that_of_the_core_where_doors_are_inverse() -> None:
    system = small(depth=9).double()
    for name in ("encoder_a", "encoder_b", "decoder_a", "decoder_b"):
        setattr(system, name, nn.Identity())
    hidden = torch.randn(1, 16, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert (system.a_to_b(hidden) - hidden).abs().mean() > 0.5
        assert (system.b_to_a(system.a_to_b(hidden)) - hidden).abs().max() < 1e-10


def test_both_directions_share_the_core_from_the_start_in_3d() -> None:
    system = small(dims=3)
    hidden = torch.randn(1, 8, 6, 6, 6)
    assert torch.equal(system.core(hidden), hidden)
    assert torch.equal(system.core.inverse(hidden), hidden)


# ---- the game


@pytest.mark.parametrize("objective", ["paired", "unpaired"])
def test_generators_move_first_and_gradients_keep_to_the_player(objective: str) -> None:
    system = small(objective=objective)
    turns = system.play(batch_of())
    for player in ("generators", "discriminators"):
        turn = next(turns)
        assert turn.player == player
        turn.objective.backward()
        assert reached(system) == set(system.players[player])
        system.zero_grad(set_to_none=True)
    assert next(turns, None) is None
    assert all(parameter.requires_grad for parameter in system.parameters())


@pytest.mark.parametrize("direction", ["a", "b"])
def test_each_direction_reaches_its_own_half_and_the_core(direction: str) -> None:
    system = small()
    turn = next(system.play(batch_of()))
    (turn.losses[f"gan_{direction}"] + turn.losses[f"l1_{direction}"]).backward()
    assert reached(system) == set(HALVES[direction])


def test_a_cycle_reaches_both_halves() -> None:
    system = small(objective="unpaired")
    next(system.play(batch_of())).losses["cycle_a"].backward()
    assert reached(system) == {*HALVES["a"], *HALVES["b"]}


def test_losses_written_out() -> None:
    system, batch = small(), batch_of()
    for judge in (system.judge_a, system.judge_b):
        last: Any = judge.judge[-1]
        nn.init.zeros_(last.weight)
    generator, discriminator = system.play(batch)
    a, b = batch.source, batch.target
    expected = 100 * (system.translate(a) - b).abs().mean()
    torch.testing.assert_close(generator.losses["l1_b"], expected)
    torch.testing.assert_close(generator.losses["l1_a"], 100 * (system.b_to_a(b) - a).abs().mean())
    for name in ("gan_a", "gan_b"):
        assert float(generator.losses[name].detach()) == pytest.approx(math.log(2))
    # half of the sum of four terms
    assert float(discriminator.objective.detach()) == pytest.approx(2 * math.log(2))


def test_unpaired_losses_written_out() -> None:
    system, batch = small(objective="unpaired"), batch_of()
    turn = next(system.play(batch))
    a, b = batch.source, batch.target
    wanted = {
        "cycle_a": 10 * (system.b_to_a(system.a_to_b(a)) - a).abs().mean(),
        "cycle_b": 10 * (system.a_to_b(system.b_to_a(b)) - b).abs().mean(),
        "identity_b": 5 * (system.a_to_b(b) - b).abs().mean(),
        "identity_a": 5 * (system.b_to_a(a) - a).abs().mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(turn.losses[name], value)
    assert set(turn.losses) == {*wanted, "gan_a", "gan_b"}


def test_voxels_outside_the_weight_do_not_count() -> None:
    system, batch = small(), batch_of()
    left = torch.zeros(2, 1, 16, 16)
    left[..., :8] = 1
    turn = next(system.play(Batch(batch.source, batch.target, left)))
    fake, real = system.a_to_b(batch.source), batch.target
    expected = 100 * (fake - real).abs()[..., :8].mean()
    torch.testing.assert_close(turn.losses["l1_b"], expected)


def test_slabs_and_several_contrasts() -> None:
    system = small(inputs=2, slices=3, outputs=2, objective="unpaired")
    batch = batch_of(6, 2)
    assert system.identity == 0
    assert system.a_to_b(batch.source).shape == (2, 2, 16, 16)
    assert system.b_to_a(batch.target).shape == (2, 6, 16, 16)
    # the middle of either contrast's slab
    assert torch.equal(system.centre(batch.source), batch.source[:, [1, 4]])
    turn = next(system.play(batch))
    assert "identity_a" not in turn.losses
    again = system.b_to_a(system.a_to_b(batch.source))[:, [1, 4]]
    expected = 10 * (again - batch.source[:, [1, 4]]).abs().mean()
    torch.testing.assert_close(turn.losses["cycle_a"], expected)


def test_the_paired_discriminators_see_the_source() -> None:
    system, batch = small(), batch_of()
    first, second = batch.source, batch_of(seed=1).source
    assert not torch.allclose(
        system.judged_b(first, batch.target), system.judged_b(second, batch.target)
    )
    alone = small(objective="unpaired")
    assert torch.equal(alone.judged_b(first, batch.target), alone.judged_b(second, batch.target))


def test_equals_a_loop_written_by_hand() -> None:
    """The authors' order, step by step, with stored activations: the same weights."""
    ours, theirs = small().double(), small(recompute=False).double()
    adam: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
    optimisers = {p: torch.optim.Adam(ours.parameters_of(p), **adam) for p in ours.players}
    optimiser_g, optimiser_d = (
        torch.optim.Adam(theirs.parameters_of(player), **adam) for player in theirs.players
    )
    cross_entropy, l1 = nn.BCEWithLogitsLoss(), nn.L1Loss()

    def judged(judge: nn.Module, *images: Tensor, real: bool) -> Tensor:
        logits = judge(torch.cat(images, 1))
        loss: Tensor = cross_entropy(logits, torch.full_like(logits, float(real)))
        return loss

    for number in range(3):
        batch = batch_of(seed=number)
        a, b = batch.source.double(), batch.target.double()
        for turn in ours.play(Batch(a, b)):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()

        fake_b = theirs.decoder_b(theirs.core(theirs.encoder_a(a)))
        fake_a = theirs.decoder_a(theirs.core.inverse(theirs.encoder_b(b)))
        optimiser_g.zero_grad()
        loss = judged(theirs.judge_b, a, fake_b, real=True)
        loss = loss + judged(theirs.judge_a, b, fake_a, real=True)
        (loss + 100 * l1(fake_b, b) + 100 * l1(fake_a, a)).backward()
        optimiser_g.step()
        optimiser_d.zero_grad()
        loss = judged(theirs.judge_b, a, b, real=True)
        loss = loss + judged(theirs.judge_b, a, fake_b.detach(), real=False)
        loss = loss + judged(theirs.judge_a, b, a, real=True)
        loss = loss + judged(theirs.judge_a, b, fake_a.detach(), real=False)
        (0.5 * loss).backward()
        optimiser_d.step()
    # Adam divides by the size of a gradient: biases before a norm, whose gradient is rounding
    # alone, wander; everything that has an effect agrees
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if one.dim() > 1:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)


# ---- what it cannot do


def test_contrasts_on_demand_are_refused() -> None:
    with pytest.raises(UsageError, match="two domains, each with networks of its own"):
        small(conditions=3)


def test_the_identity_needs_as_many_channels_on_both_sides() -> None:
    with pytest.raises(UsageError, match="3 channels go in and 1 come out"):
        small(slices=3, objective="unpaired", identity=0.5)
