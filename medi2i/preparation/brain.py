"""The brain's mask, from the network that looks at scans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medi2i.errors import InputError
from medi2i.inference.aids import KEYS
from medi2i.inference.glance import glance
from medi2i.model import read_record
from medi2i.volume import Volume
from medi2i.zoo import aid

__all__ = ["Brain", "find_brain"]

USUAL = (700.0, 2200.0)
"""Millilitres; a mask outside of it is doubted."""


@dataclass(frozen=True, eq=False)
class Brain:
    """Where the brain is.

    Attributes:
        mask: 0 and 1, on the scan's grid.
        millilitres: its volume.
        record: for side-cars.
        warnings: sentences.
    """

    mask: Volume
    millilitres: float
    record: dict[str, Any]
    warnings: tuple[str, ...]


def find_brain(volume: Volume) -> Brain:
    """The brain in a scan of a head, of any contrast.

    Raises:
        InputError: no brain is seen. DimensionError: the scan shows too little of a head.
        ModelError: the network is missing or was altered.
    """
    name = volume.name or "the scan"
    seen = glance(volume)
    inside = seen.brain_mask
    if not inside.any():
        raise InputError(
            f'no brain is seen in "{name}"; leave the brain mask out, or look at the scan and at '
            "the orientation that its header claims"
        )
    millilitres = float(inside.sum()) * math.prod(volume.spacing) / 1000
    warnings = []
    if not seen.is_head:
        warnings.append(
            f'"{name}" does not look like the MRI of a head ({seen.head:.2f}); its brain '
            "mask may mean nothing"
        )
    if not USUAL[0] <= millilitres <= USUAL[1]:
        warnings.append(
            f'the brain mask of "{name}" holds {millilitres:.0f} ml; {USUAL[0]:.0f} to '
            f"{USUAL[1]:.0f} ml were expected of a whole brain"
        )
    record = {
        "Method": "network",
        "Network": "glance",
        "SHA256": read_record(aid("glance"), KEYS)["sha256"],
        "Millilitres": round(millilitres, 1),
        "HeadProbability": round(seen.head, 4),
    }
    return Brain(volume.like(inside), millilitres, record, tuple(warnings))
