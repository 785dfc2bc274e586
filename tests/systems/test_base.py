from __future__ import annotations

import pytest
import torch
from torch import nn

from medi2i.errors import ModelError, UsageError
from medi2i.systems import SYSTEMS, Turn, frozen, system_named
from medi2i.systems.base import one_hot
from medi2i.systems.unet import UNetRegression


def test_a_turn_is_worth_the_sum_of_its_losses() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    turn = Turn("generator", l1=3 * weight, gan=weight**2)
    turn.objective.backward()
    assert float(turn.objective.detach()) == 10
    assert weight.grad == 7
    assert list(turn.losses) == ["l1", "gan"]


def test_a_turn_without_losses_is_a_mistake() -> None:
    with pytest.raises(ValueError, match='turn of "generator" has no loss'):
        Turn("generator")


def test_frozen_lets_gradients_pass_and_keeps_them_from_the_network() -> None:
    network, image = nn.Linear(3, 1), torch.ones(3, requires_grad=True)
    always_still = nn.Linear(1, 1).requires_grad_(False)
    with frozen(network, always_still):
        loss = always_still(network(image)).sum()
    loss.backward()
    assert image.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in always_still.parameters())


def test_frozen_ends_with_an_error_too() -> None:
    network = nn.Linear(3, 1)
    with pytest.raises(KeyError), frozen(network):
        raise KeyError
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_one_hot() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    asked = one_hot(torch.tensor([2, 0]), 3, like)
    assert asked is not None
    assert asked.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert asked.dtype == torch.float64
    assert one_hot(None, 0, like) is None
    with pytest.raises(UsageError, match="serves 3 contrasts; say which"):
        one_hot(None, 3, like)


@pytest.mark.parametrize(("dims", "slices"), [(2, 2), (3, 3), (2, 0)])
def test_slices_that_have_no_centre_are_refused(dims: int, slices: int) -> None:
    with pytest.raises(UsageError, match=f"slices is {slices} with dims {dims}"):
        UNetRegression(dims=dims, slices=slices, features=(2, 2))


def test_the_catalogue_names_what_is_near() -> None:
    assert system_named("unet") is UNetRegression
    with pytest.raises(ModelError, match=r'system "pix2pics" .*did you mean "pix2pix"\?'):
        system_named("pix2pics")


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_says_who_and_whence_it_is(name: str) -> None:
    system = SYSTEMS[name]
    assert system.paper
    assert system.players
    assert system.__doc__
