"""How well a map of anomalies finds lesions: per image, per voxel; means with intervals.

Images: AUROC. Voxels: area under precision and recall, the best Dice and that at a threshold
chosen before, what is changed or found where nothing is wrong. Lesions: see `froc`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medi2i.errors import DimensionError, IntensityError, UsageError
from medi2i.evaluation.table import RESAMPLES, bootstrap_interval

__all__ = [
    "VoxelScores",
    "auprc",
    "auroc",
    "auroc_interval",
    "best_dice",
    "dice",
    "millilitres",
    "residual",
    "slice_scores",
    "summarise",
    "voxel_scores",
]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class VoxelScores:
    """One scan.

    Attributes:
        auprc: area under the curve of precision over recall; nan without a lesion.
        best_dice, best_threshold: at the threshold that suits this very scan, which only its truth
            tells: an upper bound. nan without a lesion.
        dice: at the threshold given; nan where neither a lesion is nor one was found.
        false_positive_ml: what is found outside every lesion.
        lesion_ml: volume of the truth.
    """

    auprc: float
    best_dice: float
    best_threshold: float
    dice: float
    false_positive_ml: float
    lesion_ml: float


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the receiver operating characteristic; ties count half.

    The share of all pairs of a diseased and a healthy image in which the diseased one scores
    higher (Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747).

    Args:
        scores: one per image, higher for more anomalous.
        labels: one per image, true for diseased.

    Raises:
        UsageError: not both kinds are there. DimensionError: unlike lengths.
        IntensityError: a score is not finite.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    values, truth = _flat(scores, labels)
    diseased, healthy = int(truth.sum()), int((~truth).sum())
    if not diseased or not healthy:
        raise UsageError(
            f"{diseased} diseased and {healthy} healthy images came; AUROC compares the two, so at "
            "least one of each was expected"
        )
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # the mean rank of equals, from 1
    return float((ranks[truth].sum() - diseased * (diseased + 1) / 2) / (diseased * healthy))


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    people: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES // 10,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The 2.5 and 97.5 percentiles of AUROC, people drawn anew with replacement.

    Args:
        people: whose each image is: slices of one person stay together; each its own by default.
        resamples: how often; a draw without both kinds does not count.
        seed: the same seed draws the same people.

    Returns:
        None for fewer than two people.

    Raises:
        As :func:`auroc`.
    """
    values, truth = _flat(scores, labels)
    names = np.arange(values.size) if people is None else np.asarray(people)
    if len(names) != values.size:
        raise DimensionError(f"{len(names)} people for {values.size} scores; as many were expected")
    auroc(values, truth)
    own = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(own) < 2:
        return None
    random = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = np.concatenate([own[i] for i in random.integers(0, len(own), len(own))])
        if 0 < truth[drawn].sum() < drawn.size:
            found.append(auroc(values[drawn], truth[drawn]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def auprc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Average precision: precision at each distinct score, weighted by the recall it adds.

    No line is drawn between the points of the curve, which would flatter.

    Returns:
        nan where nothing is true.

    >>> round(auprc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]), 4)
    0.8333
    """
    hits, found, total = _curve(*_flat(scores, truth))
    if not total:
        return math.nan
    gained = np.diff(np.concatenate(([0], hits)))
    return float((gained * (hits / found)).sum() / total)


def dice(found: ArrayLike, truth: ArrayLike) -> float:
    """Twice the overlap over the sum of the two; nan where both are empty.

    >>> dice([True, True, False], [False, True, True])
    0.5
    """
    one, other = np.asarray(found, bool), np.asarray(truth, bool)
    if one.shape != other.shape:
        raise DimensionError(f"the shapes {one.shape} and {other.shape} came; one grid is needed")
    size = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / size if size else math.nan


def best_dice(scores: ArrayLike, truth: ArrayLike) -> tuple[float, float]:
    """The highest Dice that any threshold reaches, and that threshold (found: at least it).

    Returns:
        (nan, nan) where nothing is true.

    >>> best_dice([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    (0.8, 0.35)
    """
    values, mask = _flat(scores, truth)
    hits, found, total = _curve(values, mask)
    if not total:
        return math.nan, math.nan
    curve = 2 * hits / (found + total)
    best = int(curve.argmax())
    return float(curve[best]), float(np.sort(values)[::-1][found[best] - 1])


def millilitres(mask: Mask, spacing: Spacing) -> float:
    """Volume of a mask, voxels of `spacing` mm."""
    return float(mask.sum() * math.prod(spacing) / 1000)


def residual(difference: Field, tissue: Mask, lesions: Mask | None = None) -> float:
    """Mean absolute difference in healthy tissue; 0 for a true fixed point.

    Args:
        difference: scan minus pseudo-healthy scan; the result has its unit.
        tissue: the brain.
        lesions: left out; None for a healthy scan.

    Raises:
        UsageError: no healthy tissue is left.
    """
    healthy = tissue if lesions is None else tissue & ~lesions
    if not healthy.any():
        raise UsageError("no tissue outside the lesions is left to measure what changed there")
    return float(np.abs(difference[healthy]).mean(dtype=np.float64))


def slice_scores(
    anomaly: Field, tissue: Mask, lesions: Mask, *, least: int = 1
) -> tuple[NDArray[np.float64], Mask]:
    """Scores and labels of the axial slices that show brain: the highest value in each.

    Args:
        anomaly: (X, Y, Z) on canonical axes, higher for more anomalous.
        tissue: where the highest value is looked for.
        lesions: the truth.
        least: voxels of lesion from which a slice is diseased; one with fewer, but not none, is
            left out.

    Returns:
        (N,) each.
    """
    count = lesions.sum((0, 1))
    shown = tissue.any((0, 1)) & ((count == 0) | (count >= least))
    highest = np.where(tissue, anomaly, -np.inf).max((0, 1))
    return highest[shown].astype(np.float64), (count >= least)[shown]


def voxel_scores(
    anomaly: Field, tissue: Mask, lesions: Mask, *, threshold: float, spacing: Spacing
) -> VoxelScores:
    """Scores of one scan's voxels; all that is outside the tissue counts as not found.

    Args:
        anomaly: (X, Y, Z), higher for more anomalous.
        tissue: the brain; a lesion outside it is missed.
        lesions: the truth.
        threshold: from which a voxel is found.
        spacing: mm.

    Raises:
        DimensionError: unlike shapes. IntensityError: a value is not finite.
    """
    shapes = {a.shape for a in (anomaly, tissue, lesions)}
    if len(shapes) > 1:
        raise DimensionError(f"the shapes {sorted(shapes)} came; one grid was expected")
    concerned = tissue | lesions  # the rest is neither found nor missed
    values, truth = anomaly[concerned].astype(np.float64), lesions[concerned]
    values[~tissue[concerned]] = min(float(values.min(initial=0.0)), threshold) - 1.0
    best, at = best_dice(values, truth)
    found = tissue & (anomaly >= threshold)
    return VoxelScores(
        auprc=auprc(values, truth),
        best_dice=best,
        best_threshold=at,
        dice=dice(found, lesions),
        false_positive_ml=millilitres(found & ~lesions, spacing),
        lesion_ml=millilitres(lesions, spacing),
    )


def summarise(
    scores: Sequence[VoxelScores], *, seed: int = 0
) -> Mapping[str, tuple[float, tuple[float, float] | None]]:
    """Mean over scans and its 95 % bootstrap interval, by name; scans without a value left out.

    Raises:
        UsageError: no scan.
    """
    if not scores:
        raise UsageError("the mean over no scan was asked for; give the scores of at least one")
    result = {}
    for name in asdict(scores[0]):
        column = [float(getattr(s, name)) for s in scores]
        known = [value for value in column if not math.isnan(value)]
        mean = float(np.mean(known)) if known else math.nan
        result[name] = (mean, bootstrap_interval(known, seed=seed))
    return result


def _flat(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], Mask]:
    values = np.asarray(scores, np.float64).ravel()
    truth = np.asarray(labels, bool).ravel()
    if values.size != truth.size:
        raise DimensionError(
            f"{values.size} scores and {truth.size} labels came; one label for each was expected"
        )
    if not np.isfinite(values).all():
        raise IntensityError("a score is not finite; real numbers were expected")
    return values, truth


def _curve(
    values: NDArray[np.float64], truth: Mask
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """True voxels found, voxels found, at each distinct score from the highest; all true ones."""
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(truth[order], dtype=np.int64)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], ordered.size > 0))
    return hits[last], last.astype(np.int64) + 1, int(truth.sum())
