"""Pairs thrown off each other on purpose, to see which systems can learn from such pairs.

As in RegGAN (Kong et al. 2021, arXiv:2110.06465; code Kid-Liet/Reg-GAN): source and target are each
turned, shifted and zoomed at random, independently of each other. Level n turns by up to n degrees,
shifts by up to 2 n percent of the window and zooms by up to 2 n percent. The paper goes to 5, where
neighbours that belong together lie a tenth of the window apart at times.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medi2i.errors import UsageError
from medi2i.networks.deformation import sample

__all__ = ["Misalignment"]


class Misalignment:
    """Independent random affine changes of place for the two sides of a pair.

    Args:
        level: how far, from 0 for not at all.
        dims: 2 turns and shifts within the plane, all slices of a slab alike; 3 about and along
            all three axes.

    Raises:
        UsageError: a level below 0, or of 15 or more, which leaves little in common.
    """

    def __init__(self, level: float, dims: int) -> None:
        if not 0 <= level < 15:
            raise UsageError(
                f"misalignment is {level:g}; a level from 0 to 15 was expected: n turns by up to "
                "n degrees, shifts and zooms by up to 2 n percent"
            )
        self.level = level
        self.dims = dims

    def __call__(
        self, source: Tensor, target: Tensor, tissue: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Throw one window's sides off each other.

        Args:
            source, target, tissue: (C, X, Y, Z), intensities in [-1, 1]; a slab is thin in Z.
            rng: where chance comes from; untouched at level 0.

        Returns:
            All three, tissue where the target's went, and (1, X, Y, Z): 1 where the target is
            known, 0 where it came in from outside the window, as air.
        """
        if not self.level:
            return source, target, tissue, torch.ones_like(tissue)
        spatial = source.shape[1 : 1 + self.dims]
        source, _ = self.moved(source, *self.drawn(spatial, rng))
        both, inside = self.moved(torch.cat([target, 2 * tissue - 1]), *self.drawn(spatial, rng))
        return source, both[: len(target)], (both[len(target) :] + 1) / 2, inside

    def drawn(self, spatial: tuple[int, ...], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A random matrix (dims, dims) and offset (dims,) in voxels, for a window of that size."""
        share = 0.02 * self.level
        matrix = np.eye(self.dims) * rng.uniform(1 - share, 1 + share)
        planes = [(0, 1)] if self.dims == 2 else [(0, 1), (0, 2), (1, 2)]
        for one, other in planes:
            angle = math.radians(rng.uniform(-self.level, self.level))
            turn = np.eye(self.dims)
            turn[one, one] = turn[other, other] = math.cos(angle)
            turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        offset = [rng.uniform(-share, share) * size for size in spatial]
        return torch.from_numpy(matrix), torch.tensor(offset, dtype=torch.float64)

    def moved(self, window: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The window x -> window(c + matrix (x - c) + offset), c its middle, -1 from outside.

        Returns:
            It, and (1, X, Y, Z): 1 where it came from inside.
        """
        flat = self.dims == 2
        planes = window.permute(0, 3, 1, 2).flatten(0, 1) if flat else window
        spatial = planes.shape[1:]
        axes = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in spatial)
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        column = (-1, *[1] * self.dims)
        ends = torch.tensor(spatial).reshape(column) - 1
        places = torch.einsum("ij,j...->i...", matrix, places) + offset.reshape(column) + ends / 2
        inside = ((places > -1e-6) & (places < ends + 1e-6)).all(0)
        there = sample(planes[None], places.float()[None])[0]
        there = torch.where(inside, there, -1.0)
        if flat:
            there = there.reshape(len(window), -1, *spatial).permute(0, 2, 3, 1)
            inside = inside[..., None].expand(there.shape[1:])
        return there, inside[None].to(window.dtype)
