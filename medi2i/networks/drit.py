"""The networks of DRIT (Lee et al. 2018, arXiv:1808.00948) in the form of DRIT++ (1905.01270)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.bicyclegan import CodeEncoder
from medi2i.networks.layers import check_dims, conv, conv_transpose, norm, tiled
from medi2i.networks.munit import Residual, edged, style_encoder
from medi2i.networks.resnet import Edge
from medi2i.networks.unit import doubling

__all__ = [
    "ConcatDecoder",
    "ContentDiscriminator",
    "Convolution",
    "TransformDecoder",
    "attribute_decoder",
    "attribute_encoder",
    "initialise_weights",
    "leaky_content_encoder",
]

Convolution = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


class ConcatDecoder(nn.Module):
    """Draws a content map with an attribute that joins the channels at every stage.

    For domains that differ in appearance alone. What both domains share stands before it.

    Args:
        dims: 2 or 3.
        channels: of the content, a multiple of 4.
        outputs: channels of the image.
        code: numbers of an attribute, an even number.
        blocks: residual blocks.
        edge: padding.

    Raises:
        UsageError: an odd number in the code, of which each doubling keeps one half.
    """

    def __init__(
        self, *, dims: int, channels: int, outputs: int, code: int, blocks: int, edge: Edge
    ) -> None:
        super().__init__()
        check_dims(dims)
        if code % 2:
            raise UsageError(f"code is {code}; an even number was expected where it joins channels")
        joined = channels + code
        self.blocks = nn.Sequential(*(Residual(dims, joined, edge) for _ in range(blocks)))
        self.ups = nn.ModuleList()
        for _ in range(2):
            self.ups.append(_doubled(dims, joined + code, (joined + code) // 2))
            joined = (joined + code) // 2
        self.head = conv_transpose(dims, joined + code, outputs, 1, stride=1)

    def forward(self, content: Tensor, code: Tensor) -> Tensor:
        """(B, channels, *spatial), (B, code) -> (B, outputs, *spatial * 4) in (-1, 1)."""
        x = self.blocks(_joined(content, code))
        for up in self.ups:
            x = up(_joined(x, code))
        return torch.tanh(self.head(_joined(x, code)))


class TransformDecoder(nn.Module):
    """Draws a content map with an attribute that 1x1 convolutions mix into residual blocks.

    For domains that differ in shape; arguments as for :class:`ConcatDecoder`, without `blocks`, of
    which there are four, and `hidden`, the width of the perceptron behind the attribute.
    """

    def __init__(
        self, *, dims: int, channels: int, outputs: int, code: int, hidden: int, edge: Edge
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.perceptron = nn.Sequential(
            nn.Linear(code, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 4 * channels),
        )
        self.blocks = nn.ModuleList(_Mixing(dims, channels, edge) for _ in range(4))
        half = channels // 2
        self.rise = nn.Sequential(
            _doubled(dims, channels, half),
            _doubled(dims, half, half // 2),
            conv_transpose(dims, half // 2, outputs, 1, stride=1),
            nn.Tanh(),
        )

    def forward(self, content: Tensor, code: Tensor) -> Tensor:
        """(B, channels, *spatial), (B, code) -> (B, outputs, *spatial * 4) in (-1, 1)."""
        x = content
        parts = self.perceptron(code).chunk(len(self.blocks), dim=1)
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part)
        image: Tensor = self.rise(x)
        return image


class ContentDiscriminator(nn.Module):
    """Says which domain a content map came from.

    Args:
        dims: 2 or 3.
        channels: of the content, and of every layer.
        layers: strided convolutions.
        kernel: of these.
        edge: padding.
    """

    def __init__(
        self, *, dims: int, channels: int, layers: int = 3, kernel: int = 7, edge: Edge = "reflect"
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.layers, self.kernel = layers, kernel
        slope = nn.LeakyReLU(0.01)
        parts: list[nn.Module] = []
        for _ in range(layers):
            parts += [conv(dims, channels, channels, kernel, stride=2, padding=1), slope]
        parts += [conv(dims, channels, channels, 4), slope, conv(dims, channels, 1, 1)]
        self.judge = nn.Sequential(*parts)
        edged(self, edge)
        initialise_weights(self)

    def forward(self, content: Tensor) -> Tensor:
        """(B, channels, *spatial) -> (B, 1, *patches) logits, high for domain b.

        Raises:
            UsageError: the content is too small for the layers.
        """
        left = min(content.shape[2:])
        for _ in range(self.layers):
            left = (left + 2 - self.kernel) // 2 + 1 if left > 1 else 0
        if left < 4:
            raise UsageError(
                f"a content of {tuple(content.shape[2:])} voxels came to a content discriminator "
                f"of {self.layers} layers with {self.kernel} taps, which is too small: train on "
                "larger windows (216 to 256 by default in 2-D), or give it fewer `content_layers` "
                "or a smaller `content_kernel`"
            )
        logits: Tensor = self.judge(content)
        return logits


class _Mixing(nn.Module):
    """A residual block; behind each norm two 1x1 convolutions see the attribute beside the map."""

    def __init__(self, dims: int, channels: int, edge: Edge) -> None:
        super().__init__()
        self.conv1, self.conv2 = (conv(dims, channels, channels, 3, padding=1) for _ in range(2))
        self.norm = norm("instance", dims, channels, affine=False)
        self.mix1, self.mix2 = (
            nn.Sequential(
                conv(dims, 2 * channels, 2 * channels, 1),
                nn.ReLU(),
                conv(dims, 2 * channels, channels, 1),
                nn.ReLU(),
            )
            for _ in range(2)
        )
        edged(self, edge)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """x: (B, C, *spatial); code: (B, C)."""
        change = self.mix1(_joined(self.norm(self.conv1(x)), code))
        changed: Tensor = x + self.mix2(_joined(self.norm(self.conv2(change)), code))
        return changed


def leaky_content_encoder(
    dims: int, inputs: int, features: int, *, blocks: int, edge: Edge
) -> nn.Sequential:
    """(B, inputs, *spatial) -> (B, 4 * features, *spatial / 4).

    Its first layer has no norm, so that unlike MUNIT's it sees gain and offset of the image.
    """
    parts: list[nn.Module] = [conv(dims, inputs, features, 7, padding=3), nn.LeakyReLU(0.01)]
    for wide in (2 * features, 4 * features):
        down = conv(dims, wide // 2, wide, 3, stride=2, padding=1)
        parts += [down, norm("instance", dims, wide, affine=False), nn.ReLU()]
    deep = 4 * features
    encoder = nn.Sequential(*parts, *(Residual(dims, deep, edge) for _ in range(blocks)))
    edged(encoder, edge)
    return encoder


def attribute_decoder(
    dims: int, channels: int, outputs: int, code: int, *, joined: bool, blocks: int, edge: Edge
) -> ConcatDecoder | TransformDecoder:
    """The decoder whose attribute joins the channels, or the one that mixes it into four blocks."""
    if joined:
        return ConcatDecoder(
            dims=dims, channels=channels, outputs=outputs, code=code, blocks=blocks, edge=edge
        )
    return TransformDecoder(
        dims=dims, channels=channels, outputs=outputs, code=code, hidden=channels, edge=edge
    )


def attribute_encoder(
    dims: int, inputs: int, features: int, code: int, *, normal: bool, edge: Edge
) -> nn.Module:
    """(B, inputs, *spatial) -> (B, code), or mean and log variance of it where `normal`."""
    if not normal:
        return style_encoder(dims, inputs, features, code, edge=edge)
    encoder = CodeEncoder(
        dims=dims, inputs=inputs, code=code, features=features, blocks=3, kind="none"
    )
    edged(encoder, edge)
    return encoder


def initialise_weights(network: nn.Module) -> None:
    """Weights of convolutions from N(0, 0.02); all else as torch draws it."""
    for module in network.modules():
        if isinstance(module, Convolution | nn.Linear):
            module.reset_parameters()
        if isinstance(module, Convolution):
            nn.init.normal_(module.weight, 0.0, 0.02)


def _joined(x: Tensor, code: Tensor) -> Tensor:
    return torch.cat([x, tiled(code.to(x.dtype), x)], dim=1)


def _doubled(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Twice the size, layer norm (one group is all channels), ReLU."""
    return nn.Sequential(doubling(dims, inputs, outputs), nn.GroupNorm(1, outputs), nn.ReLU())
