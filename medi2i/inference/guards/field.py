"""Whether a scan holds the whole brain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medi2i.inference.glance import Glance

__all__ = ["CUT", "cut_off", "cuts"]

CUT = 1 / 3
"""Of the brain's largest section: a face of the scan with more brain in it cuts the brain off. At
most 0.10 where the whole brain is shown."""

ENDS = (("left", "right"), ("back", "front"), ("lower end", "upper end"))
Mask = NDArray[np.bool_]


def cut_off(name: str, seen: Glance) -> Iterator[str]:
    """A sentence where a scan ends inside the brain."""
    found = [f"{share:.0%} at its {end}" for end, share in cuts(seen.marked, seen.shown)]
    if found:
        yield (
            f'"{name}" ends inside the brain: of its largest section across the axis, '
            f"{', '.join(found)}; what is near that end was translated without its surroundings"
        )


def cuts(brain: Mask, shown: Mask) -> list[tuple[str, float]]:
    """The ends at which a brain is cut off, and how much of its largest section lies there.

    Args:
        brain: (X, Y, Z) on canonical axes.
        shown: likewise, what is not blank: a scan ends where nothing is shown any more.

    >>> brain = np.zeros((8, 8, 8), bool)
    >>> brain[2:6, 2:6, 3:] = True
    >>> cuts(brain, brain | True)
    [('upper end', 1.0)]
    """
    found = []
    for axis, ends in enumerate(ENDS):
        others = tuple(other for other in range(3) if other != axis)
        areas, there = brain.sum(others), np.flatnonzero(shown.any(others))
        if len(there) < 2 or not areas.any():
            continue
        outermost = (areas[there[:2]].max(), areas[there[-2:]].max())  # the rim itself may be faint
        for end, area in zip(ends, outermost, strict=True):
            if (share := float(area / areas.max())) > CUT:
                found.append((end, share))
    return found
