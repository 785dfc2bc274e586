"""Scoring: named protocols, one pair or a table of methods and cases."""

from __future__ import annotations

from medi2i.evaluation.compare import Case, compare
from medi2i.evaluation.evaluate import evaluate
from medi2i.evaluation.lesions import LesionScores, lesion_scores
from medi2i.evaluation.pointwise import PointwiseMap
from medi2i.evaluation.protocols import PROTOCOLS, Protocol, protocol
from medi2i.evaluation.scoring import Scores
from medi2i.evaluation.sparsification import Sparsification, sparsification
from medi2i.evaluation.table import Row, ScoreTable, Summary, bootstrap_interval

__all__ = [
    "PROTOCOLS",
    "Case",
    "LesionScores",
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
    "lesion_scores",
    "protocol",
    "sparsification",
]
