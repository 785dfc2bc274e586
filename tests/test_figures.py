from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medi2i.errors import DimensionError, UsageError
from medi2i.figures import Row, sheet, three_planes

SHAPE = (10, 14, 8)
SPACING = (10.0, 10.0, 10.0)
MARGIN, GAP, ABOVE = 14, 6, 14 + 18 + 22  # as in the module: to the left, between, to the top


def _dot(at: tuple[int, int, int]) -> NDArray[np.float32]:
    voxels = np.zeros(SHAPE, np.float32)
    voxels[at] = 1
    return voxels


def _tiles(page: Image.Image, scale: float = 1.0) -> list[NDArray[np.uint8]]:
    """The three planes of the first row, red channel."""
    x, y, z = (round(n * s * scale) for n, s in zip(SHAPE, SPACING, strict=True))
    tall = max(y, z)
    pixels = np.asarray(page)[..., 0]
    left, tiles = MARGIN, []
    for wide, high in ((x, y), (x, z), (y, z)):
        top = ABOVE + (tall - high) // 2
        tiles.append(pixels[top : top + high, left : left + wide])
        left += x + GAP
    return tiles


def _brightest(tile: NDArray[np.uint8]) -> tuple[int, int]:
    """Which voxel (column, row) of a tile is brightest, letters at the edges set aside."""
    inner = tile[14:-14, 14:-14]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    return (int(column) + 14) // 10, (int(row) + 14) // 10


def test_a_bright_voxel_ends_where_it_should() -> None:
    # 2 of 10 from the left, 10 of 14 to the front, 5 of 8 up.
    at = (2, 10, 5)
    page = three_planes([Row("dot", _dot(at), SPACING, window=(0, 1))], at=at, scale=1.0)
    axial, coronal, sagittal = (_brightest(tile) for tile in _tiles(page))
    # Left is shown on the right: column 9 - 2. Front and crown are up.
    assert axial == (7, 13 - 10)
    assert coronal == (7, 7 - 5)
    assert sagittal == (13 - 10, 7 - 5)


def test_slices_keep_their_proportions() -> None:
    voxels = np.random.default_rng(0).random((10, 14, 8)).astype(np.float32)
    page = three_planes([("thick", voxels, (10.0, 10.0, 30.0))], scale=1.0)
    # Columns of 100, 100 and 140 pixels; the tallest plane is 8 * 30 = 240.
    assert page.size == (
        max(2 * MARGIN + 100 + GAP + 100 + GAP + 140, 420),
        ABOVE + 240 + GAP + 16 + 14,
    )


def test_rows_add_up() -> None:
    one = three_planes([("a", _dot((1, 1, 1)), SPACING)])
    two = three_planes([("a", _dot((1, 1, 1)), SPACING), ("b", _dot((5, 5, 5)), SPACING)])
    assert two.size[0] == one.size[0]
    assert two.size[1] > one.size[1] + 150
    assert one.mode == "RGB"


def test_windows() -> None:
    rng = np.random.default_rng(1)
    voxels = rng.uniform(100, 200, SHAPE)
    voxels[:, :, :4] = 0  # air
    low, high = Row("a", voxels, SPACING).limits()
    assert low == 0
    assert 195 < high <= 200
    voxels[0, 0, 7] = 1e6  # one wild voxel does not darken the picture
    assert Row("a", voxels, SPACING).limits()[1] <= 200
    assert Row("a", voxels, SPACING, window=(10, 20)).limits() == (10, 20)
    assert Row("d", np.array([[[-3.0, 1.0]]]), SPACING, signed=True).limits() == pytest.approx(
        (-3, 3), rel=0.01
    )
    assert Row("d", voxels, SPACING, window=(-5, 2), signed=True).limits() == (-5, 5)


def test_a_difference_is_blue_below_and_orange_above() -> None:
    voxels = np.zeros(SHAPE, np.float32)
    voxels[2:4], voxels[6:8] = 2, -2
    page = three_planes([Row("d", voxels, SPACING, signed=True)], at=(3, 7, 4), scale=1.0)
    pixels = np.asarray(page).astype(int)
    y = ABOVE + 70
    above, below = pixels[y, MARGIN + 100 - 30], pixels[y, MARGIN + 100 - 70]
    assert above[0] > 200 > above[2]  # more red than blue
    assert below[2] > 200 > below[0]
    bar = pixels[:, MARGIN + 100 + GAP + 100 + GAP + 140 + 12]
    assert (bar[:, 0] > 240).any()
    assert (bar[:, 2] > 240).any()


def test_empty_and_unfinished_volumes_are_drawn() -> None:
    three_planes([("empty", np.zeros(SHAPE), SPACING)])
    three_planes([Row("no difference", np.zeros(SHAPE), SPACING, signed=True)])
    three_planes([("integers", np.arange(np.prod(SHAPE)).reshape(SHAPE), SPACING)])
    holes = np.ones(SHAPE)
    holes[0] = np.nan
    three_planes([("holes", holes, SPACING)])


def test_the_middle_of_the_head_is_found() -> None:
    voxels = np.zeros((40, 40, 80), np.float32)
    voxels[4:24, 10:30, 10:78] = 1  # with a long neck
    voxels[12:17, 19, :] = 0.9
    from medi2i.figures import _middle

    x, y, z = _middle(Row("a", voxels, (5.0, 5.0, 5.0)))
    assert (x, y) == (14, 19)  # 4 mm beside the midline at 13
    assert z == 77 - 15  # 75 mm below the crown


def test_refusals() -> None:
    with pytest.raises(UsageError, match="at least one"):
        three_planes([])
    with pytest.raises(DimensionError, match="share one"):
        three_planes([("a", np.zeros(SHAPE), SPACING), ("b", np.zeros((3, 3, 3)), SPACING)])
    with pytest.raises(DimensionError, match="share one"):
        three_planes([("a", np.zeros((3, 3)), SPACING)])
    with pytest.raises(UsageError, match="outside"):
        three_planes([("a", np.zeros(SHAPE), SPACING)], at=(10, 0, 0))


def test_a_sheet_shows_every_slice_in_its_place() -> None:
    dots = {}
    for name, at in (("a", (1, 6)), ("b", (4, 2)), ("c", (0, 0))):
        dots[name] = np.zeros((6, 8))
        dots[name][at] = 1
    page = sheet(dots, spacing=(20.0, 20.0), across=2, side=160)
    pixels = np.asarray(page)[..., 0]
    step_x, step_y, margin = 120 + 6, 160 + 20 + 6, 14
    for number, at in enumerate([(1, 6), (4, 2), (0, 0)]):
        left, upper = margin + number % 2 * step_x, margin + number // 2 * step_y + 20
        tile = pixels[upper : upper + 160, left : left + 120]
        row, column = (int(n) // 20 for n in np.unravel_index(int(tile.argmax()), tile.shape))
        assert (5 - column, 7 - row) == at  # left is shown on the right, the front is up
    assert np.asarray(sheet(dots, across=3)).shape[0] < np.asarray(sheet(dots, across=1)).shape[0]


def test_slices_of_a_sheet_keep_their_proportions_and_their_range() -> None:
    white = np.asarray(sheet({"white": np.full((4, 8), 7.0)}, spacing=(4.0, 1.0), side=150))
    rows, columns = np.nonzero(white.min(-1) == 255)
    assert (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) == (150, 75)
    black = np.asarray(sheet({"": np.full((4, 8), -1.0), " ": np.full((4, 8), np.nan)}))
    assert black[40:100, 20:60].max() == 0


def test_a_sheet_refuses_what_it_cannot_show() -> None:
    with pytest.raises(UsageError, match="at least one"):
        sheet({})
    with pytest.raises(DimensionError, match="one shape"):
        sheet({"a": np.zeros((3, 3)), "b": np.zeros((3, 4))})
    with pytest.raises(DimensionError, match="one shape"):
        sheet({"a": np.zeros((3, 3, 3))})
