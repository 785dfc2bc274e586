"""Losses: free functions, tensors in, scalar out."""

from __future__ import annotations

from medi2i.losses.adversarial import contest, deceive
from medi2i.losses.reconstruction import (
    absolute_error,
    aligned,
    squared_error,
    structural_dissimilarity,
)

__all__ = [
    "absolute_error",
    "aligned",
    "contest",
    "deceive",
    "squared_error",
    "structural_dissimilarity",
]
