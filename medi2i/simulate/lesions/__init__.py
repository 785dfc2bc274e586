"""Lesions to put into a head: infarcts, plaques, tumours, haemorrhages, small-vessel disease.

    brain -> place -> shape -> shares of diseased tissue in every voxel (+ mass effect)

Where each disease lies, what it is made of and which way it spreads follows textbook neuroradiology
(Osborn et al., Osborn's Brain, 2nd ed., 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from medi2i.errors import DimensionError, UsageError
from medi2i.simulate.lesions.canvas import Canvas
from medi2i.simulate.lesions.infarct import draw_stroke
from medi2i.simulate.lesions.masses import draw_haemorrhage, draw_tumour
from medi2i.simulate.lesions.places import Brain
from medi2i.simulate.lesions.plaques import draw_ms, draw_small_vessel
from medi2i.simulate.lesions.shapes import Box, Field, Mask
from medi2i.simulate.physics import Tissue

__all__ = ["Lesions", "Pathology", "draw_lesions"]


class Pathology(StrEnum):
    """What a head can suffer from."""

    STROKE = "stroke"
    MS = "ms"
    TUMOUR = "tumour"
    SMALL_VESSEL = "small-vessel"
    HAEMORRHAGE = "haemorrhage"


@dataclass(frozen=True, eq=False)
class Lesions:
    """Diseased tissue on the grid of a head.

    Attributes:
        shares: by tissue, (X, Y, Z) float32: the part of each voxel that is this tissue, 0 to 1.
            Their sum is at most 1 (to rounding); the rest of a voxel stays what it was. Empty where
            there is no lesion.
        mask: (X, Y, Z) bool, where the sum is at least 0.5.
        displacement: (3, X, Y, Z) float32 in voxels, or None: mass effect. What comes to voxel x of
            the diseased head was at x + u(x) of the healthy one; shares and mask are in the
            diseased head. The Jacobian of x + u(x) is positive.
        pathology: what it is.
    """

    shares: Mapping[Tissue, Field]
    mask: Mask
    displacement: Field | None
    pathology: Pathology


def draw_lesions(
    pathology: Pathology | str,
    *,
    white: Mask,
    tissue: Mask,
    rng: np.random.Generator,
    shapes: Path | None = None,
    mass_effect: bool = False,
) -> Lesions:
    """Lesions of one kind in one head, different with every draw.

    - STROKE: ISCHAEMIA, at times NECROSIS in its middle or HAEMORRHAGE in it.
    - MS: LESION, at times NECROSIS (black holes) and ENHANCING (active plaques).
    - TUMOUR: glioma of low grade (TUMOUR, OEDEMA, at times NECROSIS), of high grade (NECROSIS,
      ENHANCING, TUMOUR, OEDEMA) or metastases (ENHANCING, OEDEMA, the large ones NECROSIS).
    - SMALL_VESSEL: LESION, at times CSF (lacunes).
    - HAEMORRHAGE: HAEMORRHAGE, OEDEMA, at times NECROSIS.

    Args:
        white: (X, Y, Z) bool, cerebral white matter; 1 mm RAS voxels.
        tissue: on the same grid, all brain tissue. Lesions lie only there; with mass effect, only
            where it is moved to.
        rng: every random number.
        shapes: a folder of masks in MNI space, `stroke-*.nii.gz` and `ms-*.nii.gz`, whose shapes
            and places STROKE and MS take, bent anew. None makes them up.
        mass_effect: tumours, haemorrhages and, a little, large infarcts push aside what is near.

    Returns:
        The lesions; without shares and displacement where no place was found, as in a head without
        white matter.

    Raises:
        DimensionError: masks that are not 3-D or not on one grid.
        MissingFileError: a folder without masks of the kind.
        UsageError: a pathology that is not known.
    """
    try:
        kind = Pathology(pathology)
    except ValueError:
        known = ", ".join(Pathology)
        raise UsageError(
            f'The pathology "{pathology}" is not known; one of {known} was expected.'
        ) from None
    if white.ndim != 3 or white.shape != tissue.shape:
        raise DimensionError(
            f"white has shape {white.shape}, tissue {tissue.shape}; two 3-D masks on one grid were"
            " expected."
        )
    crop = _extent(tissue)
    if min(s.stop - s.start for s in crop) < 4:
        return Lesions({}, np.zeros(tissue.shape, bool), None, kind)
    brain = Brain(white[crop] & tissue[crop], tissue[crop])
    canvas = Canvas(brain, rng, mass_effect=mass_effect)
    match kind:
        case Pathology.STROKE:
            draw_stroke(canvas, shapes)
        case Pathology.MS:
            draw_ms(canvas, shapes)
        case Pathology.TUMOUR:
            draw_tumour(canvas)
        case Pathology.SMALL_VESSEL:
            draw_small_vessel(canvas)
        case Pathology.HAEMORRHAGE:
            draw_haemorrhage(canvas)

    shares: dict[Tissue, Field] = {}
    mask = np.zeros(tissue.shape, bool)
    total = np.zeros(brain.shape, np.float32)
    for name, share in canvas.shares.items():
        if share.any():
            shares[name] = np.zeros(tissue.shape, np.float32)
            shares[name][crop] = share
            total += share
    mask[crop] = total >= 0.5
    displacement: Field | None = None
    if canvas.displacement is not None and shares:
        displacement = np.zeros((3, *tissue.shape), np.float32)
        displacement[:, *crop] = canvas.displacement
    return Lesions(shares, mask, displacement, kind)


def _extent(mask: Mask) -> Box:
    """The smallest box that holds a mask; empty for an empty one."""
    spans = []
    for axis in range(3):
        (inside,) = np.nonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0))
    return spans[0], spans[1], spans[2]
