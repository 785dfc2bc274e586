"""Grids in space: turning axes exactly, comparing grids, resampling by world coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "canonical_grid",
    "from_canonical",
    "itk_image",
    "resample",
    "same_grid",
    "to_canonical",
]

Affine = NDArray[np.float64]  # (4, 4) voxel -> RAS mm
Voxels = NDArray[np.float32]  # (X, Y, Z)
Shape = tuple[int, int, int]

_RAS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])


def canonical_grid(shape: Shape, affine: Affine) -> tuple[Shape, Affine]:
    """Shape and affine with the axes closest to right, anterior, superior."""
    orientation = io_orientation(affine)
    if np.array_equal(orientation, _RAS):
        return shape, affine
    x, y, z = (shape[axis] for axis in np.argsort(orientation[:, 0]))
    return (x, y, z), affine @ inv_ornt_aff(orientation, shape)


def to_canonical(voxels: Voxels, affine: Affine) -> Voxels:
    """Flip and permute axes so that they lie closest to right, anterior, superior."""
    return _turned(voxels, io_orientation(affine))


def from_canonical(voxels: Voxels, affine: Affine) -> Voxels:
    """The inverse of `to_canonical` for voxels that came from a grid with `affine`."""
    return _turned(voxels, ornt_transform(_RAS, io_orientation(affine)))


def same_grid(shape: Shape, affine: Affine, other_shape: Shape, other_affine: Affine) -> bool:
    """Whether two grids agree: no corner moves by more than a thousandth of a voxel.

    >>> same_grid((4, 5, 6), np.eye(4), (4, 5, 6), np.diag([1, 1, 1.001, 1]))
    False
    """
    if shape != other_shape:
        return False
    corners = np.array(np.meshgrid(*((0, size - 1) for size in shape), 1)).reshape(4, -1)
    moved = np.linalg.norm((affine - other_affine) @ corners, axis=0)
    return bool(moved.max() <= 1e-3 * np.linalg.norm(affine[:3, :3], axis=0).min())


def itk_image(voxels: Voxels, affine: Affine) -> sitk.Image:
    """A SimpleITK image of these voxels where they lie, in ITK's frame (LPS mm)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
    origin, spacing, direction = _itk(affine)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def resample(
    voxels: Voxels,
    affine: Affine,
    onto_shape: Shape,
    onto_affine: Affine,
    *,
    transform: sitk.Transform | None,
    linear: bool,
) -> Voxels:
    """Voxels at the places of another grid, 0 outside the old one (SimpleITK).

    Args:
        transform: maps a point of the other grid's space to this one's (LPS mm); None: identity.
        linear: False takes the nearest voxel.
    """
    import SimpleITK as sitk

    resampled = sitk.Resample(
        itk_image(voxels, affine),
        onto_shape,
        sitk.Transform() if transform is None else transform,
        sitk.sitkLinear if linear else sitk.sitkNearestNeighbor,
        *_itk(onto_affine),
        0.0,
        sitk.sitkFloat32,
    )
    return np.asarray(sitk.GetArrayFromImage(resampled), dtype=np.float32).transpose(2, 1, 0)


def _turned(voxels: Voxels, orientation: NDArray[np.float64]) -> Voxels:
    if np.array_equal(orientation, _RAS):
        return voxels
    # A copy: X fastest, as files have it, and no negative strides, which torch refuses.
    return np.asfortranarray(apply_orientation(voxels, orientation))


def _itk(affine: Affine) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction in ITK's frame, LPS."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return lps[:3, 3].tolist(), spacing.tolist(), (lps[:3, :3] / spacing).ravel().tolist()
