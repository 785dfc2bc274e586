from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from medi2i.losses import absolute_error, squared_error, structural_dissimilarity

RADIUS = 5


def image(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Something with structure at the scale of the window, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(2, 3, *(size + 4 for size in shape), generator=generator)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
    return (pool(rough, 5, stride=1) - 0.5) * (4 if len(shape) == 2 else 8)


# ---- voxel errors


def test_numbers_by_hand() -> None:
    predicted, reference = image(0, 1, 2, 3), image(0, 0, 0, 1)
    assert float(absolute_error(predicted, reference)) == pytest.approx((0 + 1 + 2 + 2) / 4)
    assert float(squared_error(predicted, reference)) == pytest.approx((0 + 1 + 4 + 4) / 4)


def test_weights_by_hand() -> None:
    predicted, reference = image(0, 1, 2, 3), image(0, 0, 0, 1)
    weight = image(1, 1, 0.5, 0)
    assert float(absolute_error(predicted, reference, weight)) == pytest.approx((0 + 1 + 1) / 2.5)
    assert float(squared_error(predicted, reference, weight)) == pytest.approx((0 + 1 + 2) / 2.5)


def test_one_weight_serves_all_channels() -> None:
    predicted = torch.stack([torch.ones(2, 2), 3 * torch.ones(2, 2)])[None]
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None, None]
    assert float(absolute_error(predicted, torch.zeros(1, 2, 2, 2), weight)) == pytest.approx(2)


@pytest.mark.parametrize("error", [absolute_error, squared_error])
def test_all_weights_alike_are_no_weights(error: Callable[..., Tensor]) -> None:
    predicted, reference = smooth(6, 7), smooth(6, 7, seed=1)
    plain = error(predicted, reference)
    for value in (0.1, 1.0):
        weighted = error(predicted, reference, torch.full((2, 1, 6, 7), value))
        assert float(weighted) == pytest.approx(float(plain))


@pytest.mark.parametrize("error", [absolute_error, squared_error, structural_dissimilarity])
def test_where_nothing_counts_nothing_is_lost(error: Callable[..., Tensor]) -> None:
    predicted = smooth(12, 13).requires_grad_()
    loss = error(predicted, smooth(12, 13, seed=1), torch.zeros(2, 1, 12, 13))
    loss.backward()
    assert float(loss.detach()) == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()


@pytest.mark.parametrize(("error", "rest"), [(absolute_error, 0.0), (squared_error, 1 / 3)])
def test_a_constant_learns_the_median_or_the_mean(
    error: Callable[..., Tensor], rest: float
) -> None:
    targets, constant = image(0, 0, 1), torch.tensor(0.7, requires_grad=True)
    for step in range(400):
        (gradient,) = torch.autograd.grad(error(constant.expand(1, 1, 1, 3), targets), constant)
        with torch.no_grad():
            constant -= 0.5 / (1 + step) ** 0.75 * gradient
    assert float(constant.detach()) == pytest.approx(rest, abs=0.01)


# ---- structure


@pytest.mark.parametrize("shape", [(16, 21), (12, 13, 14)])
@pytest.mark.parametrize("data_range", [2.0, 1.0])
def test_equals_scikit_image_inside_the_valid_region(
    shape: tuple[int, ...], data_range: float
) -> None:
    predicted, reference = smooth(*shape), smooth(*shape, seed=1)
    reference = 0.7 * predicted + 0.3 * reference
    expected = []
    for one, other in zip(predicted.flatten(0, 1), reference.flatten(0, 1), strict=True):
        _, local = structural_similarity(
            one.double().numpy(),
            other.double().numpy(),
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        expected.append(local[(slice(RADIUS, -RADIUS),) * len(shape)].mean())
    loss = structural_dissimilarity(predicted, reference, data_range=data_range)
    assert float(loss) == pytest.approx(1 - np.mean(expected), abs=2e-6)


@pytest.mark.parametrize("shape", [(11, 12), (11, 12, 13)])
def test_identical_images_lose_nothing(shape: tuple[int, ...]) -> None:
    assert float(structural_dissimilarity(smooth(*shape), smooth(*shape))) == pytest.approx(
        0, abs=1e-6
    )


def test_only_weighted_neighbourhoods_count() -> None:
    reference = smooth(40, 16)
    predicted = reference.clone()
    predicted[:, :, 20:] = 0
    weight = torch.zeros(2, 1, 40, 16)
    weight[:, :, :15] = 1  # windows of these rows end before row 20
    assert float(structural_dissimilarity(predicted, reference, weight)) == pytest.approx(
        0, abs=1e-6
    )
    assert float(structural_dissimilarity(predicted, reference)) > 0.2
    assert float(structural_dissimilarity(predicted, reference, 1 - weight)) > 0.2


def test_the_border_has_no_whole_neighbourhood_and_does_not_count() -> None:
    weight = torch.ones(2, 1, 16, 16)
    weight[:, :, RADIUS:-RADIUS, RADIUS:-RADIUS] = 0
    loss = structural_dissimilarity(smooth(16, 16), smooth(16, 16, seed=1), weight)
    assert float(loss) == 0


def test_variances_keep_their_digits_in_reduced_precision() -> None:
    predicted, reference = smooth(16, 16), smooth(16, 16, seed=1)
    exact = structural_dissimilarity(predicted, reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(structural_dissimilarity(predicted, reference), exact)
