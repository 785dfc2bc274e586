"""Metrics: values worked out by hand, scikit-image's, and the laws that must hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import DimensionError, IntensityError, UsageError
from medi2i.metrics import bounding_box, interior, mae, nmse, psnr, ssim, ssim_map

REFERENCE = np.array([[1.0, 2.0], [3.0, 6.0]])
PREDICTED = np.array([[1.0, 2.0], [3.0, 4.0]])
LAST = np.array([[False, False], [False, True]])


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    reference = rng.random(shape)
    return np.clip(reference + 0.2 * rng.standard_normal(shape), 0, 1), reference


def test_by_hand() -> None:
    # One error of 2 in four pixels: MSE 1, MAE 0.5, 4 / (1 + 4 + 9 + 36) = 0.08.
    assert psnr(PREDICTED, REFERENCE, data_range=10) == pytest.approx(20.0)
    assert mae(PREDICTED, REFERENCE) == 0.5
    assert nmse(PREDICTED, REFERENCE) == pytest.approx(0.08)
    # In the mask: MSE 4, MAE 2, 4 / 36.
    assert psnr(PREDICTED, REFERENCE, data_range=20, mask=LAST) == pytest.approx(20.0)
    assert mae(PREDICTED, REFERENCE, mask=LAST) == 2
    assert nmse(PREDICTED, REFERENCE, mask=LAST) == pytest.approx(1 / 9)
    assert psnr(REFERENCE, REFERENCE, data_range=1) == math.inf


def test_ssim_of_flat_images_by_hand() -> None:
    # No variance: (2 * 0.5 * 0.25 + 0.0001) / (0.25 + 0.0625 + 0.0001).
    x, y = np.full((9, 9), 0.5), np.full((9, 9), 0.25)
    assert ssim(x, y, data_range=1) == pytest.approx(0.2501 / 0.3126)
    assert ssim(x, y, data_range=1, window="uniform") == pytest.approx(0.2501 / 0.3126)


def test_ssim_of_a_dot_by_hand() -> None:
    # 49 pixels, one of them 1: mean 1/49, sample variance 49/48 * (1/49 - 1/49^2) = 1/49.
    dot = np.zeros((7, 7))
    dot[3, 3] = 1
    middle = ssim_map(dot, np.zeros((7, 7)), data_range=1, window="uniform")[3, 3]
    assert middle == pytest.approx(1e-4 * 9e-4 / ((1 / 49**2 + 1e-4) * (1 / 49 + 9e-4)))


@pytest.mark.parametrize("shape", [(40, 33), (20, 24, 17), (12, 30, 5)])
@pytest.mark.parametrize("data_range", [1.0, 3.5])
def test_ssim_map_equals_scikit_image(shape: tuple[int, ...], data_range: float) -> None:
    from skimage.metrics import structural_similarity

    x, y = images(shape)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    if min(shape) >= 11:
        mean, full = structural_similarity(x, y, data_range=data_range, full=True, **wang)
        np.testing.assert_allclose(ssim_map(x, y, data_range=data_range), full, atol=1e-12)
        inner = interior(shape, 5)
        assert ssim(x, y, data_range=data_range, mask=inner) == pytest.approx(mean, abs=1e-12)
    if min(shape) >= 7:
        mean, full = structural_similarity(x, y, data_range=data_range, full=True)
        own = ssim_map(x, y, data_range=data_range, window="uniform")
        np.testing.assert_allclose(own, full, atol=1e-12)
    for axis in range(len(shape)) if len(shape) == 3 else ():
        others = tuple(other for other in range(3) if other != axis)
        own = ssim_map(x, y, data_range=data_range, axes=others)
        alone = ssim_map(x.take(2, axis), y.take(2, axis), data_range=data_range)
        np.testing.assert_allclose(own.take(2, axis), alone, atol=1e-12)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
@pytest.mark.parametrize("border", ["reflect", "mirror"])
def test_the_box_around_the_mask_is_enough(window: Any, border: Any) -> None:
    x, y = images((26, 30, 18))
    inner = np.zeros(x.shape, dtype=bool)
    inner[8:14, 12:20, 7:9] = True
    edge = np.zeros(x.shape, dtype=bool)
    edge[0:4, 25:30, 3:18] = True
    options: dict[str, Any] = {"data_range": 1, "window": window, "border": border}
    full = ssim_map(x, y, **options)
    for mask in (inner, edge, inner | edge):
        assert ssim(x, y, mask=mask, **options) == pytest.approx(full[mask].mean(), abs=1e-12)
    assert ssim(x, y, **options) == pytest.approx(full.mean(), abs=1e-12)


def test_laws() -> None:
    x, y = images((20, 22, 18))
    assert ssim(y, y, data_range=1) == pytest.approx(1)
    assert ssim(x, y, data_range=1) == pytest.approx(ssim(y, x, data_range=1))
    assert ssim(9 * x, 9 * y, data_range=9) == pytest.approx(ssim(x, y, data_range=1))
    assert psnr(9 * x, 9 * y, data_range=9) == pytest.approx(psnr(x, y, data_range=1))
    single = ssim(x.astype("f4"), y.astype("f4"), data_range=1)
    assert single == pytest.approx(ssim(x, y, data_range=1), abs=1e-6)
    assert np.abs(ssim_map(x, y, data_range=1)).max() <= 1


def test_integers_do_not_wrap() -> None:
    dark, bright = np.full((8, 8), 10, dtype=np.uint8), np.full((8, 8), 250, dtype=np.uint8)
    assert mae(dark, bright) == mae(bright, dark) == 240
    assert psnr(dark, bright, data_range=240) == pytest.approx(0)


def test_bounding_box_and_interior() -> None:
    mask = np.zeros((9, 20), dtype=bool)
    mask[2:4, 15] = True
    assert bounding_box(mask) == (slice(0, 9), slice(10, 20))
    assert bounding_box(mask, margin=0) == (slice(2, 4), slice(15, 16))
    assert interior((5, 7), 2).sum() == 3


@pytest.mark.parametrize("metric", [psnr, ssim, mae, nmse])
def test_bad_input(metric: Any) -> None:
    options = {"data_range": 1.0} if metric in (psnr, ssim) else {}
    x, y = images((8, 8))
    with pytest.raises(DimensionError, match=r"\(8, 8\), the reference \(7, 8\)"):
        metric(x, y[1:], **options)
    corner = np.zeros((7, 8), dtype=bool)
    corner[0, 0] = True
    with pytest.raises(DimensionError, match="must be equal"):
        metric(x, y[1:], mask=corner, **options)
    with pytest.raises(DimensionError, match="2-D or 3-D"):
        metric(x[0], y[0], **options)
    with pytest.raises(DimensionError, match="mask has shape"):
        metric(x, y, mask=np.ones((7, 8), dtype=bool), **options)
    with pytest.raises(IntensityError, match="mask is empty"):
        metric(x, y, mask=np.zeros((8, 8), dtype=bool), **options)
    with pytest.raises(UsageError, match="bool was expected"):
        metric(x, y, mask=np.ones((8, 8)), **options)
    with pytest.raises(IntensityError, match="reference holds NaN"):
        metric(x, np.where(y > 0.5, np.nan, y), **options)
    for wrong in (0.0, -1.0, math.nan, math.inf) if options else ():
        with pytest.raises(UsageError, match="data_range"):
            metric(x, y, data_range=wrong)


def test_undefined_scores_are_errors() -> None:
    with pytest.raises(IntensityError, match="NMSE is undefined"):
        nmse(PREDICTED, np.zeros((2, 2)))
    with pytest.raises(IntensityError, match="mask is empty"):
        bounding_box(np.zeros((3, 3), dtype=bool))
    with pytest.raises(DimensionError, match="at least 7 are needed"):
        interior((6, 9), 3)
