"""Images as a volume: in order along their normal, evenly spaced, on a grid with an affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, GeometryError, UsageError
from medi2i.formats.dicom.frames import Frame

__all__ = ["Stack", "pile", "stack"]

Affine = NDArray[np.float64]

SAME_PLACE = 0.01
"""mm: images closer than this lie in one place."""
UNEVEN = 0.1
"""Of the usual distance: by how much another one may differ."""
SHEARED = 0.1
"""Of a pixel: how far images may lie off the line along their normal."""
SKEWED = 1e-2
"""How far rows and columns may be from unit vectors at a right angle."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Images in order, and the grid that they make.

    Attributes:
        frames: from the first to the last along the normal (row x column).
        affine: (4, 4), voxel (column, row, image) -> RAS mm.
    """

    frames: tuple[Frame, ...]
    affine: Affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, images."""
        return *self.frames[0].shape, len(self.frames)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along each axis."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z


def stack(frames: Sequence[Frame], name: str, *, volume: int | None = None) -> Stack:
    """Sort images of one orientation and matrix and work out their grid.

    Args:
        name: of the series, for messages.
        volume: which one, from 0, where every place was imaged equally often.

    Raises:
        GeometryError: places or orientation are not said or make no sense; images are missing or
            twice there; they are sheared against each other (gantry tilt).
        DimensionError: one image; several volumes, and none was chosen.
        UsageError: there is no such volume.
    """
    piles = pile(frames, name)
    chosen = [places[_choose(piles, volume, name)] for places in piles]
    if len(chosen) < 2:
        raise DimensionError(
            f"{name} holds a single slice; a volume of at least two slices was expected."
        )
    row, column, normal = _axes(chosen[0], name)
    points = np.array([frame.position for frame in chosen])
    depths = points @ normal
    _check_steps(chosen, depths, name)
    step = (depths[-1] - depths[0]) / (len(depths) - 1)
    between_rows, between_columns = chosen[0].spacing
    line = points[0] + np.outer(depths - depths[0], normal)
    sheared = np.linalg.norm(points - line, axis=1).max()
    if sheared > SHEARED * min(between_rows, between_columns):
        across = points[-1] - points[0]
        tilt = np.degrees(np.arccos(np.clip(across @ normal / np.linalg.norm(across), -1, 1)))
        raise GeometryError(
            f"The slices of {name} are sheared against each other: they lie up to {sheared:.3g} mm"
            f" off the line along their normal (gantry tilt {tilt:.2f} degrees). A stack at right"
            " angles was expected: resample it first."
        )
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * between_columns, column * between_rows, normal * step
    lps[:3, 3] = points[0]
    return Stack(tuple(chosen), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


def pile(frames: Sequence[Frame], name: str) -> list[list[Frame]]:
    """Images by place, in order along the normal; those of one place by repetition.

    Raises:
        GeometryError: places, orientation or pixel spacing are not said or make no sense.
    """
    for frame in frames:
        for what, values in (
            ("place (ImagePositionPatient)", frame.position),
            ("orientation (ImageOrientationPatient)", frame.orientation),
            ("pixel spacing (PixelSpacing)", frame.spacing),
        ):
            if not values or not np.isfinite(values).all():
                raise GeometryError(
                    f'{name} does not say the {what} of "{frame.stored}"; without it the slices'
                    " make no volume."
                )
        if min(frame.spacing) <= 0:
            raise GeometryError(
                f'The pixel spacing of "{frame.stored}" in {name} is'
                f" {frame.spacing[0]:g} x {frame.spacing[1]:g} mm; positive lengths were expected."
            )
    normal = _axes(frames[0], name)[2]
    depth = {id(frame): float(np.dot(frame.position, normal)) for frame in frames}
    piles: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: depth[id(frame)]):
        if piles and depth[id(frame)] - depth[id(piles[-1][0])] < SAME_PLACE:
            piles[-1].append(frame)
        else:
            piles.append([frame])
    return [sorted(places, key=lambda frame: frame.order) for places in piles]


def _choose(piles: Sequence[Sequence[Frame]], volume: int | None, name: str) -> int:
    counts = sorted({len(places) for places in piles})
    if len(counts) > 1:
        first, second = next(places for places in piles if len(places) > counts[0])[:2]
        raise GeometryError(
            f'Two slices of {name} lie in one place: "{_called(first)}" and "{_called(second)}".'
            " One slice in each place was expected; take the surplus away."
        )
    if volume is None and counts[0] > 1:
        raise DimensionError(
            f"{name} holds {counts[0]} volumes of {len(piles)} slices; a single one was expected:"
            " choose it with --volume, counted from 0."
        )
    chosen = volume or 0
    if not 0 <= chosen < counts[0]:
        raise UsageError(f"{name} has no volume {chosen}; it holds {counts[0]}, counted from 0.")
    return chosen


def _axes(frame: Frame, name: str) -> tuple[Affine, Affine, Affine]:
    """Unit vectors at right angles along a row, down a column, and along the normal."""
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > SKEWED:
        raise GeometryError(
            f"The orientation of {name}, {tuple(round(v, 4) for v in frame.orientation)}, is not"
            " that of two unit vectors at a right angle."
        )
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    row = row / lengths[0]
    return row, np.cross(normal, row), normal


def _check_steps(frames: Sequence[Frame], depths: Affine, name: str) -> None:
    steps = np.diff(depths)
    usual = float(np.median(steps))
    if not (np.abs(steps - usual) > UNEVEN * usual).any():
        return
    usual = float(steps.min())
    wrong = np.flatnonzero(steps - usual > UNEVEN * usual)
    at = int(wrong[0])
    missing = steps[at] / usual - 1
    where = (
        f'between "{_called(frames[at])}" and "{_called(frames[at + 1])}", {steps[at]:.4g} mm apart'
        f" where the others are {usual:.4g} mm"
    )
    if round(missing) >= 1 and abs(missing - round(missing)) <= 2 * UNEVEN:
        raise GeometryError(
            f"{round(missing)} slice(s) of {name} are missing {where}; a whole series was expected."
        )
    raise GeometryError(f"The slices of {name} are unevenly spaced: {where}.")


def _called(frame: Frame) -> str:
    place = frame.stored.member or frame.stored.path.name
    return f"{place}, frame {frame.index + 1}" if frame.index else place
