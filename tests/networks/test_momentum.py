from __future__ import annotations

import pytest
import torch
from torch import nn

from medi2i.errors import UsageError
from medi2i.networks.memory import Memory
from medi2i.networks.momentum import SlowCopy, VectorQueue


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.body(x)
        return y, 2 * y


def test_a_slow_copy_begins_equal_follows_slowly_and_learns_nothing() -> None:
    network = Twice()
    slow = SlowCopy(network, 0.999)
    assert isinstance(slow, Memory)
    assert not list(slow.parameters())
    x = torch.randn(5, 3, requires_grad=True)
    assert torch.equal(slow(x)[1], network(x)[1])
    assert not slow(x)[0].requires_grad
    old = {n: p.detach().clone() for n, p in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    network(x)
    slow.follow(network)
    found = dict(slow.network.named_buffers())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], 0.999 * old[name] + 0.001 * parameter.detach())
    for name, buffer in network.named_buffers():
        assert torch.equal(found[name], buffer), name


def test_a_queue_is_first_in_first_out_and_never_too_long() -> None:
    queue = VectorQueue(2, length=5)
    assert len(queue) == 0
    numbers = torch.arange(14.0).reshape(7, 2).requires_grad_()
    queue.push(numbers[:3])
    assert len(queue) == 3
    queue.push(numbers[3:])
    assert torch.equal(queue.vectors, numbers[2:].detach())
    assert not queue.vectors.requires_grad
    again = VectorQueue(2, length=5)
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.vectors, queue.vectors)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="decay is 1;"):
        SlowCopy(nn.Linear(1, 1), 1.0)
    with pytest.raises(UsageError, match="queue of 0 vectors"):
        VectorQueue(2, 0)
