"""The networks of pix2pixHD (Wang et al. 2018, arXiv:1711.11585)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import Conditional, Norm, check_dims, conv, halved, norm

__all__ = [
    "Edge",
    "FeatureDiscriminator",
    "FeatureEncoder",
    "Pix2pixHDGenerator",
]

Edge = Literal["reflect", "replicate", "zeros"]
"""What stands beyond the edge of an image. The first normalisation erases the gain of the input,
and behind "reflect" and "replicate" its offset too."""


class Pix2pixHDGenerator(nn.Module):
    """Coarse to fine: a residual generator at a fraction of the size, and enhancers around it.

    Without an enhancer it is the paper's global generator G1. An enhancer G2 sees the image at
    twice the size, adds its features to those of the network inside it and refines them.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        features: channels at full size. The global generator works with 2**enhancers as many (the
            authors: 64 without an enhancer, 32 with one).
        halvings: of the global generator.
        blocks: its residual blocks.
        enhancers: each halves the image that the global generator sees.
        local_blocks: residual blocks of an enhancer.
        kind: normalisation, behind every convolution but the last.
        edge: beyond the edges, except of strided convolutions, which see zeros.
        conditions: length of the condition vector, 0 for none (the paper's). Each normalisation is
            then followed by a scale and a shift; as planes it would not survive the first one.
        preview: keep a head for the global generator's own image, to train it alone first.

    Every spatial size must be a multiple of :attr:`multiple`, and at least twice that.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: int = 64,
        halvings: int = 4,
        blocks: int = 9,
        enhancers: int = 0,
        local_blocks: int = 3,
        kind: Norm = "instance",
        edge: Edge = "reflect",
        conditions: int = 0,
        preview: bool = False,
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.multiple = 2 ** (halvings + enhancers)
        wide = features * 2**enhancers
        style = _Style(dims, kind, edge, conditions)
        self.trunk = _Trunk(style, inputs, wide, halvings, blocks)
        self.preview = style.convolution(wide, outputs, 7) if preview else None
        self.enhancers = nn.ModuleList()
        for _ in range(enhancers):
            wide //= 2
            self.enhancers.append(_Enhancer(style, inputs, wide, local_blocks))
        self.head = style.convolution(features, outputs, 7)
        initialise_weights(self)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial) in (-1, 1)."""
        self._check(x)
        pyramid = [x]
        for _ in self.enhancers:
            pyramid.append(halved(pyramid[-1]))
        features = self.trunk(pyramid.pop(), condition)
        for enhancer in self.enhancers:
            features = enhancer(pyramid.pop(), features, condition)
        return torch.tanh(self.head(features))

    def coarse(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The global generator's own image, 2**enhancers times smaller than x."""
        if self.preview is None:
            raise UsageError("this generator was built without a preview of its coarse image")
        self._check(x)
        for _ in self.enhancers:
            x = halved(x)
        return torch.tanh(self.preview(self.trunk(x, condition)))

    def _check(self, x: Tensor) -> None:
        if any(size % self.multiple or size < 2 * self.multiple for size in x.shape[2:]):
            raise UsageError(
                f"spatial size {tuple(x.shape[2:])} given; multiples of {self.multiple} from "
                f"{2 * self.multiple} on were expected"
            )


class FeatureDiscriminator(nn.Module):
    """PatchGANs on an image and its halves that show what they think, layer by layer.

    Args:
        dims: 2 or 3.
        inputs: channels (of source and candidate together).
        layers: strided convolutions; 3 see 70 voxels of their own image.
        features: channels of the first layer of each; doubled up to 512.
        scales: images in the pyramid.
        kind: normalisation from the second layer on.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        layers: int = 3,
        features: int = 64,
        scales: int = 2,
        kind: Norm = "instance",
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.judges = nn.ModuleList()
        for _ in range(scales):
            width = features
            first = conv(dims, inputs, width, 4, stride=2, padding=2)
            stages: list[nn.Module] = [nn.Sequential(first, nn.LeakyReLU(0.2))]
            for level in range(1, layers + 1):
                wide = min(2 * width, 512)
                stride = 2 if level < layers else 1
                stages.append(
                    nn.Sequential(
                        conv(dims, width, wide, 4, stride=stride, padding=2),
                        norm(kind, dims, wide, affine=kind == "batch"),
                        nn.LeakyReLU(0.2),
                    )
                )
                width = wide
            stages.append(conv(dims, width, 1, 4, padding=2))
            self.judges.append(nn.ModuleList(stages))
        initialise_weights(self)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """(B, inputs, *spatial) -> per scale, the finest first, all maps; the last is the logits.

        The authors count their discriminators the other way: their highest index is our first.
        """
        seen = []
        for scale, judge in enumerate(self.judges):
            x = halved(x) if scale else x
            maps = [x]
            for stage in judge:  # type: ignore[attr-defined]  # each judge is a ModuleList
                maps.append(stage(maps[-1]))
            seen.append(maps[1:])
        return seen


class FeatureEncoder(nn.Module):
    """What of a target image its source does not say: a few channels, to be pooled per region.

    Args:
        dims: 2 or 3.
        inputs: channels of the target image.
        outputs: channels of the features (the authors: 3).
        features: channels of the first stage.
        halvings: and as many doublings.
        kind: normalisation.
        edge: beyond the edges.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int = 3,
        features: int = 16,
        halvings: int = 4,
        kind: Norm = "instance",
        edge: Edge = "reflect",
    ) -> None:
        super().__init__()
        self.multiple = 2**halvings
        style = _Style(dims, kind, edge, 0)
        self.trunk = _Trunk(style, inputs, features, halvings, 0)
        self.head = style.convolution(features, outputs, 7)
        initialise_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial) in (-1, 1); sizes as of a generator."""
        return torch.tanh(self.head(self.trunk(image, None)))


def initialise_weights(network: nn.Module) -> None:
    """Convolutions from N(0, 0.02), scales of batch norm from N(1, 0.02); biases as torch does."""
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


class _Unit(nn.Module):
    """A convolution, its normalisation, a condition if there is one, ReLU if asked."""

    def __init__(
        self, conv: nn.Module, norm: nn.Module, condition: Conditional | None, *, active: bool
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.condition = condition
        self.active = active

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norm(self.conv(x))
        if self.condition is not None:
            if condition is None:
                raise UsageError("this network was built with conditions; none was given")
            x = self.condition(x, condition)
        return functional.relu(x) if self.active else x


class _Style(NamedTuple):
    """What all layers of a network have in common, and the layers made so."""

    dims: int
    kind: Norm
    edge: Edge
    conditions: int

    def convolution(self, inputs: int, outputs: int, kernel: int) -> nn.Module:
        """Keeps the size."""
        layer = nn.Conv2d if self.dims == 2 else nn.Conv3d
        return layer(inputs, outputs, kernel, padding=kernel // 2, padding_mode=self.edge)

    def unit(self, layer: nn.Module, wide: int, *, active: bool = True) -> _Unit:
        """The layer with what stands behind it; `wide` channels leave it."""
        normed = norm(self.kind, self.dims, wide, affine=self.kind == "batch")
        condition = Conditional(self.conditions, wide) if self.conditions else None
        return _Unit(layer, normed, condition, active=active)

    def half(self, wide: int) -> _Unit:
        """Half the size, twice the `wide` channels."""
        return self.unit(conv(self.dims, wide, 2 * wide, 3, stride=2, padding=1), 2 * wide)

    def double(self, wide: int) -> _Unit:
        """Twice the size; `wide` channels, half as many as came."""
        layer = nn.ConvTranspose2d if self.dims == 2 else nn.ConvTranspose3d
        return self.unit(layer(2 * wide, wide, 3, stride=2, padding=1, output_padding=1), wide)


class _Residual(nn.Module):
    """x + two convolutions of it; no activation behind the sum."""

    def __init__(self, style: _Style, wide: int) -> None:
        super().__init__()
        self.first = style.unit(style.convolution(wide, wide, 3), wide)
        self.second = style.unit(style.convolution(wide, wide, 3), wide, active=False)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        both: Tensor = x + self.second(self.first(x, condition), condition)
        return both


class _Trunk(nn.Module):
    """A wide convolution, halvings, residual blocks, doublings; no head."""

    def __init__(self, style: _Style, inputs: int, wide: int, halvings: int, blocks: int) -> None:
        super().__init__()
        deep = wide * 2**halvings
        self.units = nn.ModuleList(
            [
                style.unit(style.convolution(inputs, wide, 7), wide),
                *(style.half(wide * 2**level) for level in range(halvings)),
                *(_Residual(style, deep) for _ in range(blocks)),
                *(style.double(wide * 2**level) for level in reversed(range(halvings))),
            ]
        )

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        for unit in self.units:
            x = unit(x, condition)
        return x


class _Enhancer(nn.Module):
    """Looks at an image, adds what a smaller network made of its half, and refines the sum."""

    def __init__(self, style: _Style, inputs: int, wide: int, blocks: int) -> None:
        super().__init__()
        stem = style.unit(style.convolution(inputs, wide, 7), wide)
        self.look = nn.ModuleList([stem, style.half(wide)])
        self.refine = nn.ModuleList(
            [*(_Residual(style, 2 * wide) for _ in range(blocks)), style.double(wide)]
        )

    def forward(self, x: Tensor, smaller: Tensor, condition: Tensor | None) -> Tensor:
        for unit in self.look:
            x = unit(x, condition)
        x = x + smaller
        for unit in self.refine:
            x = unit(x, condition)
        return x
