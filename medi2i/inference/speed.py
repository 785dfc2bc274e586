"""How fast the engines run a network on this machine, beside what its processor can do at all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medi2i.inference.engines import Engine, EngineName, there
from medi2i.inference.prepared import choose_device
from medi2i.inference.windowed import WINDOW_VOXELS
from medi2i.model import Model

__all__ = ["Speed", "matmul", "measure"]

SIDE = 256
"""Voxels along a slice that is measured; patches have their model's own size."""
MATRIX = 2048
"""Rows and columns of the matrices that show what the device can do."""


@dataclass(frozen=True)
class Speed:
    """What was measured of one engine, or of plain matrix products.

    Attributes:
        name: of the engine, or "matmul".
        ready: seconds until it could begin: converting, compiling.
        seconds: for one batch, the median over all turns.
        rate: floating-point operations per second.
        share: of the rate of matrix products in the same turns, the median.
        difference: from torch as it stands, as a share of the range.
        problem: why it could not be measured.
    """

    name: str
    ready: float = 0.0
    seconds: float = 0.0
    rate: float = 0.0
    share: float = 0.0
    difference: float | None = None
    problem: str = ""


def measure(
    model: Model,
    *,
    device: str = "auto",
    engines: Sequence[EngineName] | None = None,
    turns: int = 5,
    tell: Callable[[str], None] | None = None,
) -> list[Speed]:
    """Run one batch by each engine in turns.

    Args:
        model: of which the networks run.
        device: "auto", "cpu" or "cuda".
        engines: those that are there by default.
        turns: so often each.
        tell: told what comes next, as compiling may take a minute.

    Returns:
        Matrix products first, then every engine.
    """
    where = choose_device(device)
    system, flat = model.system.to(where).eval(), model.view.dims == 2
    if flat:
        system.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spatial = (SIDE, SIDE) if flat else (model.view.patch,) * 3
    batch = max(1, WINDOW_VOXELS // torch.Size(spatial).numel())
    windows = torch.rand((batch, system.channels, *spatial), device=where) * 2 - 1
    conditions = model.task.conditions

    def eager(some: Tensor) -> Tensor:
        asked = torch.zeros(len(some), dtype=torch.long, device=some.device)
        return system.translate(some, target=asked if conditions else None)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        eager(windows[:1])
    work = counter.get_total_flops() * batch
    runs: dict[str, Callable[[], object]] = {"matmul": matmul(where)}
    found: dict[str, Speed] = {"matmul": Speed("matmul")}
    with torch.inference_mode():
        for name in engines or there(where.type):
            if tell is not None:
                tell(str(name))
            engine = Engine(name, where.type, system)
            began = time.perf_counter()
            run: Callable[[Tensor], Tensor] = eager
            if name is not EngineName.TORCH:
                run = engine.ready(eager, windows[:1], batch, 0, f"speed {model.system_name}")
            run(windows)
            took = time.perf_counter() - began
            found[name] = Speed(name, took, difference=engine.difference, problem=engine.reason)
            if not engine.reason:
                runs[name] = partial(run, windows)
        times = _in_turns(runs, turns, where)
    limits = [2 * MATRIX**3 / one for one in times["matmul"]]
    for key, seconds in times.items():
        rates = [(2 * MATRIX**3 if key == "matmul" else work) / one for one in seconds]
        shares = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
        median = statistics.median
        found[key] = replace(
            found[key], seconds=median(seconds), rate=median(rates), share=median(shares)
        )
    return list(found.values())


def matmul(device: torch.device) -> Callable[[], Tensor]:
    """A product of two matrices of `MATRIX` rows and columns in float32."""
    one, other = torch.rand((2, MATRIX, MATRIX), device=device)
    return lambda: one @ other


def _in_turns(
    runs: dict[str, Callable[[], object]], turns: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each run in each turn, in which all take part; the first turn is for warming."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                times[name].append(time.perf_counter() - began)
    return times
