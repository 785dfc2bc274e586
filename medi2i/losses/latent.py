"""Losses on latent codes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["kl_from_standard_normal"]


def kl_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, 1).

    Kingma & Welling 2014, arXiv:1312.6114, appendix B.

    Args:
        mean, log_variance: of independent normals, same shape.

    Returns:
        Scalar in nats: the sum over the whole batch, as BicycleGAN and its kin weigh it. 0 for
        mean 0 and log variance 0.
    """
    digits = torch.promote_types(mean.dtype, torch.float32)
    mean, log_variance = mean.to(digits), log_variance.to(digits)
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
