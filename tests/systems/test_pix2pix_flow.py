from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.invertible import ActNorm
from medi2i.systems.pix2pix_flow import Pix2pixFlow

TINY: dict[str, Any] = {"levels": 2, "steps": 2, "width": 8, "features": 4}


def small(**changes: Any) -> Pix2pixFlow:
    torch.manual_seed(0)
    return Pix2pixFlow(**(TINY | changes))


def blobs(count: int, channels: int, size: tuple[int, ...], seed: int) -> Tensor:
    """Smooth images in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, channels, *[4] * len(size), generator=random) * 2 - 1
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return nn.functional.interpolate(rough, size=size, mode=mode)


def pairs(seed: int = 0, slices: int = 1, size: int = 16) -> Batch:
    """The target is the source's negative at half the contrast."""
    source = blobs(4, slices, (size, size), seed)
    return Batch(source, -0.5 * source[:, slices // 2 :: slices])


def disturb(network: nn.Module, size: float = 0.05) -> None:
    """Weights as training might leave them."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
        for module in network.modules():
            if isinstance(module, ActNorm):
                module.initialised.fill_(1)


def learn(system: Pix2pixFlow, batches: Iterator[Batch], rate: float = 3e-3) -> None:
    optimiser = torch.optim.Adam(system.parameters_of("flows"), rate)
    for batch in batches:
        for turn in system.train().play(batch):
            optimiser.zero_grad()
            turn.objective.backward()
            nn.utils.clip_grad_norm_(system.parameters_of("flows"), 5.0)
            optimiser.step()


def losses(system: Pix2pixFlow, batch: Batch) -> dict[str, float]:
    (turn,) = system.play(batch)
    return {name: float(loss.detach()) for name, loss in turn.losses.items()}


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


@pytest.mark.parametrize(
    "arguments", [{}, {"slices": 3}, {"dims": 3}, {"coupling": "sigmoid", "squeeze": "fold"}]
)
def test_the_way_back_is_exact_whatever_the_weights_are(arguments: dict[str, Any]) -> None:
    system = small(**arguments).eval()
    source = blobs(2, system.channels, (16, 24) if system.dims == 2 else (8, 8, 12), 3)
    for weights in ("fresh", "other"):
        if weights == "other":
            disturb(system)
        image = system.translate(source)
        assert torch.equal(image, system.translate(source))
        back = system.b_to_a(image, source)
        assert largest(back - system.centre(source)) < 1e-4
        exact, given = system.double(), source.double()
        back = exact.b_to_a(exact.translate(given), given)
        assert largest(back - system.centre(given)) < 1e-10
        system = system.float()


def test_neighbours_are_a_condition_of_the_source_alone() -> None:
    system = small(slices=3).eval()
    disturb(system)
    source = blobs(2, 3, (16, 16), 3)
    other = source.clone()
    other[:, [0, 2]] = blobs(2, 2, (16, 16), 4)
    image = system.translate(source)
    assert largest(image - system.translate(other)) > 1e-3
    assert largest(system.b_to_a(image, other) - system.centre(source)) > 1e-3
    assert not system.flow_b.conditioned
    # the slice in the middle is not among the neighbours: with it the flow would know its answer
    told = system.told(source)
    changed = source.clone()
    changed[:, 1] = 0
    again = system.told(changed)
    assert told is not None
    assert again is not None
    assert all(torch.equal(one, two) for one, two in zip(told, again, strict=True))
    assert small().told(source[:, :1]) is None


def test_it_begins_as_the_identity() -> None:
    system = small().eval()
    source = blobs(2, 1, (16, 16), 5)
    assert torch.allclose(system.translate(source), source, atol=1e-5)


def test_the_distance_of_latents() -> None:
    system, last = small(), small(codes="last")
    torch.manual_seed(0)
    one, other = ([torch.randn(8, 4, 16, 16), torch.randn(8, 8, 8, 8)] for _ in range(2))
    assert float(system.distance(one, one)) == 0
    assert float(system.distance(one, other)) == pytest.approx(2, rel=0.05)
    # each level counts alike, however many numbers it has
    fine = [one[0], other[1]]
    assert float(system.distance(one, fine)) == pytest.approx(1, rel=0.05)
    assert float(last.distance(one, [other[0], one[1]])) == 0


def test_a_pair_of_one_image_has_one_code() -> None:
    system = small(bins=256).eval()
    image = blobs(2, 1, (16, 16), 0)
    one, _ = system.flow_a(image)
    other, _ = system.flow_b(image)
    assert float(system.distance(one, other).detach()) < 1e-8


def test_it_learns_the_pairs() -> None:
    system = small(likelihood=0.1, steps=1)
    before = losses(system, pairs(99))
    learn(system, (pairs(seed) for seed in range(25)))
    after = losses(system.eval(), pairs(99))
    assert after["code"] < before["code"] / 2
    assert after["pixels"] < before["pixels"] / 2
    source = pairs(99).source
    image = system.translate(source)
    assert largest(system.b_to_a(image, source) - source) < 1e-4


def test_weights_of_the_losses() -> None:
    plain, double = (losses(small(**w).eval(), pairs()) for w in ({}, DOUBLE))
    assert set(plain) == {"bits_a", "bits_b", "code", "pixels"}
    for name, loss in plain.items():
        # the noise is drawn anew
        assert double[name] == pytest.approx(2 * loss, rel=0.02, abs=1e-4), name
    assert "pixels" not in losses(small(pixels=0.0), pairs())


DOUBLE = {"likelihood": 2.0, "code": 2.0, "pixels": 10.0}


def test_a_voxel_without_weight_is_not_compared() -> None:
    system = small().eval()
    batch = pairs()
    inside = torch.zeros_like(batch.target)
    inside[..., 4:12, 4:12] = 1
    spoilt = batch.target.clone()
    spoilt[inside == 0] = 1.0
    for weight, alike in ((inside, True), (None, False)):
        torch.manual_seed(0)
        one = losses(system, replace(batch, weight=weight))
        torch.manual_seed(0)
        other = losses(system, replace(batch, target=spoilt, weight=weight))
        assert (one["pixels"] == pytest.approx(other["pixels"])) is alike


def test_what_is_refused() -> None:
    assert Pix2pixFlow.pairing is Pairing.PAIRED
    for wrong, message in (
        ({"conditions": 3}, "two domains"),
        ({"outputs": 2}, "as many"),
        ({"bins": 0}, "bins"),
        ({"codes": "first"}, "codes"),
    ):
        with pytest.raises(UsageError, match=message):
            small(**wrong)


def test_the_authors_network_has_as_many_parameters() -> None:
    with torch.device("meta"):
        glow = Pix2pixFlow(levels=3, steps=2, width=512, coupling="sigmoid", squeeze="fold")
    ours = sum(p.numel() for p in glow.flow_b.parameters())
    # where ours has biases theirs has ActNorm, gains, and a channel that tells the padding
    theirs = ours + 2 * sum(2 * 512 + c + 9 * (512 + c) for c in (4, 8, 16))
    assert 16 * theirs == pytest.approx(32.0e6, rel=0.005)  # 32 steps
    assert sum(p.numel() for p in glow.parameters()) == 2 * ours
