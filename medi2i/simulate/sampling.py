"""What the grid does to an image: slices, voxels, grey levels, the part of the head that is kept.

Images are (X, Y, Z) float32 and are not changed in place; axes are ordered and directed as in RAS
where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError

__all__ = [
    "Regridded",
    "defaced",
    "field_of_view",
    "resampled",
    "thick_slices",
    "windowed_8bit",
]

Field = NDArray[np.float32]
Triple = tuple[float, float, float]


class Regridded(NamedTuple):
    """An image on a new grid.

    The centre of new voxel i lies at first + i * step in indices of the old grid, per axis.

    Attributes:
        image: on the new grid.
        step: old voxels from one new voxel to the next: the new spacing relative to the old.
        first: where the first new voxel has its centre, in old voxels.
    """

    image: Field
    step: Triple
    first: Triple

    def affine(self, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel to world for the new grid, from that of the old one."""
        new_to_old = np.diag([*self.step, 1.0])
        new_to_old[:3, 3] = self.first
        return before @ new_to_old


def thick_slices(
    image: Field, spacing: float, thickness: float, gap: float, axis: int
) -> Regridded:
    """A stack of 2-D slices: each is the mean over its thickness; gaps are not seen.

    The profile is a box, as a long sinc pulse excites (Bernstein et al., Handbook of MRI Pulse
    Sequences, 2004, ch. 8), over voxels joined by straight lines: exact for an image that is linear
    across the slices. As many slices as fit between the outermost voxel centres, in the middle of
    them.

    Args:
        spacing: of the image along `axis`, mm.
        thickness: of a slice, mm.
        gap: between two slices, mm.
        axis: across the slices.

    Raises:
        UsageError: a spacing or thickness that is not positive, a negative gap, another axis, a
            slice thicker than the image.

    >>> ramp = np.arange(11, dtype=np.float32).reshape(1, 1, 11)
    >>> stack = thick_slices(ramp, spacing=1.0, thickness=3.0, gap=1.0, axis=2)
    >>> stack.image.ravel().tolist(), stack.step, stack.first
    ([3.0, 7.0], (1.0, 1.0, 4.0), (0.0, 0.0, 3.0))
    """
    for name, value in (("spacing", spacing), ("thickness", thickness)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; a length in mm greater than 0 was expected.")
    if not (math.isfinite(gap) and gap >= 0):
        raise UsageError(f"gap is {gap}; 0 mm or more was expected.")
    if axis not in (0, 1, 2):
        raise UsageError(f"axis is {axis}; 0, 1 or 2 was expected.")
    extent = image.shape[axis] - 1  # in voxels, as all that follows
    width, step = thickness / spacing, (thickness + gap) / spacing
    if width > extent:
        raise UsageError(
            f"a slice of {thickness:g} mm does not fit into {extent * spacing:g} mm along axis"
            f" {axis}; hand in a larger image or thinner slices."
        )
    count = 1 + math.floor((extent - width) / step + 1e-9)
    start = (extent - (count - 1) * step) / 2
    weights = _averages(image.shape[axis], start + step * np.arange(count), width)
    steps, first = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    steps[axis], first[axis] = step, start
    return Regridded(
        _along(image, weights, axis), (steps[0], steps[1], steps[2]), (first[0], first[1], first[2])
    )


def resampled(image: Field, zoom: Sequence[float]) -> Regridded:
    """The same extent in more (zoom > 1) or fewer voxels; each is the mean over its own extent.

    Voxels of the old grid are joined by straight lines. Sizes are rounded to whole voxels.

    Raises:
        UsageError: a zoom that is not positive, or not one per axis.
    """
    if len(zoom) != 3 or not all(math.isfinite(z) and z > 0 for z in zoom):
        raise UsageError(f"zoom is {tuple(zoom)}; three numbers greater than 0 were expected.")
    steps, first = [], []
    for axis, factor in enumerate(zoom):
        n = image.shape[axis]
        count = max(1, round(n * factor))
        step = n / count
        steps.append(step)
        first.append(step / 2 - 0.5)
        if count != n:
            centres = first[axis] + step * np.arange(count)
            image = _along(image, _averages(n, centres, step), axis)
    return Regridded(image, (steps[0], steps[1], steps[2]), (first[0], first[1], first[2]))


def windowed_8bit(image: Field, low_percentile: float, high_percentile: float) -> Field:
    """Grey levels 0 to 255 between two percentiles of the image, as exported for the screen.

    Linear in between (DICOM PS3.3, C.11.2.1.2), cut off outside. An image that is the same
    everywhere becomes 0.

    Raises:
        UsageError: percentiles that are not 0 <= low < high <= 100.
    """
    if not 0 <= low_percentile < high_percentile <= 100:
        raise UsageError(
            f"the percentiles are {low_percentile} and {high_percentile}; 0 <= low < high <= 100"
            " was expected."
        )
    low, high = np.percentile(image, (low_percentile, high_percentile)).astype(np.float32)
    levels: Field = (image - low) * np.float32(255 / max(high - low, 1e-20))
    np.rint(levels, out=levels)
    return np.clip(levels, 0, 255, out=levels)


def field_of_view(image: Field, cut: Sequence[tuple[float, float]]) -> Field:
    """A scan that does not reach as far as the image: 0 beyond, on the same grid.

    Args:
        cut: parts of each axis that are missing at its start and at its end: in RAS
            ((left, right), (back, face), (neck, top)).

    Raises:
        UsageError: not one pair per axis, parts below 0, or nothing left.
    """
    if len(cut) != 3 or not all(min(pair) >= 0 and sum(pair) < 1 for pair in cut):
        raise UsageError(
            f"cut is {tuple(cut)}; three pairs of parts of 0 or more, each pair with a sum below 1,"
            " were expected."
        )
    seen = tuple(
        slice(round(start * n), n - round(end * n))
        for n, (start, end) in zip(image.shape, cut, strict=True)
    )
    kept = np.zeros_like(image)
    kept[seen] = image[seen]
    return kept


def defaced(
    image: Field, brain: NDArray[np.bool_], *, spacing: Triple = (1.0, 1.0, 1.0), margin: float = 4
) -> Field:
    """The face cut off by a plane: 0 in front of and below it, as in shared scans.

    The plane goes down and back at 45 degrees and passes the brain at `margin`, as quickshear does
    it (Schimke and Hale 2011, HealthSec; compared in Theyers et al. 2021,
    doi:10.3389/fpsyt.2021.617997). No voxel of the brain is lost.

    Args:
        image, brain: (X, Y, Z) in RAS.
        spacing: mm.
        margin: between brain and plane, mm.

    Raises:
        DimensionError: the two differ in shape.
        UsageError: no brain in the mask, a negative margin.
    """
    if image.shape != brain.shape:
        raise DimensionError(f"the image has shape {image.shape}, the brain mask {brain.shape}.")
    if not margin >= 0:
        raise UsageError(f"margin is {margin}; 0 mm or more was expected.")
    profile = brain.any(axis=0)  # seen from the side
    if not profile.any():
        raise UsageError("the brain mask is empty; hand in the mask of the brain in this image.")
    forward = np.arange(image.shape[1], dtype=np.float32)[:, None] * np.float32(spacing[1])
    down = np.arange(image.shape[2], dtype=np.float32) * np.float32(-spacing[2])
    towards_face = (forward + down) / np.float32(math.sqrt(2))  # mm
    kept = towards_face <= towards_face[profile].max() + np.float32(margin)
    without: Field = image * kept
    return without


def _averages(n: int, centres: NDArray[np.float64], width: float) -> Field:
    """Weights (len(centres), n) of the mean over `width` voxels of a line through n values.

    The line is straight between values and level beyond the outermost ones.
    """
    index = np.arange(-1, n + 1)  # one more at each end carries what lies beyond
    low, high = ((centres + side * width / 2)[:, None] - index for side in (-1, 1))

    def risen(u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of a triangle of half width 1 up to u."""
        u = np.clip(u, -1, 1)
        return np.where(u < 0, (1 + u) ** 2 / 2, 1 - (1 - u) ** 2 / 2)

    weights = (risen(high) - risen(low)) / width
    weights[:, 1] += weights[:, 0]
    weights[:, -2] += weights[:, -1]
    return weights[:, 1:-1].astype(np.float32)


def _along(image: Field, weights: Field, axis: int) -> Field:
    """`weights` (M, N) times the image along an axis of N values."""
    if axis == 0:
        return np.tensordot(weights, image, 1)
    mixed: Field = weights @ image if axis == 1 else image @ weights.T
    return mixed
