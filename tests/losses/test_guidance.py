"""What guidance sees, and what it cannot: the table of the design, on a pair of phantoms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medi2i.data.motion import slice_field
from medi2i.losses.guidance import deformation_guidance, trust
from medi2i.networks.deformation import warp
from tests.data.test_motion import head

FLOOR = 1e-3  # rho(0)


def smooth_field(size: tuple[int, int], largest: float) -> Tensor:
    rough = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    field = torch.nn.functional.interpolate(rough, size, mode="bicubic", align_corners=True)
    return field * (largest / field.abs().max())


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two real slices in [0, 1], the field that demons finds, and what counts."""
    first = torch.from_numpy(head((96, 80)))[None, None]
    noise = 0.01 * torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    second = warp(first, smooth_field((96, 80), 3.0))
    second = torch.where(second > 0.05, second + noise, 0)
    found = slice_field(first[0, 0].numpy(), second[0, 0].numpy())
    field = torch.from_numpy(found)[None]
    inside = ((first > 0) & (second > 0)).float()
    return first, second, field, trust(warp(2 * first - 1, field), 2 * second - 1, inside)


def noisy(image: Tensor) -> Tensor:
    return image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(5))


def with_blob(image: Tensor) -> Tensor:
    image = image.clone()
    image[..., 40:50, 30:40] += 0.4
    return image


def blurred(image: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)


def inverted(image: Tensor) -> Tensor:
    return 1 - image


Change = Callable[[Tensor], Tensor]


def test_what_guidance_sees_and_what_it_cannot(
    pair: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    first, second, field, weight = pair

    def of(translate: Change, spoilt: Change = lambda x: x, both: Change = lambda x: x) -> float:
        one, other = both(translate(first)), both(spoilt(translate(second)))
        return float(deformation_guidance(warp(2 * one - 1, field), 2 * other - 1, weight))

    true = of(inverted)
    waves = of(lambda x: 0.5 + 0.4 * torch.sin(9 * x))
    seen = {
        "blob": of(inverted, with_blob),
        "flicker": of(inverted, lambda x: 1.05 * x),
        "shift": of(inverted, lambda x: x.roll(3, 2)),
        "noise": of(inverted, both=noisy),
    }
    assert min(seen.values()) > 1.3 * true, seen
    assert seen["noise"] > 2 * true
    assert seen["shift"] > 4 * true
    assert of(lambda x: 0.5 + 0.4 * torch.sin(9 * x), lambda x: x.roll(3, 2)) > 2 * waves
    assert of(lambda x: x) == pytest.approx(true, rel=1e-3), "no translation at all"
    assert of(inverted, both=blurred) < 1.1 * true
    assert of(lambda x: 0.3 + 0 * x) == pytest.approx(FLOOR, rel=1e-3), "a constant image"


def test_trust_lies_between_0_and_1_and_falls_where_motion_explains_nothing(
    pair: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    first, second, field, weight = pair
    inside = ((first > 0) & (second > 0)).float()
    assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
    assert not weight[inside == 0].any()
    still = trust(2 * first - 1, 2 * second - 1, inside)
    assert float(still.sum()) < 0.8 * float(weight.sum())
    spoilt = trust(warp(2 * first - 1, field), 2 * with_blob(second) - 1, inside)
    assert float(spoilt[..., 42:48, 32:38].max()) < 0.01


def test_an_exact_field_and_a_pointwise_map_leave_the_floor() -> None:
    first = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    field = smooth_field((24, 20), 2.0).expand(2, -1, -1, -1)
    second = warp(first, field)
    weight = torch.ones(2, 1, 24, 20)
    for gain in (1.0, -1.0):
        loss = deformation_guidance(warp(gain * first, field), gain * second, weight)
        assert float(loss) == pytest.approx(FLOOR, abs=1e-5)
    still = deformation_guidance(warp(first, 0 * field), first, weight)
    assert float(still) == pytest.approx(FLOOR, abs=1e-5)


def test_by_hand() -> None:
    bent = torch.tensor([[[[0.0, 1.0]], [[1.0, 1.0]]]], requires_grad=True)  # two contrasts
    fixed = torch.tensor([[[[0.2, 0.0]], [[1.0, 0.6]]]])
    weight = torch.tensor([[[[1.0, 0.5]]]], requires_grad=True)
    rho = [(e * e + 1e-6) ** 0.5 for e in (0.1, 0.5, 0.0, 0.2)]
    expected = (rho[0] + 0.5 * rho[1] + rho[2] + 0.5 * rho[3]) / 3
    loss = deformation_guidance(bent, fixed, weight)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert bent.grad is not None
    assert weight.grad is None
    assert float(deformation_guidance(bent.detach(), fixed, 0 * weight)) == 0
    inside = torch.tensor([[[[1.0, 0.5]]]])
    missed = torch.tensor([[[[0.05, 0.35]]]])  # the mean over contrasts, halved
    assert torch.allclose(trust(bent, fixed, inside), inside * torch.exp(-missed / 0.05))
    assert not trust(bent, fixed, inside).requires_grad
