"""How a run goes: rounds, rates, what is kept when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from medi2i.errors import ConfigError
from medi2i.training.schedule import ScheduleName

__all__ = ["Optimiser", "Plan"]


@dataclass(frozen=True)
class Optimiser:
    """How one player learns."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.99
    weight_decay: float = 0.0

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser; fused where torch offers it."""
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters,
                self.lr,
                self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.momentum > 0,
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, self.lr, self.betas, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class Plan:
    """How a run goes; nothing in it depends on the system.

    Attributes:
        rounds: how often `play` is driven through.
        batch_size: windows per round and rank.
        optimiser: of every player, unless `players` names another.
        players: optimiser by player.
        schedule, warmup: of the learning rates; `warmup` in rounds.
        average: decay of the moving average of weights, which is what is validated and kept;
            0 keeps the weights themselves.
        clip: largest gradient norm of a turn; None for no limit.
        precision: "bfloat16" and "float16" compute in that type where the device has it.
        seed: of the weights, the windows and everything random.
        channels_last: memory order of images on a GPU, where most convolutions are faster with it;
            processors train faster without.
        compile: let torch compile the networks (torch.compile): about a minute at the start.
        log_every, validate_every, checkpoint_every: in rounds; 0 for never.
        workers: processes that prepare windows beside the one that trains.
    """

    rounds: int = 10_000
    batch_size: int = 8
    optimiser: Optimiser = field(default_factory=Optimiser)
    players: Mapping[str, Optimiser] = field(default_factory=dict)
    schedule: ScheduleName = "linear"
    warmup: int = 0
    average: float = 0.999
    clip: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0
    channels_last: bool = True
    compile: bool = False
    log_every: int = 50
    validate_every: int = 1000
    checkpoint_every: int = 500
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that no run can follow.

        Raises:
            ConfigError: the message names the number and what was expected.
        """
        smallest = dict.fromkeys(("rounds", "batch_size"), 1) | dict.fromkeys(
            ("warmup", "log_every", "validate_every", "checkpoint_every", "workers"), 0
        )
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least {least} was expected")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average:g}; 0 <= average < 1 was expected")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip is {self.clip:g}; more than 0, or none, was expected")
