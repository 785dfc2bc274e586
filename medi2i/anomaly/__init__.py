"""Pseudo-healthy images, and what is not normal: found, localised, scored. For research only."""

from __future__ import annotations

from medi2i.anomaly.calibration import Calibration, calibrate
from medi2i.anomaly.change import pseudo_healthy
from medi2i.anomaly.evaluate import evaluate_anomalies
from medi2i.anomaly.find import Anomalies, find_anomalies
from medi2i.anomaly.froc import Froc, froc
from medi2i.anomaly.intensity import intensity_scores
from medi2i.anomaly.lesions import Lesion, lesion_table
from medi2i.anomaly.scoring import (
    VoxelScores,
    auprc,
    auroc,
    auroc_interval,
    best_dice,
    dice,
    slice_scores,
    summarise,
    voxel_scores,
)
from medi2i.anomaly.table import AnomalyTable

__all__ = [
    "Anomalies",
    "AnomalyTable",
    "Calibration",
    "Froc",
    "Lesion",
    "VoxelScores",
    "auprc",
    "auroc",
    "auroc_interval",
    "best_dice",
    "calibrate",
    "dice",
    "evaluate_anomalies",
    "find_anomalies",
    "froc",
    "intensity_scores",
    "lesion_table",
    "pseudo_healthy",
    "slice_scores",
    "summarise",
    "voxel_scores",
]
