"""Networks whose weights are random: channel dropout as a distribution over functions.

Gal & Ghahramani 2016, arXiv:1506.02142 (dropout as variational inference); Gal, Hron & Kendall
2017, arXiv:1705.07832 (concrete dropout, which learns its probability).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import conv
from medi2i.networks.pix2pix import PatchDiscriminator, Pix2pixGenerator, initialise_normal

__all__ = [
    "Dropout",
    "ImageAndSpread",
    "RandomWeights",
    "one_function",
    "random_layers",
    "randomise_discriminator",
    "randomise_generator",
]

Dropout = Literal["bernoulli", "concrete"]

Layer = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d

TEMPERATURE = 0.1
"""How soft a concrete mask is; at 0 it would be a Bernoulli mask."""


class RandomWeights(nn.Module):
    """A convolution that loses some of its input channels by chance.

    To drop a channel is to zero the weights that read it, so one mask is one draw of the weights,
    the same wherever the convolution looks; dropping voxels would not be. The rest is scaled, so
    that the mean stays. In training each sample of a batch has a mask of its own; in evaluation
    nothing is dropped; within :func:`one_function` the whole batch shares one mask.

    Args:
        layer: the convolution.
        probability: that a channel is dropped, 0 <= probability < 1.
        kind: "bernoulli", or "concrete", where the probability is learned.
    """

    def __init__(self, layer: Layer, probability: float, kind: Dropout = "bernoulli") -> None:
        super().__init__()
        least = 0.0 if kind == "bernoulli" else 1e-4
        if not least <= probability < 1:
            raise UsageError(
                f"a dropout probability of {probability:g} given; {least:g} <= probability < 1 "
                f"was expected for {kind} dropout"
            )
        self.layer = layer
        self.fixed = probability
        self.logit = (
            nn.Parameter(torch.tensor(math.log(probability / (1 - probability))))
            if kind == "concrete"
            else None
        )
        self.shared = False

    @property
    def probability(self) -> Tensor:
        """Scalar in [0, 1)."""
        return torch.tensor(self.fixed) if self.logit is None else torch.sigmoid(self.logit)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        if self.shared:
            # drawn on the CPU: one seed is one function on every device
            chance = torch.rand(1, x.shape[1]).to(x.device)
        elif self.training:
            chance = torch.rand(len(x), x.shape[1], device=x.device)
        else:
            y: Tensor = self.layer(x)
            return y
        mask = self.mask(chance).to(x.dtype)
        y = self.layer(x * mask.reshape(*mask.shape, *[1] * (x.dim() - 2)))
        return y

    def mask(self, chance: Tensor) -> Tensor:
        """What channels are multiplied by, from numbers that are uniform in [0, 1)."""
        if self.logit is None:
            return (chance >= self.fixed).to(chance.dtype) / (1 - self.fixed)
        chance = chance.clamp(1e-6, 1 - 1e-6)
        dropped = torch.sigmoid((self.logit + torch.logit(chance)) / TEMPERATURE)
        return (1 - dropped) / (1 - self.probability)

    def divergence(self, length: float) -> Tensor:
        """Scalar: how far the distribution of the weights is from its prior, up to a constant.

        l^2 (1 - p) / 2 ||W||^2, less K times the entropy of p where p is learned (equations 3 and 4
        of Gal, Hron & Kendall), for K input channels and a prior of length scale l.
        """
        p = self.probability.to(self.layer.weight.device)
        distance = 0.5 * length**2 * (1 - p) * self.layer.weight.square().sum()
        if self.logit is None:
            return distance
        entropy = -p * functional.logsigmoid(self.logit) - (1 - p) * functional.logsigmoid(
            -self.logit
        )
        return distance - self.layer.in_channels * entropy


class ImageAndSpread(nn.Module):
    """The last layer of a generator, and beside it one that says how far its image may be off.

    The latter sees what the decoder made (not the skip), at half the resolution.

    Args:
        dims: 2 or 3.
        image: the layer that gives the image.
        decoded: channels that the decoder made, the last ones of the input.
    """

    def __init__(self, dims: int, image: nn.Module, decoded: int, outputs: int) -> None:
        super().__init__()
        self.image = image
        self.decoded = decoded
        self.spread = conv(dims, decoded, outputs, 1)
        initialise_normal(self.spread)
        self.interpolation = "bilinear" if dims == 2 else "trilinear"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial / 2) -> (B, 2 * outputs, *spatial): the image's channels first."""
        spread = functional.interpolate(
            self.spread(x[:, -self.decoded :]), scale_factor=2.0, mode=self.interpolation
        )
        return torch.cat([self.image(x), spread], dim=1)


def randomise_generator(
    generator: Pix2pixGenerator, probability: float, kind: Dropout = "bernoulli"
) -> None:
    """Random weights in the encoder's widest stages and in all but the last two decoder stages."""
    down = [layer for layer in generator.down if isinstance(layer, Layer)]
    widest = max(layer.out_channels for layer in down)
    for level, layer in enumerate(down):
        if level and layer.out_channels == widest:
            generator.down[level] = RandomWeights(layer, probability, kind)
    for place, up in enumerate(list(generator.up)[:-2]):
        if isinstance(up, Layer):
            generator.up[place] = RandomWeights(up, probability, kind)


def randomise_discriminator(
    discriminator: PatchDiscriminator, probability: float, kind: Dropout = "bernoulli"
) -> None:
    """Random weights in every convolution that reads an activation, so in all but the first."""
    for place, layer in enumerate(discriminator.judge):
        if place and isinstance(layer, Layer):
            discriminator.judge[place] = RandomWeights(layer, probability, kind)


def random_layers(network: nn.Module) -> list[RandomWeights]:
    """Every convolution with random weights."""
    return [module for module in network.modules() if isinstance(module, RandomWeights)]


@contextmanager
def one_function(network: nn.Module) -> Iterator[None]:
    """Within the block each pass draws one set of weights, whatever the mode and the batch."""
    layers = random_layers(network)
    for layer in layers:
        layer.shared = True
    try:
        yield
    finally:
        for layer in layers:
            layer.shared = False
