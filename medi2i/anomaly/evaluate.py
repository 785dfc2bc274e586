"""Methods side by side on scans in which an expert drew lesions, always beside the baseline.

Every scan is looked at as ``medi2i anomaly`` would, in the same brain for all methods. An image is
an axial slice where images are counted (AUROC, FROC), a scan where voxels are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medi2i.anomaly.calibration import Calibration
from medi2i.anomaly.change import check_model
from medi2i.anomaly.find import Anomalies, anomalies_in
from medi2i.anomaly.froc import Froc, Tally, cuts_of, small_lesions, tally
from medi2i.anomaly.intensity import HEALTHY_FLAIR
from medi2i.anomaly.scoring import (
    auroc,
    auroc_interval,
    residual,
    slice_scores,
    voxel_scores,
)
from medi2i.anomaly.table import BASELINE, AnomalyRow, AnomalyTable, MethodScores
from medi2i.anomaly.tissue import find_brain
from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.data.masks import expert_mask
from medi2i.data.registration import load_together
from medi2i.errors import InputError, UsageError
from medi2i.evaluation.table import RESAMPLES, bootstrap_interval
from medi2i.formats.names import without_folders
from medi2i.metrics import bounding_box
from medi2i.model import Model
from medi2i.volume import Volume

__all__ = ["Look", "common_threshold", "evaluate_anomalies", "score_looks"]

Mask = NDArray[np.bool_]
Interval = tuple[float, float] | None

LEAST = 11
"""Voxels of lesion from which a slice is diseased; with fewer, but some, it does not count."""


@dataclass(frozen=True, eq=False)
class Look:
    """What one method made of one scan, beside the expert's mask; cut to the brain.

    Attributes:
        case: whose scan.
        scores: (X, Y, Z) on canonical axes, higher for more anomalous.
        brain: where was looked. lesions: the truth; nothing in a healthy scan.
        spacing: mm.
        threshold: from which a voxel counts by the method's own calibration.
        changed: how far the image differs from the scan, a share of its range; None without one.
    """

    case: str
    scores: NDArray[np.float32]
    brain: Mask
    lesions: Mask
    spacing: tuple[float, float, float]
    threshold: float
    changed: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, case: str, found: Anomalies, lesions: Mask) -> Look:
        """From what was found in a canonical scan; `lesions` on its grid."""
        box = bounding_box(found.brain | lesions)
        return cls(
            case,
            np.asarray(found.scores.voxels[box], np.float32),
            found.brain[box].copy(),
            lesions[box].copy(),
            found.scores.spacing,
            found.threshold,
            None if found.changed is None else found.changed[box].copy(),
        )


def evaluate_anomalies(
    subjects: Sequence[Subject],
    methods: Mapping[str, Model],
    *,
    tuning: Sequence[Subject] = (),
    threshold: float | None = None,
    healthy: bool = False,
    device: str = "auto",
    seed: int = 0,
    watch: Callable[[str], None] | None = None,
) -> AnomalyTable:
    """Look at every subject with every method, and score.

    Args:
        subjects: with FLAIR, which the baseline judges, and what the models take; those without
            an expert's mask are left out, with a note.
        methods: models by name; the baseline is added.
        tuning: people on whom each method's threshold for Dice is chosen, the one with the highest
            mean; without any, the method's own, for 0.1 % of healthy tissue.
        threshold: for Dice, instead; on the scale of each method's scores.
        healthy: whether who has no mask is healthy.
        device: as elsewhere.
        seed: of the bootstrap, which draws people.
        watch: is called with the name of each person before the work.

    Raises:
        UsageError: a threshold and people to choose it on; a method named like the baseline;
            nobody can be scored. ModelError: a model cannot be asked for a healthy image.
    """
    if threshold is not None and tuning:
        raise UsageError("a threshold and people to choose it on came; one of the two was expected")
    if BASELINE in methods:
        raise UsageError(f'a method cannot be named "{BASELINE}", as the baseline is')
    for model in methods.values():
        check_model(model)
    everybody: dict[str, Model | None] = {BASELINE: None, **methods}
    notes: list[str] = []
    # where the threshold comes from elsewhere, nobody asks what healthy tissue scores
    known = HEALTHY_FLAIR if tuning or threshold is not None else None

    def seen(people: Sequence[Subject]) -> dict[str, list[Look]]:
        looks: dict[str, list[Look]] = {name: [] for name in everybody}
        for subject in people:
            if watch is not None:
                watch(subject.name)
            try:
                for name, look in _looks(subject, everybody, known, healthy, device):
                    looks[name].append(look)
            except InputError as error:
                said = without_folders(str(error)).rstrip(".")
                notes.append(f"{subject.name} is left out: {said}.")
        return looks

    looks = seen(subjects)
    if not looks[BASELINE]:
        raise UsageError(f"nobody can be scored. {' '.join(notes)}")
    same = {id(s) for s in tuning} == {id(s) for s in subjects}
    tuned = looks if same else seen(tuning) if tuning else {}
    rows: list[AnomalyRow] = []
    scored: list[MethodScores] = []
    for name, own in looks.items():
        cut = common_threshold(tuned[name]) if tuning else threshold
        some, summary = score_looks(name, own, cut, seed=seed)
        rows += some
        scored.append(summary)
    notes.append(_chosen(threshold, len(tuning), same=same))
    if total := sum(int(look.lesions.sum()) for look in looks[BASELINE]):
        inside = sum(int((look.lesions & look.brain).sum()) for look in looks[BASELINE]) / total
        notes.append(
            f"{100 * inside:.0f} % of the lesions' volume lies in the brain as it is seen; "
            "all methods miss the rest."
        )
    return AnomalyTable(tuple(rows), tuple(scored), tuple(notes), seed)


def _chosen(threshold: float | None, people: int, *, same: bool) -> str:
    """How the threshold for Dice came about."""
    if threshold is not None:
        return f"Dice is at a score of {threshold:g}."
    if not people:
        return "Dice is where 0.1 % of healthy tissue counts, by each method's own calibration."
    if same:
        return (
            "Dice is at the threshold with the highest mean Dice of these very scans, which "
            "flatters."
        )
    return f"Dice is at the threshold with the highest mean Dice of {people} other people."


def _looks(
    subject: Subject,
    methods: Mapping[str, Model | None],
    known: Calibration | None,
    healthy: bool,
    device: str,
) -> list[tuple[str, Look]]:
    """One person by every method, on the grid of FLAIR; the brain is found once.

    Raises:
        InputError: no mask, or no brain.
    """
    needed = [c for model in methods.values() if model is not None for c in model.task.sources]
    scans = load_together(subject, tuple(dict.fromkeys((Contrast.FLAIR, *needed))))
    flair: Volume = scans[Contrast.FLAIR]
    lesions = expert_mask(subject, flair)
    if lesions is None:
        if not healthy:
            raise InputError("no expert's mask lies beside its scans")
        lesions = np.zeros(flair.shape, bool)
    brain = find_brain(flair).mask
    result = []
    for name, model in methods.items():
        own = (Contrast.FLAIR,) if model is None else model.task.sources
        found = anomalies_in(
            {c: scans[c] for c in own}, model=model, calibration=known, brain=brain, device=device
        )
        result.append((name, Look.of(subject.name, found, lesions)))
    return result


def common_threshold(looks: Sequence[Look]) -> float:
    """The one threshold at which the mean Dice of all scans with a lesion is highest.

    Raises:
        UsageError: no scan has one.
    """
    ill = [look for look in looks if look.lesions.any()]
    if not ill:
        raise UsageError("nobody has a lesion to choose a threshold on; at least one was expected")
    inside = [np.sort(look.scores[look.brain]) for look in ill]
    hits = [np.sort(look.scores[look.brain & look.lesions]) for look in ill]
    levels = 1 - np.geomspace(1e-4, 0.5, 400)
    cuts = np.unique(np.quantile(np.concatenate(inside), levels))
    total = np.zeros(len(cuts))
    for look, values, true in zip(ill, inside, hits, strict=True):
        found = values.size - np.searchsorted(values, cuts)
        hit = true.size - np.searchsorted(true, cuts)
        total += 2 * hit / (found + look.lesions.sum())
    return float(cuts[total.argmax()])


def score_looks(
    method: str, looks: Sequence[Look], threshold: float | None = None, *, seed: int = 0
) -> tuple[list[AnomalyRow], MethodScores]:
    """The scores of one method: of each scan, and of all.

    Args:
        method: its name.
        looks: at least one.
        threshold: for Dice; None takes each look's own.
        seed: of the bootstrap over people.
    """
    rows = []
    for look in looks:
        cut = look.threshold if threshold is None else threshold
        voxels = voxel_scores(
            look.scores, look.brain, look.lesions, threshold=cut, spacing=look.spacing
        )
        ill = bool(look.lesions.any())
        found = look.brain & (look.scores >= cut)
        hit, small = small_lesions(found, look.lesions, look.spacing)
        scores = {
            "auprc": voxels.auprc,
            "best_dice": voxels.best_dice,
            "dice": voxels.dice if ill else float("nan"),
            "small_found": hit / small if small else float("nan"),
            **_change(look),
            "false_positive_ml": voxels.false_positive_ml,
            "lesion_ml": voxels.lesion_ml,
            "small_lesions": small,
        }
        rows.append(AnomalyRow(look.case, method, scores))
    mean: dict[str, float] = {}
    interval: dict[str, Interval] = {}
    for name in rows[0].scores:
        known = [row.scores[name] for row in rows if np.isfinite(row.scores[name])]
        mean[name] = float(np.mean(known)) if known else float("nan")
        interval[name] = bootstrap_interval(known, seed=seed)
    mean["auroc"], interval["auroc"] = _images(looks, seed)
    curve, mean["sensitivity"], interval["sensitivity"] = _lesions(looks, seed)
    usual = float(np.mean([look.threshold for look in looks]))
    cut = usual if threshold is None else threshold
    return rows, MethodScores(method, len(looks), mean, interval, cut, curve)


def _change(look: Look) -> dict[str, float]:
    """What the image changes by where nothing is wrong, and how much more it does in lesions."""
    rest = look.brain & ~look.lesions
    if look.changed is None or not rest.any():
        return {"residual": float("nan"), "inside_outside": float("nan")}
    outside = residual(look.changed, rest)
    there = look.brain & look.lesions
    inside = residual(look.changed, there) if there.any() else float("nan")
    return {"residual": outside, "inside_outside": inside / max(outside, 1e-12)}


def _images(looks: Sequence[Look], seed: int) -> tuple[float, Interval]:
    """AUROC over slices, and its interval."""
    found = [slice_scores(k.scores, k.brain, k.lesions, least=LEAST) for k in looks]
    scores = np.concatenate([s for s, _ in found])
    labels = np.concatenate([truth for _, truth in found])
    people = [k.case for k, (s, _) in zip(looks, found, strict=True) for _ in s]
    if labels.all() or not labels.any():
        return float("nan"), None
    return auroc(scores, labels), auroc_interval(scores, labels, people, seed=seed)


def _lesions(looks: Sequence[Look], seed: int) -> tuple[Froc | None, float, Interval]:
    """The free-response curve over slices, its sensitivity at one false alarm, the interval."""
    maps = [np.where(look.brain, look.scores, -np.inf) for look in looks]
    cuts = cuts_of(maps)
    counted = [
        tally(m, look.lesions, cuts, sliced=True) for m, look in zip(maps, looks, strict=True)
    ]
    if not any(t.lesions for t in counted):
        return None, float("nan"), None
    curve = Froc.of(counted, cuts)
    if len(counted) < 2:
        return curve, curve.at(1.0), None
    random = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(RESAMPLES // 10):
        some: list[Tally] = [counted[i] for i in random.integers(0, len(counted), len(counted))]
        if any(t.lesions for t in some):
            drawn.append(Froc.of(some, cuts).at(1.0))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return curve, curve.at(1.0), (float(low), float(high))
