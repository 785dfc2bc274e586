from __future__ import annotations

import math

import pytest
import torch

from medi2i.losses import kl_from_standard_normal


def test_the_prior_itself_costs_nothing() -> None:
    assert float(kl_from_standard_normal(torch.zeros(3, 8), torch.zeros(3, 8))) == 0


def test_numbers() -> None:
    mean, log_variance = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4)]])
    # mean 2: 2**2 / 2; deviation 2: (4 - 1 - ln 4) / 2
    expected = 2 + (3 - math.log(4)) / 2
    assert float(kl_from_standard_normal(mean, log_variance)) == pytest.approx(expected)


def test_it_is_a_sum_over_the_batch() -> None:
    mean, log_variance = torch.randn(2, 8), torch.randn(2, 8)
    once = kl_from_standard_normal(mean, log_variance)
    thrice = kl_from_standard_normal(mean.repeat(3, 1), log_variance.repeat(3, 1))
    torch.testing.assert_close(thrice, 3 * once)
