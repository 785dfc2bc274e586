"""Halving without aliases: a stride of 1, then a blur that is thinned out (Zhang 2019).

"Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486, as CUT's networks have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Halving", "Padding", "smoothed", "without_strides"]

Padding = str
"""What stands beyond the edge, in torch's words: "reflect", "replicate" or "constant"."""


class Halving(nn.Module):
    """Half the size by means weighted 1, 2, 1 along every axis.

    Args:
        edge: what stands beyond the edge.
    """

    def __init__(self, edge: Padding = "reflect") -> None:
        super().__init__()
        self.edge = edge

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C, *(half of each, rounded up)); at least 2 along each axis."""
        return smoothed(functional.pad(x, [1, 1] * (x.dim() - 2), self.edge), (1, 2, 1), stride=2)


def smoothed(x: Tensor, kernel: Sequence[float], *, stride: int = 1, gain: float = 1.0) -> Tensor:
    """Every channel blurred alike, the valid part only.

    Args:
        x: (B, C, *spatial).
        kernel: along each axis; divided by its sum.
        stride: only every so-many-th voxel is computed.
        gain: along each axis.
    """
    shares = [gain * value / sum(kernel) for value in kernel]
    for axis in range(2, x.dim()):
        length = x.shape[axis] - len(kernel) + 1
        before = (slice(None),) * axis
        parts = [
            share * x[(*before, slice(start, start + length, stride))]
            for start, share in enumerate(shares)
        ]
        x = parts[0]
        for part in parts[1:]:
            x = x + part
    return x


def without_strides(layers: nn.Sequential, edge: Padding = "reflect") -> nn.Sequential:
    """The same layers, with a :class:`Halving` behind its activation for every stride of 2.

    The convolutions are the given ones, changed; nothing that learns is added.
    """
    owed = False
    parts: list[list[nn.Module]] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and max(layer.stride) > 1:
            layer.stride = (1,) * len(layer.stride)
            owed = True
        due = owed and isinstance(layer, nn.ReLU | nn.LeakyReLU)
        parts.append([layer, Halving(edge)] if due else [layer])
        owed = owed and not due
    return nn.Sequential(*chain.from_iterable(parts))
