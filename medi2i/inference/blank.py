"""Where a scan is blank, as stripped and defaced ones are, so that nothing is worth looking at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["AIR", "MARGIN", "Box", "blank_air", "worth_a_look"]

AIR = -1.0
"""The value of blank air, normalised."""
LEAST = 0.05
"""Share of a scan from which one exact value is taken for blank air."""
MARGIN = 8
"""Voxels of air that are kept around a head, in the planes that a network sees."""
STEP = 16
"""Voxels that the ends of the sides are rounded to."""

Box = tuple[slice, slice, slice]


def blank_air(normalised: Tensor) -> Tensor | None:
    """(C, X, Y, Z) -> (X, Y, Z) bool: blank background beyond a rim of one voxel, or None.

    A stripped or blanked scan has one exact value outside the head; a network's haze has no
    business there. Scans with noisy air have no such value and are left alone.
    """
    head = (normalised != AIR).any(0)
    if 1 - int(head.count_nonzero()) / head.numel() < LEAST:
        return None
    for axis in (0, 1):
        wider = head.clone()
        size = head.shape[axis] - 1
        wider.narrow(axis, 0, size).logical_or_(head.narrow(axis, 1, size))
        wider.narrow(axis, 1, size).logical_or_(head.narrow(axis, 0, size))
        head = wider
    return head.logical_not_()


def worth_a_look(air: Tensor, shape: Sequence[int], margins: Sequence[int]) -> Box:
    """The part of a volume around everything that is not blank air; all where all is.

    Args:
        air: (X, Y, Z) bool, of :func:`blank_air`.
        shape: (X, Y, Z) of the volume, which shows the same at its own resolution.
        margins: voxels of air that are kept along each axis; a side with `MARGIN` is rounded to
            whole `STEP`, as far as the scan goes, so that networks which shrink their images by
            that keep the grid they would have.
    """
    if bool(air.all()):
        air = torch.zeros(1, 1, 1, dtype=torch.bool)
    box = []
    for axis, (size, margin) in enumerate(zip(shape, margins, strict=True)):
        first, second = (other for other in range(3) if other != axis)
        places = torch.nonzero(~air.all(dim=second).all(dim=first)).flatten()
        scale = size / air.shape[axis]
        low = math.floor(int(places[0]) * scale) - margin
        high = math.ceil((int(places[-1]) + 1) * scale) + margin
        if margin >= MARGIN:
            low, high = low // STEP * STEP, -(-high // STEP) * STEP
        box.append(slice(max(0, low), min(size, high)))
    x, y, z = box
    return x, y, z
