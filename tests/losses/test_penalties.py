from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medi2i.losses import gradient_penalty, r1_penalty


def along(length: float, voxels: int = 16) -> Tensor:
    """A direction of that length, for images of 1 x 4 x 4."""
    return torch.full((1, 4, 4), length / voxels**0.5)


@pytest.mark.parametrize(("length", "expected"), [(1.0, 0.0), (3.0, 4.0), (0.5, 0.25)])
def test_a_linear_critic_pays_for_its_slope(length: float, expected: float) -> None:
    weight = along(length)
    real, fake = torch.randn(2, 3, 1, 4, 4)
    penalty = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, fake)
    assert float(penalty) == pytest.approx(expected, abs=1e-6)


def test_a_map_of_values_is_summed_before_the_slope_is_taken() -> None:
    """Sixteen values of slope one each, in sixteen voxels: the norm is 4, and (4 - 1)^2 = 9."""
    real, fake = torch.randn(2, 3, 1, 4, 4)
    assert float(gradient_penalty(lambda x: x, real, fake)) == pytest.approx(9.0)


def test_the_points_lie_on_the_lines_between_real_and_fake() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square()

    real, fake = torch.ones(64, 1, 4, 4), -torch.ones(64, 1, 4, 4)
    torch.manual_seed(0)
    gradient_penalty(critic, real, fake)
    shares = (seen[0][:, 0, 0, 0] + 1) / 2
    assert torch.equal(seen[0], (shares * 2 - 1).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    assert 0 <= float(shares.min()) < 0.1
    assert 0.9 < float(shares.max()) <= 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.1)


def test_it_teaches_the_critic_and_nobody_else() -> None:
    critic = nn.Linear(16, 1, bias=False)
    real, fake = torch.randn(2, 3, 1, 4, 4).unbind()
    real.requires_grad_()
    fake.requires_grad_()
    nn.init.constant_(critic.weight, 3 / 4)  # slope of length 3
    gradient_penalty(lambda x: critic(x.flatten(1)), real, fake).backward()
    assert real.grad is None
    assert fake.grad is None
    # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|, each 2 * 2 * 0.75 / 3
    torch.testing.assert_close(critic.weight.grad, torch.ones(1, 16))


def test_r1_of_a_linear_judge_is_half_its_squared_slope() -> None:
    weight = along(3.0).requires_grad_()
    real = torch.randn(5, 1, 4, 4, requires_grad=True)
    penalty = r1_penalty((real * weight).sum((1, 2, 3)), real)
    assert float(penalty.detach()) == pytest.approx(4.5)
    penalty.backward(inputs=[weight])
    torch.testing.assert_close(weight.grad, weight.detach())  # d 0.5 |w|^2 / dw = w


def test_r1_is_a_mean_over_the_batch() -> None:
    real = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).requires_grad_()
    penalty = r1_penalty(real.square(), real)  # slopes 2 and 6
    assert float(penalty.detach()) == pytest.approx(0.5 * (4 + 36) / 2)
