"""The adversarial losses of discriminators that look at several scales, summed over the scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medi2i.losses.adversarial import Game, contest, deceive

__all__ = ["contested", "deceived"]


def contested(real: Sequence[Tensor], fake: Sequence[Tensor], game: Game) -> Tensor:
    """The discriminator's loss: at each scale real up plus fake down, whole, without the half.

    Args:
        real, fake: logits by scale, of any shapes.
        game: see :func:`losses.contest`.
    """
    scales = [2 * contest(r, f, game) for r, f in zip(real, fake, strict=True)]
    return torch.stack(scales).sum()


def deceived(fake: Sequence[Tensor], game: Game) -> Tensor:
    """The generator's loss: at each scale fake logits up."""
    return torch.stack([deceive(logits, game) for logits in fake]).sum()
