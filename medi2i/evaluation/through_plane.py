"""Whether slices that were translated one by one still fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError
from medi2i.networks.deformation import warp

__all__ = ["motion_residual", "through_plane_ratio"]

Array = NDArray[Any]


def through_plane_ratio(
    synthetic: Array, acquired: Array, brain: NDArray[np.bool_], *, axis: int = 2
) -> float:
    """Mean absolute difference between neighbouring slices, relative to the acquired scan's.

    1 is like the acquired scan; above, slices flicker; below, they are smoother than it.

    Args:
        synthetic, acquired: (X, Y, Z) on one intensity scale.
        brain: what counts; a pair of neighbours does where both lie in it.
        axis: across the slices.

    Raises:
        DimensionError: unlike shapes. UsageError: no two neighbours in the brain, or an acquired
        scan that does not change from slice to slice.

    >>> steps = np.broadcast_to(np.arange(4.0), (2, 2, 4))
    >>> through_plane_ratio(3 * steps, steps, steps >= 0)
    3.0
    """
    shapes = {array.shape for array in (synthetic, acquired, brain)}
    if len(shapes) > 1:
        raise DimensionError(f"the shapes {sorted(shapes)} came; one grid was expected")
    inside = np.moveaxis(brain, axis, 0)
    both = inside[1:] & inside[:-1]
    if not both.any():
        raise UsageError("no two neighbouring slices share a voxel of the brain")
    changes = [
        np.abs(np.diff(np.moveaxis(np.asarray(image, np.float64), axis, 0), axis=0))[both].mean()
        for image in (synthetic, acquired)
    ]
    if not changes[1] > 0:
        raise UsageError("the acquired scan is the same in all slices; there is nothing to compare")
    return float(changes[0] / changes[1])


def motion_residual(
    image: Array, fields: Array, brain: NDArray[np.bool_], *, axis: int = 2
) -> float:
    """Mean absolute difference between neighbouring slices after the anatomy's motion is followed.

    The motion comes from the source, so a translation that follows its anatomy leaves little more
    than the source itself. Flicker, noise and structures in one slice alone leave more; blur and
    constants less: read it beside :func:`through_plane_ratio`.

    Args:
        image: (X, Y, Z); the result is on its scale.
        fields: (Z - 1, 2, X, Y) in voxels, of the source: :func:`medi2i.data.motion.slice_fields`.
            Across another axis, of the source with that axis moved to the end.
        brain: what counts; a pair of neighbours does where both lie in it.
        axis: across the slices.

    Raises:
        DimensionError: unlike shapes. UsageError: no two neighbours in the brain.
    """
    image, inside = np.moveaxis(image, axis, 0), np.moveaxis(brain, axis, 0)
    expected = (max(len(image) - 1, 0), 2, *image.shape[1:])
    if image.shape != inside.shape or fields.shape != expected:
        raise DimensionError(
            f"an image of shape {image.shape}, a mask of shape {inside.shape} and fields of shape "
            f"{fields.shape} came, slices first; fields of shape {expected} were expected"
        )
    both = inside[1:] & inside[:-1]
    if not both.any():
        raise UsageError("no two neighbouring slices share a voxel of the brain")
    total = 0.0
    for first, second, field, counts in zip(image[:-1], image[1:], fields, both, strict=True):
        if counts.any():
            here, there = (
                torch.from_numpy(np.array(array, np.float64))[None] for array in (first, field)
            )
            bent = warp(here[None], there)[0, 0].numpy()
            total += float(np.abs(bent - second)[counts].sum())
    return total / int(both.sum())
