"""Lesions found, over false alarms per image: the free-response curve, as Fixed-Point GAN scores.

A map is cut at a threshold; each connected piece of what remains is a candidate. It finds the
lesion in which its centre lies, and is a false alarm where its centre lies in none (Rahman
Siddiquee et al. 2019, arXiv:1908.06965).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.errors import DimensionError, UsageError

__all__ = [
    "SMALL",
    "SMALLEST",
    "Froc",
    "Tally",
    "candidates",
    "centres",
    "cuts_of",
    "detections",
    "froc",
    "pieces",
    "small_lesions",
    "tally",
]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]

SMALLEST = 11
"""Voxels that a candidate has at least: the paper wants more than ten."""
SMALL = 0.1
"""Millilitres below which a lesion counts as small: less than 6 mm across."""


@dataclass(frozen=True)
class Froc:
    """A free-response curve.

    Attributes:
        thresholds: where the map was cut.
        sensitivity: share of all lesions found, at each.
        false_positives: per image, at each.
        lesions, images: how many there were.
    """

    thresholds: tuple[float, ...]
    sensitivity: tuple[float, ...]
    false_positives: tuple[float, ...]
    lesions: int
    images: int

    @classmethod
    def of(cls, tallies: Sequence[Tally], thresholds: Sequence[float]) -> Froc:
        """The curve over the images of several tallies, which were cut at the same thresholds.

        Raises:
            UsageError: no lesion in any.
        """
        total, images = (sum(getattr(t, n) for t in tallies) for n in ("lesions", "images"))
        if not total:
            raise UsageError("no image shows a lesion; sensitivity needs at least one")
        found = np.sum([t.found for t in tallies], axis=0) / total
        alarms = np.sum([t.alarms for t in tallies], axis=0) / images
        return cls(tuple(thresholds), tuple(found.tolist()), tuple(alarms.tolist()), total, images)

    def at(self, false_positives: float = 1.0) -> float:
        """The highest sensitivity with at most so many false alarms per image; 0 where none is."""
        allowed = (
            found
            for found, alarms in zip(self.sensitivity, self.false_positives, strict=True)
            if alarms <= false_positives
        )
        return max(allowed, default=0.0)


@dataclass(frozen=True, eq=False)
class Tally:
    """What was counted in the images of one map.

    Attributes:
        found, alarms: lesions found and false alarms, at each threshold.
        lesions, images: how many there were.
    """

    found: NDArray[np.int64]
    alarms: NDArray[np.int64]
    lesions: int
    images: int


def pieces(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Connected pieces, numbered from 1, and how many; corners connect (8 in 2-D, 26 in 3-D)."""
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return labels.astype(np.int32), int(count)


def candidates(mask: Mask, *, smallest: int = SMALLEST) -> tuple[NDArray[np.int32], int]:
    """The pieces of at least `smallest` voxels, numbered anew from 1, and how many."""
    labels, count = pieces(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = np.flatnonzero(sizes[1:] >= smallest) + 1
    renamed = np.zeros(count + 1, np.int32)
    renamed[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    return renamed[labels], len(kept)


def centres(labels: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """(count, axes): the mean place of each piece, in voxels."""
    if not count:
        return np.zeros((0, labels.ndim))
    found = ndimage.center_of_mass(np.ones(labels.shape), labels, np.arange(1, count + 1))
    return np.asarray(found, np.float64)


def detections(found: Mask, lesions: Mask, *, smallest: int = SMALLEST) -> tuple[int, int, int]:
    """Lesions found, false alarms and lesions in one image.

    Several candidates in one lesion find it once, and none of them is a false alarm.

    Args:
        found: what a threshold leaves; 2-D or 3-D.
        lesions: the truth.
        smallest: voxels of the smallest candidate.

    Raises:
        DimensionError: unlike shapes.
    """
    if found.shape != lesions.shape:
        raise DimensionError(
            f"the shapes {found.shape} and {lesions.shape} came; one grid was expected"
        )
    truth, count = pieces(lesions)
    return (*_hits(found, truth, smallest), count)


def _hits(found: Mask, truth: NDArray[np.int32], smallest: int) -> tuple[int, int]:
    """Lesions found, and false alarms, among numbered lesions."""
    labels, number = candidates(found, smallest=smallest)
    places = tuple(np.rint(centres(labels, number)).astype(int).T)
    hit = truth[places] if number else np.zeros(0, np.int32)
    return len(set(hit.tolist()) - {0}), int((hit == 0).sum())


def small_lesions(
    found: Mask, lesions: Mask, spacing: tuple[float, float, float], *, below: float = SMALL
) -> tuple[int, int]:
    """Small lesions of which any voxel is found, and how many there are.

    Args:
        found: what a threshold leaves of a scan, (X, Y, Z).
        lesions: the truth; its connected pieces are counted.
        spacing: mm.
        below: ml.
    """
    truth, count = pieces(lesions)
    volumes = np.bincount(truth.ravel(), minlength=count + 1) * (math.prod(spacing) / 1000)
    small = np.flatnonzero(volumes[1:] < below) + 1
    return int(np.isin(small, truth[found]).sum()), len(small)


def tally(
    values: Field,
    lesions: Mask,
    thresholds: Sequence[float],
    *,
    smallest: int = SMALLEST,
    sliced: bool = False,
) -> Tally:
    """Count in one map; see :func:`froc` for the arguments.

    Raises:
        DimensionError: unlike shapes.
    """
    found, alarms = np.zeros((2, len(thresholds)), np.int64)
    total = images = 0
    for image, here in _images([values], [lesions], sliced=sliced):
        truth, count = pieces(here)
        total, images = total + count, images + 1
        for place, cut in enumerate(thresholds):
            hits, false = _hits(image >= cut, truth, smallest)
            found[place] += hits
            alarms[place] += false
    return Tally(found, alarms, total, images)


def froc(
    maps: Sequence[Field],
    lesions: Sequence[Mask],
    *,
    thresholds: Sequence[float] | None = None,
    smallest: int = SMALLEST,
    sliced: bool = False,
) -> Froc:
    """The curve over all images.

    Args:
        maps: 2-D slices or 3-D volumes, higher for more anomalous; -inf outside the brain.
        lesions: the truth of each.
        thresholds: where to cut; by default fifty, from the highest value of all down to the
            median of what is finite, closer together where values are rare.
        smallest: voxels of the smallest candidate.
        sliced: take every axial slice of a volume as an image of its own.

    Raises:
        UsageError: no image, or no lesion in any. DimensionError: unlike shapes.
    """
    if len(maps) != len(lesions) or not maps:
        raise UsageError(
            f"{len(maps)} maps and {len(lesions)} masks came; at least one pair was expected"
        )
    cuts = cuts_of(maps) if thresholds is None else tuple(sorted(thresholds, reverse=True))
    return Froc.of(
        [
            tally(values, truth, cuts, smallest=smallest, sliced=sliced)
            for values, truth in zip(maps, lesions, strict=True)
        ],
        cuts,
    )


def _images(
    maps: Sequence[Field], lesions: Sequence[Mask], *, sliced: bool
) -> Iterator[tuple[Field, Mask]]:
    for values, truth in zip(maps, lesions, strict=True):
        if values.shape != truth.shape:
            raise DimensionError(
                f"the shapes {values.shape} and {truth.shape} came; one grid was expected"
            )
        if not sliced:
            yield values, truth
            continue
        shown = np.flatnonzero(np.isfinite(values).any((0, 1)))  # slices without brain are no image
        yield from ((values[..., z], truth[..., z]) for z in shown)


def cuts_of(maps: Sequence[Field]) -> tuple[float, ...]:
    """Fifty thresholds, falling, from the highest value of all to the median of what is finite.

    Raises:
        UsageError: no value is finite.
    """
    values = np.concatenate([m[np.isfinite(m)].ravel() for m in maps])
    if not values.size:
        raise UsageError("no map has a finite value; at least some brain was expected")
    levels = 1 - np.concatenate(([0.0], np.geomspace(1e-6, 0.5, 49)))
    return tuple(dict.fromkeys(float(q) for q in np.quantile(values, levels)))
