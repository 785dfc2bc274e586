"""Distances between a prediction and a reference, as free functions on arrays.

Each takes two arrays of one shape, 2-D or 3-D, on one intensity scale, works in float64 and
returns a float. None scales, clips or masks on its own: that is what a protocol is for
(`medi2i.evaluation.protocols`). `data_range` is the largest minus the smallest possible value,
in the unit of the arrays, and is never guessed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from medi2i.errors import DimensionError, IntensityError, UsageError

__all__ = ["bounding_box", "interior", "mae", "nmse", "psnr", "ssim", "ssim_map"]

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_RADIUS = 5  # of the gaussian: int(3.5 * 1.5 + 0.5), 11 taps as in Wang et al.
_K1, _K2 = 0.01, 0.03


def psnr(
    predicted: Array, reference: Array, *, data_range: float, mask: Mask | None = None
) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal arrays.

    Args:
        predicted, reference: (X, Y) or (X, Y, Z).
        data_range: the peak.
        mask: same shape; only the voxels inside count.

    Raises:
        DimensionError: shapes differ. IntensityError: NaN, Inf or an empty mask.
        UsageError: `data_range` is not a positive number.

    >>> psnr(np.array([[0.0, 1.0]]), np.array([[0.1, 0.9]]), data_range=1.0)
    20.0
    """
    _check_range(data_range)
    x, y = _pair(predicted, reference, mask)
    error = float(np.mean(np.square(x - y)))
    return 10.0 * math.log10(data_range**2 / error) if error > 0 else math.inf


def mae(predicted: Array, reference: Array, *, mask: Mask | None = None) -> float:
    """Mean absolute error, in the unit of the arrays. Arguments and errors as `psnr`."""
    x, y = _pair(predicted, reference, mask)
    return float(np.mean(np.abs(x - y)))


def nmse(predicted: Array, reference: Array, *, mask: Mask | None = None) -> float:
    """Squared error over the squared reference: |x - y|^2 / |y|^2. Arguments as `psnr`.

    Raises:
        IntensityError: also when the reference is 0 throughout.
    """
    x, y = _pair(predicted, reference, mask)
    energy = float(np.sum(np.square(y)))
    if energy == 0:
        raise IntensityError("NMSE is undefined: the reference is 0 wherever it is scored.")
    return float(np.sum(np.square(x - y))) / energy


def ssim_map(
    predicted: Array,
    reference: Array,
    *,
    data_range: float,
    window: Literal["gaussian", "uniform"] = "gaussian",
    border: Literal["reflect", "mirror"] = "reflect",
    axes: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Structural similarity of every neighbourhood (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    Equal to scikit-image's map, with four filtered images in place of five.

    Args:
        predicted, reference: (X, Y) or (X, Y, Z).
        window: "gaussian" is Wang's: sigma 1.5, 11 taps, population covariance. "uniform" is
            scikit-image's default: 7 taps, sample covariance.
        border: how the arrays go on beyond their edges: "reflect" repeats the edge voxel (SciPy,
            scikit-image), "mirror" does not (PyTorch, torchmetrics).
        axes: those along which the neighbourhood extends; all by default. Two of three gives the
            maps of a stack's slices.

    Returns:
        Same shape, in [-1, 1] for arrays that are nowhere negative.

    Raises:
        As `psnr`.
    """
    _check_range(data_range)
    x, y = _pair(predicted, reference)
    along = tuple(range(x.ndim)) if axes is None else tuple(axes)
    if window == "gaussian":
        taps = np.exp(-0.5 * np.square(np.arange(-_RADIUS, _RADIUS + 1) / 1.5))
        bias = 1.0
    else:
        taps = np.ones(7)
        bias = taps.size ** len(along) / (taps.size ** len(along) - 1)
    taps /= taps.sum()

    def local_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = image.copy()
        for axis in along:
            correlate1d(mean, taps, axis=axis, output=mean, mode=border)  # line by line: in place
        return mean

    with ThreadPoolExecutor(_threads()) as pool:  # SciPy lets others run meanwhile
        mean_x, mean_y, covariance, variances = pool.map(local_mean, (x, y, x * y, x**2 + y**2))
    product, power = mean_x * mean_y, mean_x**2 + mean_y**2
    # In place from here on: new arrays of a whole head take as long as the sums.
    covariance -= product
    variances -= power  # of both images, summed
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    # Eq. 13 of the paper: (2 product + c1) (2 covariance + c2) / (power + c1) (variances + c2)
    for term, factor, constant in (
        (product, 2.0, c1),
        (covariance, 2 * bias, c2),
        (power, 1.0, c1),
        (variances, bias, c2),
    ):
        term *= factor
        term += constant
    product *= covariance
    power *= variances
    product /= power
    return product


def _threads() -> int:
    """As many as there are processors for this process, or as OMP_NUM_THREADS allows."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ssim(
    predicted: Array,
    reference: Array,
    *,
    data_range: float,
    mask: Mask | None = None,
    window: Literal["gaussian", "uniform"] = "gaussian",
    border: Literal["reflect", "mirror"] = "reflect",
    axes: Sequence[int] | None = None,
) -> float:
    """Mean structural similarity: `ssim_map` averaged over the mask, or over all voxels.

    Voxels outside the mask still take part in the neighbourhoods of those inside. Only the box
    around the mask is computed.

    >>> image = np.arange(256.0).reshape(16, 16)
    >>> ssim(image, image, data_range=255.0)
    1.0
    """
    _check_shapes(predicted, reference)
    box: tuple[slice, ...] = ()
    if mask is not None:
        _check_mask(mask, np.shape(reference))
        box = bounding_box(mask)
    local = ssim_map(
        predicted[box],
        reference[box],
        data_range=data_range,
        window=window,
        border=border,
        axes=axes,
    )
    return float(local.mean() if mask is None else local[mask[box]].mean())


def bounding_box(mask: Mask, margin: int = _RADIUS) -> tuple[slice, ...]:
    """The smallest box around a mask, widened on each side where the array goes on.

    A margin of 5 leaves every SSIM neighbourhood of a voxel inside the mask whole.

    >>> bounding_box(np.array([[0, 0, 0, 0], [0, 0, 1, 0]], dtype=bool), margin=1)
    (slice(0, 2, None), slice(1, 4, None))
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not filled.size:
            raise IntensityError("The mask is empty: there is nothing to score.")
        box.append(
            slice(
                max(0, int(filled[0]) - margin),
                min(mask.shape[axis], int(filled[-1]) + 1 + margin),
            )
        )
    return tuple(box)


def interior(shape: Sequence[int], margin: int) -> Mask:
    """A mask of all voxels at least `margin` voxels from every face, where SSIM sees no border.

    Raises:
        DimensionError: none is left.

    >>> interior((3, 5), 1).sum(axis=1)
    array([0, 3, 0])
    """
    if min(shape) <= 2 * margin:
        raise DimensionError(
            f"A volume of shape {tuple(shape)} is too small: this score leaves out {margin} voxels"
            f" at every face, so at least {2 * margin + 1} are needed along each axis."
        )
    mask = np.zeros(tuple(shape), dtype=bool)
    mask[tuple(slice(margin, size - margin) for size in shape)] = True
    return mask


def _pair(
    predicted: Array, reference: Array, mask: Mask | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both arrays in float64; within the mask, and so flat, if there is one."""
    _check_shapes(predicted, reference)
    if mask is not None:
        _check_mask(mask, np.shape(reference))
        predicted, reference = predicted[mask], reference[mask]
    x, y = (np.ascontiguousarray(array, np.float64) for array in (predicted, reference))
    for name, array in (("prediction", x), ("reference", y)):
        if not np.isfinite(array).all():
            raise IntensityError(f"The {name} holds NaN or infinite values; it cannot be scored.")
    return x, y


def _check_shapes(predicted: Array, reference: Array) -> None:
    shape, other = np.shape(predicted), np.shape(reference)
    if shape != other:
        raise DimensionError(
            f"The prediction has shape {shape}, the reference {other}; they must be equal."
        )
    if len(shape) not in (2, 3):
        raise DimensionError(f"Arrays of shape {shape} were given; 2-D or 3-D was expected.")


def _check_mask(mask: Mask, shape: tuple[int, ...]) -> None:
    if mask.shape != shape:
        raise DimensionError(f"The mask has shape {mask.shape}, the images {shape}.")
    if mask.dtype != np.bool_:
        raise UsageError(
            f"The mask is of type {mask.dtype}; bool was expected, such as labels > 0."
        )
    if not mask.any():
        raise IntensityError("The mask is empty: there is nothing to score.")


def _check_range(data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise UsageError(f"data_range is {data_range:g}; a positive number was expected.")
