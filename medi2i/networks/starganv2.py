"""The four networks of StarGAN v2 (Choi et al. 2020, arXiv:1912.01865)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import Conditional, Norm, avg_pool, check_dims, conv, norm

__all__ = ["DomainDiscriminator", "MappingNetwork", "StyleEncoder", "StyleGenerator"]

SLOPE = 0.2


class ResidualBlock(nn.Module):
    """Activation before convolution, twice, and a shortcut; the sum over root 2 keeps variance.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        normed: instance norm before each activation.
        down: halve the size.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, *, normed: bool = False, down: bool = False
    ) -> None:
        super().__init__()
        kind: Norm = "instance" if normed else "none"
        self.norm1 = norm(kind, dims, inputs)
        self.conv1 = conv(dims, inputs, inputs, 3, padding=1)
        self.norm2 = norm(kind, dims, inputs)
        self.conv2 = conv(dims, inputs, outputs, 3, padding=1)
        self.shortcut = _shortcut(dims, inputs, outputs)
        self.pool: nn.Module = avg_pool(dims) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        change = self.pool(self.conv1(functional.leaky_relu(self.norm1(x), SLOPE)))
        change = self.conv2(functional.leaky_relu(self.norm2(change), SLOPE))
        result: Tensor = (self.pool(self.shortcut(x)) + change) / math.sqrt(2)
        return result


class AdaIN(nn.Module):
    """Instance norm, then a scale and a shift per channel that the style gives."""

    def __init__(self, dims: int, style: int, channels: int) -> None:
        super().__init__()
        self.norm = norm("instance", dims, channels, affine=False)
        self.condition = Conditional(style, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        styled: Tensor = self.condition(self.norm(x), style)
        return styled


class StyledBlock(nn.Module):
    """A residual block whose norms are ruled by the style; doubles the size where `up`."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, style: int, *, up: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = AdaIN(dims, style, inputs)
        self.conv1 = conv(dims, inputs, outputs, 3, padding=1)
        self.norm2 = AdaIN(dims, style, outputs)
        self.conv2 = conv(dims, outputs, outputs, 3, padding=1)
        self.shortcut = _shortcut(dims, inputs, outputs)
        self.up: nn.Module = nn.Upsample(scale_factor=2) if up else nn.Identity()

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        change = self.conv1(self.up(functional.leaky_relu(self.norm1(x, style), SLOPE)))
        change = self.conv2(functional.leaky_relu(self.norm2(change, style), SLOPE))
        result: Tensor = (self.shortcut(self.up(x)) + change) / math.sqrt(2)
        return result


class StyleGenerator(nn.Module):
    """Draws the content of an image anew in a given style; no activation at the end.

    The style alone says which domain: the generator knows of none. The high-pass path of the
    authors' face model is not here.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        halvings: of the size; the authors' log2(image size) - 4.
        features: channels at full size, doubled by each halving up to `widest`.
        style: numbers of a style.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        halvings: int = 4,
        features: int = 64,
        widest: int = 512,
        style: int = 64,
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.multiple = 2**halvings
        widths = _widths(features, widest, halvings)
        steps = list(pairwise(widths))
        wide = widths[-1]
        self.stem = conv(dims, inputs, features, 3, padding=1)
        self.encode = nn.ModuleList(
            [
                *(ResidualBlock(dims, a, b, normed=True, down=True) for a, b in steps),
                *(ResidualBlock(dims, wide, wide, normed=True) for _ in range(2)),
            ]
        )
        self.decode = nn.ModuleList(
            [
                *(StyledBlock(dims, wide, wide, style) for _ in range(2)),
                *(StyledBlock(dims, b, a, style, up=True) for a, b in reversed(steps)),
            ]
        )
        self.head = nn.Sequential(
            norm("instance", dims, features), nn.LeakyReLU(SLOPE), conv(dims, features, outputs, 1)
        )
        initialise_kaiming(self)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x: (B, inputs, *spatial), sizes multiples of `multiple`; style: (B, style).

        Returns:
            (B, outputs, *spatial), unbounded.
        """
        if any(size % self.multiple for size in x.shape[2:]):
            raise UsageError(
                f"spatial size {tuple(x.shape[2:])} given; multiples of {self.multiple} expected"
            )
        x = self.stem(x)
        for block in self.encode:
            x = block(x)
        for block in self.decode:
            x = block(x, style)
        image: Tensor = self.head(x)
        return image


class MappingNetwork(nn.Module):
    """From a standard normal code to a style, by one head for each domain.

    Args:
        code: numbers of a code.
        style: numbers of a style.
        domains: heads.
        hidden: width of every layer between.
    """

    def __init__(self, *, domains: int, code: int = 16, style: int = 64, hidden: int = 512) -> None:
        super().__init__()
        self.shared = nn.Sequential(*_layers([code, *[hidden] * 4]), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(*_layers([*[hidden] * 4, style])) for _ in range(domains)
        )
        initialise_kaiming(self)

    def forward(self, code: Tensor, domain: Tensor | None = None) -> Tensor:
        """code: (B, code); domain: (B,) long.

        Returns:
            (B, style); without a domain the styles of all, (B, domains, style).
        """
        styles = _by_every_head(self.heads, self.shared(code))
        return styles if domain is None else _chosen(styles, domain)


class StyleEncoder(nn.Module):
    """The style of an image, by one head for each domain.

    Args:
        dims: 2 or 3.
        inputs: channels of an image.
        domains: heads.
        halvings: of the size, down to the 4 voxels of the last kernel; the authors'
            log2(image size) - 2. Of larger images the mean over all positions counts.
        features, widest: as for the generator.
        style: numbers of a style.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        domains: int,
        halvings: int = 6,
        features: int = 64,
        widest: int = 512,
        style: int = 64,
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.smallest = 4 * 2**halvings
        parts, width = _trunk(dims, inputs, halvings, features, widest)
        self.shared = nn.Sequential(*parts)
        self.heads = nn.ModuleList(nn.Linear(width, style) for _ in range(domains))
        initialise_kaiming(self)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """x: (B, inputs, *spatial) of the given domains (B,) -> (B, style)."""
        _check_size(x, self.smallest)
        features = self.shared(x).flatten(2).mean(2)
        return _chosen(_by_every_head(self.heads, features), domain)


class DomainDiscriminator(nn.Module):
    """Says for each domain whether an image is a real one of it; arguments as `StyleEncoder`."""

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        domains: int,
        halvings: int = 6,
        features: int = 64,
        widest: int = 512,
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.smallest = 4 * 2**halvings
        parts, width = _trunk(dims, inputs, halvings, features, widest)
        self.main = nn.Sequential(*parts, conv(dims, width, domains, 1))
        initialise_kaiming(self)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """x: (B, inputs, *spatial), said to be of the given domains (B,) -> (B,) logits."""
        _check_size(x, self.smallest)
        return _chosen(self.main(x).flatten(2).mean(2), domain)


def initialise_kaiming(network: nn.Module) -> None:
    """Weights from N(0, 2 / inputs) (He et al. 2015, arXiv:1502.01852), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _shortcut(dims: int, inputs: int, outputs: int) -> nn.Module:
    """Learned only where the width changes."""
    return nn.Identity() if inputs == outputs else conv(dims, inputs, outputs, 1, bias=False)


def _widths(features: int, widest: int, halvings: int) -> list[int]:
    """Channels before and behind each halving."""
    return [features, *(min(features * 2**level, widest) for level in range(1, halvings + 1))]


def _trunk(
    dims: int, inputs: int, halvings: int, features: int, widest: int
) -> tuple[list[nn.Module], int]:
    """What style encoder and discriminator share in shape, and its width at the end."""
    widths = _widths(features, widest, halvings)
    wide = widths[-1]
    return [
        conv(dims, inputs, features, 3, padding=1),
        *(ResidualBlock(dims, a, b, down=True) for a, b in pairwise(widths)),
        nn.LeakyReLU(SLOPE),
        conv(dims, wide, wide, 4),
        nn.LeakyReLU(SLOPE),
    ], wide


def _layers(widths: list[int]) -> list[nn.Module]:
    """Linear layers with ReLU between them."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return parts[:-1]


def _by_every_head(heads: nn.ModuleList, x: Tensor) -> Tensor:
    """(B, features) -> (B, domains, style)."""
    return torch.stack([head(x) for head in heads], dim=1)


def _chosen(every: Tensor, domain: Tensor) -> Tensor:
    """(B, domains, ...) -> (B, ...): what belongs to each one's domain."""
    return every[torch.arange(len(every), device=every.device), domain]


def _check_size(x: Tensor, smallest: int) -> None:
    if min(x.shape[2:]) < smallest:
        raise UsageError(
            f"images of {tuple(x.shape[2:])} voxels came; the networks were laid out for at least "
            f"{smallest} along each side: set `size` to the training window, a power of two"
        )
