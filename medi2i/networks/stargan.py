"""The two networks of StarGAN (Choi et al. 2018, arXiv:1711.09020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.layers import check_dims, conv, conv_transpose, norm, tiled

__all__ = ["StarGANDiscriminator", "StarGANGenerator"]


class StarGANGenerator(nn.Module):
    """A residual generator that is told the wanted domain by constant planes.

    Every convolution is padded with zeros: the instance norm behind it takes the constant away
    that a plane adds, and only the edge of the image, where zeros stand beside the plane, tells
    the domains apart. Replicated or reflected edges would leave nothing of the label. No running
    statistics are kept (the authors keep some, and must not use them).

    Args:
        dims: 2 or 3.
        inputs, outputs: channels of the images.
        domains: length of the label.
        features: channels of the first convolution.
        blocks: residual blocks at a quarter of the size.
        bounded: whether a tanh keeps the output in (-1, 1).
    """

    multiple = 4

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        domains: int,
        features: int = 64,
        blocks: int = 6,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        check_dims(dims)
        wide = self.multiple * features
        parts: list[nn.Module] = [
            conv(dims, inputs + domains, features, 7, padding=3, bias=False),
            *_normed(dims, features),
        ]
        for width in (features, 2 * features):
            parts.append(conv(dims, width, 2 * width, 4, stride=2, padding=1, bias=False))
            parts += _normed(dims, 2 * width)
        parts += [ResidualBlock(dims, wide) for _ in range(blocks)]
        for width in (wide, wide // 2):
            parts.append(
                conv_transpose(dims, width, width // 2, 4, stride=2, padding=1, bias=False)
            )
            parts += _normed(dims, width // 2)
        parts.append(conv(dims, features, outputs, 7, padding=3, bias=False))
        if bounded:
            parts.append(nn.Tanh())
        self.main = nn.Sequential(*parts)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """x: (B, inputs, *spatial), sizes multiples of 4; label: (B, domains), one-hot.

        Returns:
            (B, outputs, *spatial), in (-1, 1) where it is bounded.
        """
        if any(size % self.multiple for size in x.shape[2:]):
            raise UsageError(
                f"spatial size {tuple(x.shape[2:])} given; multiples of {self.multiple} expected"
            )
        image: Tensor = self.main(torch.cat([x, tiled(label, x)], dim=1))
        return image


class ResidualBlock(nn.Module):
    """x + two normed convolutions of it; no activation behind the sum."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(dims, channels, channels, 3, padding=1, bias=False),
            *_normed(dims, channels),
            conv(dims, channels, channels, 3, padding=1, bias=False),
            norm("instance", dims, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.main(x)
        return x + change


class StarGANDiscriminator(nn.Module):
    """Judges patches, and names the domain of the whole image. Without any norm.

    Args:
        dims: 2 or 3.
        inputs: channels of an image.
        domains: to be told apart.
        features: channels of the first layer, doubled by each further one.
        layers: strided convolutions; 6 see 318 voxels.
        window: side of the images that the classifier takes in at once, the authors' image size.
            In larger images it looks at every place and the mean counts; 0 lets it look at one
            position of the last map at a time.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        domains: int,
        features: int = 64,
        layers: int = 6,
        window: int = 128,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if layers < 1:
            raise UsageError(f"layers is {layers}; at least 1 was expected")
        self.smallest = max(window, 2**layers)
        parts: list[nn.Module] = []
        for level in range(layers):
            wide = features * 2**level
            parts += [
                conv(dims, wide // 2 if level else inputs, wide, 4, stride=2, padding=1),
                nn.LeakyReLU(0.01),
            ]
        self.main = nn.Sequential(*parts)
        self.judge = conv(dims, wide, 1, 3, padding=1, bias=False)
        self.classify = conv(dims, wide, domains, max(1, window // 2**layers), bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, *spatial) -> (B, 1, *patches), high for real, and (B, domains) logits."""
        if min(x.shape[2:]) < self.smallest:
            raise UsageError(
                f"images of {tuple(x.shape[2:])} voxels came; the discriminator was laid out for "
                f"at least {self.smallest} along each side: set `window` to the training window"
            )
        features = self.main(x)
        return self.judge(features), self.classify(features).flatten(2).mean(2)


def _normed(dims: int, channels: int) -> list[nn.Module]:
    """Instance norm with a scale and a shift per channel, and ReLU."""
    return [norm("instance", dims, channels), nn.ReLU()]
