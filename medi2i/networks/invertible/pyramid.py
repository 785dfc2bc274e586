"""What a flow is told at each of its levels: a small U-Net's features of a condition image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.networks.layers import Conditional, check_dims, conv, max_pool

__all__ = ["ConditionPyramid"]


class ConditionPyramid(nn.Module):
    """Features of an image at 1/2, 1/4, ... of its size, each knowing the coarser ones.

    Two convolutions and group norms a stage: statistics of the image at hand alone, since a flow
    must find the same condition on its way back.

    Args:
        dims: 2 or 3.
        inputs: channels of the image.
        features: of each level below full size; the first is also that of full size.
        conditions: length of a vector that scales and shifts all stages; 0 for none.
    """

    def __init__(
        self, *, dims: int, inputs: int, features: Sequence[int], conditions: int = 0
    ) -> None:
        super().__init__()
        check_dims(dims)
        self.pool = max_pool(dims)
        widths = [features[0], *features]
        self.down = nn.ModuleList(
            _Stage(dims, width_in, width_out, conditions)
            for width_in, width_out in zip([inputs, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            _Stage(dims, fine + coarse, fine, conditions) for fine, coarse in pairwise(features)
        )

    def forward(self, image: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """(B, inputs, *spatial) -> features, finest (half the size) first."""
        stages: list[Tensor] = []
        for level, down in enumerate(self.down):
            image = down(self.pool(image) if level else image, condition)
            stages.append(image)
        told = [stages.pop()]
        for level in reversed(range(len(self.up))):
            coarse = functional.interpolate(told[0], scale_factor=2.0, mode="nearest")
            up = self.up[level]
            told.insert(0, up(torch.cat([stages.pop(), coarse], dim=1), condition))
        return told


class _Stage(nn.Module):
    def __init__(self, dims: int, inputs: int, outputs: int, conditions: int) -> None:
        super().__init__()
        self.first = conv(dims, inputs, outputs, 3, padding=1)
        self.second = conv(dims, outputs, outputs, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, outputs), outputs) for _ in range(2))
        self.condition = Conditional(conditions, outputs) if conditions else None

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norms[0](self.first(x))
        if self.condition is not None and condition is not None:
            x = self.condition(x, condition)
        return functional.silu(self.norms[1](self.second(functional.silu(x))))
