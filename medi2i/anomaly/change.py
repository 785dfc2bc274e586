"""The scan as it would be without lesions, and what the difference says of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medi2i.anomaly.intensity import SIGMA
from medi2i.anomaly.tissue import smoothed
from medi2i.contrasts import Contrast
from medi2i.errors import ModelError
from medi2i.inference.engines import Engine, EngineName
from medi2i.inference.prepared import Prepared, Watch
from medi2i.model import Model
from medi2i.volume import Volume

__all__ = ["BRIGHT", "HEALTHY", "change_scores", "changed", "check_model", "pseudo_healthy"]

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

HEALTHY = "healthy"
"""The domain that a model is asked for."""
BRIGHT = frozenset({Contrast.FLAIR, Contrast.T2W})
"""Where lesions are bright, water being more in them: what a model made brighter is no lesion. Old
haemorrhages and what flows are dark, and missed."""


def check_model(model: Model) -> None:
    """Raise ModelError unless the model can be asked for a healthy image."""
    if HEALTHY not in model.task.domains:
        raise ModelError(
            f'model "{model.name}" turns {model.task}; one of domains, "{HEALTHY}" among them, was '
            "expected"
        )


def pseudo_healthy(
    model: Model,
    scans: Mapping[Contrast, Volume],
    *,
    device: str = "auto",
    batch_size: int | None = None,
    engine: EngineName = EngineName.TORCH,
    watch: Watch | None = None,
) -> tuple[Volume, dict[Contrast, Field], Engine]:
    """The (first) scan as it would be without lesions, and what changed.

    Args:
        scans: by contrast, in the order of the model's task.
        model, device, batch_size, engine, watch: as elsewhere.

    Returns:
        The pseudo-healthy scan in its own unit, for each contrast (X, Y, Z) image minus scan on
        the first one's grid as a share of the scan's range, and what ran the network.
    """
    contrast, scan = next(iter(scans.items()))
    ready = Prepared(model, scans, contrast, device=device, domain=HEALTHY, engine=engine)
    system = ready.system
    values = ready.through(
        lambda source, asked: system.translate(source, target=asked),
        kinds=model.task.outputs,
        what="every image",
        batch_size=batch_size,
        watch=watch,
    )
    halves = (volume.voxels * np.float32(0.5) for volume in ready.change(values))
    changes = dict(zip(scans, halves, strict=True))
    scaling = ready.scaling[str(contrast)]
    voxels = scan.voxels + changes[contrast] * np.float32(scaling.high - scaling.low)
    if scan.voxels.min() >= 0:
        voxels = np.maximum(voxels, 0)  # a magnitude image stays one
    return scan.like(voxels, name=""), changes, ready.engine


def changed(changes: Mapping[Contrast, Field]) -> Field:
    """Mean absolute change over the contrasts, as a share of the scan's range, (X, Y, Z)."""
    mean: Field = np.mean([np.abs(change) for change in changes.values()], axis=0)
    return mean


def change_scores(
    changes: Mapping[Contrast, Field], brain: Mask, spacing: tuple[float, float, float]
) -> Field:
    """How much of each voxel was taken away as a lesion: mean over the contrasts, smoothed.

    What was made darker counts in contrasts in which lesions are `BRIGHT`, in others all that was
    changed. The highest of single voxels is mostly noise; smoothing keeps what is larger.

    Args:
        changes: image minus scan, shares of the scan's range, (X, Y, Z).
        brain: where; 0 elsewhere.
        spacing: mm.
    """
    taken = {c: -np.minimum(v, 0) if c in BRIGHT else v for c, v in changes.items()}
    return smoothed(changed(taken), brain, SIGMA, spacing)
