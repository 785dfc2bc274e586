from __future__ import annotations

import pytest
import torch
from torch import nn

from medi2i.errors import UsageError
from medi2i.networks.memory import ImagePool


def numbered(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)


def test_a_pool_of_none_hands_everything_back_without_gradient() -> None:
    images = numbered(1, 2).requires_grad_()
    given = ImagePool(0)(images)
    assert torch.equal(given, images)
    assert not given.requires_grad


def test_until_it_is_full_every_image_comes_back() -> None:
    pool = ImagePool(3)
    assert pool(numbered(1, 2)).flatten().tolist() == [1, 2]
    assert pool(numbered(3)).flatten().tolist() == [3]
    assert pool.images.flatten().tolist() == [1, 2, 3]


def test_afterwards_half_come_from_the_store_and_are_replaced() -> None:
    torch.manual_seed(0)
    pool = ImagePool(5)
    pool(numbered(*range(5)))
    old = 0
    for number in range(5, 1005):
        before = set(pool.images.flatten().tolist())
        (given,) = pool(numbered(number)).flatten().tolist()
        after = set(pool.images.flatten().tolist())
        if given == number:
            assert after == before
        else:
            old += 1
            assert given in before
            assert after == before - {given} | {number}
    assert 430 < old < 570


def test_a_pool_travels_with_a_state_and_goes_on_alike() -> None:
    torch.manual_seed(0)
    one, other = (nn.ModuleDict({"pool": ImagePool(2)}) for _ in range(2))
    one["pool"](numbered(1, 2))
    other.load_state_dict(one.state_dict())
    drawn = []
    for pool in (one["pool"], other["pool"]):
        torch.manual_seed(3)
        drawn.append([float(pool(numbered(n))) for n in range(3, 20)])
    assert drawn[0] == drawn[1]


def test_another_size_of_images_starts_anew() -> None:
    pool = ImagePool(2)
    pool(torch.zeros(2, 1, 4, 4))
    assert pool(torch.ones(1, 1, 6, 6)).shape == (1, 1, 6, 6)
    assert int(pool.stored) == 1


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(UsageError, match="0 or more"):
        ImagePool(-1)
