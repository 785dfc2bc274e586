from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import gradient_similarity_deviation, structural_dissimilarity
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.qgan import QGAN

TINY: dict[str, Any] = {"features": 4, "blocks": 1, "patch": 2, "patch_features": 4}


def small(**changes: Any) -> QGAN:
    torch.manual_seed(0)
    return QGAN(**(TINY | changes))


def batch_of(slices: int = 1, seed: int = 0, dims: int = 2, side: int = 16) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, slab = (
        2 * torch.rand(2, slices, *[side] * dims, generator=random) - 1 for _ in range(2)
    )
    weight, other = (torch.rand(2, 1, *[side] * dims, generator=random) for _ in range(2))
    centre = slab[:, slices // 2 : slices // 2 + 1]
    return Batch(source, centre, weight, target_weight=other, target_slab=slab)


def reached(system: CycleGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for names in system.players.values()
        for name in names
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


def trained(system: CycleGAN, rounds: int = 5) -> dict[str, Tensor]:
    optimisers = {
        p: torch.optim.Adam(system.parameters_of(p), 2e-4, (0.5, 0.999)) for p in system.players
    }
    torch.manual_seed(1)
    for number in range(rounds):
        for turn in system.play(batch_of(seed=number)):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            optimisers[turn.player].step()
        system.rounds += 1
    return system.state_dict()


def test_networks_and_players_are_the_hosts() -> None:
    with torch.device("meta"):
        ours, host = QGAN(), CycleGAN()
    assert sum(p.numel() for p in ours.parameters()) == 28_256_644
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in host.named_parameters()
    }
    assert (ours.players, ours.pairing) == (host.players, Pairing.UNPAIRED)
    assert ours.paper != host.paper


def test_weight_zero_is_the_host_bit_by_bit() -> None:
    torch.manual_seed(0)
    host = trained(CycleGAN(**TINY, pool=3))
    ours = trained(small(pool=3, quality=0.0))
    assert host.keys() == ours.keys()
    assert all(torch.equal(ours[name], host[name]) for name in host)
    other = trained(small(pool=3))
    assert not all(torch.equal(other[name], host[name]) for name in host)


@pytest.mark.parametrize("measure", ["ssim", "gmsd", "deep"])
def test_each_image_is_compared_with_what_came_back_of_it(measure: Any) -> None:
    system, batch = small(slices=3, measure=measure, quality=3.0), batch_of(slices=3)
    losses = next(system.play(batch)).losses
    for side, image, weight, there, again in (
        ("a", batch.source[:, 1:2], batch.weight, system.a_to_b, system.b_to_a),
        ("b", batch.target, batch.target_weight, system.b_to_a, system.a_to_b),
    ):
        slab = batch.source if side == "a" else batch.target_slab
        assert slab is not None
        back = system.drawn(again, system.drawn(there, slab).expand(-1, 3, -1, -1))
        if measure == "deep":
            expected = _deep(system.get_submodule(f"judge_{side}"), image, back)
        else:
            classical = {"ssim": structural_dissimilarity, "gmsd": gradient_similarity_deviation}
            expected = classical[measure](back, image, weight)
        torch.testing.assert_close(losses[f"quality_{side}"], 3 * expected)
    assert set(losses) == {
        f"{name}_{side}" for name in ("gan", "cycle", "identity", "quality") for side in "ab"
    }


def _deep(judge: Any, image: Tensor, back: Tensor) -> Tensor:
    """Of a discriminator of two strided layers: behind its first, second and third activation."""
    distances = [(judge.judge[:n](image) - judge.judge[:n](back)).abs().mean() for n in (2, 5, 8)]
    return torch.stack(distances).mean()


@pytest.mark.parametrize("measure", ["ssim", "gmsd", "deep"])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_image_that_came_back_whole_costs_nothing(measure: Any, dims: int) -> None:
    system, batch = small(measure=measure, dims=dims), batch_of(dims=dims)
    for side in ("a", "b"):
        (loss,) = system.reconstruction_losses(
            side, batch.source, batch.source.clone(), batch.weight
        ).values()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        (loss,) = system.reconstruction_losses(
            side, batch.source, -batch.source, batch.weight
        ).values()
        if measure == "gmsd":
            assert float(loss.detach()) == pytest.approx(0, abs=1e-6)  # edges have no sign there
        else:
            assert 0.01 < float(loss.detach()) <= 2


@pytest.mark.parametrize("measure", ["ssim", "gmsd", "deep"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_both_generators_learn_from_it_and_no_discriminator(measure: Any, side: str) -> None:
    system = small(measure=measure)
    next(system.play(batch_of())).losses[f"quality_{side}"].backward()
    assert reached(system) == {"a_to_b", "b_to_a"}
    assert all(p.requires_grad for p in system.parameters())


def test_the_move_of_the_generators_leaves_the_feature_network_as_it_is() -> None:
    system, batch = small(measure="deep"), batch_of()
    turns = system.play(batch)
    turn = next(turns)
    before = {n: t.clone() for n, t in system.judge_a.state_dict().items()}
    optimiser = torch.optim.Adam(system.parameters_of(turn.player), 1e-2)
    turn.objective.backward()
    optimiser.step()
    assert all(torch.equal(before[n], t) for n, t in system.judge_a.state_dict().items())
    assert all(p.grad is None for p in system.judge_a.parameters())


def test_the_ssim_is_symmetric_and_its_window_fits_the_dimensions() -> None:
    for dims, side in ((2, 12), (3, 8)):
        system = small(dims=dims)
        a, b = (batch_of(dims=dims, side=side, seed=seed).source for seed in (0, 1))
        torch.testing.assert_close(
            system.classical_distance(a, b, None), system.classical_distance(b, a, None)
        )
        with pytest.raises(UsageError, match=f"needs at least {side} along each side"):
            system.classical_distance(a[..., 1:], b[..., 1:], None)


def test_background_of_no_weight_does_not_dilute_the_loss() -> None:
    system, batch = small(), batch_of(side=32)
    image, back = batch.source.clone(), batch.target.clone()
    image[..., 16:] = back[..., 16:] = -1
    weight = torch.zeros(2, 1, 32, 32)
    weight[..., :11] = 1
    whole = system.classical_distance(image, back, None)
    masked = system.classical_distance(image, back, weight)
    assert float(masked) > 1.5 * float(whole)


def test_the_weight_rises_over_the_ramp() -> None:
    system, weights = small(quality=2.0, ramp=4), []
    for _ in range(6):
        weights.append(float(system.quality_weight()))
        system.rounds += 1
    assert weights == [0, 0.5, 1, 1.5, 2, 2]
    assert float(small(quality=2.0).quality_weight()) == 2
    losses = next(small(quality=2.0, ramp=4).play(batch_of())).losses
    assert float(losses["quality_a"].detach()) == 0


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match='measure is "psnr"'):
        small(measure="psnr")
    with pytest.raises(UsageError, match="ramp is -1"):
        small(ramp=-1)
    with pytest.raises(UsageError, match="on demand"):
        small(conditions=3)


def test_translating_is_the_hosts() -> None:
    system = small().eval()
    x = torch.randn(2, 1, 13, 30)
    assert torch.equal(system.translate(x), CycleGAN.translate(system, x))
    assert isinstance(system.a_to_b, nn.Module)
