"""What lesions are drawn with: smooth noise, ragged blobs, fronts that creep through tissue.

Arrays are boxes of 1 mm voxels. A shape is a signed distance in mm, negative inside. What is slow
runs on every second voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

__all__ = [
    "FAR",
    "STEP",
    "Box",
    "Field",
    "Mask",
    "Vector",
    "blob",
    "front",
    "jacobian",
    "linear",
    "noise",
    "smoothstep",
]

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]
Vector = NDArray[np.float64]

STEP = 2
"""Coarse grids hold every second voxel."""
FAR = 999.0
"""Distance (mm) of what a front does not reach."""


def linear(values: Field, at: NDArray[np.floating], axis: int) -> Field:
    """Values at fractional places along one axis; the ends are held."""
    low = np.clip(at.astype(int), 0, max(values.shape[axis] - 2, 0))
    high = np.minimum(low + 1, values.shape[axis] - 1)
    part = np.clip(at - low, 0, 1).astype(np.float32)
    part = part.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    first = np.take(values, low, axis)
    between: Field = first + (np.take(values, high, axis) - first) * part
    return between


def smoothstep(value: NDArray[np.floating]) -> Field:
    """0 to 1, without a corner at either end."""
    part = np.clip(value, 0, 1).astype(np.float32, copy=False)
    smooth: Field = part * part * (3 - 2 * part)
    return smooth


def noise(shape: Sequence[int], rng: np.random.Generator, scale: float) -> Field:
    """Gaussian noise of unit variance, smooth over about `scale` voxels."""
    step = max(1.0, scale / 1.5)
    coarse = rng.standard_normal([math.ceil(n / step) + 9 for n in shape], np.float32)
    sigma = scale / step
    coarse = ndimage.gaussian_filter(coarse, sigma, truncate=3)[(slice(4, -3),) * len(shape)]
    field: Field = coarse * np.float32((2 * math.sqrt(math.pi) * max(sigma, 0.3)) ** 1.5)
    for axis, n in enumerate(shape):
        field = linear(field, np.arange(n) / step, axis)
    return field


def blob(
    box: Box,
    centre: Vector,
    radii: Sequence[float],
    rng: np.random.Generator,
    *,
    ragged: float,
    along: ArrayLike | None = None,
) -> Field:
    """Signed distance (mm, about) to an ellipsoid at any angle with a ragged surface.

    Args:
        radii: mm, the first one along `along` where that is given.
        ragged: how far the surface departs from the ellipsoid, relative to its mean radius.
    """
    basis = rng.standard_normal((3, 3))
    if along is not None:
        basis[:, 0] = along
    turn = np.linalg.qr(basis)[0]
    grid = [g - c for g, c in zip(np.ogrid[box], centre, strict=True)]
    square: Field = np.zeros([s.stop - s.start for s in box], np.float32)
    for axis, radius in enumerate(radii):
        local = sum((turn[i, axis] / radius * g).astype(np.float32) for i, g in enumerate(grid))
        square += local * local
    mean = float(np.mean(radii))
    level = np.sqrt(square) - 1
    level += np.float32(0.8 * ragged) * noise(level.shape, rng, max(1.0, mean / 2))
    level += np.float32(0.45 * ragged) * noise(level.shape, rng, max(1.0, mean / 5))
    return level * np.float32(mean)


def front(seeds: Mask, white: Mask, tissue: Mask, *, grey: float) -> Field:
    """How far (mm) a fluid that starts from `seeds` has to go through tissue.

    It follows white matter; a millimetre of grey counts as `grey` millimetres, and it does not pass
    through what is not tissue. FAR where it does not come.
    """
    from skimage.graph import MCP_Geometric

    every = (slice(None, None, STEP),) * 3
    cost = np.where(tissue[every], np.where(white[every], 1.0, grey), -1.0)
    wet = seeds[every] & tissue[every]
    if not wet.any():
        return np.full(seeds.shape, FAR, np.float32)
    starts = np.argwhere(wet & ~ndimage.binary_erosion(wet))
    way, _ = MCP_Geometric(cost, sampling=(STEP,) * 3).find_costs(starts.tolist())
    way[wet] = 0
    known = np.isfinite(way)
    # Off the tissue the nearest value stands in, so that interpolation does not see a cliff.
    near = ndimage.maximum_filter(np.where(known, way, -1.0), 3)
    field = np.where(known, way, np.where(near >= 0, near, FAR)).astype(np.float32)
    for axis, n in enumerate(seeds.shape):
        field = linear(field, np.arange(n) / STEP, axis)
    return field


def jacobian(u: Field, step: float = 1.0) -> Field:
    """Determinant of the derivative of x + u(x); u (3, X, Y, Z) in the unit of `step`."""
    a, b, c = (list(np.gradient(part, step)) for part in u)
    a[0], b[1], c[2] = a[0] + 1, b[1] + 1, c[2] + 1
    determinant: Field = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    return determinant
