from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import pytest

from medi2i.training.schedule import SCHEDULES, ScheduleName, factor


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", (1, 1, 1, 1, 1)),
        ("linear", (1, 1, 1, 0.5, 0)),
        ("cosine", (1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0)),
        ("poly", (1, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0)),
    ],
)
def test_at_the_quarters(name: ScheduleName, values: tuple[float, ...]) -> None:
    found = [factor(name, played, 100) for played in (0, 25, 50, 75, 100)]
    assert found == pytest.approx(values)


def test_nnunets_learning_rates() -> None:
    rates = [0.01 * factor("poly", epoch, 1000) for epoch in (0, 500, 1000)]
    assert rates == pytest.approx([0.01, 5.359e-3, 0], abs=1e-6)


def test_pix2pix_over_100_and_100_epochs() -> None:
    """The authors step once an epoch and stop short of 0 by one in 101; here every round steps.

    Theirs after epoch e is 1 - max(0, e + 1 - 100) / 101: 1.0, 0.9901, 0.4950, 0 at 99, 100, 150,
    200. Ours at the same share of the run never differs by more than that one step.
    """

    def theirs(epoch: int) -> float:
        return 1 - max(0, epoch + 1 - 100) / 101

    assert [theirs(e) for e in (99, 100, 150, 200)] == pytest.approx(
        [1.0, 0.9901, 0.4950, 0.0], abs=5e-5
    )
    for epoch in range(201):
        assert factor("linear", epoch, 200) == pytest.approx(theirs(epoch), abs=1 / 101 + 1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_climbs_to_the_full_rate(name: ScheduleName) -> None:
    assert [factor(name, n, 10**9, warmup=4) for n in range(5)] == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1]
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_never_rises_again_and_never_below_zero(name: ScheduleName) -> None:
    values = [factor(name, n, 50) for n in range(60)]
    assert all(a >= b >= 0 for a, b in pairwise(values))


def test_every_name_has_a_schedule() -> None:
    assert set(get_args(ScheduleName)) == set(SCHEDULES)
