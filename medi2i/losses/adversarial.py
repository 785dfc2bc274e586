"""What discriminators and those who try to deceive them minimise."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Game", "contest", "deceive"]

Game = Literal["vanilla", "least-squares"]


def contest(real: Tensor, fake: Tensor, game: Game = "vanilla") -> Tensor:
    """The discriminator's loss: real logits up, fake logits down, each weighing one half.

    Args:
        real, fake: logits of any shape.
        game: "vanilla" cross entropy (Goodfellow et al. 2014) or "least-squares"
            (Mao et al. 2017, arXiv:1611.04076).

    Returns:
        Scalar; ln 2 for logits of zero in the vanilla game.
    """
    return 0.5 * (_distance(real, True, game) + _distance(fake, False, game))


def deceive(fake: Tensor, game: Game = "vanilla") -> Tensor:
    """The generator's loss: fake logits up (the non-saturating form)."""
    return _distance(fake, True, game)


def _distance(logits: Tensor, real: bool, game: Game) -> Tensor:
    label = torch.full_like(logits, float(real))
    if game == "vanilla":
        return functional.binary_cross_entropy_with_logits(logits, label)
    return functional.mse_loss(logits, label)
