"""What contrastive learning remembers: a slow copy of a network, and vectors of earlier rounds.

He et al. 2020 (MoCo), arXiv:1911.05722.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.memory import Memory

__all__ = ["SlowCopy", "VectorQueue"]


class SlowCopy(Memory):
    """A network's running average, which follows it and never learns.

    Args:
        network: what is copied; its parameters are buffers in the copy.
        decay: share of itself that the copy keeps at each step, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UsageError(f"decay is {decay:g}; 0 <= decay < 1 was expected")
        self.decay = decay
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach().clone())

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the copy says; without gradient."""
        outputs: tuple[Tensor, ...] = self.network(*inputs)
        return outputs

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One step towards the parameters of `network`; its buffers are taken over as they are."""
        own = dict(self.network.named_buffers())
        for name, parameter in network.named_parameters():
            own[name].lerp_(parameter, 1 - self.decay)
        for name, buffer in network.named_buffers():
            own[name].copy_(buffer)


class VectorQueue(Memory):
    """The last so many vectors, the oldest first.

    Args:
        width: numbers of a vector.
        length: vectors kept.
    """

    vectors: Tensor
    """(N, width), N at most `length`."""

    def __init__(self, width: int, length: int = 1024) -> None:
        super().__init__()
        if length < 1:
            raise UsageError(f"a queue of {length} vectors was asked for; 1 or more was expected")
        self.length = length
        self.register_buffer("vectors", torch.zeros(0, width))

    def __len__(self) -> int:
        return len(self.vectors)

    def push(self, vectors: Tensor) -> None:
        """Put (B, width) at the end, without gradient; what is too old leaves."""
        new = vectors.detach().to(self.vectors)
        self.vectors = torch.cat([self.vectors, new])[-self.length :]
