"""The networks of XGAN (Royer et al. 2017, arXiv:1711.05139), for codes in space and for vectors.

An encoder is a part of its own for each domain, then a part that both domains share; a decoder is
a shared part, then one of its own. Either kind of code comes from the same four builders.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from medi2i.networks.layers import check_dims, conv, conv_transpose, norm
from medi2i.networks.resnet import Edge, decoder, encoder, residual_function

__all__ = ["DomainClassifier", "SpatialParts", "VectorParts"]


@dataclass(frozen=True)
class SpatialParts:
    """The halves of encoders and decoders whose code is a map at a quarter of the size.

    As in UNIT (arXiv:1703.00848): domains have their own convolutions, and share residual blocks.

    Args:
        dims: 2 or 3.
        features: channels of the first stage; a code has four times as many.
        blocks: shared residual blocks of the encoder, and of the decoder.
    """

    dims: int
    features: int = 64
    blocks: int = 3

    @property
    def code(self) -> int:
        """Channels of a code."""
        return 4 * self.features

    @property
    def multiple(self) -> int:
        """What spatial sizes must be multiples of."""
        return 4

    @property
    def least(self) -> int:
        """How many multiples an image must hold."""
        return 2  # the reflected edge of a code needs two positions

    def own_encoder(self, inputs: int) -> nn.Module:
        """(B, inputs, *spatial) -> (B, code, *spatial / 4)."""
        return encoder(
            self.dims, inputs, self.features, halvings=2, kernel=self._kernel, edge=self._edge
        )

    def shared_encoder(self) -> nn.Module:
        """(B, code, *positions) -> the same shape: the code."""
        return nn.Sequential(*(_Residual(self.dims, self.code, self._edge) for _ in self._count))

    def shared_decoder(self) -> nn.Module:
        """(B, code, *positions) -> the same shape."""
        return nn.Sequential(*(_Residual(self.dims, self.code, self._edge) for _ in self._count))

    def own_decoder(self, outputs: int) -> nn.Module:
        """(B, code, *positions) -> (B, outputs, *spatial) in (-1, 1)."""
        return decoder(
            self.dims, self.features, outputs, halvings=2, kernel=self._kernel, edge=self._edge
        )

    @property
    def _count(self) -> range:
        return range(self.blocks)

    @property
    def _kernel(self) -> int:
        return 7 if self.dims == 2 else 5

    @property
    def _edge(self) -> Edge:
        return "reflect" if self.dims == 2 else "replicate"


@dataclass(frozen=True)
class VectorParts:
    """The paper's halves: all of an image in one vector of length one.

    Kernels of 4 and batch norm; the fully connected layers are convolutions over the whole map, so
    that a larger image has a vector for each place where the window fits.

    Args:
        dims: 2 or 3.
        window: side of the training images, a multiple of 16; the paper's is 64.
        features: channels of the first stage; the paper's are 32.
    """

    dims: int
    window: int = 64
    features: int = 32

    @property
    def code(self) -> int:
        """Numbers of a vector."""
        return 32 * self.features

    @property
    def multiple(self) -> int:
        """What spatial sizes must be multiples of."""
        return 16

    @property
    def least(self) -> int:
        """How many multiples an image must hold."""
        return self.window // 16

    def own_encoder(self, inputs: int) -> nn.Module:
        """(B, inputs, *spatial) -> (B, 2 * features, *spatial / 4)."""
        return nn.Sequential(*self._down(inputs, 1), *self._down(self.features, 2))

    def shared_encoder(self) -> nn.Module:
        """(B, 2 * features, *positions) -> (B, code, *places), of length one at each place."""
        return nn.Sequential(
            *self._down(2 * self.features, 4),
            *self._down(4 * self.features, 8),
            conv(self.dims, 8 * self.features, self.code, self.least),
            nn.LeakyReLU(0.2),
            conv(self.dims, self.code, self.code, 1),
            _Unit(),
        )

    def shared_decoder(self) -> nn.Module:
        """(B, code, *places) -> (B, 8 * features, *spatial / 8)."""
        wide = 16 * self.features
        first = conv_transpose(self.dims, self.code, wide, self.least, stride=1, bias=False)
        return nn.Sequential(first, norm("batch", self.dims, wide), nn.ReLU(), *self._up(wide, 8))

    def own_decoder(self, outputs: int) -> nn.Module:
        """(B, 8 * features, *positions) -> (B, outputs, *spatial) in (-1, 1)."""
        narrow = 2 * self.features
        last = conv_transpose(self.dims, narrow, outputs, 4, stride=2, padding=1, bias=False)
        return nn.Sequential(
            *self._up(8 * self.features, 4), *self._up(4 * self.features, 2), last, nn.Tanh()
        )

    def critic(self, inputs: int) -> nn.Module:
        """(B, inputs, *spatial) -> (B, 1, *places) logits; four strided layers, one over all."""
        widths = (inputs, 16, 32, 32, 32)
        parts: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            parts += [conv(self.dims, narrow, wide, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        return nn.Sequential(*parts, conv(self.dims, widths[-1], 1, self.least))

    def _down(self, inputs: int, times: int) -> list[nn.Module]:
        wide = times * self.features
        down = conv(self.dims, inputs, wide, 4, stride=2, padding=1, bias=False)
        return [down, norm("batch", self.dims, wide), nn.LeakyReLU(0.2)]

    def _up(self, inputs: int, times: int) -> list[nn.Module]:
        wide = times * self.features
        up = conv_transpose(self.dims, inputs, wide, 4, stride=2, padding=1, bias=False)
        return [up, norm("batch", self.dims, wide), nn.ReLU()]


class DomainClassifier(nn.Module):
    """Says of every position of a code which domain it is from; three layers, position by position.

    Args:
        dims: 2 or 3.
        code: channels of a code.
        hidden: channels of the two layers inside; the re-implementation's on the vector.
    """

    def __init__(self, *, dims: int, code: int, hidden: tuple[int, int] = (256, 64)) -> None:
        super().__init__()
        check_dims(dims)
        first, second = hidden
        self.layers = nn.Sequential(
            conv(dims, code, first, 1),
            nn.LeakyReLU(0.2),
            conv(dims, first, second, 1),
            nn.LeakyReLU(0.2),
            conv(dims, second, 1, 1),
        )

    def forward(self, code: Tensor) -> Tensor:
        """(B, code, *positions) -> (B, 1, *positions) logits."""
        logits: Tensor = self.layers(code)
        return logits


class _Residual(nn.Module):
    """x + two normed convolutions of it."""

    def __init__(self, dims: int, channels: int, edge: Edge) -> None:
        super().__init__()
        self.change = residual_function(dims, channels, channels, edge=edge)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.change(x)
        return x + change


class _Unit(nn.Module):
    """Vectors over the channels, brought to length one."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1)
