"""Scans at 2 mm, several a second: what a network that only glances at a head learns from.

    label map -> share of each tissue in every 2 mm voxel -> signals -> lesions -> bent
    -> slices, stripping, coil, noise, a field of view that ends in the head

Tissues and protocols are those of the full simulator; everything else is made for speed. A
contrast of None gives every tissue an arbitrary signal (Billot et al. 2023, SynthSeg,
doi:10.1016/j.media.2023.102789), so that a mask learned from it does not hang on any contrast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.simulate.artefacts import rician
from medi2i.simulate.fields import bias_field
from medi2i.simulate.lesions.shapes import linear
from medi2i.simulate.physics import (
    LABELS,
    Relaxation,
    Tissue,
    relaxation,
    with_contrast_agent,
)
from medi2i.simulate.protocols import Style, draw_sequence
from medi2i.simulate.sampling import defaced

__all__ = ["SPACING", "CoarseHead", "bend", "coarse_scan", "coarsen", "degrade", "smooth_noise"]

Field = NDArray[np.float32]
Shape = tuple[int, int, int]

SPACING = 2.0
"""Millimetres per voxel."""
TISSUES = tuple(tissue for tissue in Tissue if tissue in set(LABELS.values()))
"""What a `CoarseHead` is made of, in the order of its shares."""
_OUTSIDE_BRAIN, _FLUID_AROUND = 500, 24  # labels: head from 500 on, fluid around the brain


@dataclass(frozen=True, eq=False, slots=True)
class CoarseHead:
    """An anatomy at 2 mm.

    Attributes:
        shares: (T, X, Y, Z) uint8, 255ths of each voxel per tissue of `TISSUES`.
        brain: (X, Y, Z) float32, the part of each voxel that stripping leaves: brain, ventricles,
            furrows and half a voxel around them.
    """

    shares: NDArray[np.uint8]
    brain: Field


def coarsen(labels: NDArray[np.integer]) -> CoarseHead:
    """A 1 mm label map (values of `physics.LABELS`) at 2 mm, every voxel shared by its tissues.

    Raises:
        UsageError: a label that is not known.
    """
    known = np.unique(labels)
    if unknown := set(known.tolist()) - set(LABELS):
        raise UsageError(f"the map holds the unknown labels {sorted(unknown)}; see physics.LABELS")
    # A rim of air, but none below: bending repeats the outermost voxels, and a neck goes on.
    x, y, z = labels.shape
    padded = np.pad(labels, [(2, 2 + x % 2), (2, 2 + y % 2), (0, 2 + z % 2)])
    index = np.zeros(max(LABELS) + 1, np.uint8)
    for label in known.tolist():
        index[label] = TISSUES.index(LABELS[label])
    # How often every tissue stands in every block of eight voxels: one count of pairs.
    x, y, z = (n // 2 for n in padded.shape)
    places = [np.arange(2 * n, dtype=np.int32) // 2 for n in (x, y, z)]
    block = (places[0][:, None, None] * y + places[1][:, None]) * z + places[2]
    pairs = block * len(TISSUES) + index[padded]
    counts = np.bincount(pairs.ravel(), minlength=x * y * z * len(TISSUES))
    shares = np.rint(counts.reshape(x, y, z, -1) * (255 / 8)).astype(np.uint8)

    inner = _eighths((padded > 0) & (padded < _OUTSIDE_BRAIN) & (padded != _FLUID_AROUND))
    wide = np.pad(inner > 0.5, 3, mode="edge")
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(wide, iterations=2))
    brain = (closed.astype(np.float32) + ndimage.binary_dilation(closed)) / np.float32(2)
    inside = (slice(3, -3),) * 3
    return CoarseHead(np.ascontiguousarray(np.moveaxis(shares, -1, 0)), brain[inside])


def coarse_scan(
    head: CoarseHead,
    contrast: Contrast | None,
    rng: np.random.Generator,
    *,
    stripped: bool,
    shape: Shape = (96, 112, 96),
) -> tuple[Field, Field]:
    """One scan of a head as somebody else may have it: another size, posture, scanner, disease.

    Args:
        contrast: None for arbitrary signals.
        stripped: whether all but the brain is zero.
        shape: of the result, 2 mm RAS.

    Returns:
        The image, not negative, and the part of each voxel that is brain; (X, Y, Z) each.
    """
    style = rng.choice(list(Style))
    signals = _arbitrary(rng) if contrast is None else _signals(contrast, style, rng)
    table = np.array([signals[tissue] for tissue in TISSUES], np.float32) / np.float32(255)
    image: Field = np.tensordot(table, head.shares, 1)
    muscle, fat = TISSUES.index(Tissue.MUSCLE), TISSUES.index(Tissue.FAT)
    # much of what label maps call soft tissue is fat
    fatty = smooth_noise(image.shape, rng, rng.uniform(1.5, 4.0)) > rng.uniform(-0.9, 0.3)
    image += head.shares[muscle] * fatty * (table[fat] - table[muscle])
    if rng.random() < 0.5:
        _add_lesions(image, head.brain, signals, rng)
    moved, brain = bend((np.abs(image), head.brain), rng, shape=shape)
    moved *= 1 + np.float32(rng.uniform(0.0, 0.06)) * smooth_noise(shape, rng, 1.5)
    return degrade(moved, brain, rng, stripped=stripped, thick=style == Style.SLICES)


def bend(channels: tuple[Field, ...], rng: np.random.Generator, *, shape: Shape) -> list[Field]:
    """Images of one head, turned, scaled, shifted, bent and perhaps mirrored alike.

    Args:
        channels: (X, Y, Z) each, on one grid; their outermost voxels go on without end.
        shape: of the results; the grid's middle lies about in theirs.
    """
    size = rng.uniform(0.88, 1.15) * rng.uniform(0.93, 1.07, 3)
    if rng.random() < 0.2:  # spacing along the body is often only nominal
        size[2] *= rng.uniform(0.8, 1.25)
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-15, 15, 3))):
        one, a, b = np.eye(3), (axis + 1) % 3, (axis + 2) % 3
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ one
    matrix = matrix @ np.diag(1 / size)
    if rng.random() < 0.5:
        matrix[:, 0] *= -1
    there = (np.array(channels[0].shape) - 1) / 2
    here = (np.array(shape) - 1) / 2 + rng.uniform(-4, 4, 3)
    lines = [
        np.arange(n, dtype=np.float32) - np.float32(c) for n, c in zip(shape, here, strict=True)
    ]
    at = np.empty((3, *shape), np.float32)
    for row in range(3):
        x, y, z = (np.float32(matrix[row, column]) * lines[column] for column in range(3))
        at[row] = x[:, None, None] + y[:, None] + z + np.float32(there[row])
        at[row] += np.float32(rng.uniform(0, 1.5)) * smooth_noise(shape, rng, 9.0)
    return [ndimage.map_coordinates(one, at, order=1, mode="nearest") for one in channels]


def degrade(
    image: Field,
    brain: Field,
    rng: np.random.Generator,
    *,
    stripped: bool,
    thick: bool,
    strength: float = 1.0,
) -> tuple[Field, Field]:
    """What acquisition and other people's processing do to an image and, as far, to its brain.

    Args:
        stripped: set all but the brain to zero.
        thick: slices of 3 to 7 mm, most of them axial.
        strength: 1 for an ideal image, less for one that has been through a scanner before.
    """
    if thick:
        axis, thickness = (2 if rng.random() < 0.75 else int(rng.integers(2))), rng.uniform(3, 7)
        image, brain = (_sliced(one, axis, thickness) for one in (image, brain))
    blur = rng.uniform(0, 0.7) * strength
    if blur > 0.2:
        image = ndimage.gaussian_filter(image, blur)
    if stripped:  # one tool leaves a rim, another cuts it off
        kept = brain > rng.uniform(0.25, 0.75)
        if rng.random() < 0.3:
            kept = ndimage.binary_dilation(kept)
        image, brain = image * kept, kept.astype(np.float32)
    elif rng.random() < 0.15 and (brain > 0.5).any():
        image = defaced(image, brain > 0.5, spacing=(SPACING,) * 3, margin=rng.uniform(2, 12))
    image = image * bias_field(image.shape, rng, rng.uniform(0, 0.25), spacing=(SPACING,) * 3)
    image /= max(np.float32(np.percentile(image, 99.5)), np.float32(1e-6))
    image = np.maximum(image, 0) ** np.float32(math.exp(rng.normal(0, 0.12)))
    air = image <= 0.02
    image = rician(image, rng.uniform(0, 0.05) * strength, rng)
    if stripped:
        image[brain < 0.5] = 0
    elif rng.random() < 0.5:  # as many archives blank it
        image[air] = 0
    rows = np.flatnonzero((brain > 0.5).any((0, 1)))
    if rng.random() < 0.4 and len(rows) > 10:  # the field of view ends in the head
        low, high = rows[0] + len(rows) * np.array((rng.uniform(-0.1, 0.25), rng.uniform(0.88, 1)))
        for one in (image, brain):
            one[..., : max(0, int(low))] = 0
            one[..., int(high) :] = 0
    return image, brain


def smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> Field:
    """Gaussian noise of about unit variance, smooth over `scale` voxels."""
    step = max(1.0, scale / 1.5)  # coarse noise, then linear interpolation: cheap at any scale
    coarse = [math.ceil(n / step) + 3 for n in shape]
    noise: Field = ndimage.gaussian_filter(rng.standard_normal(coarse, np.float32), scale / step)
    noise /= max(float(noise.std()), 1e-6)
    for axis, n in enumerate(shape):
        noise = linear(noise, np.arange(n) / step, axis)
    return noise


def _eighths(mask: NDArray[np.bool_]) -> Field:
    """(2 X, 2 Y, 2 Z) bool -> (X, Y, Z): the part of each block of eight that is True."""
    x, y, z = (n // 2 for n in mask.shape)
    blocks: Field = mask.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5), dtype=np.float32)
    return blocks


def _sliced(image: Field, axis: int, thickness: float) -> Field:
    """As slices `thickness` mm thick would have it, interpolated between them."""
    size, width = image.shape[axis], thickness / SPACING
    averaged = ndimage.uniform_filter1d(image, round(width), axis)
    planes = linear(averaged, np.arange((width - 1) / 2, size - 1, width), axis)
    at = (np.arange(size) - (width - 1) / 2) / width
    return linear(planes, np.clip(at, 0, planes.shape[axis] - 1), axis)


def _signals(contrast: Contrast, style: Style, rng: np.random.Generator) -> dict[Tissue, float]:
    """Signal of every tissue in one person, on one scanner, with one protocol."""
    field = 1.5 if rng.random() < 0.4 else 3.0
    sequence = draw_sequence(contrast, rng, style=style, field=field)
    dose = rng.uniform(0.5, 1.0) if contrast is Contrast.T1CE else 0.0
    signals = {}
    for tissue in Tissue:
        own, full = relaxation(tissue, field=field), with_contrast_agent(tissue, field=field)
        t1, t2, t2s = (  # the agent adds rates in proportion to its dose
            1 / ((1 - dose) / getattr(own, key) + dose / getattr(full, key)) * one_person
            for key, one_person in zip(
                ("t1", "t2", "t2s"), np.exp(rng.normal(0.0, (0.08, 0.1, 0.1))), strict=True
            )
        )
        pd = (full if dose else own).pd * math.exp(rng.normal(0, 0.04))
        signals[tissue] = sequence.signal(Relaxation(pd=min(1.0, pd), t1=t1, t2=t2, t2s=t2s))
    if rng.random() < 0.25:  # fat suppressed
        for tissue in (Tissue.FAT, Tissue.MARROW):
            signals[tissue] *= rng.uniform(0.05, 0.4)
    return signals


def _arbitrary(rng: np.random.Generator) -> dict[Tissue, float]:
    """Any signal for any tissue, but none for air; the brain's own grey and white stay alike."""
    signals = {tissue: float(rng.uniform(0.05, 1.0)) for tissue in Tissue}
    alike = (Tissue.LIMBIC, Tissue.STRIATUM, Tissue.THALAMUS, Tissue.PALLIDUM)
    for tissue in (*alike, Tissue.CHOROID_PLEXUS):
        signals[tissue] = signals[Tissue.CORTEX] * math.exp(rng.normal(0, 0.15))
    signals[Tissue.BRAIN_STEM] = signals[Tissue.WHITE_MATTER] * math.exp(rng.normal(0, 0.1))
    signals[Tissue.AIR] = 0.0
    if rng.random() < 0.5:
        signals[Tissue.CORTICAL_BONE] *= rng.uniform(0, 0.3)
    return signals


def _add_lesions(
    image: Field, brain: Field, signals: Mapping[Tissue, float], rng: np.random.Generator
) -> None:
    """Balls with ragged edges in the brain, in place: plaques; oedema around a tumour's core."""
    places = np.argwhere(brain > 0.99)
    if not len(places):
        return
    many = rng.random() < 0.4
    for _ in range(int(rng.integers(4, 20)) if many else int(rng.integers(1, 3))):
        radius = rng.uniform(1.0, 2.5) if many else rng.uniform(4.0, 14.0)
        centre = places[rng.integers(len(places))]
        reach = int(1.6 * radius) + 2
        box = tuple(slice(max(0, c - reach), c + reach + 1) for c in centre)
        part = image[box]
        square = np.zeros(part.shape, np.float32)
        for axis, (span, c) in enumerate(zip(box, centre, strict=True)):
            line = (np.arange(span.start, span.start + part.shape[axis]) - c) / radius
            square += np.square(line).reshape([-1 if a == axis else 1 for a in range(3)])
        distance = np.sqrt(square) + 0.3 * smooth_noise(part.shape, rng, max(1.0, radius / 3))
        inside = (distance < 1) & (brain[box] > 0.5)
        part[inside] = signals[Tissue.LESION if many else Tissue.OEDEMA]
        if radius > 4 and rng.random() < 0.7:
            core = rng.uniform(0.3, 0.7)
            kinds = (Tissue.NECROSIS, Tissue.TUMOUR, Tissue.ENHANCING)
            part[inside & (distance < core)] = signals[kinds[int(rng.integers(3))]]
            part[inside & (np.abs(distance - core) < 1.5 / radius)] = signals[Tissue.ENHANCING]
