"""The encoder and decoders of BranchGAN (code yfzhoucs/BranchGAN): a residual generator in two.

Between the outer parts, which are CycleGAN's, stand residual blocks with a learnt norm and a ReLU
behind the sum, half of them in the encoder, half in each decoder.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medi2i.networks.layers import Norm, norm
from medi2i.networks.resnet import Edge, decoder, encoder

__all__ = ["branch", "trunk"]


def trunk(
    *, dims: int, inputs: int, features: int = 64, blocks: int = 3, kind: Norm = "instance"
) -> nn.Sequential:
    """The encoder: (B, inputs, *spatial) -> (B, 4 * features, *spatial / 4), not negative.

    Args:
        dims: 2 or 3.
        inputs: channels.
        features: channels of the stem.
        blocks: residual blocks behind the strided convolutions.
        kind: norm of the residual blocks; the authors' is "batch".
    """
    return nn.Sequential(
        encoder(dims, inputs, features, **_outer(dims)),
        *(_Block(dims, 4 * features, kind) for _ in range(blocks)),
    )


def branch(
    *, dims: int, outputs: int, features: int = 64, blocks: int = 3, kind: Norm = "instance"
) -> nn.Sequential:
    """A decoder: (B, 4 * features, *positions) -> (B, outputs, *spatial) in (-1, 1); as above."""
    return nn.Sequential(
        *(_Block(dims, 4 * features, kind) for _ in range(blocks)),
        decoder(dims, features, outputs, **_outer(dims)),
    )


def _outer(dims: int) -> dict[str, Any]:
    return {"halvings": 2, "kernel": 7 if dims == 2 else 5, "edge": _edge(dims)}


def _edge(dims: int) -> Edge:
    return "reflect" if dims == 2 else "replicate"


class _Block(nn.Module):
    """ReLU of x and two normed convolutions of it."""

    def __init__(self, dims: int, channels: int, kind: Norm) -> None:
        super().__init__()
        layer = nn.Conv2d if dims == 2 else nn.Conv3d
        once, again = (
            layer(channels, channels, 3, padding=1, padding_mode=_edge(dims), bias=False)
            for _ in range(2)
        )
        self.change = nn.Sequential(
            once, norm(kind, dims, channels), nn.ReLU(), again, norm(kind, dims, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.change(x)
        return (x + change).relu()
