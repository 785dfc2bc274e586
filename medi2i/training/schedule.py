"""Learning rates over a run: pure functions of the share of the run that is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

__all__ = ["SCHEDULES", "ScheduleName", "factor"]

ScheduleName = Literal["constant", "linear", "cosine", "poly"]


def constant(done: float) -> float:
    """Full rate throughout."""
    del done
    return 1.0


def linear(done: float) -> float:
    """Full rate for the first half, then down to zero in a line (pix2pix, CycleGAN)."""
    return 1.0 if done <= 0.5 else 2.0 * (1.0 - done)


def cosine(done: float) -> float:
    """Half a cosine from full rate to zero (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def poly(done: float) -> float:
    """(1 - done) ** 0.9 (nnU-Net)."""
    return float((1.0 - done) ** 0.9)


SCHEDULES: dict[ScheduleName, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "poly": poly,
}


def factor(name: ScheduleName, played: int, rounds: int, warmup: int = 0) -> float:
    """What the learning rate is multiplied by in round number `played` (from 0) of `rounds`.

    >>> [round(factor("poly", n, 1000), 4) for n in (0, 500, 1000)]
    [1.0, 0.5359, 0.0]
    >>> factor("linear", 50, 200), factor("linear", 150, 200)
    (1.0, 0.5)
    """
    if played < warmup:
        return (played + 1) / warmup
    return SCHEDULES[name](min(1.0, played / rounds))
