"""Between the levels of a flow: space into channels, and channels out as latents."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.invertible.layers import Invertible, for_each, zero
from medi2i.networks.layers import conv, fold, unfold

__all__ = ["FactorOut", "Squeeze", "Squeezing", "bent"]

Squeezing = Literal["haar", "fold"]

LARGEST = 3.0


def bent(log_deviation: Tensor) -> Tensor:
    """The logarithm of a predicted deviation, bent smoothly into (-3, 3).

    A background that is nearly constant would otherwise have no smallest deviation.
    """
    return LARGEST * torch.tanh(log_deviation / LARGEST)


class Squeeze(Invertible):
    """(B, C, *spatial) -> (B, C * 2**dims, *spatial / 2): space into channels; volume is kept.

    "fold" takes the voxels of each block as channels. "haar" takes their orthonormal Haar wavelet,
    low-pass of every channel first: neighbours then differ less by the place they stood at.
    """

    def __init__(self, kind: Squeezing = "haar") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`.

        Raises:
            UsageError: a spatial size is odd.
        """
        del condition
        if any(size % 2 for size in x.shape[2:]):
            raise UsageError(f"spatial size {tuple(x.shape[2:])} given; even numbers expected")
        y = fold(x, 2)
        if self.kind == "haar":
            places = y.unflatten(1, (x.shape[1], -1))  # (B, C, 2**dims, *spatial)
            bands = torch.einsum("sk,bck...->bsc...", _hadamard(x), places)
            y = bands.flatten(1, 2)
        return y, for_each(x.new_zeros(()), x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`."""
        del condition
        x = y
        if self.kind == "haar":
            matrix = _hadamard(y)
            bands = y.unflatten(1, (len(matrix), -1))
            x = torch.einsum("sk,bsc...->bck...", matrix, bands).flatten(1, 2)
        return unfold(x, 2), for_each(y.new_zeros(()), y)


class FactorOut(nn.Module):
    """Half of the channels leave as a latent, whitened by what the other half expects of them.

    latent = (out - mean(keep)) / deviation(keep): a standard normal latent means that `out` is
    normal with that mean and deviation. Starts with mean 0 and deviation 1, and stays there unless
    `expecting`.
    """

    def __init__(self, dims: int, channels: int, *, expecting: bool = True) -> None:
        super().__init__()
        self.expect: nn.Conv2d | nn.Conv3d | None = None
        if expecting:
            self.expect = conv(dims, channels // 2, channels, 3, padding=1)
            zero(self.expect)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, ...) -> what stays and the latent, (B, C / 2, ...) each; log |det|, (B,)."""
        keep, out = x.chunk(2, dim=1)
        mean, log_deviation = self.expected(keep)
        return keep, (out - mean) * (-log_deviation).exp(), -log_deviation.flatten(1).sum(1)

    def inverse(self, keep: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """What stayed and the latent -> (B, C, ...), and log |det| of that, (B,)."""
        mean, log_deviation = self.expected(keep)
        out = latent * log_deviation.exp() + mean
        return torch.cat([keep, out], dim=1), log_deviation.flatten(1).sum(1)

    def expected(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation, of the shape of `keep`."""
        if self.expect is None:
            return torch.zeros_like(keep), torch.zeros_like(keep)
        mean, raw = self.expect(keep).chunk(2, dim=1)
        return mean, bent(raw)


def _hadamard(like: Tensor) -> Tensor:
    """(2**dims, 2**dims), orthonormal and its own inverse; the first row is the mean."""
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=like.dtype, device=like.device)
    matrix = one
    for _ in range(like.dim() - 3):
        matrix = torch.kron(matrix, one)
    orthonormal: Tensor = matrix / len(matrix) ** 0.5
    return orthonormal
