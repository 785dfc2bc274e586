"""From a map of scores to lesions: connected pieces above a threshold, and a table of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.anomaly.froc import candidates, centres
from medi2i.anomaly.standard import ToStandard

__all__ = ["Lesion", "find_lesions", "lesion_table"]

COLUMNS = ("id", "volume_ml", "x_mm", "y_mm", "z_mm", "peak", "mean")
STANDARD = ("x_mni_mm", "y_mni_mm", "z_mni_mm")
"""More columns, for scans that are registered to the template."""


@dataclass(frozen=True)
class Lesion:
    """One connected piece.

    Attributes:
        id: its number in the label map, from 1; the largest is 1.
        volume_ml: millilitres.
        centre_mm: mean place, RAS mm of the scan's world coordinates.
        peak, mean: of the scores inside.
    """

    id: int
    volume_ml: float
    centre_mm: tuple[float, float, float]
    peak: float
    mean: float


def find_lesions(
    scores: NDArray[np.floating],
    found: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    smallest: float,
) -> tuple[NDArray[np.int32], tuple[Lesion, ...]]:
    """Number the connected pieces of what was found; corners connect.

    Args:
        scores: (X, Y, Z).
        found: voxels above the threshold.
        affine: voxel index -> RAS mm.
        smallest: mm3 that a piece has at least.

    Returns:
        (X, Y, Z) labels, 0 outside, and the pieces, the largest first.
    """
    voxel = abs(float(np.linalg.det(affine[:3, :3])))
    least = max(1, math.ceil(smallest / voxel - 1e-9))
    labels, count = candidates(found, smallest=least)
    if not count:
        return labels, ()
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    renamed = np.zeros(count + 1, np.int32)
    renamed[order + 1] = np.arange(1, count + 1, dtype=np.int32)
    labels = renamed[labels]
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(scores, labels, numbers)
    means = ndimage.mean(scores, labels, numbers)
    places = centres(labels, count) @ affine[:3, :3].T + affine[:3, 3]
    lesions = []
    for number in range(count):
        x, y, z = (float(c) for c in places[number])
        size = float(sizes[order[number]]) * voxel / 1000
        lesions.append(
            Lesion(number + 1, size, (x, y, z), float(peaks[number]), float(means[number]))
        )
    return labels, tuple(lesions)


def lesion_table(lesions: Sequence[Lesion], standard: ToStandard | None = None) -> str:
    """Tab-separated, a line for each; the header alone where there is none.

    Args:
        standard: brings a lesion's centre into MNI space, for three more columns.

    >>> table = lesion_table([Lesion(1, 1.25, (-3.0, 4.5, 60.0), 0.5, 0.25)])
    >>> table.splitlines()[1].split()
    ['1', '1.2500', '-3.0', '4.5', '60.0', '0.5000', '0.2500']
    """
    rows = [[*COLUMNS, *(STANDARD if standard else ())]]
    for one in lesions:
        places = [f"{c:.1f}" for c in one.centre_mm]
        there = [f"{c:.1f}" for c in standard(one.centre_mm)] if standard else []
        scores = [f"{one.peak:.4f}", f"{one.mean:.4f}"]
        rows.append([str(one.id), f"{one.volume_ml:.4f}", *places, *scores, *there])
    return "".join("\t".join(row) + "\n" for row in rows)
