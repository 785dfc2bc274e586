"""What CUT compares patches with (Park et al. 2020, arXiv:2007.15651)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PatchProjection", "draw_positions"]


class PatchProjection(nn.Module):
    """From the features at some positions to vectors of unit length, by a small network a layer.

    Args:
        widths: channels of each layer that is looked at.
        size: numbers of a vector.
    """

    def __init__(self, widths: Sequence[int], size: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size))
            for width in widths
        )

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> list[Tensor]:
        """Per layer features (B, C, *spatial) and positions (P,) -> (B, P, size) of length 1."""
        vectors = []
        for layer, maps, places in zip(self.layers, features, positions, strict=True):
            vector = layer(maps.flatten(2)[:, :, places].transpose(1, 2))
            vectors.append(vector / (vector.norm(dim=-1, keepdim=True) + 1e-7))
        return vectors


def draw_positions(
    features: Sequence[Tensor], count: int, weight: Tensor | None = None
) -> list[Tensor]:
    """Random positions of each layer, none twice, the same for all images of the batch.

    Args:
        features: (B, C, *spatial) each.
        count: positions; all, where a layer has fewer.
        weight: (B, 1, *spatial) in [0, 1]: how likely a voxel is drawn; None for all alike.

    Returns:
        (P,) long per layer, in [0, number of voxels).
    """
    positions = []
    for maps in features:
        spatial = maps.shape[2:]
        chances = torch.ones(spatial.numel(), device=maps.device)
        if weight is not None:
            mean, size = weight.mean(0, keepdim=True).float(), list(spatial)
            mean = functional.interpolate(mean, size, mode="area")  # means, also where it grows
            chances = mean.flatten().clamp_min(1e-6)
        positions.append(torch.multinomial(chances, min(count, len(chances))))
    return positions
