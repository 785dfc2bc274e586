"""Penalties on a discriminator's gradient with respect to its images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty", "r1_penalty"]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """How far the critic's slope between real and fake images is from one.

    Gulrajani et al. 2017 (WGAN-GP), arXiv:1704.00028, equation 3. One random point is drawn on the
    line between each pair; a critic that gives a map of values is summed over the map first.

    Args:
        critic: images in, values out, of any shape; computes in full precision here.
        real, fake: (B, C, *spatial); neither gets a gradient.

    Returns:
        Scalar: mean over the batch of (norm of the gradient - 1) squared; differentiable with
        respect to the critic's parameters.
    """
    real, fake = real.detach().float(), fake.detach().float()
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    between = torch.lerp(fake, real, share).requires_grad_(True)
    with torch.autocast(real.device.type, enabled=False):
        slope = _slope(critic(between), between)
    distance: Tensor = slope.norm(dim=1) - 1
    return distance.square().mean()


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """How steep a discriminator is at real images.

    Mescheder et al. 2018, arXiv:1801.04406, equation 9 with gamma 1.

    Args:
        logits: what the discriminator says of `real`, of any shape.
        real: (B, C, *spatial), which must have required a gradient when `logits` were computed.

    Returns:
        Scalar: half the mean over the batch of the squared norm of the gradient.
    """
    return 0.5 * _slope(logits, real).square().sum(1).mean()


def _slope(values: Tensor, images: Tensor) -> Tensor:
    """(B, voxels): the gradient of the summed values, itself differentiable."""
    (gradient,) = torch.autograd.grad(values.sum(), images, create_graph=True)
    return gradient.flatten(1)
