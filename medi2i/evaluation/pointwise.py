"""The pointwise map: what can be had from a scan without looking at neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import ConfigError, IntensityError
from medi2i.evaluation.scoring import unit_range

__all__ = ["BINS", "PointwiseMap"]

Array = NDArray[Any]
Mask = NDArray[np.bool_]

BINS = 64


@dataclass(frozen=True)
class PointwiseMap:
    """The mean target for each source intensity, both scaled to [0, 1] by `unit_range`.

    Kept as sums, so that two maps add up to the map of both their data.

    >>> dark_is_bright = PointwiseMap.fit([(np.array([0.1, 0.9]), np.array([0.8, 0.2]))])
    >>> dark_is_bright.apply(np.array([0.0, 0.5, 1.0])).round(2)
    array([0.8, 0.5, 0.2])

    Attributes:
        totals: of the target, by bin of the source; the bins split [0, 1] evenly.
        counts: voxels, by bin.
    """

    totals: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def fit(cls, pairs: Iterable[tuple[Array, Array]]) -> PointwiseMap:
        """The map of pairs (source, target) of equal shape, in [0, 1], mask applied.

        Raises:
            IntensityError: there are no voxels.
        """
        totals, counts = np.zeros(BINS), np.zeros(BINS, dtype=np.int64)
        for source, target in pairs:
            index = np.clip((np.ravel(source) * BINS).astype(np.int64), 0, BINS - 1)
            totals += np.bincount(index, weights=np.ravel(target), minlength=BINS)
            counts += np.bincount(index, minlength=BINS)
        if not counts.any():
            raise IntensityError("A pointwise map needs at least one voxel to be fitted to.")
        return cls(tuple(totals.tolist()), tuple(counts.tolist()))

    @classmethod
    def of(cls, source: Array, target: Array, mask: Mask | None = None) -> PointwiseMap:
        """The map of one scan to another in the mask, or where the source is above 0."""
        inside = np.asarray(source) > 0 if mask is None else mask
        return cls.fit([(unit_range(source, inside)[inside], unit_range(target, inside)[inside])])

    def __add__(self, other: PointwiseMap) -> PointwiseMap:
        """The map of the data of both."""
        totals = np.add(self.totals, other.totals).tolist()
        return PointwiseMap(tuple(totals), tuple(np.add(self.counts, other.counts).tolist()))

    def apply(self, values: Array) -> NDArray[np.float64]:
        """Source values in [0, 1] to target values, linear between the middles of the bins."""
        counts = np.array(self.counts)
        filled = counts > 0
        middles = (np.arange(counts.size) + 0.5) / counts.size
        means = np.array(self.totals)[filled] / counts[filled]
        return np.asarray(np.interp(values, middles[filled], means), dtype=np.float64)

    def predict(self, source: Array, mask: Mask | None = None) -> NDArray[np.float64]:
        """A scan mapped in the mask (by default above 0), on its own intensity scale; 0 outside."""
        inside = np.asarray(source) > 0 if mask is None else mask
        mapped = self.apply(unit_range(source, inside))
        low, high = np.percentile(source[inside], [0.5, 99.5])
        return np.where(inside, low + (high - low) * mapped, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it."""
        return {"totals": list(self.totals), "counts": list(self.counts)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> PointwiseMap:
        """The map that `as_dict` wrote.

        Raises:
            ConfigError: it is not one.
        """
        try:
            totals = tuple(float(total) for total in record["totals"])
            counts = tuple(int(count) for count in record["counts"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"A pointwise map needs totals and counts: {error!r}.") from error
        if len(totals) != len(counts) or not any(counts) or min(counts) < 0:
            raise ConfigError("The totals and counts of a pointwise map do not fit together.")
        return cls(totals, counts)
