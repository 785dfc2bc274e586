from __future__ import annotations

import math

import pytest
import torch

from medi2i.losses import contest, deceive
from medi2i.losses.adversarial import Game

LN2 = math.log(2)


def test_undecided_logits_cost_ln_2() -> None:
    zeros = torch.zeros(2, 1, 3, 3)
    assert float(contest(zeros, zeros)) == pytest.approx(LN2)
    assert float(deceive(zeros)) == pytest.approx(LN2)


def test_vanilla_numbers() -> None:
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([-1.0])
    cost_real = (LN2 + math.log(1 + math.exp(-2))) / 2
    cost_fake = math.log(1 + math.exp(-1))
    assert float(contest(real, fake)) == pytest.approx(0.5 * (cost_real + cost_fake))
    assert float(deceive(fake)) == pytest.approx(math.log(1 + math.e))


def test_least_squares_numbers() -> None:
    real, fake = torch.tensor([0.5, 1.0]), torch.tensor([0.25])
    assert float(contest(real, fake, "least-squares")) == pytest.approx(0.5 * (0.125 + 0.0625))
    assert float(deceive(fake, "least-squares")) == pytest.approx(0.5625)
    assert float(contest(torch.ones(3), torch.zeros(3), "least-squares")) == 0


@pytest.mark.parametrize("game", ["vanilla", "least-squares"])
def test_each_side_pulls_its_way(game: Game) -> None:
    real, fake = (torch.zeros(4, requires_grad=True) for _ in range(2))
    contest(real, fake, game).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    # least squares is at rest where fake logits are 0; the real ones still pull
    assert (fake.grad >= 0).all()
    rival = torch.zeros(4, requires_grad=True)
    deceive(rival, game).backward()
    assert rival.grad is not None
    assert (rival.grad < 0).all()


def test_large_logits_do_not_overflow() -> None:
    loss = contest(torch.full((2,), -1e4), torch.full((2,), 1e4))
    assert float(loss) == pytest.approx(1e4)
