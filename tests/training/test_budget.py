from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from medi2i.training.budget import Meter, peak_memory

CPU = torch.device("cpu")


def meter_with(*ticks: float) -> Meter:
    meter = Meter(CPU)
    meter.ticks = list(ticks)
    return meter


def test_the_first_rounds_do_not_count() -> None:
    # five slow ones, then a generator's round of 6 s in every third, between critic's of 3 s
    steady = np.cumsum([3.0, 3.0, 6.0] * 3) + 500
    meter = meter_with(100, 200, 300, 400, 450, 500, *steady)
    assert meter.per_round() == pytest.approx(4)
    assert meter.rounds_in(60) == 15
    assert meter.rounds_in(0.1) == 1


def test_few_rounds_are_judged_by_the_last_one() -> None:
    assert meter_with(10, 30).per_round() == 20
    assert meter_with(10, 30, 35).per_round() == 5
    assert meter_with(10).per_round() is None
    with pytest.raises(ValueError, match="two rounds"):
        meter_with(10).rounds_in(60)


def test_waiting_costs_nothing_and_work_does() -> None:
    meter = Meter(CPU)
    meter.tick()
    time.sleep(0.2)
    meter.tick()
    while time.process_time() - meter.ticks[1] < 0.2:
        pass
    meter.tick()
    idle, busy = np.diff(meter.ticks)
    assert idle < 0.1  # as when another program has the processor
    assert busy >= 0.2


def test_memory_is_counted_from_where_the_meter_was_made() -> None:
    if peak_memory(CPU) is None:
        pytest.skip("this system does not say how much memory a process has held")
    meter = Meter(CPU)
    held = np.ones(2**24)  # 128 MiB
    peak, whole = meter.peak(), peak_memory(CPU)
    assert held[0] == 1
    assert peak is not None
    assert whole is not None
    assert 120 < peak < whole
