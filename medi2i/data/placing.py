"""Where a window lies in a person: anywhere around tissue, or where another lies in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from medi2i.contrasts import Contrast
from medi2i.data.decoded import Box, Prepared
from medi2i.task import View

__all__ = ["Corner", "Placing"]

Corner = tuple[int, int, int]
"""A window's first voxel along each axis; it lies outside where the window hangs over."""

GIVE = 0.03
"""How far a matching window may be off, as a share of the head's extent."""


@dataclass(frozen=True)
class Placing:
    """Windows of one size: `size` voxels in the plane (dims 2) or along each side (dims 3)."""

    view: View
    size: int

    def anywhere(self, person: Prepared, rng: np.random.Generator) -> Corner:
        """A random window around tissue."""
        if self.view.dims == 3:
            x, y, z = (self._along(person, axis, rng) for axis in range(3))
            return x, y, z
        z = int(rng.choice(person.heights)) - self.view.slices // 2
        return self._along(person, 0, rng), self._along(person, 1, rng), z

    def matching(
        self, person: Prepared, rng: np.random.Generator, other: Prepared, corner: Corner
    ) -> Corner:
        """A random window whose middle lies about where another's does in another head.

        Alike is the share of the head's extent: along the body's axis for slices and slabs, along
        all three axes for patches; give or take `GIVE`, and never further off tissue than
        :meth:`anywhere`.

        Args:
            person: where to.
            rng: for what is left to chance.
            other, corner: the other window, which lies in tissue of `other`.
        """
        if self.view.dims == 3:
            x, y, z = (self._alike(person, axis, rng, other, corner[axis]) for axis in range(3))
            return x, y, z
        half = self.view.slices // 2
        first, last = (int(other.heights[end]) for end in (0, -1))
        share = (corner[2] + half - first) / (last - first) if last > first else 0.5
        share += rng.uniform(-GIVE, GIVE)
        first, last = (int(person.heights[end]) for end in (0, -1))
        off = np.abs(person.heights - (first + share * (last - first)))
        z = int(person.heights[off.argmin()]) - half
        return self._along(person, 0, rng), self._along(person, 1, rng), z

    def cut(
        self, person: Prepared, wanted: Sequence[Contrast], corner: Corner, *, further: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The wanted contrasts (C, *window) and tissue (1, *window); a slab is thin in Z.

        Args:
            further: slices by which a slab goes on at its upper end.
        """
        (x, pad_x), (y, pad_y) = (self._inside(person, axis, corner[axis]) for axis in (0, 1))
        if self.view.dims == 3:
            z, pad_z = self._inside(person, 2, corner[2])
            box: Box = (x, y, z)
        else:
            slab = np.arange(corner[2], corner[2] + self.view.slices + further)
            box, pad_z = (x, y, slab.clip(0, person.tissue.shape[2] - 1)), (0, 0)
        pads = (pad_x, pad_y, pad_z)
        return person.stack(wanted, box, pads), person.inside(box, pads)

    def cut_plane(self, person: Prepared, plane: Tensor, corner: Corner, outside: float) -> Tensor:
        """What :meth:`cut` shows in the plane, of (C, X, Y) values of one slice: (C, *window)."""
        (x, pad_x), (y, pad_y) = (self._inside(person, axis, corner[axis]) for axis in (0, 1))
        return functional.pad(plane[:, x, y], (*pad_y, *pad_x), value=outside)

    def _range(self, person: Prepared, axis: int) -> tuple[int, int]:
        """The first and the last start of a window around tissue."""
        low, high = person.bounds[axis]
        slack = high - low - self.size  # negative where the window is larger than the head
        return low + min(0, slack), low + max(0, slack)

    def _along(self, person: Prepared, axis: int, rng: np.random.Generator) -> int:
        first, last = self._range(person, axis)
        return int(rng.integers(first, last + 1))

    def _alike(
        self, person: Prepared, axis: int, rng: np.random.Generator, other: Prepared, start: int
    ) -> int:
        low, high = other.bounds[axis]
        share = (start + self.size / 2 - low) / (high - low) + rng.uniform(-GIVE, GIVE)
        low, high = person.bounds[axis]
        first, last = self._range(person, axis)
        return min(max(round(low + share * (high - low) - self.size / 2), first), last)

    def _inside(self, person: Prepared, axis: int, start: int) -> tuple[slice, tuple[int, int]]:
        """The part of a window inside the volume, and the air before and behind it."""
        length = person.tissue.shape[axis]
        inside = slice(max(0, start), min(length, start + self.size))
        return inside, (max(0, -start), max(0, start + self.size - length))
