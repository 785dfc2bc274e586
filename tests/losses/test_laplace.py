from __future__ import annotations

import math

import pytest
import torch

from medi2i.losses import laplace


def test_its_value_by_hand() -> None:
    predicted, reference = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]])
    spread = torch.log(torch.tensor([[[2.0, 1.0]]]))
    # |1|/2 + ln 2 and |3|/1 + 0
    assert float(laplace(predicted, reference, spread)) == pytest.approx(
        (0.5 + math.log(2) + 3) / 2
    )
    weight = torch.tensor([[[1.0, 0.0]]])
    assert float(laplace(predicted, reference, spread, weight)) == pytest.approx(0.5 + math.log(2))


def test_it_is_smallest_where_the_spread_is_the_mean_absolute_error() -> None:
    torch.manual_seed(0)
    error = torch.randn(1, 1, 4000)
    best = min(
        (float(laplace(error, torch.zeros_like(error), torch.full_like(error, math.log(b)))), b)
        for b in (0.6, 0.7, 0.75, float(error.abs().mean()), 0.85, 0.9, 1.0)
    )
    assert best[1] == pytest.approx(float(error.abs().mean()))


def test_a_spread_near_zero_stays_finite() -> None:
    value = laplace(torch.ones(1, 1, 3), torch.zeros(1, 1, 3), torch.full((1, 1, 3), -100.0))
    assert math.isfinite(float(value))
