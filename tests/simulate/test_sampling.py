from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError
from medi2i.simulate.sampling import (
    defaced,
    field_of_view,
    resampled,
    thick_slices,
    windowed_8bit,
)

Image = NDArray[np.float32]
AFFINE = np.array([[1.5, 0.0, 0.0, -60.0], [0, 2.0, 0.1, 20.0], [0, -0.1, 2.5, 7.0], [0, 0, 0, 1]])


def _world(shape: tuple[int, ...], affine: NDArray[np.float64], row: int) -> NDArray[np.float64]:
    """World coordinate `row` of every voxel."""
    index = np.indices(shape).reshape(3, -1)
    place: NDArray[np.float64] = (affine[:3, :3] @ index + affine[:3, 3:])[row].reshape(shape)
    return place


# --- slices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("thickness", "gap"), [(5.0, 0.0), (5.0, 1.5), (3.7, 0.4), (1.0, 0.0), (0.5, 2.0)]
)
def test_slices_of_a_ramp_show_where_they_lie(axis: int, thickness: float, gap: float) -> None:
    """An image of its own world coordinates keeps them under the new affine."""
    shape = (31, 37, 41)
    spacing = float(np.linalg.norm(AFFINE[:3, axis]))
    for row in range(3):
        image = _world(shape, AFFINE, row).astype(np.float32)
        stack = thick_slices(image, spacing, thickness, gap, axis)
        after = stack.affine(AFFINE)
        np.testing.assert_allclose(
            stack.image, _world(stack.image.shape, after, row), atol=2e-4, rtol=0
        )
        assert np.linalg.norm(after[:3, axis]) == pytest.approx(thickness + gap)


def test_the_stack_is_centred_and_as_large_as_it_can_be() -> None:
    image = np.zeros((4, 4, 100), np.float32)
    stack = thick_slices(image, 1.0, 5.0, 1.0, 2)
    # 99 mm between the outermost centres: 16 slices of 5 and 15 gaps of 1 are 95 mm.
    assert stack.image.shape == (4, 4, 16)
    assert stack.step == (1.0, 1.0, 6.0)
    assert stack.first == (0.0, 0.0, 4.5)  # 2 mm free, then half a slice
    last = stack.first[2] + 15 * stack.step[2]
    assert last == pytest.approx(99 - 4.5)


def test_a_slice_is_the_mean_over_its_thickness() -> None:
    """Worked out by hand: trapezia of the values 0 0 0 6 0 0 0 over 2 and over 4 voxels."""
    image = np.array([0, 0, 0, 6, 0, 0, 0], np.float32).reshape(7, 1, 1)
    two = thick_slices(image, 1.0, 2.0, 0.0, 0)
    assert two.first[0] == 1.0
    np.testing.assert_allclose(two.image.ravel(), [0, 3, 0], atol=1e-6)
    four = thick_slices(image, 1.0, 4.0, 0.0, 0)
    assert four.first[0] == 3.0
    np.testing.assert_allclose(four.image.ravel(), [1.5], atol=1e-6)


def test_what_lies_in_a_gap_is_not_seen() -> None:
    image = np.zeros((1, 1, 21), np.float32)
    stack = thick_slices(image, 1.0, 4.0, 4.0, 2)
    assert (stack.first[2], stack.step[2]) == (2.0, 8.0)  # slices 0 to 4, 8 to 12, 16 to 20
    image[0, 0, [6, 14]] = 1.0
    np.testing.assert_array_equal(thick_slices(image, 1.0, 4.0, 4.0, 2).image, 0)
    image[0, 0, 8] = 1.0  # half of it is in the second slice
    np.testing.assert_allclose(
        thick_slices(image, 1.0, 4.0, 4.0, 2).image.ravel(), [0, 0.125, 0], atol=1e-6
    )


def test_slices_refuse_what_cannot_be() -> None:
    image = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(UsageError, match="thickness is 0"):
        thick_slices(image, 1, 0, 0, 2)
    with pytest.raises(UsageError, match="thickness is -3"):
        thick_slices(image, 1, -3, 0, 2)
    with pytest.raises(UsageError, match="gap is -1"):
        thick_slices(image, 1, 3, -1, 2)
    with pytest.raises(UsageError, match="spacing is nan"):
        thick_slices(image, float("nan"), 3, 0, 2)
    with pytest.raises(UsageError, match="axis is 5"):
        thick_slices(image, 1, 3, 0, 5)
    with pytest.raises(UsageError, match="20 mm does not fit into 7 mm"):
        thick_slices(image, 1, 20, 0, 2)


# --- voxels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [(0.5, 0.4, 0.25), (2.0, 1.3, 1.0), (0.7, 1.5, 3.0)])
def test_resampling_keeps_extent_and_coordinates(zoom: tuple[float, float, float]) -> None:
    shape = (30, 40, 44)
    for row in range(3):
        image = _world(shape, AFFINE, row).astype(np.float32)
        new = resampled(image, zoom)
        assert new.image.shape == tuple(round(n * z) for n, z in zip(shape, zoom, strict=True))
        inner = (slice(2, -2),) * 3  # the line is level beyond the outermost centres
        there = _world(new.image.shape, new.affine(AFFINE), row)
        np.testing.assert_allclose(new.image[inner], there[inner], atol=2e-4, rtol=0)
    for n, m, step, first in zip(shape, new.image.shape, new.step, new.first, strict=True):
        assert m * step == pytest.approx(n)
        assert first - step / 2 == pytest.approx(-0.5)


def test_resampling_by_one_changes_nothing_and_by_less_keeps_the_mean() -> None:
    image = np.random.default_rng(0).random((12, 15, 18)).astype(np.float32)
    np.testing.assert_array_equal(resampled(image, (1, 1, 1)).image, image)
    flat = resampled(np.full((9, 9, 9), 7.0, np.float32), (0.4, 1.7, 2.2)).image
    np.testing.assert_allclose(flat, 7.0, rtol=1e-6)
    small = resampled(image, (0.5, 1 / 3, 0.5)).image
    assert small.mean() == pytest.approx(image.mean(), rel=0.02)
    assert small.dtype == np.float32


def test_resampling_refuses_what_cannot_be() -> None:
    image = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(UsageError, match=r"zoom is \(1, 0, 1\)"):
        resampled(image, (1, 0, 1))
    with pytest.raises(UsageError, match="three numbers"):
        resampled(image, (1, 1))


# --- grey levels ----------------------------------------------------------------------------------


def test_eight_bits() -> None:
    image = np.random.default_rng(0).normal(500, 200, (40, 40, 40)).astype(np.float32)
    levels = windowed_8bit(image, 1, 99)
    values = np.unique(levels)
    assert len(values) == 256
    np.testing.assert_array_equal(values, np.arange(256))
    low, high = np.percentile(image, (1, 99))
    assert (levels == 0).mean() == pytest.approx(0.01, abs=0.003)
    middle = np.abs(image - (low + high) / 2) < 0.2
    np.testing.assert_allclose(levels[middle], 127.5, atol=1)
    order = np.argsort(image, axis=None)
    assert (np.diff(levels.ravel()[order]) >= 0).all()
    assert levels.dtype == np.float32


def test_a_constant_image_has_one_level() -> None:
    np.testing.assert_array_equal(windowed_8bit(np.full((3, 3, 3), 9.0, np.float32), 1, 99), 0)


@pytest.mark.parametrize("window", [(99, 1), (5, 5), (-1, 99), (1, 101)])
def test_a_window_upside_down_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=f"{window[0]} and {window[1]}"):
        windowed_8bit(np.zeros((3, 3, 3), np.float32), *window)


# --- the part of the head -------------------------------------------------------------------------


def test_a_smaller_field_of_view() -> None:
    image = np.ones((10, 20, 40), np.float32)
    seen = field_of_view(image, ((0, 0.1), (0.25, 0), (0.5, 0.25)))
    assert seen.sum() == 9 * 15 * 10
    assert seen[0, 5, 20] == 1
    assert seen[8, 19, 29] == 1
    assert seen[9].max() == seen[:, :5].max() == seen[:, :, :20].max() == seen[:, :, 30:].max() == 0
    assert image.min() == 1


def test_a_field_of_view_refuses_what_cannot_be() -> None:
    image = np.ones((10, 10, 10), np.float32)
    for cut in (((0, 0), (0, 0)), ((0, 0), (0, 0), (0.6, 0.4)), ((0, 0), (-0.1, 0), (0, 0))):
        with pytest.raises(UsageError, match="three pairs"):
            field_of_view(image, cut)


def test_the_face_goes_and_the_brain_stays() -> None:
    image = np.ones((20, 60, 60), np.float32)
    brain = np.zeros(image.shape, bool)
    brain[5:15, 10:40, 25:50] = True
    cut = defaced(image, brain, margin=2.0)
    assert cut[brain].min() == 1
    assert cut[:, 59, 0].max() == 0  # the chin
    assert cut[:, 0].min() == 1  # the back of the head
    assert cut[:, :, 59].min() == 1  # the top
    # The corner of the brain, (39, 25), lies at 14 along (1, -1); 2 mm further are 2.8 voxels.
    assert cut[10, 41, 25] == 1
    assert cut[10, 42, 25] == 0
    # Voxels twice as deep along z: the corner lies at 39 - 50, and 2 voxels more in y still count.
    deep = defaced(image, brain, margin=0.0, spacing=(1.0, 1.0, 2.0))
    assert deep[10, 39, 25] == 1
    assert deep[10, 40, 25] == 0
    assert deep[10, 41, 26] == 1
    assert deep[10, 42, 26] == 0


def test_defacing_refuses_what_cannot_be() -> None:
    image = np.ones((4, 4, 4), np.float32)
    with pytest.raises(UsageError, match="empty"):
        defaced(image, np.zeros((4, 4, 4), bool))
    with pytest.raises(DimensionError, match=r"\(4, 4, 5\)"):
        defaced(image, np.ones((4, 4, 5), bool))
    with pytest.raises(UsageError, match="margin is -1"):
        defaced(image, np.ones((4, 4, 4), bool), margin=-1)
