"""Many small lesions of white matter: multiple sclerosis and disease of the small vessels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from medi2i.simulate.lesions.canvas import Canvas, inside
from medi2i.simulate.lesions.places import real_shape
from medi2i.simulate.lesions.shapes import STEP, Box, Field, Mask, blob, noise
from medi2i.simulate.physics import Tissue

__all__ = ["draw_ms", "draw_small_vessel"]


def draw_ms(canvas: Canvas, shapes: Path | None) -> None:
    """Plaques at the ventricles, under the cortex and elsewhere; some dark holes, some active."""
    rng = canvas.rng
    drawn = None
    if shapes is not None:
        drawn = real_shape(canvas.brain, shapes, "ms", rng, turn=2, shift=1.5, bend=2.0)
    if drawn is not None:
        part, box = drawn
        part *= np.clip(4 + 4 * noise(part.shape, rng, 15), 0, 1)  # some are left out
        part *= _room(canvas, box)
    if drawn is None or part.sum() < 80:
        part, box = _made_up(canvas)
        part *= _room(canvas, box)
    if not part.any():
        return
    if rng.random() < 0.3:
        _activate(canvas, part, box)
    full = ndimage.gaussian_filter(part, 1.0) - 0.5 * noise(part.shape, rng, 6)
    canvas.paint(Tissue.NECROSIS, 0.5 * inside(rng.uniform(0.9, 1.6) - full, 0.4) * part, box)
    uneven = 1 - 0.12 * np.abs(noise(part.shape, rng, 5))
    canvas.paint(Tissue.LESION, np.float32(rng.uniform(0.8, 1)) * uneven * part, box)
    # White matter around plaques is no longer quite normal.
    around = 0.3 * ndimage.gaussian_filter(part, 2.0) * canvas.white[box]
    canvas.paint(Tissue.LESION, np.maximum(around - 0.02, 0), box)


def _room(canvas: Canvas, box: Box) -> Mask:
    """Where plaques can be: white matter, a voxel around it, and what lies deep."""
    deep = ndimage.binary_erosion(canvas.tissue[box], iterations=3)
    room: Mask = ndimage.binary_dilation(canvas.white[box]) | deep
    return room


def _made_up(canvas: Canvas) -> tuple[Field, Box]:
    """Ovoids: those at the ventricles stand upright on their wall (Dawson's fingers)."""
    brain, rng = canvas.brain, canvas.rng
    x, y, z = (slice(0, n) for n in brain.shape)
    part = np.zeros(brain.shape, np.float32)
    white = canvas.white[::STEP, ::STEP, ::STEP]
    tissue = canvas.tissue[::STEP, ::STEP, ::STEP]
    near = white * np.exp(-(((brain.from_ventricles - 3.5) / 2.5) ** 2))
    rim = white & ~ndimage.binary_erosion(white) & (brain.from_ventricles > 8)
    deep = ndimage.binary_erosion(tissue, iterations=2)
    uphill = np.asarray(np.gradient(brain.from_ventricles))
    number = int(np.exp(rng.uniform(np.log(8), np.log(80))))
    # The last: brain-stem, cerebellum, deep grey matter.
    kinds = rng.multinomial(number, (0.6, 0.2, 0.16, 0.04))
    for kind, weights in enumerate((near, rim, deep & white, deep & ~white)):
        for centre in brain.pick_several(weights, rng, int(kinds[kind])):
            radius = float(np.clip(np.exp(rng.normal(0.65, 0.4)), 1.1, 5.5))
            i, j, k = (centre / STEP).astype(int)
            along = uphill[:, i, j, k] + 0.2 * rng.standard_normal(3) if kind == 0 else None
            radii = radius * np.array([rng.uniform(1.3, 2.8), rng.uniform(0.8, 1.3), 1.0])
            box = brain.around(centre, 1.4 * float(radii.max()) + 3)
            new = inside(blob(box, centre, radii.tolist(), rng, ragged=0.2, along=along), 1.3)
            np.maximum(part[box], new, out=part[box])
    return part, (x, y, z)


def _activate(canvas: Canvas, part: Field, box: Box) -> None:
    """A few plaques take up contrast agent: the small ones whole, larger ones as a ring."""
    rng = canvas.rng
    names, _ = ndimage.label(part > 0.5)
    sizes = np.bincount(names.ravel())
    fit = np.flatnonzero((sizes >= 8) & (sizes < 1500))
    fit = fit[fit > 0]
    if not fit.size:
        return
    regions = ndimage.find_objects(names)
    for name in rng.choice(fit, min(fit.size, int(rng.integers(1, 4))), replace=False).tolist():
        where = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in regions[name - 1])
        own = ndimage.binary_dilation(names[where] == name)
        active = own * part[where]
        if sizes[name] > 120:
            active = active * (1 - ndimage.binary_erosion(own, iterations=3))
        x, y, z = (
            slice(b.start + w.start, b.start + w.stop) for b, w in zip(box, where, strict=True)
        )
        canvas.paint(Tissue.ENHANCING, 0.9 * active, (x, y, z))


def draw_small_vessel(canvas: Canvas) -> None:
    """Caps and rims about the ventricles, alike on both sides; foci in deep white; some lacunes."""
    brain, rng = canvas.brain, canvas.rng
    burden = rng.uniform(0.1, 1.0) ** 1.3
    white = canvas.white[::STEP, ::STEP, ::STEP]
    # Caps and rims, on the box that they can reach; hardly in the callosum.
    far = 1.2 + 6.5 * burden**2
    close = np.argwhere(white & (brain.from_ventricles < 2.5 * far + 3))
    if len(close):
        low, high = close.min(0) * STEP, close.max(0) * STEP
        box = brain.around((low + high) / 2, (high - low) / 2 + STEP)
        distance = brain.fine(brain.from_ventricles, box)
        both = noise(distance.shape, rng, 9)
        both = 0.6 * (both + both[::-1]) + 0.6 * noise(distance.shape, rng, 6)
        horns = np.minimum(np.abs(brain.mni(1, box) + 10) / 40, 1)
        reach = far * (0.55 + 0.6 * horns * horns + 0.35 * both)
        reach = reach + 0.2 * far * noise(distance.shape, rng, 2.5)
        reach = reach * np.clip((np.abs(brain.mni(0, box)) - 4) / 8, 0.1, 1)
        part = inside(distance - reach, 2.0 + 1.5 * burden) * canvas.white[box]
        uneven = 1 - 0.12 * np.abs(noise(distance.shape, rng, 4))
        canvas.paint(Tissue.LESION, np.float32(rng.uniform(0.8, 1)) * uneven * part, box)
    # Foci, away from the ventricles and from the fibres under the cortex.
    deep = ndimage.binary_erosion(white) & (brain.from_ventricles > 5)
    for at in brain.pick_several(deep, rng, int(rng.poisson(4 + 45 * burden))):
        radii = np.clip(np.exp(rng.normal(0.45, 0.4)), 0.9, 5) * rng.uniform(0.8, 1.7, 3)
        box = brain.around(at, 1.5 * float(radii.max()) + 3)
        shape = blob(box, at, radii.tolist(), rng, ragged=0.3)
        if radii.min() > 2 and rng.random() < 0.15:
            canvas.paint(Tissue.CSF, inside(shape + radii.min() * 0.6, 1.2), box)
        part = inside(shape, 1.8) * canvas.white[box]
        canvas.paint(Tissue.LESION, np.float32(rng.uniform(0.7, 1)) * part, box)
