"""Intensities <-> [-1, 1], by numbers that are fitted once per scan and kept.

MRI has no unit: a scan's scale is fitted to its own air and its own bright tissue. Nothing is
clipped, so that what is applied can be undone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medi2i.errors import ConfigError, IntensityError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Normaliser", "Scaling", "fit", "fit_scaling", "foreground"]

Normaliser = Literal["robust", "none"]

_SAMPLE = 1 << 22  # voxels looked at; keeps a fit below 0.1 s on any volume
_AIR_SHARE = 0.05  # a single value this frequent may be air that was set to a constant
_FOREGROUND = 0.1  # of the way from air to bright tissue: above the noise of a usable scan
_DARK, _BRIGHT = 0.005, 0.995  # quantiles
_CHUNK = 1 << 17  # voxels converted in float64 at a time, in the processor's cache


@dataclass(frozen=True)
class Scaling:
    """A straight line: `low` becomes -1, `high` becomes +1; nothing is clipped.

    `Scaling(-1, 1)` is the identity, bit by bit.

    Raises:
        IntensityError: not two finite numbers, low < high.

    >>> Scaling(0, 200).apply(np.array([0, 50, 200, 300]))
    array([-1. , -0.5,  1. ,  2. ], dtype=float32)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse a line that cannot be inverted."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise IntensityError(
                f"Scaling from {self.low} to {self.high}: low < high was expected."
            )

    @overload
    def apply(self, voxels: Tensor) -> Tensor: ...
    @overload
    def apply(self, voxels: NDArray[Any]) -> NDArray[np.float32]: ...
    def apply(self, voxels: Any) -> Any:
        """Intensities to values around [-1, 1]; float32 of the same shape, on the same device."""
        return self._line(voxels, self.low, 2 / (self.high - self.low), -1.0)

    @overload
    def invert(self, values: Tensor) -> Tensor: ...
    @overload
    def invert(self, values: NDArray[Any]) -> NDArray[np.float32]: ...
    def invert(self, values: Any) -> Any:
        """The inverse of `apply`: exact to float32's rounding of the values in between."""
        return self._line(values, -1.0, (self.high - self.low) / 2, self.low)

    def as_dict(self) -> dict[str, float]:
        """For side-cars: {"low": ..., "high": ...}."""
        return asdict(self)

    def _line(self, values: Any, origin: float, slope: float, offset: float) -> Any:
        """(values - origin) * slope + offset: no cancellation, however large the origin."""
        identity = (self.low, self.high) == (-1, 1)
        if not isinstance(values, np.ndarray):
            tensor = values.float()
            return tensor if identity else (tensor - origin) * slope + offset
        if identity:
            return values.astype(np.float32)
        if not (values.flags.c_contiguous or values.flags.f_contiguous):
            values = np.ascontiguousarray(values)
        result = np.empty_like(values, dtype=np.float32)
        flat, into = values.ravel(order="K"), result.ravel(order="K")  # views, same order
        buffer = np.empty(min(_CHUNK, flat.size))
        for start in range(0, flat.size, _CHUNK):
            part = buffer[: flat.size - start]
            np.subtract(flat[start : start + _CHUNK], origin, out=part, dtype=np.float64)
            part *= slope
            part += offset
            into[start : start + _CHUNK] = part
        return result


def fit(kind: Normaliser, voxels: ArrayLike, *, name: str = "") -> Scaling:
    """The scaling of one scan by a named method; "none" is the identity.

    Raises:
        ConfigError: an unknown `kind`.
        IntensityError: as `fit_scaling`.
    """
    if kind == "none":
        return Scaling(-1.0, 1.0)
    if kind == "robust":
        return fit_scaling(voxels, name=name)
    raise ConfigError(f'Normaliser "{kind}" is unknown; "robust" or "none" was expected.')


def fit_scaling(voxels: ArrayLike, *, name: str = "") -> Scaling:
    """Fit a scan's air (-1) and bright tissue (+1).

    Air is the one value that many voxels share, where nothing much lies below it (a few negative
    values from interpolation may); else the 0.5 % quantile. Bright tissue is the 99.5 % quantile
    of the foreground, which is all that lies above a tenth of the way from air to bright tissue:
    the two are iterated until they agree. So the background's extent and noise hardly matter, and
    the fit follows `a * x + b`, a > 0.

    Args:
        voxels: any shape, real; about 4 million of them, evenly spread, are looked at.
        name: of the file, for messages.

    Raises:
        IntensityError: empty, constant, NaN or infinite voxels.

    >>> head = np.repeat([0.0, 50.0, 100.0], [600, 300, 100])
    >>> fit_scaling(head)
    Scaling(low=0.0, high=100.0)
    """
    array = np.asarray(voxels)
    where = f' of "{name}"' if name else ""
    if array.size == 0:
        raise IntensityError(f"The voxels{where} are none; a scan was expected.")
    flat = array.ravel(order="K")
    step = math.ceil(flat.size / _SAMPLE)
    while step > 1 and any(math.gcd(step, size) > 1 for size in array.shape):
        step += 1  # else the sample would be a few columns of the grid
    for sample in (flat[::step], flat):  # the second only where the first saw nothing
        ordered = np.sort(sample)
        if not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
            raise IntensityError(f"The voxels{where} are not all finite.")
        low, high = _air_and_bright(ordered)
        if low < high:
            return Scaling(low, high)
    raise IntensityError(
        f"The voxels{where} are constant ({float(flat[0]):g}); there is no foreground to fit."
    )


def foreground(voxels: ArrayLike, *, scaling: Scaling | None = None) -> NDArray[np.bool_]:
    """Where there is tissue: voxels above a tenth of the way from air to bright tissue.

    Args:
        scaling: as `fit_scaling` found it; fitted here when None.

    Raises:
        IntensityError: as `fit_scaling`.
    """
    array = np.asarray(voxels)
    fitted = fit_scaling(array) if scaling is None else scaling
    above: NDArray[np.bool_] = array > fitted.low + _FOREGROUND * (fitted.high - fitted.low)
    return above


def _air_and_bright(ordered: NDArray[Any]) -> tuple[float, float]:
    """Air and bright tissue of sorted voxels; equal when there is no foreground."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, ordered.size))
    longest = int(counts.argmax())
    first, count = int(starts[longest]), int(counts[longest])
    if count < _AIR_SHARE * ordered.size:
        low = _quantile(ordered, _DARK)
        return low, _bright(ordered, low)
    air = float(ordered[first])
    others = np.concatenate((ordered[:first], ordered[first + count :]))
    if not others.size:
        return air, air
    dark, bright = _quantile(others, _DARK), _bright(ordered, air)
    if air - dark <= _FOREGROUND * (bright - air):
        return air, bright
    return dark, _bright(ordered, dark)  # a frequent grey, such as the zero of a z-score


def _bright(ordered: NDArray[Any], low: float) -> float:
    """The bright quantile of the foreground above `low`; `low` itself when there is none."""
    start = int(np.searchsorted(ordered, low, side="right"))
    high = low
    while start < ordered.size:
        high = _quantile(ordered[start:], _BRIGHT)
        threshold = low + _FOREGROUND * (high - low)
        above = int(np.searchsorted(ordered, threshold, side="right"))
        if above <= start:  # the threshold only ever rises, so this ends
            break
        start = above
    return high


def _quantile(ordered: NDArray[Any], part: float) -> float:
    """Linear between neighbours, as numpy's, but for an array that is sorted already."""
    position = part * (ordered.size - 1)
    index = int(position)
    value = float(ordered[index])
    after = float(ordered[min(index + 1, ordered.size - 1)])
    return value + (after - value) * (position - index)
