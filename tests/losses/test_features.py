from __future__ import annotations

import pytest
import torch

from medi2i.losses import feature_matching, layered_distance


def test_layers_weigh_what_they_are_given() -> None:
    fake = [torch.zeros(2, 3), torch.zeros(4)]
    real = [torch.full((2, 3), 2.0), torch.full((4,), -3.0)]
    assert float(layered_distance(fake, real, [0.5, 2])) == pytest.approx(0.5 * 2 + 2 * 3)


def test_four_layers_count_once_each_and_scales_are_averaged() -> None:
    zero = torch.zeros(1, 2, 4, 4)
    fake = [[zero] * 4, [zero] * 4]
    real = [[zero + n for n in (1, 2, 3, 4)], [zero + 10] * 4]
    assert float(feature_matching(fake, real)) == pytest.approx((10 + 40) / 2)


def test_two_layers_count_twice_each() -> None:
    zero = torch.zeros(3)
    assert float(feature_matching([[zero, zero]], [[zero + 1, zero + 2]])) == pytest.approx(6)


def test_it_vanishes_for_what_is_alike_and_moves_the_fake_alone() -> None:
    fake, real = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    assert float(feature_matching([[fake]], [[fake]]).detach()) == 0
    feature_matching([[fake]], [[real]]).backward()
    assert real.grad is None
    assert fake.grad is not None
    assert fake.grad.any()
