"""The one training loop: it drives any system's `play` and knows nothing of its losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.config import unknown
from medi2i.errors import ConfigError, TrainingError
from medi2i.systems.base import Translator, Turn
from medi2i.training.checkpoint import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from medi2i.training.distributed import Ranks
from medi2i.training.log import Clock, Log, Progress
from medi2i.training.plan import Plan
from medi2i.training.schedule import factor

__all__ = ["Trainer"]

CHECKPOINT = "checkpoint.pt"
FLAT = 2.0**-24
"""A scale of the loss, from 65,536 halved 40 times in a row, at which float16 has nothing left."""

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By number of axes; a system of patches may have networks that look at their slices."""


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
        play: gives the turns of a round in place of the system's own `play`.

    Raises:
        ConfigError: the plan has an optimiser for a player that the system does not have.
        TrainingError: a loss, a gradient or the weights are not finite any more, which reaches no
            checkpoint; or a checkpoint does not fit.
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
        play: Callable[[Batch], Iterator[Turn]] | None = None,
    ) -> None:
        for player in plan.players:
            if player not in system.players:
                where = f"players of training of {type(system).__name__}"
                raise ConfigError(unknown("player", player, system.players, where=where))
        self.device = torch.device(device)
        self.system = system.to(self.device)
        if plan.channels_last and self.device.type == "cuda":
            for tensor in (*system.parameters(), *system.buffers()):
                if tensor.dim() in LAYOUTS:
                    tensor.data = tensor.data.contiguous(memory_format=LAYOUTS[tensor.dim()])
        if plan.compile:
            for network in {name for owned in system.players.values() for name in owned}:
                self.system.get_submodule(network).compile()
        self.supply = supply
        self.plan = plan
        self.folder = folder
        self.ranks = ranks or Ranks()
        self.validate = validate
        self.keep = keep
        self.better = better
        self.watch = watch
        self.play = play or system.play
        self.ranks.agree(self.system)
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        for player in system.players:
            wanted = plan.players.get(player, plan.optimiser)
            try:
                self.optimisers[player] = wanted.build(system.parameters_of(player))
            except ValueError as error:  # a negative rate, or nothing that could learn
                raise ConfigError(f'{wanted} does not do for player "{player}": {error}') from error
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=plan.precision == "float16")
        self.average = {n: p.detach().clone() for n, p in system.named_parameters()}
        self.saved: int | None = None
        self.best = float("-inf")
        self.scores: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.summed: dict[str, int] = {}

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
        plan, checkpoint = self.plan, self.folder / CHECKPOINT
        if checkpoint.is_file():
            self._resume(load_checkpoint(checkpoint), checkpoint)
        log = Log(self.folder, self.played) if self.ranks.leads else None
        batches = self.supply(self.played)
        clock = Clock()
        try:
            while self.played < plan.rounds:
                with clock.waiting():
                    batch = next(batches).to(self.device)
                self._sum(self._round(batch))
                clock.rounds += 1
                played, row = self.played, {}
                if self._due(plan.log_every):
                    row = self._means()
                    if log is not None:
                        log.write(played, {"rate": self._rate(played - 1), **row})
                if self.validate is not None and self._due(plan.validate_every):
                    self._validate(log)
                if self._due(plan.checkpoint_every):
                    self._checkpoint(checkpoint)
                if self.watch is not None:
                    self.watch(
                        Progress(played, plan.rounds, row, self.scores, clock.speed, clock.waited)
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
        turns = self.play(batch)
        while (turn := self._next(turns)) is not None:
            self._check(turn, batch)
            optimiser = self.optimisers[turn.player]
            parameters = self.system.parameters_of(turn.player)
            optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(turn.objective).backward(inputs=parameters)
            self.ranks.average(parameters)  # before the scaler looks, so that all see the same
            self.scaler.unscale_(optimiser)
            self._check_and_clip(parameters, turn, batch)
            self.scaler.step(optimiser)
            self.scaler.update()
            if self.scaler.is_enabled() and self.scaler.get_scale() < FLAT:
                raise self._broken("a gradient, however the loss is scaled,", turn, batch)
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
        if not bool(torch.isfinite(turn.objective)):
            raise self._broken("a loss", turn, batch)

    def _check_and_clip(self, parameters: list[nn.Parameter], turn: Turn, batch: Batch) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # the scaler expects gradients beyond float16 now and then, and skips them by itself
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            raise self._broken("a gradient", turn, batch)
        if self.plan.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.plan.clip, norm)

    def _broken(self, what: str, turn: Turn, batch: Batch) -> TrainingError:
        values = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in turn.losses.items())
        return self._diverged(
            f'turn of "{turn.player}": {what} is not finite ({values}); '
            f"subjects in the batch: {', '.join(batch.subjects) or 'unknown'}"
        )

    def _diverged(self, what: str) -> TrainingError:
        kept = "No checkpoint was written yet"
        if self.saved is not None:
            kept = f'"{self.folder / CHECKPOINT}" is whole and holds round {self.saved}'
        return TrainingError(
            f"round {self.played}, {what}. {kept}: lower the learning rate or set `clip`, in a new "
            "run, which can start from the best weights of this one (--start)"
        )

    def _rate(self, played: int) -> float:
        return factor(self.plan.schedule, played, self.plan.rounds, self.plan.warmup)

    def _due(self, every: int) -> bool:
        """Whether what happens every so many rounds happens now; it always does at the end."""
        return bool(every) and (self.played % every == 0 or self.played == self.plan.rounds)

    def _sum(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss
            self.summed[name] = self.summed.get(name, 0) + 1

    def _means(self) -> dict[str, float]:
        """Of the losses since the last call, over all ranks; of each over its own rounds."""
        means = {name: float(total) / self.summed[name] for name, total in self.sums.items()}
        self.sums, self.summed = {}, {}
        return self.ranks.mean(means)

    @contextmanager
    def averaged(self) -> Iterator[Translator]:
        """Within the block the system holds the averaged weights and is in evaluation mode.

        Afterwards it holds its own again: the very tensors, in their own memory order, whatever
        was done to the system meanwhile.
        """
        parameters = dict(self.system.named_parameters())
        own = {name: p.data for name, p in parameters.items()}
        was_training = self.system.training
        self.system.eval()
        try:
            if self.plan.average:
                for name, p in parameters.items():
                    p.data = self.average[name]
            yield self.system
        finally:
            for name, p in parameters.items():
                p.data = own[name]
            self.system.train(was_training)

    def _validate(self, log: Log | None) -> None:
        if self.ranks.leads and self.validate is not None:
            states = random_states()
            with self.averaged() as system, torch.no_grad():
                self.scores = dict(self.validate(system, self.played))
                if log is not None:
                    log.scores(self.played, self.scores)
                if self.better not in self.scores:
                    raise TrainingError(
                        f'validation gave no "{self.better}" to choose the best weights by; it '
                        f"gave {', '.join(self.scores) or 'nothing'}"
                    )
                if self.scores[self.better] > self.best:
                    self.best = self.scores[self.better]
                    if self.keep is not None:
                        self.keep(system, "best")
            restore_random_states(states)
        self.scores, self.best = self.ranks.gather((self.scores, self.best))[0]

    def _checkpoint(self, path: Path) -> None:
        for name, weights in self.system.named_parameters():
            if not bool(torch.isfinite(weights).all()):
                raise self._diverged(f"weights {name} are not finite any more")
        sums = {name: total.cpu() for name, total in self.sums.items()}
        each = self.ranks.gather(
            {"random": random_states(), "sums": sums, "summed": dict(self.summed)}
        )
        if self.ranks.leads:
            save_checkpoint(
                path,
                {
                    "system": self.system.state_dict(),
                    "average": self.average,
                    "optimisers": {n: o.state_dict() for n, o in self.optimisers.items()},
                    "scaler": self.scaler.state_dict(),
                    "best": self.best,
                    "scores": self.scores,
                    "ranks": each,
                },
            )
        self.saved = self.played
        self.ranks.wait()

    def _resume(self, content: Mapping[str, Any], path: Path) -> None:
        try:
            self.system.load_state_dict(content["system"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(content["optimisers"][name])
            for name, tensor in content["average"].items():
                self.average[name].copy_(tensor)
            self.scaler.load_state_dict(content["scaler"])
            self.best, self.scores = content["best"], content["scores"]
            for own in content["ranks"][self.ranks.rank : self.ranks.rank + 1]:
                self.sums = {name: total.to(self.device) for name, total in own["sums"].items()}
                self.summed = own["summed"]
                restore_random_states(own["random"])
            self.saved = self.played
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f'checkpoint "{path}" belongs to another system or configuration: {error}'
            ) from error
