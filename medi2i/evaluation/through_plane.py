"""Whether slices that were translated one by one still fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError

__all__ = ["through_plane_ratio"]

Array = NDArray[Any]


def through_plane_ratio(
    synthetic: Array, acquired: Array, brain: NDArray[np.bool_], *, axis: int = 2
) -> float:
    """Mean absolute difference between neighbouring slices, relative to the acquired scan's.

    1 is like the acquired scan; above, slices flicker; below, they are smoother than it.

    Args:
        synthetic, acquired: (X, Y, Z) on one intensity scale.
        brain: what counts; a pair of neighbours does where both lie in it.
        axis: across the slices.

    Raises:
        DimensionError: unlike shapes. UsageError: no two neighbours in the brain, or an acquired
        scan that does not change from slice to slice.

    >>> steps = np.broadcast_to(np.arange(4.0), (2, 2, 4))
    >>> through_plane_ratio(3 * steps, steps, steps >= 0)
    3.0
    """
    shapes = {array.shape for array in (synthetic, acquired, brain)}
    if len(shapes) > 1:
        raise DimensionError(f"the shapes {sorted(shapes)} came; one grid was expected")
    inside = np.moveaxis(brain, axis, 0)
    both = inside[1:] & inside[:-1]
    if not both.any():
        raise UsageError("no two neighbouring slices share a voxel of the brain")
    changes = [
        np.abs(np.diff(np.moveaxis(np.asarray(image, np.float64), axis, 0), axis=0))[both].mean()
        for image in (synthetic, acquired)
    ]
    if not changes[1] > 0:
        raise UsageError("the acquired scan is the same in all slices; there is nothing to compare")
    return float(changes[0] / changes[1])
