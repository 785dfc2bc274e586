"""How anatomy moves from each slice to the next: fields between neighbours.

A field lies in the plane, in voxels, by the convention of :mod:`medi2i.networks.deformation`:
component k along axis k of the slice, and slice(p + u(p)) ~ next slice(p). Both slices keep the
intensity range of their volume, and air is blanked, so that its noise moves nothing.

"demons": diffeomorphic demons (Vercauteren et al. 2009, doi:10.1016/j.neuroimage.2008.10.040) at
half and full resolution, by SimpleITK. "tvl1": optical flow of least total variation (Zach et al.
2007, doi:10.1007/978-3-540-74936-3_22), by scikit-image; its edges are sharper, and it may fold.
"still": nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError

__all__ = [
    "METHODS",
    "VERSION",
    "Method",
    "checked_method",
    "field_from",
    "slice_field",
    "slice_fields",
]

Method = Literal["demons", "tvl1", "still"]
Array = NDArray[Any]

_ITERATIONS = (30, 15)
"""Of demons, at full and at half resolution."""
_SMOOTHING = 1.5
"""Standard deviation in voxels by which demons smooths its field after each iteration."""
VERSION = "1"
"""Of the fields; another one where a change here changes them."""


def slice_field(first: Array, second: Array, method: Method = "demons") -> NDArray[np.float32]:
    """The displacement that turns one slice into another.

    Args:
        first, second: (X, Y) on one scale, tissue about [0, 1], air blanked to 0.
        method: "demons", "tvl1" or "still".

    Returns:
        (2, X, Y) in voxels: ``warp(first, field)`` is like `second`.

    Raises:
        DimensionError: not two slices of one shape. UsageError: another method.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise DimensionError(
            f"slices of shapes {first.shape} and {second.shape} came; two of one shape (X, Y) "
            "were expected"
        )
    checked_method(method)
    field = np.zeros((2, *first.shape), np.float32)
    if not (first.any() and second.any()):
        return field
    filled = (first != 0) | (second != 0)
    box = tuple(
        slice(max(0, int(there[0]) - 8), int(there[-1]) + 9)
        for there in (np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0)))
    )
    one, other = (np.ascontiguousarray(image[box], np.float32) for image in (first, second))
    field[:, *box] = METHODS[method](one, other)
    return field


def slice_fields(
    volume: Array, tissue: NDArray[np.bool_], method: Method = "demons"
) -> NDArray[np.float16]:
    """The fields from every axial slice to the next.

    Args:
        volume: (X, Y, Z), tissue about [0, 1] over the whole volume.
        tissue: (X, Y, Z); where neither of two neighbours has any, both are blanked.
        method: see :func:`slice_field`.

    Returns:
        (Z - 1, 2, X, Y) in voxels, rounded to thousandths of a voxel or so.
    """
    fields = np.zeros((max(volume.shape[2] - 1, 0), 2, *volume.shape[:2]), np.float16)
    for height in range(len(fields)):
        fields[height] = field_from(volume, tissue, height, method)
    return fields


def field_from(
    volume: Array, tissue: NDArray[np.bool_], height: int, method: Method = "demons"
) -> NDArray[np.float32]:
    """The field from the slice at `height` to the next; the rest as for :func:`slice_fields`."""
    pair = slice(height, height + 2)
    shown = tissue[..., pair].any(-1)
    first, second = (np.where(shown, volume[..., z], 0) for z in (height, height + 1))
    return slice_field(first, second, method)


def _demons(first: Array, second: Array) -> Array:
    import SimpleITK as sitk

    fixed, moving = sitk.GetImageFromArray(second), sitk.GetImageFromArray(first)
    field = sitk.Image(fixed.GetSize(), sitk.sitkVectorFloat64, 2)
    for level, iterations in reversed(list(enumerate(_ITERATIONS))):
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations(_SMOOTHING)
        demons.SetNumberOfThreads(1)
        step = 2**level
        small = [
            sitk.Shrink(sitk.DiscreteGaussian(image, (step / 2) ** 2), [step, step])
            if step > 1
            else image
            for image in (fixed, moving)
        ]
        begun = sitk.Resample(
            field, small[0], sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True
        )
        field = demons.Execute(*small, begun)
    # components x, y are the array's last and first axis; the spacing is 1, so mm are voxels
    return np.moveaxis(sitk.GetArrayFromImage(field)[..., ::-1], -1, 0)


def _tvl1(first: Array, second: Array) -> Array:
    from skimage.registration import optical_flow_tvl1

    return cast("Array", optical_flow_tvl1(second, first, dtype=np.float32))


def _still(first: Array, second: Array) -> Array:
    del second
    return np.zeros((2, *first.shape), np.float32)


METHODS: dict[Method, Callable[[Array, Array], Array]] = {
    "demons": _demons,
    "tvl1": _tvl1,
    "still": _still,
}
"""From two slices, air blanked, to the field between them."""


def checked_method(name: str) -> Method:
    """A name, checked.

    Raises:
        UsageError: no such method.
    """
    for method in METHODS:
        if method == name:
            return method
    raise UsageError(f'motion is to be followed by "{name}"; {", ".join(METHODS)} are known')
