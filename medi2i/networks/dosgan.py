"""The networks of DosGAN (Lin et al. 2019, arXiv:1902.03782; code linjx-ustc1106/DosGAN-PyTorch).

The critic is StarGAN's with a feature where that one has a label. Every convolution is padded with
zeros, and instance norm keeps no running statistics.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.layers import Conditional, check_dims, conv, norm
from medi2i.networks.stargan import ResidualBlock

__all__ = ["ContentEncoder", "DomainClassifier", "FeatureDecoder", "Injection"]

Injection = Literal["film", "linear"]
"""How a feature comes into the decoder."""


class DomainClassifier(nn.Module):
    """Names the domain of an image, and what it knew just before that: the domain feature.

    Args:
        dims: 2 or 3.
        inputs: channels of an image.
        domains: to be told apart.
        feature: numbers in a feature.
        features: channels of the first layer, doubled by each further one.
        layers: strided convolutions.
        window: side of the images that a feature takes in at once. In larger ones it looks at
            every place and the mean counts; 0 lets it look at one position of the last map.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        domains: int,
        feature: int,
        features: int = 64,
        layers: int = 6,
        window: int = 128,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if layers < 1:
            raise UsageError(f"layers is {layers}; at least 1 was expected")
        self.smallest = max(window, 2**layers)
        slope = nn.LeakyReLU(0.01)
        parts: list[nn.Module] = []
        for level in range(layers):
            wide = features * 2**level
            narrow = wide // 2 if level else inputs
            parts += [conv(dims, narrow, wide, 4, stride=2, padding=1), slope]
        self.main = nn.Sequential(
            *parts, conv(dims, wide, feature, max(1, window // 2**layers)), slope
        )
        self.classify = nn.Linear(feature, domains, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, *spatial) -> features (B, feature) and logits (B, domains)."""
        if min(x.shape[2:]) < self.smallest:
            raise UsageError(
                f"images of {tuple(x.shape[2:])} voxels came; the classifier was laid out for at "
                f"least {self.smallest} along each side: set `window` to the training window"
            )
        feature = self.main(x).flatten(2).mean(2)
        return feature, self.classify(feature)


class ContentEncoder(nn.Sequential):
    """(B, inputs, *spatial) -> (B, 4 * features, *spatial / 4): what is seen, not in which domain.

    Args:
        dims: 2 or 3.
        inputs: channels.
        features: channels of the first convolution.
        blocks: residual blocks.
    """

    multiple = 4

    def __init__(self, *, dims: int, inputs: int, features: int = 64, blocks: int = 3) -> None:
        check_dims(dims)
        parts: list[nn.Module] = [
            conv(dims, inputs, features, 7, padding=3, bias=False),
            norm("instance", dims, features),
            nn.ReLU(),
        ]
        for width in (features, 2 * features):
            down = conv(dims, width, 2 * width, 4, stride=2, padding=1, bias=False)
            parts += [down, norm("instance", dims, 2 * width), nn.ReLU()]
        super().__init__(*parts, *(ResidualBlock(dims, 4 * features) for _ in range(blocks)))


class FeatureDecoder(nn.Module):
    """Draws a content in the domain that a feature tells.

    Args:
        dims: 2 or 3.
        outputs: channels.
        feature: numbers in a feature.
        features: channels of the last stage but one.
        blocks: residual blocks.
        injection: "film" lets the feature scale and shift every map of the first convolution and
            of the residual blocks, behind their norm; "linear" is the authors': a linear layer
            draws a whole map from it, added to the content. Planes of a constant, the cheap form
            of the latter, would be taken away again by the instance norm that follows.
        window: side of the images (linear), which the size of that layer fixes.
    """

    def __init__(
        self,
        *,
        dims: int,
        outputs: int,
        feature: int,
        features: int = 64,
        blocks: int = 3,
        injection: Injection = "film",
        window: int = 128,
    ) -> None:
        super().__init__()
        check_dims(dims)
        wide = 4 * features
        self.window = window
        self.linear: nn.Module | None = None
        condition = feature if injection == "film" else 0
        if injection == "linear":
            if window < 4 or window % 4:
                raise UsageError(
                    f"window is {window}; a multiple of 4 was expected for a layer "
                    "that draws whole maps"
                )
            self.linear = nn.Linear(feature, wide * (window // 4) ** dims)
        self.stem = _Step(dims, wide, condition)
        self.blocks = nn.ModuleList(_Block(dims, wide, condition) for _ in range(blocks))
        parts: list[nn.Module] = []
        for width in (wide, wide // 2):
            up = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
            parts += [
                up(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=False),
                norm("instance", dims, width // 2),
                nn.ReLU(),
            ]
        head = conv(dims, features, outputs, 7, padding=3, bias=False)
        self.up = nn.Sequential(*parts, head, nn.Tanh())

    def forward(self, content: Tensor, feature: Tensor) -> Tensor:
        """content: (B, 4 * features, *spatial / 4); feature: (B, feature).

        Returns:
            (B, outputs, *spatial) in (-1, 1).
        """
        x = content
        if self.linear is not None:
            if any(4 * size != self.window for size in x.shape[2:]):
                raise UsageError(
                    f"images of {tuple(4 * size for size in x.shape[2:])} voxels came; the linear "
                    f"layer draws maps for {self.window} along each side: use `injection: film`"
                )
            x = x + self.linear(feature).relu().reshape(x.shape)
        x = self.stem(x, feature).relu()
        for block in self.blocks:
            x = block(x, feature)
        image: Tensor = self.up(x)
        return image


class _Step(nn.Module):
    """Convolution, norm, and the feature's scale and shift; for a condition of 0 without them."""

    def __init__(self, dims: int, channels: int, condition: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(dims, channels, channels, 3, padding=1, bias=False),
            norm("instance", dims, channels),
        )
        self.told = Conditional(condition, channels) if condition else None

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        x = self.main(x)
        return x if self.told is None else self.told(x, feature)


class _Block(nn.Module):
    """x + two steps; no activation behind the sum."""

    def __init__(self, dims: int, channels: int, condition: int) -> None:
        super().__init__()
        self.first, self.second = (_Step(dims, channels, condition) for _ in range(2))

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        change: Tensor = self.second(self.first(x, feature).relu(), feature)
        return x + change
