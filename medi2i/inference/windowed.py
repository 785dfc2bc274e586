"""Every window of a volume through a network, and back in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from medi2i.inference.engines import Engine
from medi2i.inference.memory import within_memory
from medi2i.windows import Grid

__all__ = ["Forward", "through_windows"]

Forward = Callable[[Tensor], Tensor]
"""From windows to images, (B, C * slices, X, Y) -> (B, K, X, Y) for slices, and (B, C, X, Y, Z)
-> (B, K, X, Y, Z) for patches."""

WINDOW_VOXELS = 2**19
"""Voxels that go through the network at once unless a batch size is given: eight slices of
256 x 256, which keeps a processor's cache warm and a GPU busy enough."""


def through_windows(
    volume: Tensor,
    grid: Grid,
    forward: Forward,
    *,
    channels: int,
    timed: Callable[[str], AbstractContextManager[None]],
    engine: Engine | None = None,
    what: str = "",
    batch_size: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> Tensor:
    """Cut, translate, stitch.

    Args:
        volume: (C, X, Y, Z).
        grid: its windows; those of one slice go through as slabs of channels.
        forward: what a batch of windows goes through.
        channels: K of the images that come out.
        timed: is entered with "network" and "stitch" around what takes time, and with "engine"
            around what makes one ready.
        engine: what runs `forward`, if it is not to be called as it is.
        what: tells `forward` from others of the same networks.
        batch_size: windows that go through at once.
        watch: told how many are done.

    Returns:
        (K, X, Y, Z).

    Raises:
        DeviceMemoryError: the memory does not hold so many windows at once.
    """
    fitting = max(1, WINDOW_VOXELS // math.prod(grid.window))
    batch = min(batch_size or fitting, len(grid))
    flat = grid.window[2] == 1

    def cut(numbers: Sequence[int]) -> Tensor:
        windows = grid.cut(volume, numbers)
        if flat:  # (N, C, X, Y, k) -> (N, C * k, X, Y)
            windows = windows.permute(0, 1, 4, 2, 3).flatten(1, 2)
            windows = windows.contiguous(memory_format=torch.channels_last)
        return windows

    stitcher = grid.stitcher(channels=channels, device=volume.device)
    with torch.inference_mode():
        if engine is not None:
            with timed("engine"):
                middle = len(grid) // 2
                forward = engine.ready(forward, cut([middle]), batch, middle, what)
        for first in range(0, len(grid), batch):
            numbers = range(first, min(first + batch, len(grid)))
            with timed("stitch"):
                windows = cut(numbers)
            with timed("network"):
                images = within_memory(forward, windows)
                if volume.is_cuda:
                    torch.cuda.synchronize(volume.device)
            with timed("stitch"):
                stitcher.add(numbers, images[..., None] if flat else images)
            if watch is not None:
                watch(numbers[-1] + 1)
    return stitcher.result()
