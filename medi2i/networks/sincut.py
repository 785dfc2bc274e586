"""SinCUT's networks for single images: StyleGAN2's layers without its styles.

Park et al. 2020, arXiv:2007.15651, appendix; layers of Karras et al. 2020, arXiv:1912.04958.
Weights are drawn from N(0, 1) and scaled where they are used, so that all learn at one rate.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.antialias import smoothed
from medi2i.networks.layers import check_dims

__all__ = ["SinCUTGenerator", "TileDiscriminator"]

KERNEL = (1, 3, 3, 1)


class Scaled(nn.Module):
    """A convolution with a weight scaled to keep variance; a blur before it where it halves.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        kernel: its side, odd.
        halve: the stride is 2.
        active: a bias and a leaky ReLU, times root 2, behind it; else neither.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        halve: bool = False,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[kernel] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs)) if active else None
        self.scale = 1 / math.sqrt(inputs * kernel**dims)
        self.dims, self.halve = dims, halve

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial or half of it)."""
        convolve = functional.conv2d if self.dims == 2 else functional.conv3d
        side = self.weight.shape[-1]
        if self.halve:
            more = side + 1
            pads = [(more + 1) // 2, more // 2] * self.dims
            x = smoothed(functional.pad(x, pads), KERNEL)
        weight = self.weight * self.scale
        x = convolve(x, weight, stride=2) if self.halve else convolve(x, weight, padding=side // 2)
        return x if self.bias is None else activated(x, self.bias)


class Doubling(nn.Module):
    """Double the size: a transposed convolution with weights of unit norm, a blur, and noise.

    The noise is one map for all channels, weighed by a number that learns, and only in training.
    """

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[3] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise = nn.Parameter(torch.zeros(1))
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *double)."""
        convolve = functional.conv_transpose2d if self.dims == 2 else functional.conv_transpose3d
        axes = list(range(1, self.weight.dim()))
        mean = self.weight.square().mean(axes, keepdim=True)
        weight = self.weight * torch.rsqrt(mean + 1e-8) / math.sqrt(self.weight[0].numel())
        x = convolve(x, weight.transpose(0, 1), stride=2)
        x = smoothed(functional.pad(x, [1, 1] * self.dims), KERNEL, gain=2.0)
        if self.training:
            x = x + self.noise * torch.randn_like(x[:, :1])
        return activated(x, self.bias)


class Block(nn.Module):
    """Two convolutions and a shortcut that is learned where it has to be; the sum over root 2."""

    def __init__(self, dims: int, inputs: int, outputs: int, *, halve: bool = False) -> None:
        super().__init__()
        self.conv1 = Scaled(dims, inputs, inputs, 3)
        self.conv2 = Scaled(dims, inputs, outputs, 3, halve=halve)
        self.skip: nn.Module = nn.Identity()
        if halve or inputs != outputs:
            self.skip = Scaled(dims, inputs, outputs, 1, halve=halve, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial or half of it)."""
        result: Tensor = (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)
        return result


class SinCUTGenerator(nn.Module):
    """The generator for single images; its output is not bounded.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        features: channels at full size, doubled by each halving up to 512.
        halvings: of the size.
        blocks: residual blocks at the smallest size on either side of the middle.

    `widths` are the channels behind each layer of the encoder.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: int = 80,
        halvings: int = 1,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.multiple = 2**halvings
        steps = list(pairwise(min(features * 2**level, 512) for level in range(halvings + 1)))
        wide = min(features * 2**halvings, 512)
        self.widths = [features, *(b for _, b in steps), *[wide] * blocks]
        self.encoder = nn.Sequential(
            Scaled(dims, inputs, features, 1),
            *(Block(dims, a, b, halve=True) for a, b in steps),
            *(Block(dims, wide, wide) for _ in range(blocks)),
        )
        self.decoder = nn.Sequential(
            *(Block(dims, wide, wide) for _ in range(blocks)),
            *(Doubling(dims, b, a) for a, b in reversed(steps)),
            Scaled(dims, features, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial), sizes multiples of `multiple` -> (B, outputs, *spatial)."""
        image: Tensor = self.decoder(self.encoder(x))
        return image

    def taps(self, x: Tensor, layers: Collection[int]) -> list[Tensor]:
        """The image itself, and what stands behind the named layers of the encoder, from 0."""
        seen = [x]
        for place in range(max(layers, default=-1) + 1):
            x = self.encoder[place](x)
            if place in layers:
                seen.append(x)
        return seen


class TileDiscriminator(nn.Module):
    """Judges an image tile by tile; what is left over at the far edges is not looked at.

    Args:
        dims: 2 or 3.
        inputs: channels.
        size: side of a tile, a power of two from 8 on.
        features: channels at full size, doubled by each halving up to 384.
    """

    def __init__(self, *, dims: int, inputs: int, size: int = 64, features: int = 32) -> None:
        super().__init__()
        check_dims(dims)
        depth = size.bit_length() - 1
        if size < 8 or size != 2**depth:
            raise UsageError(f"tiles of {size} voxels; a power of two, at least 8, was expected")
        self.size = size
        widths = [min(features * 2**level, 384) for level in range(depth - 1)]
        wide = widths[-1]
        self.convs = nn.Sequential(
            Scaled(dims, inputs, features, 1),
            *(Block(dims, a, b, halve=True) for a, b in pairwise(widths)),
            Scaled(dims, wide, wide, 3),
        )
        self.hidden = Scaled(dims, wide * 4**dims, wide, 1)
        self.head = Scaled(dims, wide, 1, 1, active=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B * tiles, 1, 1, ...) logits, high for real.

        Raises:
            UsageError: the image is smaller than a tile.
        """
        spatial = x.shape[2:]
        if min(spatial) < self.size:
            raise UsageError(
                f"images of {tuple(spatial)} voxels came, and the discriminator judges tiles of "
                f"{self.size}: set `size` to at most the training window"
            )
        for axis in range(2, x.dim()):
            count = x.shape[axis] // self.size
            x = torch.cat(x.narrow(axis, 0, count * self.size).chunk(count, axis))
        x = self.convs(x)
        x = x.reshape(len(x), -1, *[1] * len(spatial))
        logits: Tensor = self.head(self.hidden(x)) + self.bias
        return logits


def activated(x: Tensor, bias: Tensor) -> Tensor:
    """A leaky ReLU of x plus a number per channel, times root 2 to keep variance."""
    shifted = x + bias.reshape(-1, *[1] * (x.dim() - 2))
    return functional.leaky_relu(shifted, 0.2) * math.sqrt(2)
