"""The three networks of TUNIT (Baek et al. 2020, arXiv:2006.06500)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import avg_pool, check_dims, conv, norm
from medi2i.networks.resnet import Edge, residual_function
from medi2i.networks.starganv2 import initialise_kaiming

__all__ = ["AdaptiveDiscriminator", "AdaptiveGenerator", "GuidingNetwork"]

RESIDUE = 0.1
"""How much of a residual function is added in the generator."""


class GuidingNetwork(nn.Module):
    """VGG11 with batch norm and two heads: which cluster an image is in, and its style.

    Images may have any size; those that divide by 32 lose no border to the pooling.

    Args:
        dims: 2 or 3.
        inputs: channels of an image.
        clusters: domains to be found.
        style: numbers of a style.
        features: channels of the first layer.
    """

    def __init__(
        self, *, dims: int, inputs: int, clusters: int, style: int = 128, features: int = 64
    ) -> None:
        super().__init__()
        check_dims(dims)
        pool = nn.MaxPool2d if dims == 2 else nn.MaxPool3d
        parts: list[nn.Module] = []
        width = inputs
        for stage in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
            for factor in stage:
                wide = factor * features
                parts += [conv(dims, width, wide, 3, padding=1), norm("batch", dims, wide)]
                parts.append(nn.ReLU())
                width = wide
            parts.append(pool(2, ceil_mode=True))
        self.features = nn.Sequential(*parts)
        self.clusters = nn.Linear(width, clusters)
        self.style = nn.Linear(width, style)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # each has one
        for head in (self.clusters, self.style):
            nn.init.normal_(head.weight, 0, 0.01)
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, *spatial) -> logits of the clusters (B, clusters), styles (B, style)."""
        pooled = self.features(x).flatten(2).mean(2)
        return self.clusters(pooled), self.style(pooled)


class AdaptiveGenerator(nn.Module):
    """Content, normalised and without style, drawn anew with the means and deviations of a style.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        features: channels at full size, doubled by each halving.
        halvings: of the size.
        style: numbers of a style.
        blocks: residual blocks on either side of the content.
        hidden: width of the network between a style and the norms.
        edge: padding.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: int = 64,
        halvings: int = 3,
        style: int = 128,
        blocks: int = 2,
        hidden: int = 256,
        edge: Edge = "reflect",
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.multiple = 2**halvings
        layer = nn.Conv2d if dims == 2 else nn.Conv3d
        steps = [(features * 2**level, features * 2 ** (level + 1)) for level in range(halvings)]
        wide = features * 2**halvings
        parts = [layer(inputs, features, 7, padding=3, padding_mode=edge), _plain(dims, features)]
        for a, b in steps:
            down = layer(a, b, 4, stride=2, padding=1, padding_mode=edge)
            parts += [nn.ReLU(), down, _plain(dims, b)]
        self.encoder = nn.Sequential(*parts, nn.ReLU())
        self.encoder_blocks = nn.ModuleList(
            residual_function(dims, wide, wide, edge=edge) for _ in range(blocks)
        )
        self.decoder_blocks = nn.ModuleList(
            layer(wide, wide, 3, padding=1, padding_mode=edge) for _ in range(2 * blocks)
        )
        self.decoder = nn.ModuleList(
            layer(b, a, 5, padding=2, padding_mode=edge) for a, b in reversed(steps)
        )
        self.head = layer(features, outputs, 7, padding=3, padding_mode=edge)
        self.widths = [wide] * (2 * blocks) + [a for a, _ in reversed(steps)]
        self.adapt = nn.Sequential(
            nn.Linear(style, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * sum(self.widths)),
        )
        initialise_kaiming(self)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x: (B, inputs, *spatial), style: (B, style) -> (B, outputs, *spatial) in (-1, 1)."""
        return self.draw(self.encode(x), style)

    def encode(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> content (B, features * multiple, *spatial / multiple)."""
        x = self.encoder(x)
        for block in self.encoder_blocks:
            x = x + RESIDUE * block(x)
        return x

    def draw(self, content: Tensor, style: Tensor) -> Tensor:
        """Content and (B, style) -> (B, outputs, *spatial) in (-1, 1)."""
        pairs = self.adapt(style).split([2 * width for width in self.widths], dim=1)
        given = iter(pairs)
        x, layers = content, iter(self.decoder_blocks)
        for first, second in zip(layers, layers, strict=True):
            change = functional.relu(_adapted(first(x), next(given)))
            x = x + RESIDUE * _adapted(second(change), next(given))
        for layer in self.decoder:
            x = functional.interpolate(x, scale_factor=2.0)
            x = functional.relu(_adapted(layer(x), next(given)))
        return torch.tanh(self.head(x))


class Response(nn.Module):
    """Divided by the root of its own mean square, scaled, and cut off below a threshold.

    Filter response normalisation (Singh and Krishnan 2020, arXiv:1911.09737); all three numbers of
    a channel learn.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same shape."""
        axes = list(range(2, x.dim()))
        shape = (-1, *[1] * len(axes))
        x = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + 1e-6)
        x = self.scale.view(shape) * x + self.shift.view(shape)
        return torch.maximum(x, self.threshold.view(shape))


class JudgingBlock(nn.Module):
    """Response before convolution, twice, and a shortcut; the sum over root 2."""

    def __init__(self, dims: int, inputs: int, outputs: int, *, down: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = Response(inputs), Response(inputs)
        self.conv1 = conv(dims, inputs, inputs, 3, padding=1)
        self.conv2 = conv(dims, inputs, outputs, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = conv(dims, inputs, outputs, 1, bias=False)
        self.pool: nn.Module = avg_pool(dims) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial or half of it)."""
        change = self.conv2(self.norm2(self.pool(self.conv1(self.norm1(x)))))
        result: Tensor = (self.pool(self.shortcut(x)) + change) / math.sqrt(2)
        return result


class AdaptiveDiscriminator(nn.Module):
    """Says for each cluster whether an image is a real one of it.

    Args:
        dims: 2 or 3.
        inputs: channels of an image.
        clusters: logits.
        halvings: of the size, down to the 4 voxels of the last kernel. Of larger images the mean
            over all positions counts.
        features: channels at full size, doubled by each halving up to `widest`.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        clusters: int,
        halvings: int = 5,
        features: int = 64,
        widest: int = 1024,
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.smallest = 4 * 2**halvings
        widths = [features, *(min(features * 2**n, widest) for n in range(1, halvings + 1))]
        wide = widths[-1]
        parts: list[nn.Module] = [conv(dims, inputs, features, 3, padding=1)]
        for a, b in pairwise(widths):
            parts += [JudgingBlock(dims, a, a), JudgingBlock(dims, a, b, down=True)]
        parts += [nn.LeakyReLU(0.2), conv(dims, wide, wide, 4), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*parts, conv(dims, wide, clusters, 1))
        initialise_kaiming(self)

    def forward(self, x: Tensor, cluster: Tensor) -> Tensor:
        """x: (B, inputs, *spatial), said to be of the clusters (B,) -> (B,) logits.

        Raises:
            UsageError: the image is smaller than the network was laid out for.
        """
        if min(x.shape[2:]) < self.smallest:
            raise UsageError(
                f"images of {tuple(x.shape[2:])} voxels came; the discriminator was laid out for "
                f"{self.smallest} along each side: set `size` to the training window"
            )
        logits: Tensor = self.main(x).flatten(2).mean(2)
        return logits.gather(1, cluster[:, None])[:, 0]


def _plain(dims: int, channels: int) -> nn.Module:
    return norm("instance", dims, channels, affine=False)


def _adapted(x: Tensor, pair: Tensor) -> Tensor:
    """Instance norm, then the mean and the deviation (B, 2 * channels) that a style asks for."""
    mean, deviation = pair.reshape(*pair.shape, *[1] * (x.dim() - 2)).chunk(2, dim=1)
    return torch.addcmul(mean, functional.instance_norm(x), deviation)
