"""How far two images are in the eyes of a network: distances between its feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["feature_matching", "layered_distance"]


def layered_distance(
    fake: Sequence[Tensor], real: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """Weighted sum over layers of the mean absolute difference; no gradient to `real`."""
    return torch.stack(
        [
            weight * functional.l1_loss(ours, theirs.detach())
            for ours, theirs, weight in zip(fake, real, weights, strict=True)
        ]
    ).sum()


def feature_matching(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Feature matching over the discriminators of several scales.

    Wang et al. 2018, arXiv:1711.11585, equation 4, weighted as in the authors' code: 4 divided by
    the number of layers for each layer, so that the usual four count once each, and the mean over
    the scales.

    Args:
        fake, real: for every scale the discriminator's feature maps, without its logits.

    Returns:
        Scalar; 0 where the two agree. `real` gets no gradient.
    """
    scales = [
        layered_distance(ours, theirs, [4 / len(ours)] * len(ours))
        for ours, theirs in zip(fake, real, strict=True)
    ]
    return torch.stack(scales).mean()
