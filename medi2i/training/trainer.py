"""The one training loop: it drives any system's `play` and knows nothing of its losses."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import TrainingError
from medi2i.systems.base import Translator, Turn
from medi2i.training.checkpoint import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from medi2i.training.distributed import Ranks
from medi2i.training.schedule import ScheduleName, factor

__all__ = ["Optimiser", "Plan", "Progress", "Trainer"]


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
                parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=True
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(
            parameters, self.lr, self.betas, weight_decay=self.weight_decay, fused=True
        )


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
        channels_last: memory order of images; faster with most convolutions.
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
    log_every: int = 50
    validate_every: int = 1000
    checkpoint_every: int = 500
    workers: int = 1


@dataclass(frozen=True)
class Progress:
    """What a watcher is told after a round."""

    played: int
    rounds: int
    losses: Mapping[str, float]
    """Means since the last row of the log; empty between rows."""
    scores: Mapping[str, float]
    """Of the last validation."""
    rounds_per_second: float
    waiting: float
    """Share of the time spent waiting for windows."""


Supply = Callable[[int], Iterator[Batch]]
Validate = Callable[[Translator, int], Mapping[str, float]]


class Trainer:
    """Trains one system in one folder.

    Args:
        system: on whatever device; it is moved to `device`.
        supply: called with the round to begin at; yields batches without end. The same round
            must give the same batch, or a resumed run is another run.
        plan: how.
        folder: receives checkpoint.pt, log.csv, and TensorBoard's events.
        device: where the networks compute.
        ranks: this process among those that train together.
        validate: called with the averaged system and the rounds played; returns scores.
        keep: called with the averaged system and "best" or "last" when it is worth keeping.
        better: the score that decides what is best; higher is better.
        watch: called after every round.

    Raises:
        TrainingError: a loss is not finite, or a checkpoint does not fit.
    """

    def __init__(
        self,
        system: Translator,
        supply: Supply,
        plan: Plan,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        ranks: Ranks | None = None,
        validate: Validate | None = None,
        keep: Callable[[Translator, str], None] | None = None,
        better: str = "ssim",
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.system = system.to(self.device)
        if plan.channels_last:
            layout = torch.channels_last if system.dims == 2 else torch.channels_last_3d
            self.system.to(memory_format=layout)
        self.supply = supply
        self.plan = plan
        self.folder = folder
        self.ranks = ranks or Ranks()
        self.validate = validate
        self.keep = keep
        self.better = better
        self.watch = watch
        self.ranks.agree(self.system)
        self.optimisers = {
            player: plan.players.get(player, plan.optimiser).build(system.parameters_of(player))
            for player in system.players
        }
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=plan.precision == "float16" and self.device.type == "cuda"
        )
        self.average = {n: p.detach().clone() for n, p in system.named_parameters()}
        self.best = float("-inf")
        self.scores: dict[str, float] = {}

    @property
    def played(self) -> int:
        """Rounds behind us."""
        return int(self.system.rounds)

    def run(self) -> dict[str, float]:
        """Train until the plan is fulfilled, from the checkpoint where there is one.

        Returns:
            The scores of the last validation.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        plan, checkpoint = self.plan, self.folder / "checkpoint.pt"
        if checkpoint.is_file():
            self._resume(load_checkpoint(checkpoint), checkpoint)
        log = _Log(self.folder, self.played) if self.ranks.leads else None
        batches = self.supply(self.played)
        clock = _Clock()
        try:
            while self.played < plan.rounds:
                with clock.waiting():
                    batch = next(batches).to(self.device)
                losses = self._round(batch)
                played, row = self.played, {}
                clock.gather(losses)
                last = played == plan.rounds
                if plan.log_every and (played % plan.log_every == 0 or last):
                    row = clock.means()
                    if log is not None:
                        log.write(played, {"rate": self._rate(played - 1), **row})
                if self.validate and plan.validate_every and (
                    played % plan.validate_every == 0 or last
                ):
                    self._validate(log)
                if plan.checkpoint_every and (played % plan.checkpoint_every == 0 or last):
                    self._checkpoint(checkpoint)
                if self.watch is not None:
                    self.watch(
                        Progress(
                            played, plan.rounds, row, self.scores, clock.speed, clock.waited
                        )
                    )
        finally:
            if log is not None:
                log.close()
        if self.keep is not None and self.ranks.leads:
            with self.averaged() as system:
                self.keep(system, "last")
                if self.best == float("-inf"):
                    self.keep(system, "best")  # nothing was validated: the last is the best known
        self.ranks.wait()
        return self.scores

    def _round(self, batch: Batch) -> dict[str, Tensor]:
        """Drive `play` through once: this is where parameters change, and nowhere else."""
        self.system.train()
        losses: dict[str, Tensor] = {}
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("full_lr", group["lr"]) * self._rate(self.played)
        turns = self.system.play(batch)
        while (turn := self._next(turns)) is not None:
            self._check(turn, batch)
            optimiser = self.optimisers[turn.player]
            parameters = self.system.parameters_of(turn.player)
            optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(turn.objective).backward(inputs=parameters)
            self.scaler.unscale_(optimiser)
            self.ranks.average(parameters)
            if self.plan.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.plan.clip)
            self.scaler.step(optimiser)
            self.scaler.update()
            losses |= {f"{turn.player}/{name}": v.detach() for name, v in turn.losses.items()}
        self.system.rounds += 1
        if self.plan.average:
            # young averages follow closely, so that they do not remember the random start
            decay = min(self.plan.average, (1 + self.played) / (10 + self.played))
            torch._foreach_lerp_(
                list(self.average.values()),
                [p.detach() for p in self.system.parameters()],
                1 - decay,
            )
        return losses

    def _next(self, turns: Iterator[Turn]) -> Turn | None:
        """Compute up to the next turn, in the plan's precision."""
        kind = getattr(torch, self.plan.precision)
        with torch.autocast(self.device.type, kind, enabled=kind is not torch.float32):
            return next(turns, None)

    def _check(self, turn: Turn, batch: Batch) -> None:
        if bool(torch.isfinite(turn.objective)):
            return
        values = ", ".join(f"{name} {float(loss):g}" for name, loss in turn.losses.items())
        raise TrainingError(
            f'round {self.played}, turn of "{turn.player}": a loss is not finite ({values}); '
            f"subjects in the batch: {', '.join(batch.subjects) or 'unknown'}. The last "
            "checkpoint is whole: lower the learning rate or set `clip`, and resume"
        )

    def _rate(self, played: int) -> float:
        return factor(self.plan.schedule, played, self.plan.rounds, self.plan.warmup)

    @contextmanager
    def averaged(self) -> Iterator[Translator]:
        """Within the block the system holds the averaged weights and is in evaluation mode."""
        parameters = dict(self.system.named_parameters())
        own = {name: p.detach().clone() for name, p in parameters.items()}
        was_training = self.system.training
        self.system.eval()
        try:
            if self.plan.average:
                for name, p in parameters.items():
                    p.data.copy_(self.average[name])
            yield self.system
        finally:
            for name, p in parameters.items():
                p.data.copy_(own[name])
            self.system.train(was_training)

    def _validate(self, log: _Log | None) -> None:
        if self.ranks.leads and self.validate is not None:
            states = random_states()
            with self.averaged() as system, torch.no_grad():
                self.scores = dict(self.validate(system, self.played))
                if log is not None:
                    log.scores(self.played, self.scores)
                score = self.scores.get(self.better, float("-inf"))
                if score > self.best:
                    self.best = score
                    if self.keep is not None:
                        self.keep(system, "best")
            restore_random_states(states)
        self.ranks.wait()

    def _checkpoint(self, path: Path) -> None:
        if self.ranks.leads:
            save_checkpoint(
                path,
                {
                    "system": self.system.state_dict(),
                    "average": self.average,
                    "optimisers": {n: o.state_dict() for n, o in self.optimisers.items()},
                    "scaler": self.scaler.state_dict(),
                    "random": random_states(),
                    "best": self.best,
                    "scores": self.scores,
                },
            )
        self.ranks.wait()

    def _resume(self, content: Mapping[str, Any], path: Path) -> None:
        try:
            self.system.load_state_dict(content["system"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(content["optimisers"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f'checkpoint "{path}" belongs to another system or configuration: {error}'
            ) from error
        for name, tensor in content["average"].items():
            self.average[name].copy_(tensor)
        self.scaler.load_state_dict(content["scaler"])
        self.best = content["best"]
        self.scores = content["scores"]
        restore_random_states(content["random"])


class _Clock:
    """Seconds, and the losses of the rounds that passed in them."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.idle = 0.0
        self.rounds = 0
        self.sums: dict[str, Tensor] = {}
        self.gathered = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.idle += time.perf_counter() - began

    def gather(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss
        self.gathered += 1
        self.rounds += 1

    def means(self) -> dict[str, float]:
        means = {name: float(total) / self.gathered for name, total in self.sums.items()}
        self.sums, self.gathered = {}, 0
        return means

    @property
    def speed(self) -> float:
        return self.rounds / max(time.perf_counter() - self.began, 1e-9)

    @property
    def waited(self) -> float:
        return self.idle / max(time.perf_counter() - self.began, 1e-9)


class _Log:
    """log.csv (one value a row: round, name, value) and TensorBoard, cut back to a round."""

    def __init__(self, folder: Path, played: int) -> None:
        path = folder / "log.csv"
        rows: list[list[str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                # a run that was killed may have written beyond its checkpoint, or half a row
                rows = [
                    row
                    for row in csv.reader(stream)
                    if len(row) == 3 and row[0].isdigit() and int(row[0]) <= played
                ]
        self.stream = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.stream)
        self.writer.writerow(["round", "name", "value"])
        self.writer.writerows(rows)
        from torch.utils.tensorboard import SummaryWriter  # seconds to import

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=played + 1)  # type: ignore[no-untyped-call]

    def write(self, played: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.writerow([played, name, repr(value)])
            self.board.add_scalar(name, value, played)  # type: ignore[no-untyped-call]
        self.stream.flush()

    def scores(self, played: int, values: Mapping[str, float]) -> None:
        self.write(played, {f"val/{name}": value for name, value in values.items()})

    def close(self) -> None:
        self.stream.close()
        self.board.close()  # type: ignore[no-untyped-call]
