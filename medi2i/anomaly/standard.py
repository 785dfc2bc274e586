"""Where a place lies in the MNI template, for scans that somebody registered to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.data.cohort import TRANSFORM
from medi2i.data.registration import read_transform
from medi2i.errors import ContrastError
from medi2i.formats.names import subject_prefix

__all__ = ["Point", "ToStandard", "to_standard"]

Point = tuple[float, float, float]
ToStandard = Callable[[Point], Point]
"""From RAS mm of a scan's world to those of the template."""

IN_MNI = re.compile(r"(^|_)space-MNI[A-Za-z0-9]*_")


def to_standard(scan: Path, contrast: Contrast) -> ToStandard | None:
    """How places of a scan come into MNI space; None where nobody registered it.

    A scan with `space-MNI...` in its name lies there already. Else an ITK transform beside it is
    used: sub-1_from-FLAIR_to-MNI152NLin2009cAsym_mode-image_xfm.txt, which resamples the scan onto
    the template, or one the other way.

    Raises:
        FormatError: such a transform cannot be read, or has no inverse.
    """
    if IN_MNI.search(scan.name):
        return lambda point: point
    for path in sorted(scan.parent.glob(f"{subject_prefix(scan)}_*xfm.*")):
        told = TRANSFORM.search(path.name)
        if told is None:
            continue
        forth = _is(told["moving"], contrast) and told["fixed"].startswith("MNI")
        back = told["moving"].startswith("MNI") and _is(told["fixed"], contrast)
        if forth or back:
            # what resamples a scan onto the template leads from the template's points to its own
            return _moved(read_transform(path, inverse=forth).TransformPoint)
    return None


def _is(word: str, contrast: Contrast) -> bool:
    try:
        return Contrast.parse(word) == contrast
    except ContrastError:
        return False


def _moved(transform: Callable[[Point], Point]) -> ToStandard:
    """The same in RAS, for ITK counts to the left and to the back."""

    def move(point: Point) -> Point:
        x, y, z = transform((-point[0], -point[1], point[2]))
        return -x, -y, z

    return move
