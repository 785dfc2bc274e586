"""Whether a translation carries lesions: scores inside an expert's mask, beside the brain's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.data.masks import expert_mask
from medi2i.errors import DimensionError, UsageError

__all__ = ["LesionScores", "expert_mask", "lesion_scores"]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]

RING = (2.0, 8.0)
"""From where to where around a lesion its surroundings lie, mm."""


@dataclass(frozen=True)
class LesionScores:
    """One scan.

    Attributes:
        mae, brain_mae: mean absolute error inside the lesions and in the brain, relative to the
            range (0.5th to 99.5th percentile) of the acquired scan's brain.
        contrast: (mean of the lesions - mean of their surroundings) / standard deviation of the
            surroundings, in the synthetic scan.
        acquired_contrast: the same in the acquired scan.
    """

    mae: float
    brain_mae: float
    contrast: float
    acquired_contrast: float

    @property
    def carried(self) -> float:
        """Part of the acquired contrast-to-noise ratio that the synthetic scan has."""
        return self.contrast / self.acquired_contrast


def lesion_scores(
    synthetic: Field,
    acquired: Field,
    lesions: Mask,
    brain: Mask,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> LesionScores:
    """Scores inside lesions.

    Args:
        synthetic, acquired: (X, Y, Z) on one intensity scale.
        lesions: an expert's mask.
        brain: what counts as brain.
        spacing: mm.

    Raises:
        DimensionError: unlike shapes. UsageError: no lesion, or nothing around it.
    """
    shapes = {a.shape for a in (synthetic, acquired, lesions, brain)}
    if len(shapes) > 1:
        raise DimensionError(f"the shapes {sorted(shapes)} came; one grid was expected")
    inside = lesions & brain
    if not inside.any():
        raise UsageError("no voxel of the lesion mask lies in the brain")
    distance = ndimage.distance_transform_edt(~lesions, sampling=spacing)
    around = (distance > RING[0]) & (distance <= RING[1]) & brain
    if around.sum() < 10:
        raise UsageError("there are fewer than 10 voxels of brain around the lesions")
    low, high = np.percentile(acquired[brain], (0.5, 99.5))
    error = np.abs(np.asarray(synthetic, np.float64) - acquired) / max(high - low, 1e-12)

    def contrast(image: Field) -> float:
        ring = image[around].astype(np.float64)
        return float((image[inside].mean(dtype=np.float64) - ring.mean()) / max(ring.std(), 1e-12))

    return LesionScores(
        float(error[inside].mean()),
        float(error[brain].mean()),
        contrast(synthetic),
        contrast(acquired),
    )
