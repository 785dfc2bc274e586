"""What is not normal in a scan: against its pseudo-healthy image, or by intensity alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.anomaly.calibration import Calibration, own_calibration
from medi2i.anomaly.change import change_scores, changed, check_model, pseudo_healthy
from medi2i.anomaly.intensity import HEALTHY_FLAIR, intensity_scores
from medi2i.anomaly.lesions import Lesion, find_lesions
from medi2i.anomaly.table import BASELINE
from medi2i.anomaly.tissue import Brain, eroded, find_brain, is_stripped
from medi2i.choices import called
from medi2i.contrasts import Contrast
from medi2i.errors import ConfigError, ContrastError, DimensionError, ModelError, UsageError
from medi2i.inference.engines import EngineName
from medi2i.inference.guards import guarded
from medi2i.inference.prepared import Watch
from medi2i.inference.translate import Scans, by_contrast, load_scans
from medi2i.model import Model
from medi2i.volume import Volume
from medi2i.zoo import load_model

__all__ = [
    "CARD",
    "RATE",
    "SHIPPED",
    "SMALLEST",
    "Anomalies",
    "anomalies_in",
    "find_anomalies",
    "model_called",
]

Mask = NDArray[np.bool_]

SHIPPED = "healthy"
"""The model that comes with medi2i: FLAIR as it would be without lesions."""
RATE = 0.001
"""Share of healthy tissue that may be taken for a lesion."""
SMALLEST = 30.0
"""mm3 that a lesion has at least."""
RIM = 2.0
"""mm at the brain's surface that do not count: there partial volumes change, and where the skull is
still on, a mask that reaches too far takes bone and fat for something bright."""
LIKELY = 0.5
"""Probability of the contrast that was named, by the image, below which a warning says so: what is
bright in a scan of another contrast is no lesion."""
CARD = "calibration"
"""Where a model's card holds what healthy tissue scores; see :class:`Calibration`."""


@dataclass(frozen=True, eq=False)
class Anomalies:
    """What was found in one scan; every volume lies on its grid.

    Attributes:
        method: "intensity", or the model's name.
        scores: higher for more anomalous, 0 outside the brain. Of a model: see
            :func:`change_scores`; of intensity: share of the brain that is darker.
        probability: share of healthy tissue that scores lower, in [0, 1]; at least `1 - rate` in
            lesions.
        labels: the lesions by number, 0 elsewhere.
        lesions: the largest first.
        score: of the whole image: the highest of `scores`.
        threshold, rate: from which score a voxel counts, and the share of healthy tissue there.
        smallest: mm3 of the smallest lesion.
        calibration: from which the threshold comes.
        brain: where was looked.
        healthy, difference: the pseudo-healthy scan and scan minus it, in the scan's unit; None
            without a model.
        changed: (X, Y, Z), see :func:`medi2i.anomaly.change.changed`; None without a model.
        engine: what ran the network, if one did.
        warnings: sentences for the side-car.
    """

    method: str
    scores: Volume
    probability: Volume
    labels: Volume
    lesions: tuple[Lesion, ...]
    score: float
    threshold: float
    rate: float
    smallest: float
    calibration: Calibration
    brain: Mask
    healthy: Volume | None = None
    difference: Volume | None = None
    changed: NDArray[np.float32] | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find_anomalies(
    scan: Scans,
    *,
    source: str | Contrast | None = None,
    model: Model | str | Path = SHIPPED,
    rate: float = RATE,
    smallest: float = SMALLEST,
    calibration: Calibration | None = None,
    brain: Mask | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    engine: str | EngineName = EngineName.AUTO,
) -> Anomalies:
    """Look for what is not normal.

    Args:
        scan: a volume or a path; several, or a mapping from contrast to scan, for a model that
            takes several contrasts.
        source: the contrast of `scan`, where its name or side-car does not say.
        model: makes the pseudo-healthy image: a model, the name of a shipped or installed one, or
            its folder. "intensity" judges FLAIR by its brightness alone.
        rate: share of healthy tissue that may be taken for a lesion.
        smallest: mm3 that a lesion has at least.
        calibration: what healthy tissue scores; by default the model's own, or that of the
            baseline. For want of any, the scan itself serves, with a warning.
        brain: where to look, on the grid of the (first) scan; found by default.
        device, batch_size, engine: as in :func:`medi2i.translate`.

    Raises:
        ContrastError: the model, or the baseline, does not take this contrast.
        InputError: a scan cannot be used, or shows no brain. ModelError: the model cannot.
        UsageError: `rate` is outside of what was calibrated.
    """
    return anomalies_in(
        load_scans(by_contrast(scan, source)),
        model=model if isinstance(model, Model) else model_called(model),
        rate=rate,
        smallest=smallest,
        calibration=calibration,
        brain=brain,
        device=device,
        batch_size=batch_size,
        engine=called("engine", engine, EngineName),
    )


def anomalies_in(
    scans: Mapping[Contrast, Volume],
    *,
    model: Model | None = None,
    rate: float = RATE,
    smallest: float = SMALLEST,
    calibration: Calibration | None = None,
    brain: Mask | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    engine: EngineName = EngineName.TORCH,
    watch: Watch | None = None,
) -> Anomalies:
    """Look for what is not normal in loaded scans of known contrasts; see :func:`find_anomalies`.

    Args:
        model: loaded; None for intensity alone.
        watch: called with (windows done, windows in all).
    """
    if not smallest >= 0:
        raise UsageError(f"the smallest lesion is {smallest:g} mm3; at least 0 was expected")
    if model is not None:
        check_model(model)
        wanted = {c: scans[c] for c in model.task.sources if c in scans}
        scans = wanted if len(wanted) == model.task.inputs else scans  # else Prepared complains
    elif set(scans) != {Contrast.FLAIR}:
        raise ContrastError(
            f"intensity alone finds lesions in FLAIR, where they are bright; {_names(scans)} came: "
            "name a model of them with --model (in Python: model=)"
        )
    contrast, scan = next(iter(scans.items()))
    warnings: list[str] = []
    seen: Brain | None = None
    if brain is None:
        seen = find_brain(scan)
        brain = seen.mask
        warnings += guarded(scan, seen.unseen or seen.glance, contrast, least=LIKELY)
    elif brain.shape != scan.shape:
        raise DimensionError(f"a brain of shape {brain.shape} came; {scan.shape} was expected")
    if not brain.any():
        raise UsageError("the brain's mask is empty; somewhere to look was expected")
    if model is not None or not (is_stripped(scan, brain) if seen is None else seen.stripped):
        brain = eroded(brain, RIM, scan.spacing)
    healthy = difference = amount = ran = None
    if model is None:
        scores = intensity_scores(scan.voxels, brain, scan.spacing)
        known = calibration or HEALTHY_FLAIR
    else:
        healthy, changes, ran = pseudo_healthy(
            model, scans, device=device, batch_size=batch_size, engine=engine, watch=watch
        )
        warnings += ran.warnings
        difference = scan.like(scan.voxels - healthy.voxels, name="")
        amount = changed(changes)
        scores = change_scores(changes, brain, scan.spacing)
        known = calibration or _of_card(model) or own_calibration(scores, brain)
        if not (calibration or CARD in model.card):
            warnings.append(
                f'model "{model.name}" has no calibration on healthy tissue: the threshold is that '
                f"of {known.origin}"
            )
    threshold = known.threshold(rate)
    found = brain & (scores >= threshold)
    labels, lesions = find_lesions(scores, found, scan.affine, smallest=smallest)
    probability = np.where(brain, known.probability(scores), 0)
    return Anomalies(
        method="intensity" if model is None else model.name,
        scores=scan.like(scores, name=""),
        probability=scan.like(probability, name=""),
        labels=scan.like(labels, name=""),
        lesions=lesions,
        score=float(scores[brain].max(initial=0.0)),
        threshold=threshold,
        rate=rate,
        smallest=smallest,
        calibration=known,
        brain=brain,
        healthy=healthy,
        difference=difference,
        changed=amount,
        engine=ran.record() if ran else {},
        warnings=tuple(warnings),
    )


def model_called(name: str | Path) -> Model | None:
    """A model that makes healthy images, by its name or folder; None for "intensity".

    Raises:
        ModelError: there is none, or it cannot be asked for a healthy image.
    """
    if str(name) == BASELINE:
        return None
    model = load_model(name)
    check_model(model)
    return model


def _of_card(model: Model) -> Calibration | None:
    """What the model's card says healthy tissue scores."""
    record = model.card.get(CARD)
    if record is None:
        return None
    if not isinstance(record, Mapping):
        raise ModelError(
            f'{CARD} in the card of model "{model.name}" is {record!r}; an object was expected'
        )
    try:
        return Calibration.from_dict(record)
    except ConfigError as error:
        raise ModelError(f'{CARD} in the card of model "{model.name}": {error}') from error


def _names(scans: Mapping[Contrast, Volume]) -> str:
    return " + ".join(map(str, scans)) or "nothing"
