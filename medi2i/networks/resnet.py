"""Generators that halve, think in residual blocks, and double again.

Johnson et al. 2016, arXiv:1603.08155; with reflected edges and instance norm as in CycleGAN (Zhu
et al. 2017, arXiv:1703.10593). Every convolution before a norm keeps its bias, as there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from medi2i.networks.antialias import without_strides
from medi2i.networks.layers import check_dims, conv, norm

__all__ = ["Edge", "ResnetGenerator", "decoder", "encoder", "residual_function"]

Edge = Literal["reflect", "replicate"]
"""What stands beyond the edge of an image."""


class ResnetGenerator(nn.Module):
    """CycleGAN's generator; blind to the gain and offset of its input, as its paper's is.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        features: channels of the stem.
        blocks: residual blocks.
        halvings: strided convolutions on the way in.
        kernel: of the stem and the head, odd.
        edge: padding; 3-D reflection costs much time, so "replicate" is common there.
        antialiased: blur where the size halves, and double it by interpolation (CUT's generator).

    Every spatial size must be a multiple of :attr:`multiple`.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: int = 64,
        blocks: int = 9,
        halvings: int = 2,
        kernel: int = 7,
        edge: Edge = "reflect",
        antialiased: bool = False,
    ) -> None:
        super().__init__()
        wide = features * 2**halvings
        self.multiple = 2**halvings
        self.edge, self.margin = edge, kernel // 2
        self.encoder = encoder(dims, inputs, features, halvings=halvings, kernel=kernel, edge=edge)
        if antialiased:
            self.encoder = without_strides(self.encoder, edge)
        self.blocks = nn.ModuleList(
            residual_function(dims, wide, wide, edge=edge) for _ in range(blocks)
        )
        self.decoder = decoder(
            dims,
            features,
            outputs,
            halvings=halvings,
            kernel=kernel,
            edge=edge,
            interpolated=antialiased,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial) in (-1, 1)."""
        image: Tensor = self.decoder(self.deep(x))
        return image

    def deep(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, features * multiple, *spatial / multiple)."""
        x = self.encoder(x)
        for block in self.blocks:
            x = x + block(x)
        return x

    def taps(self, x: Tensor, blocks: Collection[int]) -> list[Tensor]:
        """What is seen on the way in: where CUT compares an image with its translation.

        Args:
            x: (B, inputs, *spatial).
            blocks: places of residual blocks, from 0.

        Returns:
            The image with its padding, each halving convolution before its norm, and what stands
            behind the named blocks. Blocks beyond the last named one are not computed.
        """
        seen = [functional.pad(x, [self.margin] * 2 * (x.dim() - 2), self.edge)]
        for place, layer in enumerate(self.encoder):
            x = layer(x)
            if place and isinstance(layer, nn.Conv2d | nn.Conv3d):
                seen.append(x)
        for place, block in enumerate(self.blocks[: max(blocks, default=-1) + 1]):
            x = x + block(x)
            if place in blocks:
                seen.append(x)
        return seen


def residual_function(
    dims: int, inputs: int, outputs: int, *, edge: Edge, first: bool = False
) -> nn.Sequential:
    """Two convolutions with instance norm: what residual generators add and RevGAN couples with.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        edge: padding.
        first: norm before each convolution (RevGAN's 3-D order) instead of behind it.
    """
    check_dims(dims)
    once, again = (_padded(dims, inputs, wide, 3, edge) for wide in (inputs, outputs))
    if first:
        return nn.Sequential(_norm(dims, inputs), once, _norm(dims, inputs), nn.ReLU(), again)
    return nn.Sequential(once, _norm(dims, inputs), nn.ReLU(), again, _norm(dims, outputs))


def encoder(
    dims: int, inputs: int, features: int, *, halvings: int, kernel: int, edge: Edge
) -> nn.Sequential:
    """(B, inputs, *spatial) -> (B, features * 2**halvings, *spatial / 2**halvings).

    A wide convolution, then strided ones; each with norm and ReLU.
    """
    parts = [_padded(dims, inputs, features, kernel, edge), _norm(dims, features), nn.ReLU()]
    for wide in (features * 2**level for level in range(1, halvings + 1)):
        down = conv(dims, wide // 2, wide, 3, stride=2, padding=1)
        parts += [down, _norm(dims, wide), nn.ReLU()]
    return nn.Sequential(*parts)


def decoder(
    dims: int,
    features: int,
    outputs: int,
    *,
    halvings: int,
    kernel: int,
    edge: Edge,
    interpolated: bool = False,
) -> nn.Sequential:
    """(B, features * 2**halvings, *spatial) -> (B, outputs, *spatial * 2**halvings) in (-1, 1).

    The size is doubled by transposed convolutions, or by linear interpolation before plain ones.
    """
    transpose = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    mode = "bilinear" if dims == 2 else "trilinear"
    parts: list[nn.Module] = []
    for wide in (features * 2**level for level in reversed(range(halvings))):
        if interpolated:
            parts += [
                nn.Upsample(scale_factor=2, mode=mode),
                conv(dims, 2 * wide, wide, 3, padding=1),
            ]
        else:
            parts.append(transpose(2 * wide, wide, 3, stride=2, padding=1, output_padding=1))
        parts += [_norm(dims, wide), nn.ReLU()]
    return nn.Sequential(*parts, _padded(dims, features, outputs, kernel, edge), nn.Tanh())


def _padded(dims: int, inputs: int, outputs: int, kernel: int, edge: Edge) -> nn.Module:
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(inputs, outputs, kernel, padding=kernel // 2, padding_mode=edge)


def _norm(dims: int, channels: int) -> nn.Module:
    return norm("instance", dims, channels, affine=False)
