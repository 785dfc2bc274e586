"""Where a scan is blank, as stripped and defaced ones are, so that nothing is worth looking at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["AIR", "MARGIN", "Box", "blank_air", "worth_a_look"]

AIR = -1.0
"""The value of blank air, normalised."""
LEAST = 0.05
"""Share of a scan from which one exact value is taken for blank air."""
MARGIN = 8
"""Voxels of air that are kept around a head, in the planes that a network sees."""
STEP = 16
"""Voxels that sides are rounded up to where there is room, so that scans of a cohort are alike."""
_NEAR = 1e-3

Box = tuple[slice, slice, slice]


def blank_air(normalised: Tensor) -> Tensor | None:
    """(C, X, Y, Z) -> (X, Y, Z) bool: blank background beyond a rim of one voxel, or None.

    A stripped or blanked scan has one exact value outside the head; a network's haze has no
    business there. Scans with noisy air have no such value and are left alone.
    """
    blank = (normalised == AIR).all(0)
    if float(blank.float().mean()) < LEAST:
        return None
    head = functional.max_pool2d((~blank).float().permute(2, 0, 1)[None], 3, stride=1, padding=1)
    return head[0].permute(1, 2, 0) == 0


def worth_a_look(normalised: Tensor, margins: Sequence[int]) -> Box:
    """The part of (C, X, Y, Z) around everything that is not blank air; all where all is.

    Args:
        margins: voxels of air that are kept along each axis; a side with `MARGIN` is rounded up to
            whole `STEP`, as far as the scan goes.
    """
    there = ((normalised - AIR).abs() > _NEAR).any(0)
    box = []
    for axis, margin in enumerate(margins):
        others = [other for other in range(3) if other != axis]
        places = torch.nonzero(there.any(dim=others[1]).any(dim=others[0])).flatten()
        whole = there.shape[axis]
        if not len(places):
            return slice(0, there.shape[0]), slice(0, there.shape[1]), slice(0, there.shape[2])
        low, high = int(places[0]) - margin, int(places[-1]) + 1 + margin
        if margin >= MARGIN:
            low, high = low // STEP * STEP, -(-high // STEP) * STEP
        box.append(slice(max(0, low), min(whole, high)))
    x, y, z = box
    return x, y, z
