"""What is handed to a head's network by mistake: noise, objects, drawings, heads the wrong way up.

For training and testing the flag that says "this is no head MRI".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.simulate.coarse import smooth_noise

__all__ = ["FOREIGN", "foreign"]

Field = NDArray[np.float32]
Maker = Callable[[Field, np.random.Generator], Field]


def foreign(head: Field, rng: np.random.Generator, kind: str | None = None) -> Field:
    """(X, Y, Z) -> (X, Y, Z) float32: something that is no upright head, in places made of one.

    Args:
        head: a scan of a head in RAS, air about 0.
        kind: of `FOREIGN`; any by default.
    """
    make = FOREIGN[kind or str(rng.choice(list(FOREIGN)))]
    return np.ascontiguousarray(make(head, rng), dtype=np.float32)


def _noise(head: Field, rng: np.random.Generator) -> Field:
    scale = rng.uniform(0, 8)
    noise = rng.standard_normal(head.shape, np.float32)
    if scale > 1:
        noise = smooth_noise(head.shape, rng, scale)
    return _somewhere(np.abs(noise) if rng.random() < 0.5 else noise - noise.min(), rng)


def _ramp(head: Field, rng: np.random.Generator) -> Field:
    slope = rng.normal(size=3) * rng.integers(0, 2, 3)
    if not slope.any():
        slope[rng.integers(3)] = 1.0
    ramp = sum(s * line for s, line in zip(slope, _lines(head.shape), strict=True)) + np.zeros(
        head.shape, np.float32
    )
    ramp += np.float32(rng.uniform(0, 0.1)) * rng.standard_normal(head.shape, np.float32)
    return _somewhere(ramp - ramp.min(), rng)


def _waves(head: Field, rng: np.random.Generator) -> Field:
    phases = [np.sin(line * rng.uniform(2, 40) + rng.uniform(0, 6)) for line in _lines(head.shape)]
    kept = [p for p in phases if rng.random() < 0.7] or phases[:1]
    waves = np.ones(head.shape, np.float32)
    for phase in kept:
        waves = waves * phase
    if rng.random() < 0.5:
        waves = (waves > 0).astype(np.float32)
    return _somewhere(waves - waves.min(), rng)


def _bodies(head: Field, rng: np.random.Generator) -> Field:
    """Balls, barrels and boxes: test objects, fruit, knees."""
    image = np.zeros(head.shape, np.float32)
    for _ in range(int(rng.integers(1, 9))):
        flat = rng.random() < 0.3
        image[_body(head.shape, rng, flat=flat)] = rng.uniform(0, 1)
    if rng.random() < 0.5:
        image *= 1 + np.float32(0.3) * smooth_noise(head.shape, rng, rng.uniform(1, 6))
    noise: Field = np.abs(rng.standard_normal(head.shape, np.float32))
    blurred: Field = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.0))
    return blurred + np.float32(rng.uniform(0, 0.05)) * noise


def _letters(head: Field, rng: np.random.Generator) -> Field:
    """Bars like those of letters, through many slices."""
    image = np.zeros(head.shape, np.float32)
    for _ in range(int(rng.integers(5, 60))):
        size = rng.integers(1, 5, 3)
        size[rng.integers(3)] = rng.integers(4, 20)
        size[2 if rng.random() < 0.7 else int(rng.integers(3))] = rng.integers(3, 60)
        start = [int(rng.integers(0, max(1, n - s))) for n, s in zip(head.shape, size, strict=True)]
        image[tuple(slice(a, a + int(s)) for a, s in zip(start, size, strict=True))] = rng.uniform(
            0.3, 1
        )
    return image


def _jigsaw(head: Field, rng: np.random.Generator) -> Field:
    """A head cut into blocks that are put back in another order, some turned over."""
    size = int(rng.choice((16, 24, 32)))
    corners = list(itertools.product(*(range(0, n - size + 1, size) for n in head.shape)))
    image = np.zeros_like(head)
    for (x, y, z), other in zip(corners, rng.permutation(len(corners)), strict=True):
        a, b, c = corners[other]
        piece = head[a : a + size, b : b + size, c : c + size]
        for axis in range(3):
            if rng.random() < 0.3:
                piece = np.flip(piece, axis)
        image[x : x + size, y : y + size, z : z + size] = piece
    return image


def _textured(head: Field, rng: np.random.Generator) -> Field:
    """The outline of a head around something that is no brain."""
    inside = head > 0.15 * np.percentile(head, 99)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(inside, iterations=2))
    noise = smooth_noise(head.shape, rng, rng.uniform(0.5, 8))
    grey = np.float32(rng.uniform(0.1, 1.0))
    image: Field = filled * np.maximum(grey + np.float32(rng.uniform(0, 0.4)) * noise, 0)
    return image


def _mask(head: Field, rng: np.random.Generator) -> Field:
    """Not the scan but somebody's mask: what is brighter than something, whole or with holes."""
    inside = head > rng.uniform(0.1, 0.6) * np.percentile(head, 99)
    if rng.random() < 0.6:
        inside = ndimage.binary_fill_holes(ndimage.binary_closing(inside, iterations=2))
    return inside.astype(np.float32)


def _turned(head: Field, rng: np.random.Generator) -> Field:
    """Axes exchanged or reversed, as a wrong header does: upside down, face backwards, lying."""
    while True:
        order = rng.permutation(3)
        signs = rng.integers(0, 2, 3)
        if tuple(order) != (0, 1, 2) or signs[1] or signs[2]:  # left-right alone cannot be seen
            break
    turned = np.transpose(head, order)
    for axis in np.flatnonzero(signs).tolist():
        turned = np.flip(turned, axis)
    return _fitted(turned, head.shape)


def _inverted(head: Field, rng: np.random.Generator) -> Field:
    """Black for white, air too."""
    top = np.percentile(head, rng.uniform(99, 100))
    inverted: Field = np.maximum(top - head, 0)
    return inverted


def _resized(head: Field, rng: np.random.Generator) -> Field:
    """A head the size of a fist or of a barrel: spacing in the wrong unit, or a mouse."""
    factor = rng.uniform(0.2, 0.5) if rng.random() < 0.6 else rng.uniform(1.8, 3.0)
    return _fitted(ndimage.zoom(head, factor, order=1), head.shape)


def _squeezed(head: Field, rng: np.random.Generator) -> Field:
    """One axis wrong by a factor of two or more: slices counted as millimetres."""
    factor = np.ones(3)
    factor[rng.integers(3)] = rng.uniform(0.15, 0.45) if rng.random() < 0.6 else rng.uniform(2, 4)
    return _fitted(ndimage.zoom(head, factor, order=1), head.shape)


def _shuffled(head: Field, rng: np.random.Generator) -> Field:
    """Slices in another order."""
    axis, width = int(rng.integers(3)), int(rng.integers(1, 8))
    count = head.shape[axis] // width
    order = (rng.permutation(count)[:, None] * width + np.arange(width)).ravel()
    return (
        np.take(head, order, axis)
        if width == 1
        else _fitted(np.take(head, order, axis), head.shape)
    )


FOREIGN: dict[str, Maker] = {
    "noise": _noise,
    "ramp": _ramp,
    "waves": _waves,
    "bodies": _bodies,
    "letters": _letters,
    "jigsaw": _jigsaw,
    "textured": _textured,
    "mask": _mask,
    "turned": _turned,
    "inverted": _inverted,
    "resized": _resized,
    "squeezed": _squeezed,
    "shuffled": _shuffled,
}
"""Name -> maker of each kind."""


def _lines(shape: tuple[int, ...]) -> list[Field]:
    """Coordinates from -1 to 1 along each axis, ready to be broadcast."""
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    return [x[:, None, None], y[:, None], z]


def _body(shape: tuple[int, ...], rng: np.random.Generator, *, flat: bool) -> NDArray[np.bool_]:
    """One ellipsoid, barrel or box somewhere."""
    power = 8 if flat else 2
    middle, size = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.1, 0.9, 3)
    terms = [
        np.abs((line - c) / s) ** power
        for line, c, s in zip(_lines(shape), middle, size, strict=True)
    ]
    inside: NDArray[np.bool_] = (terms[0] + terms[1] + terms[2]) < 1
    return inside


def _somewhere(image: Field, rng: np.random.Generator) -> Field:
    """Everywhere, or inside of a body alone."""
    if rng.random() < 0.5:
        return image
    return image * _body(image.shape, rng, flat=rng.random() < 0.5)


def _fitted(image: Field, shape: tuple[int, ...]) -> Field:
    """Cut or filled with air about the middle."""
    for axis, size in enumerate(shape):
        extra = image.shape[axis] - size
        if extra > 0:
            image = np.take(image, range(extra // 2, extra // 2 + size), axis)
        elif extra < 0:
            pad = [(0, 0)] * 3
            pad[axis] = (-extra // 2, -extra - (-extra // 2))
            image = np.pad(image, pad)
    return image
