"""Scans of label maps: a real head's anatomy, bent anew, in any contrast, perfectly paired.

    label map -> bend -> (lesions) -> signal of every label and its derivatives -> texture
    -> partial volume -> coil and noise -> (brain alone)

Every voxel's T1, T2 and proton density deviate a little from their tissue's, smoothly and alike in
all contrasts: the image follows by each sequence's own equation, to first order. That is what
makes the contrasts of one simulated person agree in their texture, as those of a real one do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.simulate.physics import (
    LABELS,
    InversionRecovery,
    Mprage,
    Relaxation,
    Sequence,
    SpinEcho,
    SpoiledGradientEcho,
    Tissue,
    relaxation,
)

__all__ = ["random_sequence", "simulate_scans"]

Field = NDArray[np.float32]

OUTSIDE_BRAIN = 500
"""Labels from here on are head, not brain; so are air and the fluid around the brain."""
FLUID_AROUND, SOFT_TISSUE, FAT, OEDEMA, CORE = 24, 507, 600, 901, 902
STEP = 0.02
"""Relative change of a relaxation time from which derivatives are taken."""


@dataclass(frozen=True)
class Look:
    """How a simulated scan departs from the ideal one; ranges are uniform."""

    blur: tuple[float, float] = (0.55, 0.95)
    thick: tuple[float, float] = (0.6, 2.0)
    bias: tuple[float, float] = (0.0, 0.12)
    noise: tuple[float, float] = (0.0, 0.025)


def simulate_scans(
    labels: NDArray[np.integer],
    contrasts: Several[Contrast],
    *,
    seed: int,
    skull: bool,
    lesions: bool = True,
    look: Look | None = None,
) -> dict[Contrast, Field]:
    """Scans of one bent head in several contrasts, on one 1 mm RAS grid.

    Args:
        labels: (X, Y, Z), values of `physics.LABELS`, 1 mm RAS.
        contrasts: T1w, T2w, FLAIR or PDw.
        seed: the same call gives the same voxels.
        skull: False sets all but the brain to zero.
        lesions: let some heads have lesions of the oedema and necrosis kind.
        look: departures from the ideal scan.

    Returns:
        (X', Y', Z') float32 by contrast, cropped to the brain and a margin; 99.9th percentile
        1000, not negative.

    Raises:
        UsageError: a label that is not known.
    """
    unknown = set(np.unique(labels).tolist()) - set(LABELS)
    if unknown:
        raise UsageError(f"the map holds the unknown labels {sorted(unknown)}; see physics.LABELS")
    look = look or Look()
    rng = np.random.default_rng(seed)
    bent = _bent(_cropped(labels), rng)
    _fatten(bent, rng)
    if lesions and rng.random() < 0.7:
        _insert_lesions(bent, rng)
    visible = np.ones(bent.shape, bool) if skull else _brain(bent, int(rng.integers(1, 3)))
    tissues = _tissues(rng)
    texture = _texture(bent.shape, rng)

    known, place = np.unique(bent, return_inverse=True)
    place = place.reshape(bent.shape).astype(np.uint8)
    scans = {}
    for contrast in contrasts:
        sequence = random_sequence(contrast, rng)
        table = np.array([_responses(sequence, tissues[int(label)]) for label in known], np.float32)
        image = np.zeros(bent.shape, np.float32)
        for response, field in enumerate((None, *texture)):
            part = table[:, response][place]
            image += part if field is None else part * field
        thick = rng.uniform(*look.thick) if rng.random() < 0.5 else rng.uniform(*look.blur)
        plane = rng.uniform(*look.blur)
        image = np.abs(ndimage.gaussian_filter(image, (plane, plane, thick)))
        bias = _smooth(bent.shape, rng, 40.0) * np.float32(rng.uniform(*look.bias))
        image *= np.exp(bias)
        top = np.float32(np.percentile(image[visible], 99.9))
        image *= np.float32(1000.0) / max(top, np.float32(1e-6))
        sigma = np.float32(1000.0 * rng.uniform(*look.noise))
        image = np.hypot(
            image + sigma * rng.standard_normal(image.shape, np.float32),
            sigma * rng.standard_normal(image.shape, np.float32),
        )
        image[~visible] = 0
        scans[contrast] = image
    return scans


def random_sequence(contrast: Contrast, rng: np.random.Generator) -> Sequence:
    """A sequence as some hospital may have set it up for a contrast.

    Raises:
        UsageError: no range of protocols is known for the contrast.
    """
    draw = rng.uniform
    if contrast is Contrast.T1W:
        kind = rng.random()
        if kind < 0.5:
            return Mprage(
                tr=draw(1800, 2500), ti=draw(850, 1100), te=draw(2.5, 4.5), flip=draw(7, 12)
            )
        if kind < 0.75:
            return SpinEcho(tr=draw(400, 750), te=draw(8, 18))
        return SpoiledGradientEcho(tr=draw(9, 30), te=draw(3, 8), flip=draw(18, 32))
    if contrast is Contrast.T2W:
        return SpinEcho(tr=draw(2500, 7000), te=draw(75, 125))
    if contrast is Contrast.FLAIR:
        tr, te = draw(6500, 11000), draw(85, 145)
        fluid = 4150.0
        # TI that nulls fluid at this TR, and what a radiographer makes of it
        null = fluid * math.log(2 / (1 + math.exp(-tr / fluid)))
        return InversionRecovery(tr=tr, te=te, ti=null * draw(0.94, 1.03))
    if contrast is Contrast.PDW:
        return SpinEcho(tr=draw(2200, 4500), te=draw(10, 30))
    raise UsageError(f"no range of protocols is known for {contrast}")


def _responses(sequence: Sequence, tissue: Relaxation) -> tuple[float, float, float, float]:
    """Signal, and its derivatives by the logarithms of T1, of T2 (with T2*), and of PD."""
    signal = sequence.signal(tissue)
    longer = sequence.signal(replace(tissue, t1=tissue.t1 * (1 + STEP)))
    slower = sequence.signal(
        replace(tissue, t2=tissue.t2 * (1 + STEP), t2s=tissue.t2s * (1 + STEP))
    )
    return signal, (longer - signal) / STEP, (slower - signal) / STEP, signal


def _tissues(rng: np.random.Generator) -> dict[int, Relaxation]:
    """Relaxation by label for one person at one field strength."""
    field = 1.5 if rng.random() < 0.4 else 3.0
    own: dict[Tissue, Relaxation] = {}
    for tissue in Tissue:
        base = relaxation(tissue, field=field)
        t1, t2, pd = np.exp(rng.normal(0.0, (0.07, 0.08, 0.03)))
        own[tissue] = Relaxation(
            pd=min(1.0, base.pd * pd), t1=base.t1 * t1, t2=base.t2 * t2, t2s=base.t2s * t2
        )
    known = {label: own[tissue] for label, tissue in LABELS.items()}
    wet = rng.uniform(0.3, 1.0)  # from a little oedema to water almost free
    known[OEDEMA] = Relaxation(0.78 + 0.14 * wet, 1100 + 900 * wet, 95 + 110 * wet, 80 + 60 * wet)
    known[CORE] = Relaxation(0.95, rng.uniform(1800, 3600), rng.uniform(180, 900), 200)
    return known


def _cropped(labels: NDArray[np.integer], margin: int = 10) -> NDArray[np.int16]:
    brain = (labels > 0) & (labels < OUTSIDE_BRAIN)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + 1 + margin))
    return labels[tuple(box)].astype(np.int16)


def _bent(labels: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.int16]:
    """A small random turn, zoom and smooth bend; nearest label. Flipped half the time."""
    shape = labels.shape
    turns = np.deg2rad(rng.uniform(-8, 8, 3))
    matrix = np.eye(3)
    for axis, angle in enumerate(turns):
        one = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ one
    matrix = (matrix @ np.diag(rng.uniform(0.9, 1.1, 3))).astype(np.float32)
    centre = (np.array(shape, np.float32) - 1) / 2
    grid = np.indices(shape, np.float32).reshape(3, -1) - centre[:, None]
    at = (matrix @ grid).reshape(3, *shape) + centre[:, None, None, None]
    for axis in range(3):
        at[axis] += np.float32(rng.uniform(1.0, 3.0)) * _smooth(shape, rng, 14.0)
    bent = ndimage.map_coordinates(labels, at, order=0, mode="nearest")
    flipped: NDArray[np.int16] = bent[::-1].copy() if rng.random() < 0.5 else bent
    return flipped


def _fatten(labels: NDArray[np.int16], rng: np.random.Generator) -> None:
    """Label maps call all soft tissue of the head one thing; a good part of it is fat."""
    fat = _smooth(labels.shape, rng, 5.0) > rng.uniform(-0.8, 0.2)
    labels[(labels == SOFT_TISSUE) & fat] = FAT


def _insert_lesions(labels: NDArray[np.int16], rng: np.random.Generator) -> None:
    """Blobs of oedema in the brain's own tissue, the large ones with a core."""
    tissue = (labels > 0) & (labels < OUTSIDE_BRAIN) & (labels != FLUID_AROUND)
    places = np.argwhere(np.isin(labels, (2, 41)))
    if not len(places):
        return
    many = rng.random() < 0.5
    for _ in range(int(rng.integers(4, 25)) if many else int(rng.integers(1, 3))):
        radius = rng.uniform(1.5, 5.0) if many else rng.uniform(7.0, 24.0)
        centre = places[rng.integers(len(places))]
        reach = int(2 * radius) + 2
        box = tuple(slice(max(0, c - reach), c + reach + 1) for c in centre)
        at = np.stack(
            np.meshgrid(
                *(
                    np.arange(s.start, s.start + n)
                    for s, n in zip(box, labels[box].shape, strict=True)
                ),
                indexing="ij",
            )
        )
        distance = np.sqrt((((at - centre[:, None, None, None]) / radius) ** 2).sum(0))
        ragged = distance + 0.35 * _smooth(distance.shape, rng, max(1.0, radius / 4))
        labels[box][(ragged < 1.0) & tissue[box]] = OEDEMA
        if radius > 10 and rng.random() < 0.6:
            labels[box][(ragged < rng.uniform(0.3, 0.6)) & tissue[box]] = CORE


def _brain(labels: NDArray[np.int16], grow: int) -> NDArray[np.bool_]:
    """What a skull-stripping tool leaves: brain, its ventricles, a rim of the fluid around it."""
    inner = ((labels > 0) & (labels < OUTSIDE_BRAIN) & (labels != FLUID_AROUND)) | (
        labels >= OEDEMA
    )
    closed = ndimage.binary_closing(inner, iterations=4)
    filled: NDArray[np.bool_] = ndimage.binary_dilation(
        ndimage.binary_fill_holes(closed | inner), iterations=grow
    )
    return filled


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Field, Field, Field]:
    """Smooth deviations of ln T1, ln T2 and ln PD, fine and coarse ones together."""
    fine, coarse = rng.uniform(0.01, 0.04), rng.uniform(0.01, 0.05)

    def field() -> Field:
        return np.float32(fine) * _smooth(shape, rng, 1.0) + np.float32(coarse) * _smooth(
            shape, rng, 6.0
        )

    t1, own, pd = field(), field(), field()
    return t1, np.float32(0.6) * t1 + np.float32(0.8) * own, np.float32(0.5) * pd


def _smooth(shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> Field:
    """Gaussian noise of about unit variance, smooth over `scale` voxels."""
    step = max(1.0, scale / 1.5)  # coarse noise, then interpolation: cheap at any scale
    coarse = [math.ceil(n / step) + 3 for n in shape]
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse, np.float32), scale / step)
    noise /= max(float(noise.std()), 1e-6)
    zoomed: Field = noise
    if step == 1.0:
        zoomed = noise[tuple(slice(0, n) for n in shape)]
        return zoomed
    for axis, n in enumerate(shape):  # linear, one axis after the other
        position = np.arange(n, dtype=np.float32) / np.float32(step)
        low = position.astype(int)
        part = (
            (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        )
        zoomed = np.take(zoomed, low, axis) * (1 - part) + np.take(zoomed, low + 1, axis) * part
    return zoomed
