"""The networks of UNIT (Liu et al. 2017, arXiv:1703.00848), of both generations.

The later one, in the authors' master branch, is made of MUNIT's blocks and shares nothing between
domains; the first one, of the paper, shares the blocks around the latent space.
"""

from __future__ import annotations

from torch import Tensor, nn

from medi2i.networks.layers import check_dims, conv, conv_transpose, dropout, norm
from medi2i.networks.munit import Residual, content_encoder, rising
from medi2i.networks.pix2pix import initialise_normal
from medi2i.networks.resnet import Edge
from medi2i.networks.starganv2 import initialise_kaiming

__all__ = ["Autoencoder", "PlainResidual", "SharedJudge", "doubling", "first_look"]


class Autoencoder(nn.Module):
    """One domain's encoder and decoder.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        features: channels at full size; doubled by each of 2 halvings.
        blocks: residual blocks of the encoder and of the decoder.
        shared: the paper's layers, to stand around a shared trunk: leaky ReLU and no norm outside
            of the residual blocks, zeros beyond the edge, transposed convolutions.
        dropout: probability within the paper's residual blocks.
        kernel: of the convolutions that follow a doubling of the size; not with `shared`.
        edge: padding; not with `shared`.

    Attributes:
        encoder: (B, inputs, *spatial) -> (B, 4 * features, *spatial / 4).
        decoder: (B, 4 * features, *spatial / 4) -> (B, outputs, *spatial) in (-1, 1).
    """

    multiple = 4

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: int = 64,
        blocks: int = 4,
        shared: bool = False,
        dropout: float = 0.0,
        kernel: int = 5,
        edge: Edge = "reflect",
    ) -> None:
        super().__init__()
        check_dims(dims)
        wide = 4 * features
        if not shared:
            self.encoder = content_encoder(
                dims, inputs, features, halvings=2, blocks=blocks, edge=edge
            )
            rise = rising(dims, features, outputs, halvings=2, kernel=kernel, edge=edge)
            self.decoder = nn.Sequential(*(Residual(dims, wide, edge) for _ in range(blocks)), rise)
            initialise_kaiming(self)
            return
        slope = nn.LeakyReLU(0.01)
        self.encoder = nn.Sequential(
            *(conv(dims, inputs, features, 7, padding=3), slope),
            *(conv(dims, features, 2 * features, 3, stride=2, padding=1), slope),
            *(conv(dims, 2 * features, wide, 3, stride=2, padding=1), slope),
            *(PlainResidual(dims, wide, dropout) for _ in range(blocks)),
        )
        self.decoder = nn.Sequential(
            *(PlainResidual(dims, wide, dropout) for _ in range(blocks)),
            *(doubling(dims, wide, 2 * features), slope),
            *(doubling(dims, 2 * features, features), slope),
            *(conv_transpose(dims, features, outputs, 1, stride=1), nn.Tanh()),
        )
        initialise_normal(self)


class PlainResidual(nn.Module):
    """A residual block with zeros beyond the edge, as the first generation has them."""

    def __init__(self, dims: int, channels: int, probability: float = 0.0) -> None:
        super().__init__()
        self.change = nn.Sequential(
            conv(dims, channels, channels, 3, padding=1),
            norm("instance", dims, channels, affine=False),
            nn.ReLU(),
            conv(dims, channels, channels, 3, padding=1),
            norm("instance", dims, channels, affine=False),
            *([dropout(dims, probability)] if probability else []),
        )
        initialise_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same shape."""
        y: Tensor = x + self.change(x)
        return y


class SharedJudge(nn.Module):
    """The part of the first generation's discriminator that both domains share.

    Args:
        dims: 2 or 3.
        inputs: channels of :func:`first_look`.
        layers: strided convolutions, each with twice the channels.
    """

    def __init__(self, *, dims: int, inputs: int, layers: int = 4) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for wide in (inputs * 2**level for level in range(1, layers + 1)):
            parts += [conv(dims, wide // 2, wide, 3, stride=2, padding=1), nn.LeakyReLU(0.01)]
        self.judge = nn.Sequential(*parts, conv(dims, inputs * 2**layers, 1, 1))
        initialise_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, *spatial) -> one map of logits, in a list."""
        return [self.judge(x)]


def doubling(dims: int, inputs: int, outputs: int) -> nn.Module:
    """A transposed convolution with 3 taps that doubles the size exactly."""
    layer = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    return layer(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


def first_look(dims: int, inputs: int, features: int) -> nn.Sequential:
    """(B, inputs, *spatial) -> (B, 2 * features, *spatial / 4): what a domain's judge has alone."""
    slope = nn.LeakyReLU(0.01)
    look = nn.Sequential(
        *(conv(dims, inputs, features, 7, stride=2, padding=3), slope),
        *(conv(dims, features, 2 * features, 3, stride=2, padding=1), slope),
    )
    initialise_normal(look)
    return look
