"""As many windows at once as the memory holds, and the number that it holds where it does not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medi2i.errors import DeviceMemoryError, out_of_memory

__all__ = ["within_memory"]


def within_memory(forward: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
    """What a network makes of windows.

    Args:
        windows: (N, channels, *spatial).

    Raises:
        DeviceMemoryError: they need more memory than there is. It knows half, a quarter, ... of N
            that went through all the same.
    """
    try:
        return forward(windows)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    fits = len(windows) // 2  # outside of the handler, which holds on to what was computed
    while fits and not _goes(forward, windows[:fits]):
        fits //= 2
    size = " x ".join(map(str, windows.shape[2:]))
    if not fits:
        raise DeviceMemoryError(
            f"a single window of {size} needs more memory than is free; end other programs, or "
            "take a smaller model or a machine with more"
        )
    raise DeviceMemoryError(
        f"{len(windows)} windows of {size} at once need more memory than is free; {fits} would "
        f"have fitted: --batch-size {fits}",
        fits,
    )


def _goes(forward: Callable[[Tensor], Tensor], windows: Tensor) -> bool:
    if windows.is_cuda:
        torch.cuda.empty_cache()
    try:
        forward(windows)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True
