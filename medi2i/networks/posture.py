"""A small network that tells from a brain's shape alone whether it lies upright on its grid."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["PARTS", "PostureNet"]

PARTS = 10
"""Cells along each side of the box around a brain."""


class PostureNet(nn.Module):
    """Scores the outline of a brain: above 0 upright, below 0 turned, tipped or on its head.

    It sees how full each cell of the box around the brain is, and how long the box is
    (`inference.guards.posture.outlined`), so neither contrast, place nor grid matters.

    Args:
        hidden: width of the only hidden layer.
    """

    def __init__(self, *, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PARTS**3 + 3, hidden),
            nn.LeakyReLU(0.1),
            nn.Dropout(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, outlines: Tensor) -> Tensor:
        """(B, PARTS^3 + 3) outlines -> (B,)."""
        scores: Tensor = self.layers(outlines).squeeze(1)
        return scores
