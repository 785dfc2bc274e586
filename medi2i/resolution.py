"""Bringing a volume to the resolution that a network knows, and its output back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

__all__ = ["resize", "working_shape"]

TOLERANCE = 1.25
"""A spacing within this factor of the wanted one is left alone: resampling costs detail too."""


def working_shape(
    shape: Sequence[int], spacing: Sequence[float], wanted: float | None, axes: Sequence[int]
) -> tuple[int, int, int]:
    """The shape (X, Y, Z) at which `axes` have about `wanted` mm per voxel.

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
    return x, y, z


def resize(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, X, Y, Z) to the given shape over the same extent; smoothed where it shrinks.

    A change in the plane alone is done slice by slice, so that thick slices are not mixed.
    """
    if tuple(volume.shape[1:]) == tuple(shape):
        return volume
    if volume.shape[3] == shape[2]:
        slices = volume.permute(3, 0, 1, 2)
        shrinks = shape[0] < volume.shape[1] or shape[1] < volume.shape[2]
        slices = functional.interpolate(
            slices,
            size=tuple(shape[:2]),
            mode="bilinear" if shrinks else "bicubic",
            antialias=shrinks,
            align_corners=False,
        )
        return slices.permute(1, 2, 3, 0).contiguous()
    factors = [max(1, round(old / new)) for old, new in zip(volume.shape[1:], shape, strict=True)]
    batch = volume[None]
    if max(factors) > 1:
        batch = functional.avg_pool3d(batch, factors, ceil_mode=True, count_include_pad=False)
    batch = functional.interpolate(batch, size=tuple(shape), mode="trilinear", align_corners=False)
    return batch[0]
