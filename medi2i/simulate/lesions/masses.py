"""Tumours and haemorrhages: solid, pushing, with oedema around them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medi2i.simulate.lesions.canvas import Canvas, inside
from medi2i.simulate.lesions.shapes import STEP, Box, Field, Vector, blob, noise
from medi2i.simulate.physics import Tissue

__all__ = ["draw_haemorrhage", "draw_tumour"]


def draw_tumour(canvas: Canvas) -> None:
    """A glioma of low or of high grade, or metastases."""
    kind = canvas.rng.random()
    if kind < 0.35:
        _low_grade(canvas)
    elif kind < 0.8:
        _high_grade(canvas)
    else:
        _metastases(canvas)


def _low_grade(canvas: Canvas) -> None:
    """Solid, without uptake, soft at the rim, at times with a cyst; hardly any oedema."""
    rng = canvas.rng
    centre = canvas.brain.pick(_subcortical(canvas), rng)
    if centre is None:
        return
    radius = rng.uniform(8, 24)
    canvas.push(centre, radius, radius * rng.uniform(0.08, 0.25))
    shape, box = _mass(canvas, centre, radius, ragged=0.28)
    if rng.random() < 0.2:
        cyst = shape + radius * rng.uniform(0.45, 0.75) + 2 * noise(shape.shape, rng, 5)
        canvas.paint(Tissue.NECROSIS, inside(cyst, 1.5), box)
    dense = np.clip(0.92 + 0.08 * noise(shape.shape, rng, 5), 0.6, 1)
    canvas.paint(Tissue.TUMOUR, dense * inside(shape, rng.uniform(2, 5)), box)
    canvas.oedema(shape, box, reach=rng.uniform(2, 7), strength=rng.uniform(0.4, 0.8))


def _high_grade(canvas: Canvas) -> None:
    """Necrosis, a ragged enhancing rim of uneven thickness, tumour beyond it, much oedema."""
    rng = canvas.rng
    centre = canvas.brain.pick(_subcortical(canvas), rng)
    if centre is None:
        return
    radius = rng.uniform(7, 22)
    canvas.push(centre, radius, radius * rng.uniform(0.15, 0.35))
    shape, box = _mass(canvas, centre, radius, ragged=0.24)
    rim = rng.uniform(2, 5) * np.exp(0.55 * noise(shape.shape, rng, radius / 2))
    necrosis = shape + rim + 0.8 * noise(shape.shape, rng, 2.5)
    canvas.paint(Tissue.NECROSIS, np.float32(0.95) * inside(necrosis, 1.5), box)
    lively = np.clip(0.9 + 0.12 * noise(shape.shape, rng, 3), 0.5, 1)
    canvas.paint(Tissue.ENHANCING, lively * inside(shape, 1.3), box)
    beyond = shape - rng.uniform(0, 4) - 2.5 * noise(shape.shape, rng, radius / 2)
    canvas.paint(Tissue.TUMOUR, np.float32(rng.uniform(0.5, 0.9)) * inside(beyond, 3), box)
    canvas.oedema(shape, box, reach=rng.uniform(6, 26), strength=rng.uniform(0.7, 0.95))


def _metastases(canvas: Canvas) -> None:
    """Round, one to five, where grey meets white; the large ones necrotic; much oedema for size."""
    rng = canvas.rng
    radii = np.sort(rng.uniform(2.5, 11, int(rng.integers(1, 6))) * rng.uniform(0.6, 1.1))[::-1]
    for number, radius in enumerate(np.maximum(radii, 2.0).tolist()):
        centre = canvas.brain.pick(_junction(canvas), rng)
        if centre is None:
            return
        if number == 0:
            canvas.push(centre, radius, radius * rng.uniform(0.15, 0.35))
        shape, box = _mass(canvas, centre, radius, ragged=0.1)
        if radius > 4:
            rim = rng.uniform(1.8, 3.5) * np.exp(0.25 * noise(shape.shape, rng, 4))
            canvas.paint(Tissue.NECROSIS, np.float32(0.95) * inside(shape + rim, 1.2), box)
        canvas.paint(Tissue.ENHANCING, inside(shape, 1.2), box)
        reach, strength = rng.uniform(0.8, 2.2) * radius + 2, rng.uniform(0.7, 0.95)
        canvas.oedema(shape, box, reach=reach, strength=strength)


def draw_haemorrhage(canvas: Canvas) -> None:
    """A clot in the basal ganglia, the thalamus or a lobe, with a rim of oedema."""
    rng = canvas.rng
    if rng.random() < 0.6:
        side = rng.choice((-1.0, 1.0))
        at = (26.0, 0.0, 2.0) if rng.random() < 0.65 else (13.0, -18.0, 8.0)
        aim = canvas.brain.voxel((side * at[0], at[1], at[2])) / STEP
        grid = np.ogrid[tuple(slice(0, -(-n // STEP)) for n in canvas.brain.shape)]
        far = sum(((g - a) * STEP) ** 2 for g, a in zip(grid, aim, strict=True))
        weights = np.exp(-far / 32) * canvas.tissue[::STEP, ::STEP, ::STEP]
        radius = rng.uniform(6, 18)
    else:
        weights, radius = _subcortical(canvas), rng.uniform(6, 22)
    centre = canvas.brain.pick(weights, rng)
    if centre is None:
        return
    canvas.push(centre, radius, radius * rng.uniform(0.1, 0.3))
    shape, box = _mass(canvas, centre, radius, ragged=0.22)
    if rng.random() < 0.3:  # older: the middle has turned to fluid
        middle = shape + radius * rng.uniform(0.3, 0.6) + noise(shape.shape, rng, 4)
        canvas.paint(Tissue.NECROSIS, np.float32(rng.uniform(0.3, 0.6)) * inside(middle, 3), box)
    canvas.paint(Tissue.HAEMORRHAGE, inside(shape, 1.3), box)
    canvas.oedema(shape, box, reach=rng.uniform(3, 11), strength=rng.uniform(0.6, 0.95))


def _mass(canvas: Canvas, centre: Vector, radius: float, *, ragged: float) -> tuple[Field, Box]:
    """A ragged mass about a centre, on one side of the falx."""
    rng = canvas.rng
    radii = radius * np.exp(0.2 * rng.standard_normal(3))
    box = canvas.brain.around(centre, 1.25 * float(radii.max()) * (1 + ragged) + 4)
    shape = blob(box, centre, radii.tolist(), rng, ragged=ragged)
    return canvas.one_side(shape, box, centre), box


def _subcortical(canvas: Canvas) -> Field:
    """Coarse weights: cerebral white matter off the midline, the more the farther from fluid."""
    every = (slice(None, None, STEP),) * 3
    from_fluid = ndimage.distance_transform_edt(canvas.tissue[every]) * STEP
    off = np.abs(canvas.brain.mni(0, step=STEP)) > 8
    weights: Field = (canvas.white[every] & off) * np.clip(from_fluid / 8, 0, 1) ** 2
    return weights


def _junction(canvas: Canvas) -> Field:
    """Coarse weights: white matter that touches something else."""
    white = canvas.white[::STEP, ::STEP, ::STEP]
    weights: Field = (white & ~ndimage.binary_erosion(white)).astype(np.float32)
    return weights
