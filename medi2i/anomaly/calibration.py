"""What healthy tissue scores: so that a threshold has a stated false-positive rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import ConfigError, UsageError

__all__ = ["RATES", "Calibration", "calibrate", "own_calibration"]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]

RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)
"""Shares of healthy tissue at which scores are kept."""
_MEDIAN = 0.6744897501960817  # of the absolute value of a standard normal number


@dataclass(frozen=True)
class Calibration:
    """Which share of healthy tissue reaches which score.

    Attributes:
        rates: descending shares in (0, 1).
        values: the score that this share reaches; never descending.
        origin: on what tissue, in words.

    >>> healthy = Calibration((0.5, 0.1, 0.01), (1.0, 2.0, 3.0))
    >>> healthy.threshold(0.01), healthy.threshold(0.5)
    (3.0, 1.0)
    """

    rates: tuple[float, ...]
    values: tuple[float, ...]
    origin: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no distribution.

        Raises:
            ConfigError: unlike lengths, fewer than two, not in order, outside of (0, 1).
        """
        rates, values = self.rates, self.values
        if (
            len(rates) != len(values)
            or len(rates) < 2
            or not all(0 < later < earlier < 1 for earlier, later in pairwise(rates))
            or not all(math.isfinite(v) for v in values)
            or any(later < earlier for earlier, later in pairwise(values))
        ):
            raise ConfigError(
                f"a calibration with rates {rates} and values {values} came; falling rates "
                "between 0 and 1 with as many values that do not fall were expected"
            )

    def threshold(self, rate: float) -> float:
        """The score that a share `rate` of healthy tissue reaches; between rates by their log.

        Raises:
            UsageError: a rate that was not measured.
        """
        if not self.rates[-1] <= rate <= self.rates[0]:
            raise UsageError(
                f"a false-positive rate of {rate:g} was asked for; healthy tissue was measured "
                f"from {self.rates[-1]:g} to {self.rates[0]:g}"
            )
        return float(np.interp(-math.log(rate), self._logs, self.values))

    def probability(self, scores: Field) -> NDArray[np.float32]:
        """Share of healthy tissue that scores lower, in [0, 1); below the first rate linear from 0.

        Beyond the rarest rate the last slope goes on, so that order is kept.
        """
        values, logs = np.asarray(self.values), self._logs
        slope = (logs[-1] - logs[0]) / max(values[-1] - values[0], 1e-12)
        high = np.interp(scores, values, logs) + slope * np.maximum(scores - values[-1], 0)
        low = np.clip(scores / max(values[0], 1e-12), 0, 1) * (1 - self.rates[0])
        share = np.where(scores < values[0], low, 1 - np.exp(-high))
        result: NDArray[np.float32] = np.clip(share, 0, 1).astype(np.float32)
        return result

    def as_dict(self) -> dict[str, Any]:
        """For model cards and side-cars."""
        return {"rates": list(self.rates), "values": list(self.values), "origin": self.origin}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Calibration:
        """What :meth:`as_dict` gave.

        Raises:
            ConfigError: it is no calibration.
        """
        try:
            rates, values = (tuple(float(v) for v in record[k]) for k in ("rates", "values"))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{dict(record)} is no calibration; lists of rates and values were expected"
            ) from error
        return cls(rates, values, str(record.get("origin", "")))

    @property
    def _logs(self) -> NDArray[np.float64]:
        logs: NDArray[np.float64] = -np.log(np.asarray(self.rates))
        return logs


def calibrate(
    maps: Sequence[Field],
    healthy: Sequence[Mask],
    *,
    origin: str = "",
    rates: Sequence[float] = RATES,
) -> Calibration:
    """The distribution of scores in healthy tissue; every scan counts alike.

    Args:
        maps: of scores, one per scan.
        healthy: brain without any lesion, on the grid of each map.
        origin: who these are.
        rates: the rarest is left out where a scan has fewer than ten voxels beyond it.

    Raises:
        UsageError: no map, or one without healthy tissue.
    """
    if not maps or len(maps) != len(healthy):
        raise UsageError(
            f"{len(maps)} maps and {len(healthy)} masks came; at least one pair was expected"
        )
    counts = [int(mask.sum()) for mask in healthy]
    known = [rate for rate in rates if rate * min(counts) >= 10]
    if len(known) < 2:
        raise UsageError(
            f"{min(counts)} voxels of healthy tissue came; more are needed to know what is rare"
        )
    levels = 1 - np.asarray(known)
    found = [np.quantile(m[mask], levels) for m, mask in zip(maps, healthy, strict=True)]
    return Calibration(tuple(known), tuple(float(v) for v in np.mean(found, axis=0)), origin)


def own_calibration(scores: Field, brain: Mask) -> Calibration:
    """From the scan itself, for want of healthy ones: half of the brain is taken to be healthy.

    Scores of healthy tissue are taken to be absolute values of normal numbers, whose width the
    median tells; lesions over half of the brain would go unseen.

    Raises:
        UsageError: no brain, or scores that do not differ.
    """
    if not brain.any():
        raise UsageError("no voxel of brain came; some were expected to calibrate on")
    width = float(np.median(scores[brain])) / _MEDIAN
    if not width > 0:
        raise UsageError(
            "the median score of the brain is 0, which says nothing of its noise: give a model "
            "whose card has a calibration on healthy tissue"
        )
    from scipy.special import erfcinv

    values = tuple(float(width * math.sqrt(2) * erfcinv(rate)) for rate in RATES)
    return Calibration(RATES, values, "the scan itself, half of its brain taken to be healthy")
