from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Neighbour, Pairing
from medi2i.errors import UsageError
from medi2i.networks.resnet import ResnetGenerator
from medi2i.systems.cyclegan import CycleGAN
from medi2i.training.schedule import factor

TINY: dict[str, Any] = {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4}


def small(**changes: Any) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(**(TINY | changes))


def batch_of(contrasts: int = 1, slices: int = 1, seed: int = 0, dims: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(2, contrasts * slices, *[16] * dims, generator=random) - 1 for _ in range(2)
    )
    return Batch(source, target[:, slices // 2 :: slices], target_slab=target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def reached(system: CycleGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name in (*system.players["generators"], *system.players["discriminators"])
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


# ---- the published networks


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        whole, six, unet = CycleGAN(), CycleGAN(blocks=6), CycleGAN(generator="unet")
        colour, slab = CycleGAN(inputs=3, outputs=3), CycleGAN(slices=5)
    assert (count(whole.a_to_b), count(whole.judge_a)) == (11_365_633, 2_762_689)
    assert count(whole) == 28_256_644
    assert count(six.b_to_a) == 7_825_153
    assert (count(colour.a_to_b), count(colour.judge_b)) == (11_378_179, 2_764_737)
    assert count(slab.a_to_b) == 11_378_177
    assert count(unet.a_to_b) == 54_403_457


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        system, solid = CycleGAN(), CycleGAN(dims=3)
    assert (system.cycle, system.identity, system.game) == (10, 0.5, "least-squares")
    assert (system.pool_a.size, system.pool_b.size) == (50, 50)
    assert system.pairing is Pairing.UNPAIRED
    assert isinstance(solid.a_to_b, ResnetGenerator)
    assert (len(solid.a_to_b.blocks), solid.a_to_b.edge) == (6, "replicate")


def test_the_discriminators_judge_30_by_30_patches_of_a_window_of_256() -> None:
    with torch.device("meta"):
        assert CycleGAN().judge_b(torch.empty(2, 1, 256, 256)).shape == (2, 1, 30, 30)


def test_weights_begin_at_a_normal_of_002_and_biases_at_zero() -> None:
    system = small(features=16, blocks=2)
    for network in (system.a_to_b, system.judge_a):
        weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.dim() > 1])
        assert float(weights.std()) == pytest.approx(0.02, rel=0.05)
        assert not any(p.any() for p in network.parameters() if p.dim() == 1)


@pytest.mark.parametrize("generator", ["resnet", "unet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_images_are_bounded_and_every_scan_is_alone(dims: int, generator: str) -> None:
    system = small(generator=generator, depth=3, dims=dims)
    x = torch.randn(3, 1, *[16] * dims)
    with torch.no_grad():
        image = system.train().translate(x)
        assert torch.equal(image, system.translate(x))
        assert torch.equal(image, system.eval().translate(x))
        alone = system.translate(x[1:2])
    assert image.shape == x.shape
    assert float(image.abs().max()) < 1
    torch.testing.assert_close(image[1:2], alone, rtol=0, atol=1e-5)


def test_the_residual_generator_is_blind_to_gain_and_offset_but_not_to_sign() -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(dims=2, inputs=1, outputs=1, features=16, blocks=2)
    x = 2 * torch.rand(1, 1, 64, 64) - 1

    def change(other: Tensor) -> float:
        with torch.no_grad():
            return float((generator(other) - generator(x)).abs().max())

    assert change(x + 0.3) < 1e-4
    assert change(2 * x) < 1e-2
    assert change(0.5 * x) < 3e-2
    assert change(-x) > 0.2


def test_tiny_scans_can_be_translated() -> None:
    assert small().eval().translate(torch.randn(1, 1, 3, 5)).shape == (1, 1, 3, 5)


# ---- the game


def test_generators_move_first_and_gradients_keep_to_the_player() -> None:
    system = small()
    turns = system.play(batch_of())
    for player in ("generators", "discriminators"):
        turn = next(turns)
        assert turn.player == player
        turn.objective.backward()
        assert reached(system) == set(system.players[player])
        system.zero_grad(set_to_none=True)
    assert next(turns, None) is None
    assert all(parameter.requires_grad for parameter in system.parameters())


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_discriminators_loss_reaches_nobody_else(side: str) -> None:
    system = small()
    *_, turn = system.play(batch_of())
    turn.losses[f"contest_{side}"].backward()
    assert reached(system) == {f"judge_{side}"}


def test_a_cycle_reaches_both_generators_and_the_identity_one() -> None:
    wanted = {
        "gan_b": {"a_to_b"},
        "gan_a": {"b_to_a"},
        "cycle_a": {"a_to_b", "b_to_a"},
        "cycle_b": {"a_to_b", "b_to_a"},
        "identity_b": {"a_to_b"},
        "identity_a": {"b_to_a"},
    }
    for name, networks in wanted.items():
        system = small()
        turn = next(system.play(batch_of()))
        assert set(turn.losses) == set(wanted)
        turn.losses[name].backward()
        assert reached(system) == networks, name


def test_losses_written_out() -> None:
    system, batch = small(pool=0), batch_of()
    a, b = batch.source, batch.target
    with torch.no_grad():
        fake_b, fake_a = system.a_to_b(a), system.b_to_a(b)
        wanted = {
            "gan_b": (system.judge_b(fake_b) - 1).square().mean(),
            "gan_a": (system.judge_a(fake_a) - 1).square().mean(),
            "cycle_a": 10 * (system.b_to_a(fake_b) - a).abs().mean(),
            "cycle_b": 10 * (system.a_to_b(fake_a) - b).abs().mean(),
            "identity_b": 5 * (system.a_to_b(b) - b).abs().mean(),
            "identity_a": 5 * (system.b_to_a(a) - a).abs().mean(),
            "contest_b": 0.5
            * ((system.judge_b(b) - 1).square().mean() + system.judge_b(fake_b).square().mean()),
            "contest_a": 0.5
            * ((system.judge_a(a) - 1).square().mean() + system.judge_a(fake_a).square().mean()),
        }
    found = {name: loss for turn in system.play(batch) for name, loss in turn.losses.items()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_no_identity_where_it_weighs_nothing() -> None:
    assert "identity_a" not in next(small(identity=0.0).play(batch_of())).losses


def test_each_side_counts_by_its_own_weight() -> None:
    system, batch = small(), batch_of()
    here, there = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    here[..., :8], there[..., 4:] = 1, 1
    turn = next(system.play(replace(batch, weight=here, target_weight=there)))
    a, b = batch.source, batch.target
    with torch.no_grad():
        cycle_a = 10 * (system.b_to_a(system.a_to_b(a)) - a).abs()[..., :8].mean()
        identity_b = 5 * (system.a_to_b(b) - b).abs()[..., 4:].mean()
    torch.testing.assert_close(turn.losses["cycle_a"], cycle_a)
    torch.testing.assert_close(turn.losses["identity_b"], identity_b)


def test_exchanging_the_sides_exchanges_the_losses() -> None:
    one, other = small(), small()
    other.a_to_b, other.b_to_a = one.b_to_a, one.a_to_b
    other.judge_a, other.judge_b = one.judge_b, one.judge_a
    batch = batch_of()
    for ours, theirs in zip(
        one.play(batch), other.play(Batch(batch.target, batch.source)), strict=True
    ):
        torch.testing.assert_close(ours.objective, theirs.objective)
        for name, loss in ours.losses.items():
            mirrored = name[:-1] + ("b" if name[-1] == "a" else "a")
            torch.testing.assert_close(loss, theirs.losses[mirrored], msg=name)


def test_slabs_go_in_and_centre_slices_come_out() -> None:
    system, batch = small(inputs=2, slices=3, outputs=2), batch_of(2, 3)
    turn = next(system.play(batch))
    with torch.no_grad():
        fake_b = system.translate(batch.source)
        assert fake_b.shape == (2, 2, 16, 16)
        back = system.b_to_a(fake_b.repeat_interleave(3, dim=1))
        wanted = 10 * (back - batch.source[:, [1, 4]]).abs().mean()
        assert batch.target_slab is not None
        same = 5 * (system.a_to_b(batch.target_slab) - batch.target).abs().mean()
    torch.testing.assert_close(turn.losses["cycle_a"], wanted)
    torch.testing.assert_close(turn.losses["identity_b"], same)


def test_the_discriminators_also_see_images_of_earlier_rounds() -> None:
    torch.manual_seed(0)
    system = small(pool=2)
    for number in range(2):
        for _ in system.play(batch_of(seed=number)):
            pass
    assert int(system.pool_b.stored) == 2
    with torch.no_grad():
        system.pool_b.images.fill_(0.25)
    seen: list[Tensor] = []
    handle = system.judge_b.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    old = 0
    for number in range(20):
        for _ in system.play(batch_of(seed=number)):
            pass
        old += int((seen[-1] == 0.25).flatten(1).all(1).sum())
    handle.remove()
    assert 0 < old <= 2, "both stored images leave the pool, each at most once"
    # the weights of a model folder hold no picture of anybody
    assert not any(name.startswith("pool") for name in system.lasting_state())
    assert "pool_b.images" in system.state_dict()


def test_equals_a_loop_written_by_hand() -> None:
    """The authors' order, step by step: the same weights."""
    ours, theirs = small(pool=0).double(), small(pool=0).double()
    adam: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
    optimisers = {p: torch.optim.Adam(ours.parameters_of(p), **adam) for p in ours.players}
    optimiser_g, optimiser_d = (
        torch.optim.Adam(theirs.parameters_of(player), **adam) for player in theirs.players
    )
    mse, l1 = nn.MSELoss(), nn.L1Loss()

    def judged(judge: nn.Module, x: Tensor, real: bool) -> Tensor:
        values = judge(x)
        loss: Tensor = mse(values, torch.full_like(values, float(real)))
        return loss

    for number in range(3):
        batch = batch_of(seed=number)
        a, b = batch.source.double(), batch.target.double()
        for turn in ours.play(Batch(a, b)):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()

        fake_b, fake_a = theirs.a_to_b(a), theirs.b_to_a(b)
        optimiser_g.zero_grad()
        loss = judged(theirs.judge_b, fake_b, True) + judged(theirs.judge_a, fake_a, True)
        loss = loss + 10 * l1(theirs.b_to_a(fake_b), a) + 10 * l1(theirs.a_to_b(fake_a), b)
        loss = loss + 5 * l1(theirs.a_to_b(b), b) + 5 * l1(theirs.b_to_a(a), a)
        loss.backward()
        optimiser_g.step()
        optimiser_d.zero_grad()
        for judge, real, fake in ((theirs.judge_b, b, fake_b), (theirs.judge_a, a, fake_a)):
            half = judged(judge, real, True) + judged(judge, fake.detach(), False)
            (0.5 * half).backward()
        optimiser_d.step()
    # biases before a norm have a gradient of rounding alone, which Adam makes large
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if one.dim() > 1:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)


def test_the_rate_is_constant_for_half_the_run_and_never_negative() -> None:
    rates = [factor("linear", played, 200) for played in range(201)]
    assert rates[100] == 1
    assert rates[199] == pytest.approx(1 / 101, rel=0.02)
    assert min(rates) >= 0


# ---- what it cannot do


def test_both_sides_need_as_many_contrasts() -> None:
    with pytest.raises(UsageError, match="as many contrasts come out as go in; 2 and 1"):
        small(inputs=2)
    with pytest.raises(UsageError, match="serves no contrast on demand"):
        small(conditions=3)


def test_a_generator_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match='generator is "vit"; "resnet" or "unet"'):
        small(generator="vit")


# ---- two slices judged at once


def with_neighbours(slices: int = 1) -> Batch:
    batch, above = batch_of(slices=slices), batch_of(slices=slices, seed=5)
    assert above.target_slab is not None
    field, inside = torch.zeros(2, 2, 16, 16), torch.ones(2, 1, 16, 16)
    return replace(
        batch,
        neighbour=Neighbour(above.source, field, inside),
        target_neighbour=Neighbour(above.target_slab, field, inside),
    )


@pytest.mark.parametrize("slices", [1, 3])
def test_two_slices_are_judged_at_once(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = small(judged=2, slices=slices, pool=0)
    assert system.motion == "still"
    shown: dict[str, list[Tensor]] = {"judge_a": [], "judge_b": []}
    for name, images in shown.items():
        judge = getattr(system, name)
        forward = judge.forward

        def seen(image: Tensor, images: Any = images, forward: Any = forward) -> Any:
            images.append(image.detach())
            return forward(image)

        monkeypatch.setattr(judge, "forward", seen)
    batch = with_neighbours(slices)
    assert batch.neighbour is not None
    assert batch.target_neighbour is not None
    next_a, next_b = batch.neighbour.slab, batch.target_neighbour.slab
    assert batch.target_slab is not None
    assert next_a is not None
    assert next_b is not None
    list(system.play(batch))
    with torch.no_grad():
        drawn_b = [system.translate(s) for s in (batch.source, next_a)]
        drawn_a = [system.way_back(s) for s in (batch.target_slab, next_b)]
    real_a = [system.centre(s) for s in (batch.source, next_a)]
    real_b = [system.centre(s) for s in (batch.target_slab, next_b)]
    for name, drawn, real in (("judge_a", drawn_a, real_a), ("judge_b", drawn_b, real_b)):
        deceived, judged_real, judged_fake = shown[name]
        torch.testing.assert_close(deceived, torch.cat(drawn, 1))
        torch.testing.assert_close(judged_real, torch.cat(real, 1))
        torch.testing.assert_close(judged_fake, torch.cat(drawn, 1))


def test_what_two_slices_need() -> None:
    with pytest.raises(UsageError, match="this batch brings no neighbours"):
        next(iter(small(judged=2).play(batch_of())))
    for wrong in ({"judged": 3}, {"judged": 2, "dims": 3}):
        with pytest.raises(UsageError, match="1 was expected, or 2 for slices"):
            small(**wrong)
