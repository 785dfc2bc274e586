"""The baseline without learning: what is bright in FLAIR, brighter than healthy tissue ever is.

Histogram equalisation inside the brain makes any scanner's scale the same: a voxel's value becomes
the share of the brain that is darker. Smoothing takes single bright voxels away. On several data
sets such a threshold beats deep unsupervised methods (Meissen et al. 2021, arXiv:2109.06023).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medi2i.anomaly.calibration import RATES, Calibration
from medi2i.anomaly.tissue import smoothed
from medi2i.errors import UsageError

__all__ = ["HEALTHY_FLAIR", "SIGMA", "equalised", "intensity_scores"]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]

SIGMA = 1.0
"""Standard deviation of the smoothing, mm."""
HEALTHY_FLAIR = Calibration(
    RATES,
    (0.511, 0.648, 0.713, 0.765, 0.820, 0.852, 0.877, 0.903, 0.916, 0.927, 0.937, 0.943),
    "tissue more than 2 mm from the expert's lesions, FLAIR of openms MS07 and MS26 (CC BY)",
)
"""What healthy tissue scores; see `calibrate`."""


def equalised(image: Field, brain: Mask) -> NDArray[np.float32]:
    """Share of the brain that is darker, in (0, 1); equal values share their place; 0 outside.

    Raises:
        UsageError: no brain.

    >>> image = np.array([5.0, 7.0, 7.0, 100.0, 0.0])
    >>> equalised(image, image > 0).tolist()
    [0.125, 0.5, 0.5, 0.875, 0.0]
    """
    values = image[brain]
    if not values.size:
        raise UsageError("no voxel of brain came; its histogram cannot be equalised")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts / 2
    result = np.zeros(image.shape, np.float32)
    result[brain] = (below / values.size)[place]
    return result


def intensity_scores(
    flair: Field, brain: Mask, spacing: tuple[float, float, float], *, sigma: float = SIGMA
) -> NDArray[np.float32]:
    """Equalised, then smoothed within the brain: (X, Y, Z) in [0, 1), 0 outside.

    Args:
        flair: any unit.
        brain: the same grid.
        spacing, sigma: mm.
    """
    return smoothed(equalised(flair, brain), brain, sigma, spacing)
