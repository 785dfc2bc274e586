"""Losses: free functions, tensors in, scalar out."""

from __future__ import annotations

from medi2i.losses.adversarial import contest, deceive
from medi2i.losses.features import feature_matching, layered_distance
from medi2i.losses.gradients import gradient_similarity_deviation
from medi2i.losses.latent import kl_from_standard_normal
from medi2i.losses.penalties import gradient_penalty, r1_penalty
from medi2i.losses.reconstruction import (
    absolute_error,
    aligned,
    laplace,
    squared_error,
    structural_dissimilarity,
)

__all__ = [
    "absolute_error",
    "aligned",
    "contest",
    "deceive",
    "feature_matching",
    "gradient_penalty",
    "gradient_similarity_deviation",
    "kl_from_standard_normal",
    "laplace",
    "layered_distance",
    "r1_penalty",
    "squared_error",
    "structural_dissimilarity",
]
