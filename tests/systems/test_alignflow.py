from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.invertible import ActNorm
from medi2i.networks.layers import pad_to_multiple
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.base import Translator
from medi2i.volume import load_volume

TINY: dict[str, Any] = {"levels": 2, "steps": 2, "width": 8, "patch": 1, "patch_features": 4}


def small(**changes: Any) -> AlignFlow:
    torch.manual_seed(0)
    return AlignFlow(**(TINY | changes))


def blobs(count: int, channels: int, size: tuple[int, ...], seed: int) -> Tensor:
    """Smooth images in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, channels, *[4] * len(size), generator=random) * 2 - 1
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return nn.functional.interpolate(rough, size=size, mode=mode)


def batch_of(channels: int = 1, seed: int = 0, dims: int = 2) -> Batch:
    size = (16, 16) if dims == 2 else (8, 8, 8)
    a, b = (blobs(2, channels, size, 2 * seed + n) for n in range(2))
    return Batch(a, -b[:, channels // 2 :: channels], target_slab=-b)


def disturb(network: nn.Module, size: float = 0.05) -> None:
    """Weights as training might leave them."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
        for module in network.modules():
            if isinstance(module, ActNorm):
                module.initialised.fill_(1)


def learn(system: Translator, batches: Iterator[Batch], rate: float = 1e-3) -> list[float]:
    """The objective of the first turn of every round."""
    optimisers = {p: torch.optim.Adam(system.parameters_of(p), rate) for p in system.players}
    first = next(iter(system.players))
    objectives = []
    for batch in batches:
        for turn in system.train().play(batch):
            optimiser = optimisers[turn.player]
            optimiser.zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            nn.utils.clip_grad_norm_(system.parameters_of(turn.player), 5.0)
            optimiser.step()
            if turn.player == first:
                objectives.append(float(turn.objective.detach()))
    return objectives


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


# ---- the way back


@pytest.mark.parametrize("arguments", [{}, {"slices": 3}, {"dims": 3}, {"coupling": "sigmoid"}])
def test_the_way_back_is_exact_whatever_the_weights_are(arguments: dict[str, Any]) -> None:
    system = small(**arguments).eval()
    size = (16, 24) if system.dims == 2 else (8, 8, 12)
    a = blobs(2, system.channels, size, 3)
    for weights in ("fresh", "other"):
        if weights == "other":
            disturb(system)
        b = system.a_to_b(a)
        assert b.shape == a.shape
        assert largest(system.b_to_a(b) - a) < 1e-4
        assert largest(system.a_to_b(system.b_to_a(a)) - a) < 1e-4
        exact = system.double()
        assert largest(exact.b_to_a(exact.a_to_b(a.double())) - a.double()) < 1e-10
        system = system.float()
    assert largest(b - a) > 1e-2, "the two flows differ by now"


def test_the_way_back_after_learning_and_what_clamping_costs() -> None:
    system = small()
    learn(system, (batch_of(seed=n) for n in range(8)), 3e-3)
    system.eval()
    a = blobs(4, 1, (32, 32), 77)
    b = system.a_to_b(a)
    assert largest(b - a) > 0.1
    assert largest(system.b_to_a(b) - a) < 1e-4
    outside = float(b.detach().abs().max())
    assert largest(system.b_to_a(b.clamp(-outside / 2, outside / 2)) - a) > 1e-2


def test_a_real_scan_comes_back(shared_data: Path) -> None:
    path = next(iter(sorted(shared_data.glob("volumes/*/anat/*_T1w.nii.gz"))), None)
    if path is None:
        pytest.skip("no T1w scan in ../shared/data/volumes")
    voxels = torch.as_tensor(load_volume(path).voxels).float()
    scan = voxels[..., voxels.shape[2] // 2]
    scan = (2 * scan / scan.quantile(0.999) - 1)[None, None]
    system = small(levels=3)
    learn(system, (batch_of(seed=n) for n in range(4)), 3e-3)
    scan, _ = pad_to_multiple(scan, 8)
    with torch.inference_mode():
        back = system.eval().b_to_a(system.a_to_b(scan))
    assert largest(back - scan) < 1e-4


def test_translating_is_deterministic_and_begins_as_the_identity() -> None:
    system = small(slices=3, inputs=2, outputs=2).eval()
    source = blobs(2, 6, (16, 16), 5)
    image = system.translate(source)
    assert torch.equal(image, system.translate(source))
    assert torch.allclose(image, source[:, [1, 4]], atol=1e-5)
    strangers = small(alike=False).eval()
    assert largest(strangers.translate(source[:, :1]) - source[:, :1]) > 0.1


def test_other_sizes_are_padded_and_come_back_where_the_padding_does_not_reach() -> None:
    system = small(levels=1, steps=1).eval()
    disturb(system, 0.02)
    a = blobs(1, 1, (17, 20), 9)
    back = system.b_to_a(system.a_to_b(a))
    assert back.shape == a.shape
    assert largest((back - a)[:, :, :8]) < 1e-4


# ---- the game


def test_the_knob() -> None:
    def turns(adversarial: float) -> dict[str, dict[str, float]]:
        system = small(adversarial=adversarial, bins=0)
        return {
            turn.player: {name: float(loss.detach()) for name, loss in turn.losses.items()}
            for turn in system.play(batch_of())
        }

    half, quarter = turns(0.5), turns(0.25)
    assert set(half["flows"]) == {"nats_a", "nats_b", "gan_a", "gan_b"}
    for name, loss in half["flows"].items():
        share = 0.5 if name.startswith("gan") else 1.5
        assert quarter["flows"][name] == pytest.approx(share * loss, rel=1e-4)
    assert half["discriminators"] == pytest.approx(quarter["discriminators"], rel=1e-4)
    assert set(turns(1.0)["flows"]) == {"gan_a", "gan_b"}
    alone = turns(0.0)
    assert set(alone) == {"flows"}
    assert set(alone["flows"]) == {"nats_a", "nats_b"}


def test_likelihood_alone_has_no_discriminators() -> None:
    system = small(adversarial=0.0)
    assert set(system.players) == {"flows"}
    assert not any("judge" in name for name, _ in system.named_parameters())
    objectives = learn(system, (batch_of(seed=n) for n in range(12)), 3e-3)
    assert objectives[-1] < objectives[1]


def test_a_fresh_flow_has_the_likelihood_of_white_noise() -> None:
    # outside training ActNorm is not set: fresh flows are rotations, which keep lengths
    system = small(adversarial=0.0, bins=0).eval()
    batch = batch_of()
    (turn,) = system.play(batch)
    for name, image in (("nats_a", batch.source), ("nats_b", batch.target)):
        expected = 0.5 * float(image.square().mean()) + 0.5 * math.log(2 * math.pi)
        assert float(turn.losses[name].detach()) == pytest.approx(expected, rel=1e-4)


def test_both_domains_have_latents_of_one_shape() -> None:
    system = small(slices=3).eval()
    a, _ = system.flow_a(blobs(2, 3, (16, 24), 0))
    b, _ = system.flow_b(blobs(2, 3, (16, 24), 1))
    assert [z.shape for z in a] == [z.shape for z in b]
    assert sum(z[0].numel() for z in a) == 3 * 16 * 24


def test_discriminators_see_centre_slices_and_the_pool_forgets_nobody_yet() -> None:
    system = small(slices=3, pool=4)
    seen: list[tuple[int, ...]] = []
    system.judge_b.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    for _ in system.play(batch_of(3)):
        pass
    assert seen == [(2, 1, 16, 16)] * 3
    assert int(system.pool_b.stored) == 2
    assert not any(name.startswith("pool") for name in system.lasting_state())


def test_no_cycle_loss_and_unpaired() -> None:
    assert AlignFlow.pairing is Pairing.UNPAIRED
    names = [name for turn in small().play(batch_of()) for name in turn.losses]
    assert not any("cycle" in name or "identity" in name for name in names)


def test_recomputing_learns_the_same() -> None:
    runs = []
    for recompute in (False, True):
        system = small(recompute=recompute, steps=3)
        torch.manual_seed(1)
        learn(system, (batch_of(seed=n) for n in range(2)))
        runs.append(system.state_dict())
    for name, value in runs[0].items():
        # Adam's first steps are the sign of a gradient, which rounding may turn where it is zero
        assert torch.allclose(value.float(), runs[1][name].float(), atol=5e-3), name


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="a share"):
        small(adversarial=1.5)
    with pytest.raises(UsageError, match="two domains"):
        small(conditions=3)
    with pytest.raises(UsageError, match="as many"):
        small(inputs=2)


def test_parameters() -> None:
    with torch.device("meta"):
        flat, solid = AlignFlow(), AlignFlow(dims=3)

    def count(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    def flow(place: int, levels: int, steps: int, width: int) -> int:
        """place: voxels of a block, 4 or 8; kernel 3 has 9 or 27."""
        kernel, channels, total = {4: 9, 8: 27}[place], 1, 0
        for level in range(levels):
            channels *= place
            half = channels // 2
            net = (
                (kernel * half + 1) * width + (width + 1) * width + (kernel * width + 1) * channels
            )
            total += steps * (2 * channels + 2 * channels**2 + channels + net)
            if level < levels - 1:
                total += (kernel * half + 1) * channels
                channels = half
        return total + 2 * channels

    assert count(flat.flow_a) == count(flat.flow_b) == flow(4, 4, 8, 128)
    assert count(solid.flow_a) == flow(8, 3, 4, 32)
    assert count(flat.judge_a) == 2_762_689  # CycleGAN's
