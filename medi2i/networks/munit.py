"""The networks of MUNIT (Huang et al. 2018, arXiv:1804.04732), most of which UNIT has too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import check_dims, conv, halved, norm
from medi2i.networks.pix2pix import initialise_normal
from medi2i.networks.resnet import Edge, residual_function
from medi2i.networks.starganv2 import initialise_kaiming

__all__ = [
    "LayerNorm",
    "MUNITGenerator",
    "MultiScaleDiscriminator",
    "Residual",
    "content_encoder",
    "cropped",
    "edged",
    "rising",
    "style_encoder",
]


class MUNITGenerator(nn.Module):
    """One domain's autoencoder: an image is a content map and a style of a few numbers.

    Args:
        dims: 2 or 3.
        inputs: channels whose content is encoded.
        outputs: channels that are drawn, and whose style is encoded.
        features: channels at full size; doubled by each halving.
        halvings: of the size of the content.
        blocks: residual blocks of content encoder and decoder each.
        style: numbers of a style.
        hidden: width of the perceptron between a style and the decoder.
        kernel: of the convolutions that follow a doubling of the size.
        edge: padding.

    Spatial sizes must be multiples of :attr:`multiple`, and at least twice that.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: int = 64,
        halvings: int = 2,
        blocks: int = 4,
        style: int = 8,
        hidden: int = 256,
        kernel: int = 5,
        edge: Edge = "reflect",
    ) -> None:
        super().__init__()
        check_dims(dims)
        wide = features * 2**halvings
        self.multiple = 2**halvings
        self.style_encoder = style_encoder(dims, outputs, features, style, edge=edge)
        self.content_encoder = content_encoder(
            dims, inputs, features, halvings=halvings, blocks=blocks, edge=edge
        )
        self.perceptron = nn.Sequential(
            nn.Linear(style, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 4 * wide * blocks),
        )
        self.blocks = nn.ModuleList(StyledResidual(dims, wide, edge) for _ in range(blocks))
        self.rise = rising(dims, features, outputs, halvings=halvings, kernel=kernel, edge=edge)
        initialise_kaiming(self)

    def content(self, image: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, features * multiple, *spatial / multiple).

        Blind to gain and offset of the image.
        """
        content: Tensor = self.content_encoder(image)
        return content

    def style(self, image: Tensor) -> Tensor:
        """(B, outputs, *spatial) -> (B, style)."""
        style: Tensor = self.style_encoder(image)
        return style

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Draw: a content map and a style (B, style) -> (B, outputs, *spatial) in (-1, 1)."""
        x = content
        rules = self.perceptron(style).reshape(len(style), len(self.blocks), 4, -1)
        for block, ruled in zip(self.blocks, rules.unbind(1), strict=True):
            x = block(x, ruled)
        image: Tensor = self.rise(x)
        return image


class StyledResidual(nn.Module):
    """A residual block whose two instance norms are followed by the style's shift and scale."""

    def __init__(self, dims: int, channels: int, edge: Edge) -> None:
        super().__init__()
        self.first, self.second = (conv(dims, channels, channels, 3, padding=1) for _ in range(2))
        edged(self, edge)

    def forward(self, x: Tensor, rules: Tensor) -> Tensor:
        """x: (B, C, *spatial); rules: (B, 4, C), shift and scale of the first norm, of the second.

        The scale multiplies as it is: 0 erases the channel.
        """
        shaped = rules.reshape(*rules.shape, *[1] * (x.dim() - 2))
        shift, scale, shift_again, scale_again = shaped.unbind(1)
        change = functional.relu(torch.addcmul(shift, _normed(self.first(x)), scale))
        return x + torch.addcmul(shift_again, _normed(self.second(change)), scale_again)


class Residual(nn.Module):
    """What comes in, plus two convolutions with instance norm of it."""

    def __init__(self, dims: int, channels: int, edge: Edge) -> None:
        super().__init__()
        self.change = residual_function(dims, channels, channels, edge=edge)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same shape."""
        y: Tensor = x + self.change(x)
        return y


class LayerNorm(nn.Module):
    """One mean and one deviation for all channels and voxels of a sample.

    Unlike instance norm it keeps the proportions between channels, which carry the style. As in
    the authors' code the deviation is the unbiased one and scales begin uniform in [0, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same shape."""
        ones = [1] * (x.dim() - 2)
        deviation, mean = torch.std_mean(x.float(), tuple(range(1, x.dim())), keepdim=True)
        scale, shift = (p.reshape(1, -1, *ones) for p in (self.weight, self.bias))
        return torch.addcmul(shift, (x - mean) / (deviation + 1e-5), scale)


class MultiScaleDiscriminator(nn.Module):
    """PatchGANs without norm that look at an image, at its half, at its quarter.

    Args:
        dims: 2 or 3.
        inputs: channels.
        features: channels of the first layer; doubled by each one.
        layers: strided convolutions; 4 see 46 voxels of their own image.
        scales: how many.
        slope: of the leaky ReLU; 0.2 in MUNIT and UNIT, 0.01 in DRIT.
        edge: padding.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        features: int = 64,
        layers: int = 4,
        scales: int = 3,
        slope: float = 0.2,
        edge: Edge = "reflect",
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.least = 2 ** (layers + scales - 1)
        self.judges = nn.ModuleList()
        for _ in range(scales):
            parts: list[nn.Module] = []
            given = inputs
            for wide in (features * 2**level for level in range(layers)):
                parts += [conv(dims, given, wide, 4, stride=2, padding=1), nn.LeakyReLU(slope)]
                given = wide
            self.judges.append(nn.Sequential(*parts, conv(dims, given, 1, 1)))
        edged(self, edge)
        initialise_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, *spatial) -> one map of logits per scale, the finest first.

        Raises:
            UsageError: the image is too small for the coarsest scale.
        """
        if min(x.shape[2:]) < self.least:
            raise UsageError(
                f"images of {tuple(x.shape[2:])} voxels came to a discriminator that needs at "
                f"least {self.least} along each side: train on larger windows, or give it fewer "
                "`scales` or `layers`"
            )
        logits = []
        for scale, judge in enumerate(self.judges):
            x = halved(x) if scale else x
            logits.append(judge(x))
        return logits


def content_encoder(
    dims: int, inputs: int, features: int, *, halvings: int, blocks: int, edge: Edge
) -> nn.Sequential:
    """(B, inputs, *spatial) -> (B, features * 2**halvings, *spatial / 2**halvings)."""
    parts: list[nn.Module] = [conv(dims, inputs, features, 7, padding=3)]
    parts += [norm("instance", dims, features, affine=False), nn.ReLU()]
    for wide in (features * 2**level for level in range(1, halvings + 1)):
        parts += [conv(dims, wide // 2, wide, 4, stride=2, padding=1)]
        parts += [norm("instance", dims, wide, affine=False), nn.ReLU()]
    deep = features * 2**halvings
    encoder = nn.Sequential(*parts, *(Residual(dims, deep, edge) for _ in range(blocks)))
    edged(encoder, edge)
    return encoder


def style_encoder(
    dims: int, inputs: int, features: int, style: int, *, edge: Edge, halvings: int = 4
) -> nn.Sequential:
    """(B, inputs, *spatial) -> (B, style); no norm, which would erase what style is."""
    parts: list[nn.Module] = [conv(dims, inputs, features, 7, padding=3), nn.ReLU()]
    given = features
    for level in range(1, halvings + 1):
        wide = features * min(2**level, 4)
        parts += [conv(dims, given, wide, 4, stride=2, padding=1), nn.ReLU()]
        given = wide
    mean = nn.AdaptiveAvgPool2d(1) if dims == 2 else nn.AdaptiveAvgPool3d(1)
    encoder = nn.Sequential(*parts, mean, conv(dims, given, style, 1), nn.Flatten())
    edged(encoder, edge)
    return encoder


def rising(
    dims: int, features: int, outputs: int, *, halvings: int, kernel: int, edge: Edge
) -> nn.Sequential:
    """(B, features * 2**halvings, *spatial) -> (B, outputs, *spatial * 2**halvings) in (-1, 1)."""
    parts: list[nn.Module] = []
    for wide in (features * 2**level for level in reversed(range(halvings))):
        widened = conv(dims, 2 * wide, wide, kernel, padding=kernel // 2)
        parts += [nn.Upsample(scale_factor=2), widened, LayerNorm(wide), nn.ReLU()]
    rise = nn.Sequential(*parts, conv(dims, features, outputs, 7, padding=3), nn.Tanh())
    edged(rise, edge)
    return rise


def edged(network: nn.Module, edge: Edge) -> None:
    """Let every padded convolution of the network see `edge` beyond the image, not zeros."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and any(module.padding):
            module.padding_mode = edge


def cropped(image: Tensor, like: Tensor) -> Tensor:
    """The near corner of an image, of the spatial size of `like`: padding at the far edges gone."""
    corner = [slice(None)] * 2 + [slice(size) for size in like.shape[2:]]
    return image[tuple(corner)]


def _normed(x: Tensor) -> Tensor:
    """Instance norm, of the statistics at hand."""
    return functional.instance_norm(x)
