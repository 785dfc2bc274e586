"""Several processes as one: what `torchrun` starts, and nothing beyond torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn

__all__ = ["Ranks", "joined"]

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long ranks wait for each other: the first one scores whole volumes while the rest wait.
A rank that dies is noticed by `torchrun`, not by this."""


@dataclass(frozen=True)
class Ranks:
    """Who this process is among how many."""

    rank: int = 0
    ranks: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes logs, samples and checkpoints."""
        return self.rank == 0

    def agree(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0."""
        if self.ranks > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().contiguous()  # a message has no other memory order
                dist.broadcast(whole, src=0)
                tensor.data.copy_(whole)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, all in one message.

        A parameter that no rank has a gradient for keeps none, so that no optimiser moves it.
        """
        if self.ranks == 1:
            return
        here = [float(parameter.grad is not None) for parameter in parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradients[0].new_tensor(here), *(g.flatten() for g in gradients)])
        dist.all_reduce(flat)
        there, flat = flat[: len(here)].tolist(), flat[len(here) :] / self.ranks
        means = flat.split([gradient.numel() for gradient in gradients])
        for parameter, mean, anywhere in zip(parameters, means, there, strict=True):
            parameter.grad = mean.view_as(parameter).clone() if anywhere else None

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the ranks, on all of them; the same names everywhere."""
        every = self.gather(dict(values))
        return {name: sum(one[name] for one in every) / len(every) for name in values}

    def gather(self, own: T) -> list[T]:
        """What every rank has, in order of rank, on all of them."""
        if self.ranks == 1:
            return [own]
        every: list[T | None] = [None] * self.ranks
        dist.all_gather_object(every, own)
        return [one for one in every if one is not None]

    def wait(self) -> None:
        """Until every rank has come this far."""
        if self.ranks > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The process group that `torchrun` describes in the environment; a lone rank without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # "cuda" now means this one
        dist.init_process_group("nccl", timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
