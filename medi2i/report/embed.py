"""Volumes small enough to stand in a page: gzip-compressed NIfTI of 8 or 12 bits per voxel."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch

from medi2i import nifti
from medi2i.resolution import resize
from medi2i.volume import Volume

__all__ = ["BUDGET", "coarser", "embed", "packed"]

BUDGET = 8_000_000
"""Bytes of all volumes of a page before base64, which makes them a third larger."""
WIDEST = 1024
"""Voxels along an axis that any graphics card takes."""
_BYTE, _TWELVE = 255, 4095


def packed(volume: Volume, window: tuple[float, float]) -> bytes:
    """A NIfTI file, gzip-compressed; geometry and values alone, equal input gives equal bytes.

    Values are rounded to 256 levels between the least and the largest one, or to 4096 where the
    window that is looked at is a small part of these.

    Args:
        volume: of finite values.
        window: the values shown black and white.
    """
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    narrow = high > low and (window[1] - window[0]) < 0.5 * (high - low)
    levels = _TWELVE if narrow else _BYTE
    step = float(np.float32((high - low) / levels)) or 1.0
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(volume.shape)
    header.set_data_dtype(np.int16 if narrow else np.uint8)
    nifti.set_affine(header, volume.affine)
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = step, low
    codes = np.clip(np.rint((volume.voxels - np.float32(low)) / step), 0, levels)
    stored = codes.astype("<i2" if narrow else "u1").tobytes(order="F")
    return gzip.compress(header.binaryblock + b"\0\0\0\0" + stored, 6, mtime=0)


def coarser(volume: Volume, spacing: float) -> Volume:
    """The volume with no voxel side below `spacing` (mm) and at most 1024 voxels along an axis.

    >>> coarser(Volume.of(np.zeros((8, 8, 4)), np.diag([1, 1, 5, 1])), 2)
    Volume(4 x 4 x 4 voxels of 2 x 2 x 5 mm, RAS)
    """
    shape = [
        min(WIDEST, size if step >= spacing else max(2, round(size * step / spacing)))
        for size, step in zip(volume.shape, volume.spacing, strict=True)
    ]
    if tuple(shape) == volume.shape:
        return volume
    ratio = np.array(volume.shape) / shape
    onto = np.diag([*ratio, 1.0])
    onto[:3, 3] = (ratio - 1) / 2  # the corners stay, so the first voxel's centre moves
    voxels = resize(torch.from_numpy(np.ascontiguousarray(volume.voxels))[None], shape)[0]
    return Volume.of(voxels.numpy(), volume.affine @ onto, volume.name)


def embed(
    volumes: Sequence[tuple[Volume, tuple[float, float]]], *, budget: int = BUDGET
) -> tuple[list[bytes], tuple[float, float, float]]:
    """Volumes of one grid with their windows as files, coarser where they would be too large.

    Returns:
        The files, and the voxel size in mm that they have.
    """
    spacing = 0.0
    while True:
        shrunk = [(coarser(volume, spacing), window) for volume, window in volumes]
        files = [packed(volume, window) for volume, window in shrunk]
        size = sum(map(len, files))
        smallest = max(shrunk[0][0].shape) <= 16
        if size <= budget or smallest:
            return files, shrunk[0][0].spacing
        spacing = max(spacing, min(shrunk[0][0].spacing)) * max(1.1, (size / budget) ** (1 / 3))
