"""What training costs: seconds a round and memory, measured so that runs can be compared."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from medi2i.training.log import Progress

__all__ = ["Meter", "peak_memory"]

UNSTEADY = 5
"""First rounds that are left out: memory is found, kernels are chosen, libraries are imported."""
MIB = 2**20


class Meter:
    """Counts the seconds and the memory of one run; its `tick` watches a trainer.

    On the processor these are seconds of processor time, of all threads of this process added up:
    other programs make a run longer, but no costlier. Windows that are prepared in processes of
    their own are not counted. On a GPU they are seconds of the clock.

    Args:
        device: where the networks compute.

    Attributes:
        ticks: when each round ended, s.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ticks: list[float] = []
        self._held = 0.0 if device.type == "cuda" else _status("VmRSS") or 0.0

    def now(self) -> float:
        """Seconds, from any beginning."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def tick(self, progress: Progress | None = None) -> None:
        """A round has ended."""
        del progress
        self.ticks.append(self.now())

    def per_round(self) -> float | None:
        """Mean seconds of a round, once they are steady; None with fewer than two rounds.

        The mean, since a critic may have rounds to itself.
        """
        if len(self.ticks) < 2:
            return None
        first = min(UNSTEADY, len(self.ticks) - 2)
        return (self.ticks[-1] - self.ticks[first]) / (len(self.ticks) - 1 - first)

    def rounds_in(self, seconds: float) -> int:
        """How many rounds fit, at least one, judged by those so far.

        Raises:
            ValueError: there were fewer than two.
        """
        each = self.per_round()
        if each is None:
            raise ValueError("at least two rounds must be seen before others can be planned")
        return max(1, round(seconds / max(each, 1e-9)))

    def peak(self) -> float | None:
        """MiB at most since the meter was made; None where the system does not say."""
        most = peak_memory(self.device)
        return None if most is None else most - self._held


def peak_memory(device: torch.device) -> float | None:
    """MiB at most: allocated on a GPU, or held by this process; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return _status("VmHWM")


def _status(key: str) -> float | None:
    """MiB under a key of Linux's own account of this process."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    value = text.partition(f"{key}:")[2].split()
    return float(value[0]) / 1024 if value else None
