"""One examination: which sequences, on which grid, with which imperfections; and its scans.

    Body --signals of every tissue--> lesions --> blur, thick slices, motion, truncation
         --> coil, noise --> what is left of the head --> Volume

Every voxel's T1, T2 and proton density depart a little from their tissue's, smoothly and alike in
all contrasts, and the flip angle from its nominal value: the image follows by each sequence's own
equation, to first order. That makes the contrasts of one simulated person agree in their texture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.networks.deformation import warp
from medi2i.simulate.artefacts import gibbs, motion_ghosts, point_spread, rician
from medi2i.simulate.body import Body
from medi2i.simulate.fields import bias_field, susceptibility, transmit_field
from medi2i.simulate.lesions import Lesions
from medi2i.simulate.lesions.shapes import noise
from medi2i.simulate.physics import (
    Mprage,
    Relaxation,
    Sequence,
    SpoiledGradientEcho,
    Tissue,
    relaxation,
    with_contrast_agent,
)
from medi2i.simulate.protocols import Geometry, Style, draw_geometry, draw_sequence
from medi2i.simulate.sampling import defaced, resampled, thick_slices, windowed_8bit
from medi2i.volume import Volume

__all__ = [
    "Examination",
    "Flaws",
    "Shown",
    "Subject",
    "draw_examination",
    "draw_person",
    "mask_on_grid",
    "scan",
]

Field = NDArray[np.float32]

BRIGHT = 1000.0
"""The 99.9th percentile of a scan before noise, as scanners fill their range."""
STEP = 0.02
"""Relative change from which derivatives of the signal are taken."""


class Shown(StrEnum):
    """What of the head a scan shows."""

    ON = "on"
    STRIPPED = "stripped"
    DEFACED = "defaced"


@dataclass(frozen=True, slots=True)
class Flaws:
    """How a scan departs from the ideal one; the defaults are the ideal one.

    Attributes:
        blur: width at half height of the point spread function in the plane, mm.
        bias: standard deviation of the logarithm of the coil's sensitivity.
        transmit: excess of the flip angle in the centre of the head.
        noise: standard deviation of each receiver channel, relative to the brightest tissue.
        motion: strength of ghosts; 0 for a patient who lies still.
        kept: part of k-space that is sampled; below 1 gives Gibbs ringing.
        fluid: signal that moving fluid keeps where its inversion should null it, relative to the
            brightest tissue.
        levels: 256 for a scan exported with 8 bits, 0 for one that was not.
    """

    blur: float = 0.0
    bias: float = 0.0
    transmit: float = 0.0
    noise: float = 0.0
    motion: float = 0.0
    kept: float = 1.0
    fluid: float = 0.0
    levels: int = 0


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was set or went wrong at the scanner.

    Attributes:
        field: 1.5 or 3.0 T.
        style: 3-D or slices.
        geometry: of every scan; they share one grid.
        head: what the scans show.
        sequences, flaws: by contrast.
    """

    field: float
    style: Style
    geometry: Geometry
    head: Shown
    sequences: Mapping[Contrast, Sequence]
    flaws: Mapping[Contrast, Flaws]


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """What of a person does not depend on the scanner's settings.

    Attributes:
        body: the anatomy.
        tissues: relaxation by tissue, this person's own; and after contrast agent.
        texture: (X, Y, Z) each: departures of ln T1, ln T2 and ln PD.
        lesions: none for a healthy person.
    """

    body: Body
    tissues: Mapping[Tissue, Relaxation]
    enhanced: Mapping[Tissue, Relaxation]
    texture: tuple[Field, Field, Field]
    lesions: Lesions | None = None


def draw_examination(
    contrasts: tuple[Contrast, ...],
    seed: np.random.SeedSequence,
    *,
    style: Style | None = None,
    field: float | None = None,
    head: Shown | None = None,
    spacing: tuple[float, float, float] | None = None,
    sequences: Mapping[Contrast, Sequence] | None = None,
) -> Examination:
    """An examination as some hospital may do it; what is given is kept.

    A contrast's sequence and flaws are the same whichever others are asked for.

    Args:
        contrasts: T1w, ce-gad T1w, T2w, PDw, FLAIR.
        seed: of everything that is not given.
        spacing: voxel size in mm; the longest side is the slice thickness.
        sequences: exact parameters by contrast.

    Raises:
        UsageError: a field without relaxation tables; a spacing that is not positive.
    """
    rng = np.random.default_rng(seed.spawn(1)[0])
    strength = 1.5 if rng.random() < 0.4 else 3.0
    strength = strength if field is None else field
    chosen = Style.VOLUMETRIC if rng.random() < 0.55 else Style.SLICES
    chosen = chosen if style is None else style
    shown = (Shown.ON, Shown.STRIPPED, Shown.DEFACED)[int(rng.choice(3, p=(0.3, 0.6, 0.1)))]
    geometry = draw_geometry(rng, chosen)
    if spacing is not None:
        if not all(math.isfinite(s) and 0.2 <= s <= 10 for s in spacing):
            raise UsageError(
                f"spacing is {tuple(spacing)} mm; three lengths from 0.2 to 10 were expected"
            )
        axis = int(np.argmax(spacing))
        plane = [s for a, s in enumerate(spacing) if a != axis]
        if abs(plane[0] - plane[1]) > 1e-6:
            raise UsageError(
                f"spacing is {tuple(spacing)} mm; two sides of one length, in the slice, and one "
                "that is not shorter were expected"
            )
        geometry = Geometry(plane[0], spacing[axis], 0.0, axis if len(set(spacing)) > 1 else 2)
    given = sequences or {}
    drawn, flaws = {}, {}
    for contrast in contrasts:
        own = _rng_of(contrast, seed)
        usual = draw_sequence(contrast, own, style=chosen, field=strength)
        drawn[contrast] = given.get(contrast, usual)
        flaws[contrast] = _draw_flaws(own, strength)
    return Examination(strength, chosen, geometry, head or shown, drawn, flaws)


def draw_person(
    body: Body,
    seed: np.random.SeedSequence,
    *,
    field: float,
    lesions: Lesions | None = None,
) -> Subject:
    """A person's tissue: what the tables say, give or take what differs between people."""
    rng = np.random.default_rng(seed)
    common = np.exp(rng.normal(0.0, 0.05, 2))
    own, enhanced = {}, {}
    for tissue in Tissue:
        t1, t2, pd = np.exp(rng.normal(0.0, (0.03, 0.03, 0.015)))
        factors = (pd, t1 * common[0], t2 * common[1])
        own[tissue] = _times(relaxation(tissue, field=field), *factors)
        enhanced[tissue] = _times(with_contrast_agent(tissue, field=field), *factors)
    fine, coarse = rng.uniform(0.01, 0.04), rng.uniform(0.01, 0.05)

    def texture() -> Field:
        return np.float32(fine) * noise(body.shape, rng, 1.0) + np.float32(coarse) * noise(
            body.shape, rng, 6.0
        )

    t1_like, other, water = texture(), texture(), texture()
    t2_like = np.float32(0.6) * t1_like + np.float32(0.8) * other
    return Subject(body, own, enhanced, (t1_like, t2_like, np.float32(0.5) * water), lesions)


def scan(
    subject: Subject,
    examination: Examination,
    contrast: Contrast,
    seed: np.random.SeedSequence,
    *,
    healthy: bool = False,
) -> Volume:
    """One scan. The same seed gives the same noise and the same coil.

    Args:
        healthy: the person's twin, without the lesions.

    Returns:
        float32, not negative; the 99.9th percentile of what is shown is 1000 before noise.
    """
    body, flaws = subject.body, examination.flaws[contrast]
    sequence, rng = examination.sequences[contrast], _rng_of(contrast, seed)
    lesions = None if healthy else subject.lesions
    image = _signal(subject, lesions, examination, contrast, rng)
    geometry = examination.geometry
    spacing = np.abs(np.diag(body.affine)[:3])
    width = [0.0 if a == geometry.axis and geometry.thickness > 2 else flaws.blur for a in range(3)]
    np.abs(image, out=image)
    image = point_spread(image, [w / s for w, s in zip(width, spacing, strict=True)])
    if isinstance(sequence, SpoiledGradientEcho | Mprage) and examination.head is Shown.ON:
        image *= susceptibility(body.air, rng, te=sequence.te, field=examination.field)
    if flaws.motion:
        image = motion_ghosts(image, rng, flaws.motion, (geometry.axis + 1) % 3)
    if flaws.kept < 1:
        kept = [1.0 if a == geometry.axis else flaws.kept for a in range(3)]
        image = np.abs(gibbs(image, kept))
    if flaws.bias:
        image *= bias_field(image.shape, rng, flaws.bias)
    visible = body.brain if examination.head is Shown.STRIPPED else None
    measured = np.ones(body.shape, bool) if visible is None else visible
    if subject.lesions is not None:  # twins have one scale
        total = sum(subject.lesions.shares.values(), np.zeros(body.shape, np.float32))
        measured = measured & (ndimage.maximum_filter(total, 7) < 0.01)
    top = float(np.percentile(image[measured], 99.9)) if measured.any() else float(image.max())
    image *= np.float32(BRIGHT / max(top, 1e-6))
    image, affine = _on_grid(image, body.affine, geometry)
    image = rician(image, flaws.noise * BRIGHT, rng)
    if visible is not None:
        image[_on_grid(visible.astype(np.float32), body.affine, geometry)[0] < 0.5] = 0
    elif examination.head is Shown.DEFACED:
        brain = _on_grid(body.brain.astype(np.float32), body.affine, geometry)[0] >= 0.5
        image = defaced(image, brain, spacing=geometry.spacing)
    if flaws.levels:
        image = windowed_8bit(image, 0.5, 99.8)
    return Volume.of(image, affine)


def mask_on_grid(mask: NDArray[np.bool_], body: Body, geometry: Geometry) -> Volume:
    """A mask of the body's grid on that of the scans: at least half of the voxel."""
    share, affine = _on_grid(mask.astype(np.float32), body.affine, geometry)
    return Volume.of((share >= 0.5).astype(np.float32), affine)


def _signal(
    subject: Subject,
    lesions: Lesions | None,
    examination: Examination,
    contrast: Contrast,
    rng: np.random.Generator,
) -> Field:
    """(X, Y, Z): signed signal on the body's own grid."""
    body, sequence = subject.body, examination.sequences[contrast]
    tissues = subject.enhanced if contrast is Contrast.T1CE else subject.tissues
    flaws = examination.flaws[contrast]
    responses = {tissue: _responses(sequence, own) for tissue, own in tissues.items()}
    excess = None
    if flaws.transmit and any(r[4] for r in responses.values()):
        excess = transmit_field(body.shape, rng, flaws.transmit) - 1

    def rendered(order: int) -> Field:
        return body.render({tissue: r[order] for tissue, r in responses.items()})

    image = rendered(0)
    for order, field in enumerate((*subject.texture, excess), start=1):
        if field is not None:
            part = rendered(order)
            part *= field
            image += part
    if flaws.fluid and contrast is Contrast.FLAIR:
        brightest = max(r[0] for r in responses.values())
        fluid = dict.fromkeys(tissues, 0.0) | {Tissue.CSF: flaws.fluid * brightest}
        image += body.render(fluid)
    if lesions is not None:
        before = _pushed(image, lesions.displacement)
        image = before.copy()
        for tissue, share in lesions.shares.items():
            own = np.float32(responses[tissue][0]) * (1 + subject.texture[1])
            image += share * (own - before)
    return image


def _pushed(image: Field, displacement: Field | None) -> Field:
    """The image with its tissue pushed aside by mass effect; linear between voxels."""
    if displacement is None:
        return image
    whole = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    moved: Field = warp(whole, torch.from_numpy(displacement)[None])[0, 0].numpy()
    return moved


def _responses(sequence: Sequence, tissue: Relaxation) -> tuple[float, ...]:
    """Signal, and its derivatives by the logarithms of T1, T2 (with T2*), PD and flip angle."""
    signal = sequence.signal(tissue)
    longer = sequence.signal(replace(tissue, t1=tissue.t1 * (1 + STEP)))
    slower = sequence.signal(
        replace(tissue, t2=tissue.t2 * (1 + STEP), t2s=tissue.t2s * (1 + STEP))
    )
    by_flip = 0.0
    if isinstance(sequence, SpoiledGradientEcho | Mprage):
        harder = replace(sequence, flip=sequence.flip * (1 + STEP))
        by_flip = (harder.signal(tissue) - signal) / STEP
    return signal, (longer - signal) / STEP, (slower - signal) / STEP, signal, by_flip


def _draw_flaws(rng: np.random.Generator, field: float) -> Flaws:
    """Flaws as they are met: noise and a coil always, motion and ringing now and then."""
    return Flaws(
        blur=rng.uniform(0.8, 1.4),
        bias=rng.uniform(0.0, 0.12),
        transmit=rng.uniform(0.1, 0.25) if field > 2 else rng.uniform(0.0, 0.06),
        noise=rng.uniform(0.004, 0.03),
        motion=rng.uniform(0.1, 0.5) if rng.random() < 0.12 else 0.0,
        kept=rng.uniform(0.6, 0.9) if rng.random() < 0.2 else 1.0,
        fluid=rng.uniform(0.03, 0.13),
        levels=256 if rng.random() < 0.12 else 0,
    )


def _on_grid(
    image: Field, affine: NDArray[np.float64], geometry: Geometry
) -> tuple[Field, NDArray[np.float64]]:
    """The image sampled by a geometry, and where its voxels then lie."""
    old = np.abs(np.diag(affine)[:3])
    new = affine.copy()
    if geometry.thickness + geometry.gap > 2:
        cut = thick_slices(
            image, float(old[geometry.axis]), geometry.thickness, geometry.gap, geometry.axis
        )
        image, new = cut.image, cut.affine(new)
    zoom = [
        1.0
        if axis == geometry.axis and geometry.thickness + geometry.gap > 2
        else float(old[axis] / geometry.spacing[axis])
        for axis in range(3)
    ]
    if any(abs(z - 1) > 1e-6 for z in zoom):
        fine = resampled(image, zoom)
        image, new = fine.image, fine.affine(new)
    return image, new


def _times(base: Relaxation, pd: float, t1: float, t2: float) -> Relaxation:
    return Relaxation(
        pd=min(1.0, base.pd * pd), t1=base.t1 * t1, t2=base.t2 * t2, t2s=base.t2s * t2
    )


def _rng_of(contrast: Contrast, seed: np.random.SeedSequence) -> np.random.Generator:
    """Random numbers that belong to one contrast, whichever others there are."""
    place = list(Contrast).index(contrast)
    return np.random.default_rng([*np.atleast_1d(seed.generate_state(4)).tolist(), place])
