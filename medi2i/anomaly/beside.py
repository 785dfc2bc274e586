"""All methods beside each other in one slice of a scan in which an expert drew lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medi2i.anomaly.find import anomalies_in
from medi2i.anomaly.intensity import HEALTHY_FLAIR
from medi2i.anomaly.table import BASELINE, AnomalyTable
from medi2i.anomaly.tissue import find_brain
from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.data.masks import expert_mask
from medi2i.data.registration import load_together
from medi2i.evaluation.scoring import unit_range
from medi2i.figures import sheet
from medi2i.model import Model

__all__ = ["by_dice", "draw_methods", "worst_and_best"]


def by_dice(table: AnomalyTable) -> dict[str, float]:
    """Mean Dice over all methods of each case with a lesion, the worst first."""
    gathered: dict[str, list[float]] = {}
    for row in table.rows:
        gathered.setdefault(row.case, []).append(row.scores["dice"])
    known = {case: float(np.mean(d)) for case, d in gathered.items() if np.isfinite(d).all()}
    return dict(sorted(known.items(), key=lambda item: item[1]))


def worst_and_best(
    subjects: Sequence[Subject],
    methods: Mapping[str, Model],
    table: AnomalyTable,
    *,
    device: str = "auto",
) -> dict[str, Image.Image]:
    """Pictures called "bad" and "good", as :func:`draw_methods`; none where nobody has a lesion.

    Args:
        subjects, methods: that `table` has the scores of.
        device: as elsewhere.
    """
    order = list(by_dice(table))
    named = {subject.name: subject for subject in subjects}
    ends = {"bad": order[0], "good": order[-1]} if order else {}
    return {
        name: draw_methods(named[case], methods, table, device=device)
        for name, case in ends.items()
    }


def draw_methods(
    subject: Subject, methods: Mapping[str, Model], table: AnomalyTable, *, device: str = "auto"
) -> Image.Image:
    """The slice with most of the lesion: healthy images, scores, and what was found, by method.

    Args:
        subject: with FLAIR, what the models take, and an expert's mask.
        methods: models by name; the baseline is added.
        table: has their thresholds, and their Dice on this scan.
        device: as elsewhere.
    """
    needed = (c for model in methods.values() for c in model.task.sources)
    scans = load_together(subject, tuple(dict.fromkeys((Contrast.FLAIR, *needed))))
    flair = scans[Contrast.FLAIR]
    drawn = expert_mask(subject, flair)
    lesions = np.zeros(flair.shape, bool) if drawn is None else drawn
    level = int(lesions.sum((0, 1)).argmax())
    low, high = np.percentile(flair.voxels[flair.voxels > 0], [0.5, 99.5])
    brain = find_brain(flair).mask
    images: dict[str, NDArray[Any]] = {"scan": unit_range(flair.voxels, flair.voxels > 0)}
    scores: dict[str, NDArray[Any]] = {"expert": lesions}
    marks: dict[str, NDArray[Any]] = {" ": np.zeros(flair.shape)}
    cuts = {one.method: one.threshold for one in table.methods}
    dice = {row.method: row.scores["dice"] for row in table.rows if row.case == subject.name}
    everybody: dict[str, Model | None] = {BASELINE: None, **methods}
    for name, model in everybody.items():
        own = (Contrast.FLAIR,) if model is None else model.task.sources
        found = anomalies_in(
            {c: scans[c] for c in own},
            model=model,
            calibration=HEALTHY_FLAIR,  # nobody asks for its threshold
            brain=brain,
            device=device,
        )
        images[name] = (
            np.zeros(flair.shape)
            if found.healthy is None
            else np.clip((found.healthy.voxels - low) / (high - low), 0, 1)
        )
        scores[f"{name} score"] = found.scores.voxels / (2 * cuts[name])  # grey: the threshold
        marks[f"{name} {dice[name]:.2f}"] = found.brain & (found.scores.voxels >= cuts[name])
    tiles = {name: image[:, :, level] for name, image in {**images, **scores, **marks}.items()}
    note = f"{subject.name}; above: pseudo-healthy images, SYNTHETIC; below, behind a name: Dice"
    return sheet(tiles, spacing=flair.spacing[:2], across=len(everybody) + 1, side=256, note=note)
