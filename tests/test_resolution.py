from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medi2i.errors import GeometryError
from medi2i.resolution import resize, working_shape

PLANE, ALL = (0, 1), (0, 1, 2)


@pytest.mark.parametrize(
    ("shape", "spacing", "wanted", "axes", "expected"),
    [
        ((10, 20, 30), (9, 9, 9), None, ALL, (10, 20, 30)),  # takes scans as they come
        ((100, 100, 30), (0.5, 0.5, 5), 1, PLANE, (50, 50, 30)),
        ((100, 100, 30), (0.5, 0.5, 5), 1, ALL, (50, 50, 150)),
        ((100, 80, 30), (2, 2, 2), 1, PLANE, (200, 160, 30)),
        ((100, 80, 30), (0.8, 1.25, 1), 1, ALL, (100, 80, 30)),  # near enough
        ((100, 80, 30), (0.79, 1.26, 1), 1, ALL, (79, 101, 30)),
        ((3, 3, 3), (0.1, 0.1, 0.1), 1, ALL, (1, 1, 1)),
    ],
)
def test_working_shapes(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    wanted: float | None,
    axes: tuple[int, ...],
    expected: tuple[int, int, int],
) -> None:
    assert working_shape(shape, spacing, wanted, axes) == expected


def ramp(axis: int, shape: tuple[int, int, int]) -> Tensor:
    """(1, *shape): the place of each voxel's centre along an axis, as a share of the extent."""
    size = shape[axis]
    places = (torch.arange(size) + 0.5) / size
    return places.reshape([-1 if a == axis else 1 for a in range(3)]).expand(shape)[None]


def test_the_same_shape_is_the_same_volume() -> None:
    volume = torch.randn(2, 5, 6, 7)
    assert torch.equal(resize(volume, (5, 6, 7)), volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("old", "new"),
    [((21, 18, 15), (7, 6, 5)), ((21, 19, 17), (13, 10, 8)), ((14, 12, 13), (28, 30, 39))],
    ids=str,
)
def test_the_extent_stays(axis: int, old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    """What lies at a share of the extent lies there afterwards, away from the ends."""
    resized = resize(ramp(axis, old), new)
    assert resized.shape == (1, *new)
    inside = (slice(None), *(slice(size // 4, size - size // 4) for size in new))
    torch.testing.assert_close(resized[inside], ramp(axis, new)[inside], rtol=0, atol=0.006)


def test_thick_slices_are_not_mixed() -> None:
    volume = torch.randn(1, 16, 16, 3)
    alone = torch.cat([resize(volume[..., z : z + 1], (8, 9, 1)) for z in range(3)], dim=3)
    torch.testing.assert_close(resize(volume, (8, 9, 3)), alone)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shrinking_smooths_what_it_cannot_hold(axis: int) -> None:
    stripes = (torch.arange(24) % 2).float() * 2 - 1
    volume = stripes.reshape([-1 if a == axis else 1 for a in range(3)]).expand(24, 24, 24)[None]
    shape = tuple(8 if a == axis else 24 for a in range(3))
    inner = resize(volume, shape).narrow(axis + 1, 1, 6)
    assert inner.abs().max() < 0.3


@pytest.mark.parametrize("shape", [(9, 9, 9), (30, 31, 32), (30, 9, 20)])
def test_constants_stay_constant(shape: tuple[int, int, int]) -> None:
    resized = resize(torch.full((2, 20, 20, 20), -1.0), shape)
    torch.testing.assert_close(resized, torch.full((2, *shape), -1.0))


def test_there_and_back_stays_in_place() -> None:
    """A blob comes back where it was, to a tenth of a voxel."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(25.0),) * 3, indexing="ij"))
    blob = torch.exp(
        -((grid - torch.tensor([9.0, 14.0, 17.0]).reshape(3, 1, 1, 1)) ** 2).sum(0) / 18
    )
    back = resize(resize(blob[None], (14, 11, 13)), (25, 25, 25))[0]
    centre = (grid * back).flatten(1).sum(1) / back.sum()
    expected = (grid * blob).flatten(1).sum(1) / blob.sum()
    torch.testing.assert_close(centre, expected, rtol=0, atol=0.1)


def test_an_axis_does_not_grow_to_kilometres() -> None:
    assert working_shape((8, 9, 7), (500, 1, 1), 1, PLANE) == (4000, 9, 7)
    with pytest.raises(GeometryError, match="4096 along an axis"):
        working_shape((8, 9, 7), (9150, 1, 1), 1, PLANE)
    assert working_shape((5000, 9, 7), (1, 1, 1), 1, PLANE) == (5000, 9, 7)  # as it came
