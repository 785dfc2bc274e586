"""Scoring: named protocols, one pair or a table of methods and cases."""

from __future__ import annotations

from medi2i.evaluation.compare import Case, compare
from medi2i.evaluation.evaluate import evaluate
from medi2i.evaluation.lesions import LesionScores, expert_mask, lesion_scores
from medi2i.evaluation.overview import Overview, paired_test
from medi2i.evaluation.pointwise import PointwiseMap
from medi2i.evaluation.protocols import PROTOCOLS, Protocol, protocol
from medi2i.evaluation.scoring import Scores
from medi2i.evaluation.sparsification import Sparsification, sparsification
from medi2i.evaluation.table import Row, ScoreTable, Summary, bootstrap_interval
from medi2i.evaluation.through_plane import motion_residual, through_plane_ratio

__all__ = [
    "PROTOCOLS",
    "Case",
    "LesionScores",
    "Overview",
    "PointwiseMap",
    "Protocol",
    "Row",
    "ScoreTable",
    "Scores",
    "Sparsification",
    "Summary",
    "bootstrap_interval",
    "compare",
    "evaluate",
    "expert_mask",
    "lesion_scores",
    "motion_residual",
    "paired_test",
    "protocol",
    "sparsification",
    "through_plane_ratio",
]
