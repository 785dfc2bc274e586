"""What a density is measured in: nats, nats per voxel, bits per dimension; and samples of it.

A density of continuous intensities has no bits of its own: they depend on the width of a bin. Here
256 equal bins span [-1, 1], as 8-bit images do. Never compare them across scalings of intensity,
nor with and without background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "bits_per_dimension",
    "dequantised",
    "log_standard_normal",
    "nats_per_voxel",
    "standard_normal",
]


def dequantised(x: Tensor, bins: int = 256) -> Tensor:
    """Uniform noise as wide as one of `bins` bins of [-1, 1], centred, from torch's random state.

    Without it the constant background of a scan could be given an endless density.
    """
    return x + (torch.rand_like(x) - 0.5) * (2 / bins) if bins else x


def log_standard_normal(latents: Sequence[Tensor]) -> Tensor:
    """(B,): log density of the latents together under N(0, I), in nats."""
    each = [-0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1) for z in latents]
    return torch.stack(each).sum(0)


def nats_per_voxel(log_density: Tensor, image: Tensor) -> Tensor:
    """(B,) log densities in nats -> (B,) negative log likelihood for each voxel of `image`."""
    return -log_density / image[0, 0].numel()


def bits_per_dimension(log_density: Tensor, image: Tensor, bins: int = 256) -> Tensor:
    """(B,) log densities in nats -> (B,) bits for each number of `image`, at a bin of 2 / bins.

    >>> flat = torch.tensor([-4 * math.log(2.0)])  # uniform over [-1, 1], 4 voxels
    >>> float(bits_per_dimension(flat, torch.zeros(1, 1, 2, 2)))
    8.0
    """
    nats = -log_density / image[0].numel() - math.log(2 / bins)
    return nats / math.log(2)


def standard_normal(
    shapes: Sequence[Sequence[int]], *, temperature: float = 1.0, like: Tensor | None = None
) -> list[Tensor]:
    """Latents from N(0, temperature**2 I), from torch's random state; all zero at 0."""
    device, dtype = (None, None) if like is None else (like.device, like.dtype)
    return [temperature * torch.randn(*shape, device=device, dtype=dtype) for shape in shapes]
