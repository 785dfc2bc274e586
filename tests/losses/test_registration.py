from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medi2i.losses.registration import folding, local_decorrelation, roughness


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plainly(x: Tensor, y: Tensor, window: int, epsilon: float) -> Tensor:
    """One window after the other, each cut out of the image, as the definition has it."""
    half, spatial = window // 2, x.shape[2:]
    unlike = torch.zeros_like(x)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in spatial)).tolist():
        inside = tuple(slice(max(p - half, 0), p + half + 1) for p in place)
        for index in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[:2])).tolist():
            one, other = x[(*index, *inside)].flatten(), y[(*index, *inside)].flatten()
            covariance = ((one - one.mean()) * (other - other.mean())).mean()
            spread = one.var(correction=0) * other.var(correction=0)
            unlike[(*index, *place)] = 1 - covariance**2 / (spread + epsilon)
    return unlike


@pytest.mark.parametrize("spatial", [(12, 10), (5, 6, 7)])
def test_it_is_its_definition_window_by_window(spatial: tuple[int, ...]) -> None:
    x, y = noise(2, 2, *spatial), noise(2, 2, *spatial, seed=1)
    expected = plainly(x, y, 9, 1e-6)
    torch.testing.assert_close(local_decorrelation(x, y), expected.mean())
    weight = noise(2, 1, *spatial, seed=2).abs()
    torch.testing.assert_close(
        local_decorrelation(x, y, weight), (expected * weight).sum() / (2 * weight.sum())
    )
    torch.testing.assert_close(local_decorrelation(x, y, window=3), plainly(x, y, 3, 1e-6).mean())


def test_by_hand() -> None:
    """One window holds all: means 1.5 and 0.5, covariance 1/4, variances 5/4 and 1/4."""
    x = torch.tensor([[0.0, 1], [2, 3]])[None, None]
    y = torch.tensor([[0.0, 1], [0, 1]])[None, None]
    assert float(local_decorrelation(x, y, epsilon=0)) == pytest.approx(1 - (1 / 16) / (5 / 16))


def test_brightness_does_not_matter_and_place_does() -> None:
    x = noise(1, 1, 24, 24).float()
    for other in (x, 0.3 * x + 5, -2 * x):  # an offset far above the spread
        assert float(local_decorrelation(x, other)) == pytest.approx(0, abs=2e-4)
    assert local_decorrelation(x, x.roll(1, -1)) > 0.9
    flat = torch.zeros_like(x)
    assert float(local_decorrelation(x, flat)) == 1
    # noise far below what is worth an alignment does not count as alike
    assert local_decorrelation(0.005 * x, 0.005 * x) > 0.99
    half = local_decorrelation(x.bfloat16(), x.bfloat16())
    assert half.dtype == torch.float32
    assert half < 1e-3


def test_roughness_by_hand() -> None:
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
    field = torch.stack([3 * x, x - 2 * y])[None]  # slopes 3 and 1 along x, 0 and 2 along y
    assert float(roughness(field)) == pytest.approx(((9 + 1) / 2 + (0 + 4) / 2) / 2)
    assert float(roughness(torch.full((1, 3, 4, 4, 4), 7.0))) == 0
    ramp = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 3, 6, 4, 4)
    assert float(roughness(ramp)) == pytest.approx(1 / 3)
    assert float(roughness(field[..., :1])) == pytest.approx((9 + 1) / 2 / 2)  # one voxel thick


def test_folding_counts_what_is_inside_out() -> None:
    assert float(folding(torch.tensor([[1.0, 0.2, -0.5], [0.0, -1.5, 2.0]]))) == pytest.approx(
        2.0 / 6
    )


def test_gradients_are_those_of_small_changes() -> None:
    x, y = noise(1, 1, 6, 5).requires_grad_(), noise(1, 1, 6, 5, seed=1).requires_grad_()
    weight = noise(1, 1, 6, 5, seed=2).abs()
    assert torch.autograd.gradcheck(lambda a, b: local_decorrelation(a, b, weight), (x, y))
    assert torch.autograd.gradcheck(roughness, (noise(1, 2, 4, 3).requires_grad_(),))
    # a flat image has no variance to divide by: its gradient must still be a number
    still = torch.zeros(1, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(local_decorrelation(still, y), still)
    assert torch.isfinite(slope).all()
