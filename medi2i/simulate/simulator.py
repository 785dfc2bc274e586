"""A person in the scanner, from one seed: anatomy, disease, examination, scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.simulate.anatomy import procedural_head
from medi2i.simulate.body import Body, LabelledBody
from medi2i.simulate.examination import (
    Examination,
    Shown,
    draw_examination,
    draw_person,
    mask_on_grid,
    scan,
)
from medi2i.simulate.lesions import Lesions, Pathology, draw_lesions
from medi2i.simulate.physics import Sequence
from medi2i.simulate.protocols import Style
from medi2i.volume import Volume

__all__ = ["Simulated", "simulate"]

USUAL = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)


@dataclass(frozen=True, eq=False, slots=True)
class Simulated:
    """One simulated person.

    Attributes:
        scans: by contrast, all on one grid.
        healthy: the same without lesions, voxel by voxel the same noise; empty unless asked for.
        brain: mask on that grid.
        lesions: mask on that grid; None for a healthy person.
        pathology: which disease, if any.
        examination: every parameter that was drawn or given.
    """

    scans: Mapping[Contrast, Volume]
    healthy: Mapping[Contrast, Volume]
    brain: Volume
    lesions: Volume | None
    pathology: Pathology | None
    examination: Examination


def simulate(
    seed: int,
    *,
    contrasts: Iterable[Contrast | str] = USUAL,
    labels: NDArray[np.integer[Any]] | None = None,
    pathology: Pathology | str | None = None,
    shapes: Path | None = None,
    mass_effect: bool = False,
    twins: bool = False,
    style: Style | None = None,
    field: float | None = None,
    head: Shown | None = None,
    spacing: tuple[float, float, float] | None = None,
    sequences: Mapping[Contrast, Sequence] | None = None,
) -> Simulated:
    """Scans of one person, paired to the voxel. The same call gives the same bytes.

    Args:
        seed: of everything that is not given.
        contrasts: T1w, ce-gad T1w, T2w, PDw, FLAIR; one looks the same whichever others are asked
            for.
        labels: (X, Y, Z) at 1 mm in RAS, values of `physics.LABELS`, to be bent anew; None draws a
            head from nothing.
        pathology: None for a healthy person.
        shapes: folder of lesion masks to take shapes from (see `lesions.draw_lesions`).
        mass_effect: let large lesions push tissue away.
        twins: the same person without the lesions too.
        style, field, head, spacing, sequences: see `examination.draw_examination`.

    Raises:
        UsageError: labels that are not known, a spacing or field that cannot be.
        ContrastError: a contrast without a protocol.

    >>> person = simulate(1, contrasts=["t1"], style=Style.SLICES, field=3.0)
    >>> list(person.scans), person.lesions
    ([<Contrast.T1W: 'T1w'>], None)
    """
    wanted = tuple(dict.fromkeys(Contrast.parse(contrast) for contrast in contrasts))
    root = np.random.SeedSequence(seed)
    of_body, of_lesions, of_examination, of_tissue, of_scans = root.spawn(5)
    examination = draw_examination(
        wanted,
        of_examination,
        style=style,
        field=field,
        head=head,
        spacing=spacing,
        sequences=sequences,
    )
    body: Body
    if labels is None:
        body = procedural_head(
            int(of_body.generate_state(1)[0]), skull=examination.head is not Shown.STRIPPED
        )
    else:
        body = LabelledBody.bent(labels, np.random.default_rng(of_body))
    lesions: Lesions | None = None
    if pathology is not None:
        lesions = draw_lesions(
            pathology,
            white=body.white,
            tissue=body.parenchyma,
            rng=np.random.default_rng(of_lesions),
            shapes=shapes,
            mass_effect=mass_effect,
        )
    person = draw_person(body, of_tissue, field=examination.field, lesions=lesions)

    def scans(*, healthy: bool) -> dict[Contrast, Volume]:
        return {c: scan(person, examination, c, of_scans, healthy=healthy) for c in wanted}

    return Simulated(
        scans=scans(healthy=False),
        healthy=scans(healthy=True) if twins else {},
        brain=mask_on_grid(body.brain, body, examination.geometry),
        lesions=mask_on_grid(lesions.mask, body, examination.geometry) if lesions else None,
        pathology=lesions.pathology if lesions else None,
        examination=examination,
    )
