"""Generators that halve, think in residual blocks, and double again.

Johnson et al. 2016, arXiv:1603.08155; with reflected edges and instance norm as in CycleGAN (Zhu
et al. 2017, arXiv:1703.10593). Every convolution before a norm keeps its bias, as there.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

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
    ) -> None:
        super().__init__()
        wide = features * 2**halvings
        self.multiple = 2**halvings
        self.encoder = encoder(dims, inputs, features, halvings=halvings, kernel=kernel, edge=edge)
        self.blocks = nn.ModuleList(
            residual_function(dims, wide, wide, edge=edge) for _ in range(blocks)
        )
        self.decoder = decoder(dims, features, outputs, halvings=halvings, kernel=kernel, edge=edge)

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
    dims: int, features: int, outputs: int, *, halvings: int, kernel: int, edge: Edge
) -> nn.Sequential:
    """(B, features * 2**halvings, *spatial) -> (B, outputs, *spatial * 2**halvings) in (-1, 1)."""
    transpose = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    parts: list[nn.Module] = []
    for wide in (features * 2**level for level in reversed(range(halvings))):
        up = transpose(2 * wide, wide, 3, stride=2, padding=1, output_padding=1)
        parts += [up, _norm(dims, wide), nn.ReLU()]
    return nn.Sequential(*parts, _padded(dims, features, outputs, kernel, edge), nn.Tanh())


def _padded(dims: int, inputs: int, outputs: int, kernel: int, edge: Edge) -> nn.Module:
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(inputs, outputs, kernel, padding=kernel // 2, padding_mode=edge)


def _norm(dims: int, channels: int) -> nn.Module:
    return norm("instance", dims, channels, affine=False)
