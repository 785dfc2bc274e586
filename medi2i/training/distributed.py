"""Several processes as one: what `torchrun` starts, and nothing beyond torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed as dist
from torch import nn

__all__ = ["Ranks", "joined"]


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
                dist.broadcast(tensor.data, src=0)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, all in one message."""
        if self.ranks == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.ranks
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

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
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
