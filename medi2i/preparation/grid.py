"""Grids to resample onto, and the one interpolation of each scan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medi2i import nifti
from medi2i.errors import UsageError
from medi2i.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["SPACINGS", "isotropic", "resample_once"]

SPACINGS = (0.25, 10.0)
"""Millimetres that can be asked for."""
MOST = 2**28  # voxels: 1 GiB
_FWHM = 2 * math.sqrt(2 * math.log(2))


def isotropic(volume: Volume, spacing: float) -> Volume:
    """The grid of `spacing` mm along the axes of a volume and over its extent, filled with 0.

    Raises:
        UsageError: it would have too many voxels.
    """
    shape = [
        max(2, round(n * step / spacing))
        for n, step in zip(volume.shape, volume.spacing, strict=True)
    ]
    if math.prod(shape) > MOST:
        raise UsageError(
            f'"{volume.name}" at {spacing:g} mm would have {" x ".join(map(str, shape))} voxels; '
            f"at most {MOST} are made: a larger spacing was expected"
        )
    affine = volume.affine.copy()
    affine[:3, :3] *= spacing / np.array(volume.spacing)
    old, new = ((np.array(s) - 1) / 2 for s in (volume.shape, shape))
    affine[:3, 3] += volume.affine[:3, :3] @ old - affine[:3, :3] @ new  # the same middle
    header = volume.header.copy()
    header.set_data_shape(shape)
    nifti.set_affine(header, affine)
    return Volume(np.zeros(shape, np.float32), affine, header, volume.name)


def resample_once(volume: Volume, onto: Volume, transform: sitk.Transform | None) -> Volume:
    """A volume on another grid: linear, smoothed before where that grid is coarser; 0 outside.

    Returns:
        `volume` itself, untouched, where the grids agree and nothing moves.
    """
    if onto is volume and transform is None:
        return volume
    directions = volume.affine[:3, :3] / np.array(volume.spacing)
    extents = np.linalg.norm(directions.T @ onto.affine[:3, :3], axis=1)  # of a voxel there, here
    sigmas = [
        math.sqrt(max(0.0, wide**2 - step**2)) / _FWHM / step if wide > 1.1 * step else 0.0
        for wide, step in zip(extents, volume.spacing, strict=True)
    ]
    if any(sigmas):
        volume = volume.like(ndimage.gaussian_filter(volume.voxels, sigmas, mode="nearest"))
    return volume.resampled_onto(onto, transform=transform)
