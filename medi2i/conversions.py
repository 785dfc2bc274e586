"""Volumes as other libraries have them, and back: where every voxel lies is never lost.

Everything meets in one form: voxels (X, Y, Z) and an affine to RAS millimetres. SimpleITK counts
its arrays Z first and its millimetres LPS; torchio and MONAI put a channel in front; nibabel has
this very form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medi2i import geometry, nifti
from medi2i.errors import DimensionError, FormatError, GeometryError
from medi2i.nifti import Header

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torchio
    from monai.data.meta_tensor import MetaTensor

__all__ = ["as_metatensor", "as_nibabel", "as_simpleitk", "as_torchio", "taken"]

Voxels = NDArray[np.float32]
Affine = NDArray[np.float64]
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def taken(image: Any) -> tuple[NDArray[Any], Affine, Header | None]:
    """The voxels (X, Y, Z), the affine (RAS mm) and the NIfTI header of an image, if it has one.

    Args:
        image: a spatial image of nibabel, a SimpleITK.Image, a torchio.Image, or a MetaTensor of
            MONAI with one channel in front.

    Raises:
        FormatError: it is none of these. DimensionError: it is not one 3-D volume.
        GeometryError: a MetaTensor in a space that is neither RAS nor LPS.
    """
    home = type(image).__module__.partition(".")[0]
    bases = {base.__module__.partition(".")[0] for base in type(image).__mro__} | {home}
    if isinstance(image, nib.spatialimages.SpatialImage):
        if len(image.shape) != 3:
            raise DimensionError(f"An image of shape {image.shape} came; a 3-D one was expected.")
        header = image.header if isinstance(image, nib.Nifti1Image) else None
        affine = np.eye(4) if image.affine is None else np.array(image.affine, np.float64)
        return np.asanyarray(image.dataobj), affine, header
    if "SimpleITK" in bases:
        return _from_simpleitk(image)
    if "torchio" in bases:
        return _only_channel(image.data), np.array(image.affine, np.float64), None
    if "monai" in bases:
        return _only_channel(image), _affine_of(image), None
    raise FormatError(
        f"An object of type {type(image).__qualname__} came; an image of nibabel, SimpleITK or "
        "torchio or a MetaTensor of MONAI was expected."
    )


def as_nibabel(voxels: Voxels, affine: Affine, header: Header) -> nib.Nifti1Image:
    """A NIfTI image with the codes, zooms and units of `header`; it shares the voxels."""
    own = header.copy()
    own.set_data_shape(voxels.shape)
    own.set_data_dtype(np.float32)
    nifti.set_affine(own, affine)
    if isinstance(own, nib.Nifti2Header):
        return nib.Nifti2Image(voxels, affine, own)
    return nib.Nifti1Image(voxels, affine, own)


def as_simpleitk(voxels: Voxels, affine: Affine) -> sitk.Image:
    """An image in ITK's frame; a copy.

    Raises:
        GeometryError: the axes are sheared, which ITK has no words for.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
        raise GeometryError(
            "The axes of this volume are sheared; SimpleITK takes right angles only. Resample it "
            "onto a grid that has them."
        )
    return geometry.itk_image(voxels, affine)


def as_torchio(voxels: Voxels, affine: Affine) -> torchio.ScalarImage:
    """A ScalarImage of one channel; a copy."""
    import torch
    import torchio

    tensor = torch.from_numpy(np.array(voxels, np.float32, order="C"))
    return torchio.ScalarImage(tensor=tensor[None], affine=affine)


def as_metatensor(voxels: Voxels, affine: Affine) -> MetaTensor:
    """A MetaTensor (1, X, Y, Z) in RAS space, as MONAI's LoadImage with a channel in front."""
    import torch
    from monai.data.meta_tensor import MetaTensor

    tensor = torch.from_numpy(np.array(voxels, np.float32, order="C"))
    return MetaTensor(tensor[None], affine=torch.from_numpy(affine.copy()), meta={"space": "RAS"})


def _from_simpleitk(image: sitk.Image) -> tuple[NDArray[Any], Affine, None]:
    import SimpleITK as sitk

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise DimensionError(
            f"An image of {image.GetDimension()} dimensions with "
            f"{image.GetNumberOfComponentsPerPixel()} values per voxel came; three dimensions and "
            "one value were expected."
        )
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), _TO_RAS @ lps, None


def _only_channel(tensor: Any) -> NDArray[Any]:
    """(1, X, Y, Z) -> (X, Y, Z)."""
    if tensor.ndim != 4 or tensor.shape[0] != 1:
        raise DimensionError(
            f"A tensor of shape {tuple(tensor.shape)} came; (1, X, Y, Z) was expected."
        )
    voxels: NDArray[Any] = np.asarray(tensor[0].detach().cpu())
    return voxels


def _affine_of(image: MetaTensor) -> Affine:
    affine = np.asarray(image.affine.cpu(), np.float64)
    space = str(getattr(image.meta.get("space", "RAS"), "value", image.meta.get("space", "RAS")))
    if space not in ("RAS", "LPS"):
        raise GeometryError(f'A MetaTensor in space "{space}" came; RAS or LPS was expected.')
    return affine if space == "RAS" else _TO_RAS @ affine
