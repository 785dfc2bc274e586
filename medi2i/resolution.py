"""Bringing a volume to the resolution that a network knows, and its output back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from medi2i.errors import GeometryError

__all__ = ["resize", "working_shape"]

TOLERANCE = 1.25
"""A spacing within this factor of the wanted one is left alone: resampling costs detail too."""
MOST = 2**28
"""Voxels to which a volume may grow: more than 600 along each axis."""
LONGEST = 4096
"""Voxels to which an axis may grow: several metres."""


def working_shape(
    shape: Sequence[int], spacing: Sequence[float], wanted: float | None, axes: Sequence[int]
) -> tuple[int, int, int]:
    """The shape (X, Y, Z) at which `axes` have about `wanted` mm per voxel.

    Raises:
        GeometryError: it has more voxels than anybody can work with.

    >>> working_shape((512, 512, 30), (0.43, 0.43, 5.0), 1.0, axes=(0, 1))
    (220, 220, 30)
    >>> working_shape((182, 218, 182), (1.0, 1.0, 1.0), 1.0, axes=(0, 1))
    (182, 218, 182)
    """
    sizes = list(shape)
    if wanted is not None:
        for axis in axes:
            ratio = spacing[axis] / wanted
            if not 1 / TOLERANCE <= ratio <= TOLERANCE:
                sizes[axis] = max(1, round(shape[axis] * ratio))
    x, y, z = sizes
    if x * y * z > max(MOST, math.prod(shape)) or max(sizes) > max(LONGEST, *shape):
        raise GeometryError(
            f"Voxels of {' x '.join(f'{step:.4g}' for step in spacing)} mm would become"
            f" {x:.4g} x {y:.4g} x {z:.4g} voxels of {wanted:g} mm; at most {MOST} are worked with,"
            f" and {LONGEST} along an axis: is the voxel size in the header right?"
        )
    return x, y, z


def resize(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, X, Y, Z) to the given shape over the same extent; smoothed where it shrinks.

    The plane is done slice by slice and the third axis after it, so that a change in the plane
    alone does not mix thick slices.
    """
    x, y, z = shape
    if tuple(volume.shape[1:3]) != (x, y):
        volume = _plane(volume.permute(3, 0, 1, 2), (x, y)).permute(1, 2, 3, 0)
    if volume.shape[3] != z:
        volume = _plane(volume.permute(1, 0, 2, 3), (volume.shape[2], z)).permute(1, 0, 2, 3)
    return volume.contiguous()


def _plane(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size)."""
    shrinks = size[0] < images.shape[2] or size[1] < images.shape[3]
    return functional.interpolate(
        images,
        size=size,
        mode="bilinear" if shrinks else "bicubic",
        antialias=shrinks,
        align_corners=False,
    )
