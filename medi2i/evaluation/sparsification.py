"""Whether an uncertainty map knows where the errors are.

Voxels are taken away, the most uncertain first; the mean error of those that are left must fall.
How much of the fall that the true errors would give is reached, is one number (Ilg et al. 2018,
arXiv:1802.07095).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medi2i.errors import DimensionError, UsageError

__all__ = ["Sparsification", "sparsification"]


@dataclass(frozen=True, eq=False)
class Sparsification:
    """Mean absolute error of what is left, relative to that of everything.

    Attributes:
        removed: parts of the voxels that are taken away, from 0 up.
        curve: of the uncertainty, 1 at 0.
        ideal: taking away the largest errors first.
        gain: area won by the uncertainty over that won by the ideal: 1 knows all, 0 nothing;
            below 0 is worse than chance.
        ratio: mean uncertainty over mean absolute error; 1 is calibrated.
        rising: whether the mean error rises from each tenth of the voxels, by uncertainty, to the
            next.
    """

    removed: NDArray[np.float64]
    curve: NDArray[np.float64]
    ideal: NDArray[np.float64]
    gain: float
    ratio: float
    rising: bool


def sparsification(error: ArrayLike, uncertainty: ArrayLike, *, steps: int = 20) -> Sparsification:
    """The curve of one scan, or of several put together.

    Args:
        error: absolute errors of any shape, of the voxels that count.
        uncertainty: of the same voxels.
        steps: points of the curve.

    Raises:
        DimensionError: unlike shapes. UsageError: fewer than 10 voxels, or no error at all.

    >>> found = sparsification(np.arange(1, 101), np.arange(1, 101) / 2)
    >>> found.gain, found.ratio, found.rising
    (1.0, 0.5, True)
    """
    off = np.abs(np.asarray(error, np.float64)).ravel()
    unsure = np.asarray(uncertainty, np.float64).ravel()
    if off.shape != unsure.shape:
        raise DimensionError(
            f"{off.size} errors and {unsure.size} uncertainties came; one of each per voxel was "
            "expected"
        )
    if off.size < 10 or not off.any():
        raise UsageError(
            f"{off.size} voxels with a mean error of {off.mean() if off.size else 0:g} came; at "
            "least 10, with errors, were expected"
        )
    removed = np.arange(steps) / steps
    order = np.argsort(unsure, kind="stable")
    curve, ideal = _left(off[order], removed), _left(np.sort(off), removed)
    tenths = [part.mean() for part in np.array_split(off[order], 10)]
    return Sparsification(
        removed=removed,
        curve=curve,
        ideal=ideal,
        gain=float((1 - curve).sum() / (1 - ideal).sum()) if (1 - ideal).any() else 1.0,
        ratio=float(unsure.mean() / off.mean()),
        rising=bool(np.all(np.diff(tenths) >= 0)),
    )


def _left(ascending: NDArray[np.float64], removed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of what is left when the last part of an array is taken away, relative to the whole."""
    sums = np.cumsum(ascending)
    kept = np.maximum(np.round((1 - removed) * ascending.size).astype(int), 1)
    left: NDArray[np.float64] = sums[kept - 1] / kept / (sums[-1] / ascending.size)
    return left
