"""The arithmetic of each protocol: a checked pair of volumes in, its scores out.

What each function does is put in words in its record in `medi2i.evaluation.protocols`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i import metrics
from medi2i.errors import DimensionError, IntensityError, UsageError

__all__ = [
    "Pair",
    "Scores",
    "Spacing",
    "brain_3d",
    "brasyn",
    "skimage_3d",
    "syndiff",
    "synthrad2023",
    "thick_axis",
    "torchmetrics",
    "unit_range",
    "wang2004",
]

Array = NDArray[Any]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Scores:
    """What one prediction scored under one protocol.

    Attributes:
        protocol: name and version, "brain-3d@1".
        psnr: dB. ssim: at most 1. mae, nmse: of the images as the protocol scales them.
        voxels: how many were scored.
        extra: further numbers, by name, that only this protocol has.
    """

    protocol: str
    psnr: float
    ssim: float
    mae: float
    nmse: float
    voxels: int
    extra: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, `extra` among them."""
        numbers = {
            "psnr": self.psnr,
            "ssim": self.ssim,
            "mae": self.mae,
            "nmse": self.nmse,
        }
        return {
            "protocol": self.protocol,
            **numbers,
            "voxels": self.voxels,
            **self.extra,
        }


@dataclass(frozen=True)
class Pair:
    """Checked arguments of `Protocol.score`: finite, real, one shape, no empty mask."""

    protocol: str
    predicted: Array
    target: Array
    mask: Mask | None
    spacing: Spacing
    source: Array | None

    def cut(self, box: tuple[slice, ...] = ()) -> tuple[Float, Float]:
        """Prediction and target within a box (all by default), in float64."""
        x, y = (np.ascontiguousarray(image[box], "f8") for image in (self.predicted, self.target))
        return x, y


def thick_axis(spacing: Spacing) -> int | None:
    """The axis along which slices are over 3 times thicker than in plane; None: no such axis.

    >>> thick_axis((0.9375, 0.9375, 5.0)), thick_axis((1.2, 1.0, 1.0))
    (2, None)
    """
    axis = int(np.argmax(spacing))
    in_plane = max(length for other, length in enumerate(spacing) if other != axis)
    return axis if spacing[axis] > 3 * in_plane else None


def unit_range(image: Array, mask: Mask) -> Float:
    """The image scaled by its own 0.5 and 99.5 percentiles in the mask, clipped to [0, 1].

    Raises:
        IntensityError: the two percentiles are equal, or the mask is empty.
    """
    if not mask.any():
        raise IntensityError("The mask is empty, or no voxel of the source is above 0.")
    low, high = np.percentile(image[mask], [0.5, 99.5])
    return _between(image, float(low), float(high), "image in the mask")


def _between(image: Array, low: float, high: float, what: str) -> Float:
    if not high > low:
        raise IntensityError(
            f"The {what} is constant: its 0.5 and 99.5 percentiles are {low:g} and {high:g}."
        )
    unit: Float = np.clip((np.asarray(image, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return unit


def brain_3d(pair: Pair) -> Scores:
    """In the brain, whatever the intensity scale of the prediction."""
    if pair.mask is not None:
        mask = pair.mask
    elif pair.source is not None:
        mask = np.asarray(pair.source) > 0
    else:
        raise UsageError(f"{pair.protocol} scores where the source is above 0: give it, or a mask.")
    box = metrics.bounding_box(mask)
    mask = np.ascontiguousarray(mask[box])
    predicted, target = pair.cut(box)
    target = unit_range(target, mask)

    x, y = predicted[mask], target[mask]
    spread = float(np.var(x))
    gain = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
    fitted = np.clip(gain * (predicted - x.mean()) + y.mean(), 0.0, 1.0)
    fitted[~mask] = target[~mask] = 0.0

    thick = thick_axis(pair.spacing)
    if thick is None:
        similarity = metrics.ssim(fitted, target, data_range=1.0, mask=mask)
    else:
        in_plane = tuple(axis for axis in range(3) if axis != thick)
        local = metrics.ssim_map(fitted, target, data_range=1.0, axes=in_plane)
        voxels = mask.sum(axis=in_plane)
        # A slice with a few voxels of the mask would weigh as much as one through the middle.
        full = voxels > 0.01 * voxels.max()
        means = (local * mask).sum(axis=in_plane)[full] / voxels[full]
        similarity = float(means.mean())
    return Scores(
        pair.protocol,
        psnr=metrics.psnr(fitted, target, data_range=1.0, mask=mask),
        ssim=similarity,
        mae=metrics.mae(fitted, target, mask=mask),
        nmse=metrics.nmse(fitted, target, mask=mask),
        voxels=int(mask.sum()),
    )


def _whole(pair: Pair, similarity: Callable[[Float, Float, float], float]) -> Scores:
    """Raw intensities, whole volume, the target's range as peak; SSIM is given that range."""
    predicted, target = pair.cut()
    data_range = float(np.ptp(target))
    if data_range == 0:
        raise IntensityError("The target is constant; it has no range to score against.")
    return Scores(
        pair.protocol,
        psnr=metrics.psnr(predicted, target, data_range=data_range),
        ssim=similarity(predicted, target, data_range),
        mae=metrics.mae(predicted, target),
        nmse=metrics.nmse(predicted, target),
        voxels=target.size,
    )


def skimage_3d(pair: Pair) -> Scores:
    """The two functions of scikit-image with their defaults."""

    def similarity(x: Float, y: Float, data_range: float) -> float:
        inner = metrics.interior(y.shape, 3)
        return metrics.ssim(x, y, data_range=data_range, mask=inner, window="uniform")

    return _whole(pair, similarity)


def wang2004(pair: Pair) -> Scores:
    """Complete gaussian neighbourhoods only."""

    def similarity(x: Float, y: Float, data_range: float) -> float:
        inner = metrics.interior(y.shape, 5)
        return metrics.ssim(x, y, data_range=data_range, mask=inner)

    return _whole(pair, similarity)


def torchmetrics(pair: Pair) -> Scores:
    """The two functions of torchmetrics with their defaults."""
    _check_mirror(pair)

    def similarity(x: Float, y: Float, data_range: float) -> float:
        widest = max(data_range, float(np.ptp(x)))
        return metrics.ssim(x, y, data_range=widest, border="mirror")

    return _whole(pair, similarity)


def _check_mirror(pair: Pair) -> None:
    if min(pair.target.shape) < 6:
        raise DimensionError(
            f"A volume of shape {pair.target.shape} is too small: {pair.protocol} mirrors five"
            " voxels at every face, so at least 6 are needed along each axis."
        )


def syndiff(pair: Pair) -> Scores:
    """Axial slices, each divided by its own maximum."""
    x, y, _ = pair.target.shape
    if max(x, y) > 256:
        raise DimensionError(
            f"Slices of {x} x {y} voxels were given; {pair.protocol} pads slices to 256 x 256 and"
            " takes no larger ones: resample the volume first."
        )
    pad = tuple(((256 - size) // 2, (257 - size) // 2) for size in (x, y))
    images = pair.cut()
    rows: list[tuple[float, float, float, float]] = []
    for index in range(pair.target.shape[2]):
        predicted, target = (np.pad(image[:, :, index], pad) for image in images)
        if predicted.max() <= 0 or target.max() <= 0:  # 0 / 0 in the original, left out of its mean
            continue
        middle = slice(52, 204)  # 152 of left-right; all 256 of front-back
        predicted = (predicted / predicted.max())[middle]
        target = (target / target.max())[middle]
        if not target.any():
            continue
        inner = metrics.interior(target.shape, 3)
        peak = float(target.max())
        rows.append(
            (
                metrics.psnr(predicted, target, data_range=float(predicted.max())),
                metrics.ssim(predicted, target, data_range=peak, mask=inner, window="uniform"),
                metrics.mae(predicted, target),
                metrics.nmse(predicted, target),
            )
        )
    if not rows:
        raise IntensityError("Every slice is empty in the prediction or in the target.")
    psnr, ssim, mae, nmse = (float(column) for column in np.mean(rows, axis=0))
    return Scores(pair.protocol, psnr, ssim, mae, nmse, voxels=len(rows) * 152 * 256)


def brasyn(pair: Pair) -> Scores:
    """Outside and inside the tumour."""

    def own_range(image: Float, name: str) -> Float:
        low, high = np.percentile(image, [0.5, 99.5])
        return _between(image, max(float(low), 0.0), float(high), name)

    _check_mirror(pair)
    predicted, target = pair.cut()
    predicted, target = own_range(predicted, "prediction"), own_range(target, "target")

    def region_ssim(region: Mask) -> float:
        x, y = predicted * region, target * region
        widest = max(float(np.ptp(x)), float(np.ptp(y)))
        if widest == 0:
            raise IntensityError("Prediction and target are both empty in a region to be scored.")
        return metrics.ssim(x, y, data_range=widest, mask=region, border="mirror")

    outside = np.ones(target.shape, dtype=bool) if pair.mask is None else ~pair.mask
    return Scores(
        pair.protocol,
        psnr=metrics.psnr(predicted, target, data_range=1.0, mask=outside),
        ssim=region_ssim(outside),
        mae=metrics.mae(predicted, target, mask=outside),
        nmse=metrics.nmse(predicted, target, mask=outside),
        voxels=int(outside.sum()),
        extra={} if pair.mask is None else {"ssim_tumour": region_ssim(pair.mask)},
    )


def synthrad2023(pair: Pair) -> Scores:
    """Hounsfield units in the body."""
    low, high = -1024.0, 3000.0
    mask = np.ones(pair.target.shape, dtype=bool) if pair.mask is None else pair.mask
    raw = pair.cut()
    predicted, target = (np.clip(image, low, high) - low for image in raw)
    inner = metrics.interior(target.shape, 3) & mask
    return Scores(
        pair.protocol,
        psnr=metrics.psnr(predicted, target, data_range=high - low, mask=mask),
        ssim=metrics.ssim(
            predicted * mask,
            target * mask,
            data_range=high - low,
            mask=inner,
            window="uniform",
        ),
        mae=metrics.mae(*raw, mask=mask),
        nmse=metrics.nmse(predicted, target, mask=mask),
        voxels=int(mask.sum()),
    )
