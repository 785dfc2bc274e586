from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.discogan import DiscoGANDiscriminator, DiscoGANGenerator
from medi2i.systems.discogan import DiscoGAN, mean_feature_distance

TINY: dict[str, Any] = {"depth": 2, "features": 4}


def small(**changes: Any) -> DiscoGAN:
    torch.manual_seed(0)
    return DiscoGAN(**(TINY | changes))


def batch_of(
    contrasts: int = 1, slices: int = 1, seed: int = 0, dims: int = 2, size: int = 3
) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(size, contrasts * slices, *[16] * dims, generator=random) - 1
        for _ in range(2)
    )
    return Batch(source, target[:, slices // 2 :: slices], target_slab=target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def reached(system: DiscoGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name in (*system.players["generators"], *system.players["discriminators"])
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


def both_turns(system: DiscoGAN, batch: Batch) -> dict[str, Tensor]:
    return {name: loss for turn in system.play(batch) for name, loss in turn.losses.items()}


# ---- the published networks


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        system, coded = DiscoGAN(), DiscoGAN(code=100)
    assert (count(system.a_to_b), count(system.judge_a)) == (5_509_760, 2_763_520)
    assert count(coded.b_to_a) == 7_149_384


def test_no_convolution_has_a_bias() -> None:
    with torch.device("meta"):
        modules = [*DiscoGAN(code=100).modules(), *DiscoGAN(dims=3, norm="instance").modules()]
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    convolutions = [module for module in modules if isinstance(module, kinds)]
    assert len(convolutions) == 2 * (10 + 5) + 2 * (8 + 5)
    assert all(module.bias is None for module in convolutions)


def test_defaults_are_the_authors() -> None:
    with torch.device("meta"):
        system = DiscoGAN()
    assert (system.gan, system.matching) == (0.1, 0.9)
    assert (system.rate, system.early_rate, system.early_rounds) == (0.5, 0.01, 10_000)
    assert (system.generator_rounds, system.pairing) == (2, Pairing.UNPAIRED)


@pytest.mark.parametrize(("size", "patches"), [(64, 1), (128, 5), (256, 13)])
def test_the_discriminator_gives_a_score_and_three_maps(size: int, patches: int) -> None:
    with torch.device("meta"):
        judged, seen = DiscoGANDiscriminator(dims=2, inputs=1)(torch.empty(2, 1, size, size))
    assert judged.shape == (2, 1, patches, patches)
    assert [tuple(each.shape[1:]) for each in seen] == [
        (128, size // 4, size // 4),
        (256, size // 8, size // 8),
        (512, size // 16, size // 16),
    ]


def test_the_discriminator_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(UsageError, match=r"\(48, 64\) voxels .* needs 64 along each side"):
        DiscoGANDiscriminator(dims=2, inputs=1, features=2)(torch.zeros(1, 1, 48, 64))


def test_the_code_of_a_window_of_64_is_one_voxel() -> None:
    with torch.device("meta"):
        generator = DiscoGANGenerator(dims=2, inputs=1, outputs=1, code=100)
        shapes = []
        x = torch.empty(2, 1, 64, 64)
        for layer in generator.main:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
    assert (100, 1, 1) in shapes
    assert shapes[-1] == (1, 64, 64)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("code", [0, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_networks_draw_in_01_and_the_system_in_11(dims: int, code: int, norm: str) -> None:
    system = small(dims=dims, code=code, norm=norm).eval()
    x = torch.rand(2, 1, *[16] * dims)
    with torch.no_grad():
        drawn, image = system.a_to_b(x), system.translate(2 * x - 1)
    assert 0 < float(drawn.min()) < float(drawn.max()) < 1
    torch.testing.assert_close(image, 2 * drawn - 1)


@pytest.mark.parametrize("code", [0, 5])
def test_tiny_scans_can_be_translated(code: int) -> None:
    system = small(code=code, norm="instance").eval()
    assert system.translate(torch.randn(1, 1, 3, 5)).shape == (1, 1, 3, 5)


def test_a_translation_does_not_depend_on_the_batch_but_training_does() -> None:
    system, x = small(), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        together, alone = system.train().translate(x), system.translate(x[:1])
        assert float((together[:1] - alone).abs().max()) > 1e-3
        system.eval()
        torch.testing.assert_close(system.translate(x)[:1], system.translate(x[:1]))


# ---- mean features


def test_mean_features_written_out() -> None:
    one = [torch.tensor([[0.0, 2.0], [4.0, 6.0]]).reshape(2, 2, 1, 1)]  # means 2 and 4
    other = [torch.tensor([[1.0, 1.0]]).reshape(1, 2, 1, 1)]
    assert float(mean_feature_distance(one, other)) == ((2 - 1) ** 2 + (4 - 1) ** 2) / 2
    assert float(mean_feature_distance(one * 3, other * 3)) == 15
    assert float(mean_feature_distance(one, [one[0].flip(0)])) == 0


# ---- the game


def test_discriminators_move_in_one_round_of_three_and_generators_in_the_others() -> None:
    system = small()
    moved = []
    for number in range(7):
        turns = list(system.play(batch_of(seed=number)))
        system.rounds += 1
        moved.append([turn.player for turn in turns])
    generators, discriminators = ["generators"], ["discriminators"]
    assert moved == [discriminators, generators, generators] * 2 + [discriminators]
    assert [turn.player for turn in small(generator_rounds=0).play(batch_of())] == [
        "discriminators",
        "generators",
    ]


@pytest.mark.parametrize("played", [0, 1])
def test_gradients_keep_to_the_player(played: int) -> None:
    system = small()
    system.rounds += played
    (turn,) = system.play(batch_of())
    turn.objective.backward()
    assert reached(system) == set(system.players[turn.player])
    assert all(parameter.requires_grad for parameter in system.parameters())


def test_losses_written_out() -> None:
    system, batch = small(generator_rounds=0, early_rounds=0, rate=0.2), batch_of()
    a, b = (batch.source + 1) / 2, (batch.target + 1) / 2
    entropy = nn.BCELoss()

    def judged(judge: nn.Module, x: Tensor, label: float) -> Tensor:
        score = torch.sigmoid(judge(x)[0])
        loss: Tensor = entropy(score, torch.full_like(score, label))
        return loss

    def means(judge: nn.Module, x: Tensor) -> list[Tensor]:
        return [seen.mean(0) for seen in judge(x)[1]]

    with torch.no_grad():
        fake_b, fake_a = system.a_to_b(a), system.b_to_a(b)
        wanted = {
            "reconstruction_a": 0.2 * (system.b_to_a(fake_b) - a).square().mean(),
            "reconstruction_b": 0.2 * (system.a_to_b(fake_a) - b).square().mean(),
        }
        for name, judge, real, fake in (
            ("a", system.judge_a, a, fake_a),
            ("b", system.judge_b, b, fake_b),
        ):
            wanted[f"contest_{name}"] = 0.5 * (judged(judge, real, 1) + judged(judge, fake, 0))
            wanted[f"gan_{name}"] = 0.8 * 0.1 * judged(judge, fake, 1)
            apart = [
                (one - other).square().mean()
                for one, other in zip(means(judge, real), means(judge, fake), strict=True)
            ]
            wanted[f"matching_{name}"] = 0.8 * 0.9 * torch.stack(apart).sum()
    found = both_turns(system, batch)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_the_way_back_counts_little_for_10000_rounds() -> None:
    shares = []
    for played in (0, 9_999, 10_000):
        system = small(generator_rounds=0)
        system.rounds += played
        losses = both_turns(system, batch_of())
        back = system.b_to_a(system.a_to_b((batch_of().source + 1) / 2))
        error = (back - (batch_of().source + 1) / 2).square().mean()
        shares.append(float((losses["reconstruction_a"] / error).detach()))
    assert shares == pytest.approx([0.01, 0.01, 0.5], rel=1e-3)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_rate_switches_either_half_off(rate: float) -> None:
    """Of the share that is zero nothing reaches the generators."""
    system = small(generator_rounds=0, early_rounds=0, rate=rate)
    *_, turn = system.play(batch_of())
    silent = [n for n in turn.losses if n.startswith("reconstruction") == (rate == 0)]
    assert len(silent) == (2 if rate == 0 else 4)
    torch.stack([turn.losses[name] for name in silent]).sum().backward(retain_graph=True)
    assert reached(system) == set()
    system.zero_grad()
    turn.objective.backward()
    assert reached(system) == {"a_to_b", "b_to_a"}


def test_exchanging_the_sides_exchanges_the_losses() -> None:
    one, other = small(generator_rounds=0), small(generator_rounds=0)
    other.a_to_b, other.b_to_a = one.b_to_a, one.a_to_b
    other.judge_a, other.judge_b = one.judge_b, one.judge_a
    batch = batch_of()
    ours, theirs = both_turns(one, batch), both_turns(other, Batch(batch.target, batch.source))
    for name, loss in ours.items():
        mirrored = name[:-1] + ("b" if name[-1] == "a" else "a")
        torch.testing.assert_close(loss, theirs[mirrored], msg=name)


def test_each_side_counts_by_its_own_weight() -> None:
    system, batch = small(generator_rounds=0, early_rounds=0), batch_of()
    here, there = torch.zeros(3, 1, 16, 16), torch.ones(3, 1, 16, 16)
    here[..., :8] = 1
    losses = both_turns(system, replace(batch, weight=here, target_weight=there))
    a, b = (batch.source + 1) / 2, (batch.target + 1) / 2
    with torch.no_grad():
        error_a = (system.b_to_a(system.a_to_b(a)) - a).square()[..., :8].mean()
        error_b = (system.a_to_b(system.b_to_a(b)) - b).square().mean()
    torch.testing.assert_close(losses["reconstruction_a"], 0.5 * error_a)
    torch.testing.assert_close(losses["reconstruction_b"], 0.5 * error_b)


def test_slabs_go_in_and_centre_slices_come_out() -> None:
    system = small(inputs=2, slices=3, outputs=2, generator_rounds=0, early_rounds=0)
    batch = batch_of(2, 3)
    losses = both_turns(system, batch)
    a = (batch.source + 1) / 2
    with torch.no_grad():
        back = system.b_to_a(system.a_to_b(a).repeat_interleave(3, dim=1))
        wanted = 0.5 * (back - a[:, [1, 4]]).square().mean()
    torch.testing.assert_close(losses["reconstruction_a"], wanted)


def test_a_round_moves_one_side_alone_as_the_authors_loop_does() -> None:
    """Their loop computes everything, detaches nothing and steps one side: the same weights."""
    ours, theirs = small(early_rounds=2).double(), small(early_rounds=2).double()
    adam: dict[str, Any] = {"lr": 1e-3, "betas": (0.5, 0.999), "weight_decay": 1e-5}
    optimisers = {p: torch.optim.Adam(ours.parameters_of(p), **adam) for p in ours.players}
    rivals = {p: torch.optim.Adam(theirs.parameters_of(p), **adam) for p in theirs.players}
    entropy, mse = nn.BCEWithLogitsLoss(), nn.MSELoss()

    def matched(seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
        apart = [(x.mean(0) - y.mean(0)).square() for x, y in zip(wanted, seen, strict=True)]
        return torch.stack([each.mean() for each in apart]).sum()

    for number in range(4):
        batch = batch_of(seed=number)
        source, target = batch.source.double(), batch.target.double()
        for turn in ours.play(Batch(source, target)):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()
        ours.rounds += 1

        a, b = (source + 1) / 2, (target + 1) / 2
        fake_b, fake_a = theirs.a_to_b(a), theirs.b_to_a(b)
        share = 0.01 if number < 2 else 0.5
        g_loss, d_loss = torch.zeros(()), torch.zeros(())
        for judge, real, fake, back in (
            (theirs.judge_b, b, fake_b, mse(theirs.a_to_b(fake_a), b)),
            (theirs.judge_a, a, fake_a, mse(theirs.b_to_a(fake_b), a)),
        ):
            (good, seen_real), (bad, seen) = judge(real), judge(fake)
            ones, zeros = torch.ones_like(bad), torch.zeros_like(bad)
            d_loss = d_loss + 0.5 * entropy(good, ones) + 0.5 * entropy(bad, zeros)
            fooled = 0.1 * entropy(bad, ones) + 0.9 * matched(seen, seen_real)
            g_loss = g_loss + (1 - share) * fooled + share * back
        theirs.zero_grad()
        player = "generators" if number % 3 else "discriminators"
        (g_loss if number % 3 else d_loss).backward()
        rivals[player].step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)


# ---- what it cannot do


def test_both_sides_need_as_many_contrasts() -> None:
    with pytest.raises(UsageError, match="as many contrasts come out as go in; 1 and 2"):
        small(outputs=2)
    with pytest.raises(UsageError, match="serves no contrast on demand"):
        small(conditions=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1.5}, "rate is 1.5; a share from 0 to 1"),
        ({"early_rate": -0.1}, "early_rate is -0.1"),
        ({"generator_rounds": -1}, "generator_rounds is -1; 0 or more"),
        ({"early_rounds": -1}, "early_rounds is -1"),
        ({"depth": 1}, "depth is 1; at least 2"),
    ],
)
def test_numbers_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(**changes)
