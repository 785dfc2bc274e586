"""Cutting a volume into windows for a network, and stitching what comes back.

A slice is a window one voxel thick; a slab is a slice that sees its neighbours (`context`); a
3-D patch is a window with overlap. The law, for all of them: stitching what was cut gives the
volume, bit for bit. Memory is the volume, its result and the windows in flight.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medi2i.errors import DimensionError, UsageError

__all__ = ["Grid", "Stitcher"]

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """Where windows lie in a volume.

    Attributes:
        shape: (X, Y, Z) of the volume.
        window: size of what the network returns. Where it is larger than the volume, the edge is
            repeated for the network and cropped from its answer.
        overlap: by how many voxels neighbouring windows overlap; the last window of an axis is
            shifted inwards to end with the volume.
        context: voxels on either side that the network sees and does not return; beyond the
            volume the edge is repeated.

    Raises:
        UsageError: a size below 1, an overlap that leaves no step, a negative context.

    >>> grid = Grid((5, 4, 4), window=(2, 4, 4))
    >>> grid.origins
    [(0, 0, 0), (2, 0, 0), (3, 0, 0)]
    """

    shape: Triple
    window: Triple
    overlap: Triple = (0, 0, 0)
    context: Triple = (0, 0, 0)

    def __post_init__(self) -> None:
        """Refuse sizes that describe no grid."""
        sizes = zip(self.shape, self.window, self.overlap, self.context, strict=True)
        if len(self.shape) != 3 or not all(
            size >= 1 and 0 <= overlap < window and context >= 0
            for size, window, overlap, context in sizes
        ):
            raise UsageError(
                f"{self} is no grid: three sizes >= 1, 0 <= overlap < window and context >= 0 were"
                " expected."
            )

    @classmethod
    def slices(cls, shape: Sequence[int], axis: int = 2, neighbours: int = 0) -> Grid:
        """Slices one voxel thick across `axis`, each seen with `neighbours` on either side.

        Cutting is cheapest across the axis that is slowest in memory: Z, as files have it.

        >>> Grid.slices((3, 4, 5), axis=2, neighbours=1)
        Grid(shape=(3, 4, 5), window=(3, 4, 1), overlap=(0, 0, 0), context=(0, 0, 1))
        """
        if axis not in (0, 1, 2):
            raise UsageError(f"Slices across axis {axis} were asked for; 0, 1 or 2 was expected.")
        whole = _triple(shape)
        across = [index == axis for index in range(3)]
        window = _triple(
            1 if is_axis else size for is_axis, size in zip(across, whole, strict=True)
        )
        context = _triple(neighbours if is_axis else 0 for is_axis in across)
        return cls(whole, window, context=context)

    @classmethod
    def patches(cls, shape: Sequence[int], size: int | Sequence[int], overlap: float = 0.5) -> Grid:
        """3-D patches of `size`, clipped to the volume, that overlap by a fraction of their size.

        >>> Grid.patches((9, 8, 3), 4)
        Grid(shape=(9, 8, 3), window=(4, 4, 3), overlap=(2, 2, 0), context=(0, 0, 0))
        """
        if not 0 <= overlap < 1:
            raise UsageError(f"An overlap of {overlap} was given; 0 <= overlap < 1 was expected.")
        whole = _triple(shape)
        sizes = (size,) * 3 if isinstance(size, int) else _triple(size)
        window = _triple(min(pair) for pair in zip(sizes, whole, strict=True))
        common = _triple(
            0 if own == all_ else int(own * overlap)
            for own, all_ in zip(window, whole, strict=True)
        )
        return cls(whole, window, common)

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.origins)

    @cached_property
    def origins(self) -> list[Triple]:
        """The first voxel of each window (without context), the last axis running fastest."""
        starts = []
        for size, window, overlap in zip(self.shape, self.window, self.overlap, strict=True):
            last = max(size - window, 0)
            starts.append([*range(0, last, window - overlap), last])
        return [(x, y, z) for x, y, z in itertools.product(*starts)]

    def cut(self, volume: Tensor, indices: Sequence[int]) -> Tensor:
        """Windows with their context, contiguous, on the device of the volume.

        Args:
            volume: (C, X, Y, Z).
            indices: which windows, N of them.

        Returns:
            (N, C, *(window + 2 * context)), a copy.

        Raises:
            DimensionError: the volume has another shape than the grid.
        """
        if volume.dim() != 4 or tuple(volume.shape[1:]) != self.shape:
            raise DimensionError(
                f"A tensor of shape {tuple(volume.shape)} was given; (C, X, Y, Z) with"
                f" {self.shape} was expected."
            )
        seen = [w + 2 * c for w, c in zip(self.window, self.context, strict=True)]
        windows = volume.new_empty((len(indices), volume.shape[0], *seen))
        for window, index in zip(windows, indices, strict=True):
            part = volume
            for axis, (origin, context, length, size) in enumerate(
                zip(self.origins[index], self.context, seen, self.shape, strict=True), start=1
            ):
                first = origin - context
                if first >= 0 and first + length <= size:
                    part = part.narrow(axis, first, length)
                else:
                    inside = torch.arange(first, first + length, device=volume.device)
                    part = part.index_select(axis, inside.clamp_(0, size - 1))
            window.copy_(part)
        return windows

    def stitcher(
        self,
        channels: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Stitcher:
        """An empty result to add windows to."""
        return Stitcher(self, channels, device=device, dtype=dtype)


class Stitcher:
    """Puts windows back into a volume, one batch at a time.

    Without overlap a window is written where it lies. With overlap a voxel is the mean of all
    windows that hold it, weighted by a Gaussian around each window's centre (sigma an eighth of
    the window, as nnU-Net: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). The mean is
    updated incrementally, so that equal values stay what they are to the last bit.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.grid = grid
        self._missing = set(range(len(grid)))
        self._values = torch.zeros((channels, *grid.shape), device=device, dtype=dtype)
        self._weight: Tensor | None = None
        if any(grid.overlap):
            self._weight = _gaussian(grid).to(dtype).to(self._values.device)
            self._total = self._values.new_zeros(grid.shape)

    def add(self, indices: Sequence[int], windows: Tensor) -> None:
        """Take in what the network returned for the windows of these indices.

        Args:
            windows: (N, C, *window), without context; any device and floating dtype.

        Raises:
            DimensionError: another shape.
        """
        expected = (len(indices), self._values.shape[0], *self.grid.window)
        if tuple(windows.shape) != expected:
            raise DimensionError(
                f"Windows of shape {tuple(windows.shape)} came back; {expected} was expected."
            )
        windows = windows.detach().to(self._values)
        for index, window in zip(indices, windows, strict=True):
            origin = self.grid.origins[index]
            sizes = [  # a window may reach beyond a small volume
                min(length, size - first)
                for first, length, size in zip(
                    origin, self.grid.window, self.grid.shape, strict=True
                )
            ]
            place = tuple(slice(o, o + size) for o, size in zip(origin, sizes, strict=True))
            inside = tuple(slice(size) for size in sizes)
            values, window = self._values[:, *place], window[:, *inside]
            if self._weight is None:
                values.copy_(window)
            else:
                weight, total = self._weight[inside], self._total[place]
                total += weight
                values += (window - values) * (weight / total)
            self._missing.discard(index)

    def result(self) -> Tensor:
        """The volume, (C, X, Y, Z).

        Raises:
            DimensionError: some windows were never added.
        """
        if self._missing:
            raise DimensionError(
                f"{len(self._missing)} of {len(self.grid)} windows were never added; the volume"
                " would have holes."
            )
        return self._values


def _gaussian(grid: Grid) -> Tensor:
    """Weights (window,), 1 at the centre; flat along axes without overlap."""
    weight = torch.ones((1, 1, 1), dtype=torch.float64)
    for axis, (window, overlap) in enumerate(zip(grid.window, grid.overlap, strict=True)):
        distance = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
        sigma = window / 8 if overlap else math.inf
        profile = torch.exp(-0.5 * (distance / sigma) ** 2)
        weight = weight * profile.reshape([-1 if axis == other else 1 for other in range(3)])
    return weight.expand(grid.window)


def _triple(values: Iterable[int]) -> Triple:
    x, y, z = (int(value) for value in values)
    return x, y, z
