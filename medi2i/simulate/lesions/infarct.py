"""Infarcts: real shapes where there are some, else a vessel's territory or a lacune."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from medi2i.simulate.lesions.canvas import Canvas, inside
from medi2i.simulate.lesions.places import real_shape
from medi2i.simulate.lesions.shapes import STEP, Box, Field, blob, noise
from medi2i.simulate.physics import Tissue

__all__ = ["draw_stroke"]


def draw_stroke(canvas: Canvas, shapes: Path | None) -> None:
    """One infarct, swollen where large; at times bled into, at times old with a necrotic core."""
    rng = canvas.rng
    drawn = None
    if shapes is not None:
        drawn = real_shape(canvas.brain, shapes, "stroke", rng, turn=6, shift=3, bend=2.0)
    if drawn is None:
        drawn = _lacune(canvas) if rng.random() < 0.35 else _territory(canvas)
    if drawn is None:
        return
    part, box = drawn
    volume = float((part * canvas.tissue[box]).sum())
    radius = (0.75 * volume / np.pi) ** (1 / 3)
    if radius > 14:
        centre = np.array(ndimage.center_of_mass(part)) + [s.start for s in box]
        canvas.push(centre, radius, 0.1 * radius)
    fate = rng.random()
    if volume > 3000 and fate < 0.15:
        patches = inside(1.2 - noise(part.shape, rng, 3), 0.6)
        canvas.paint(Tissue.HAEMORRHAGE, 0.8 * patches * part, box)
    elif volume > 500 and fate > 0.8:
        core = ndimage.gaussian_filter(part, 2.5) + 0.12 * noise(part.shape, rng, 4)
        canvas.paint(Tissue.NECROSIS, 0.9 * inside(0.9 - core, 0.25) * part, box)
    uneven = 1 - 0.12 * np.abs(noise(part.shape, rng, 7))
    canvas.paint(Tissue.ISCHAEMIA, np.float32(rng.uniform(0.75, 1)) * uneven * part, box)


def _lacune(canvas: Canvas) -> tuple[Field, Box] | None:
    """3 to 15 mm, in deep white or deep grey matter."""
    brain, rng = canvas.brain, canvas.rng
    deep = ndimage.binary_erosion(canvas.tissue[::STEP, ::STEP, ::STEP], iterations=2)
    centre = brain.pick(deep & (brain.mni(2, step=STEP) > -15), rng)
    if centre is None:
        return None
    radii = rng.uniform(1.5, 6) * np.exp(0.25 * rng.standard_normal(3))
    box = brain.around(centre, 1.5 * float(radii.max()) + 4)
    return inside(blob(box, centre, radii.tolist(), rng, ragged=0.2), 1.6), box


def _territory(canvas: Canvas) -> tuple[Field, Box] | None:
    """A wedge from the cortex towards the ventricle of its side, ragged."""
    brain, rng = canvas.brain, canvas.rng
    x, z = brain.mni(0, step=STEP), brain.mni(2, step=STEP)
    surface = (brain.depth < 9) & canvas.tissue[::STEP, ::STEP, ::STEP]
    base = brain.pick(surface & (z > -30) & (np.abs(x) > 6), rng)
    if base is None:
        return None
    side = np.sign(brain.matrix[0] @ base + brain.offset[0])
    aim = brain.voxel((side * rng.uniform(16, 30), rng.uniform(-30, 15), rng.uniform(6, 24)))
    length = float(np.linalg.norm(aim - base))
    if length < 8:
        return None
    inwards = (aim - base) / length
    tip = base + inwards * length * rng.uniform(0.6, 1.05)
    reach, angle = float(np.linalg.norm(tip - base)) + 6, np.deg2rad(rng.uniform(12, 30))
    far = reach * np.tan(angle) + 10
    box = brain.around((tip + base) / 2, reach / 2 + far)
    away = [(t - g).astype(np.float32) for g, t in zip(np.ogrid[box], tip, strict=True)]
    along: Field = sum(np.float32(i) * a for i, a in zip(inwards, away, strict=True))
    across = np.sqrt(np.maximum(sum(a * a for a in away) - along * along, 0))
    cone = across * np.float32(np.cos(angle)) - along * np.float32(np.sin(angle))
    cone = np.maximum(cone, along - np.float32(reach + 4))
    cone += 3.5 * noise(cone.shape, rng, 11) + 1.8 * noise(cone.shape, rng, 4)
    return inside(canvas.one_side(cone, box, base), 2.2), box
