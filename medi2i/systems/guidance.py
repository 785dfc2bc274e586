"""Deformation guidance: a term that any system may take, so that slices fit together.

The anatomy moves from a slice to the next, and batches bring that motion (`Batch.neighbour`). The
two slices are translated, and the first, moved, has to look like the second, and the second, moved
back, like the first (`losses.guidance`). A 3-D patch is translated once and holds the neighbours of
all its slices but the last; each such pair counts like a pair of slices. A system that knows a way
back is guided on both ways. The term joins the turns of the players whose networks translate; the
systems know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour
from medi2i.errors import ConfigError, UsageError
from medi2i.losses.guidance import deformation_guidance, trust
from medi2i.networks.deformation import invert, leads_inside, warp
from medi2i.systems.base import Translator, Turn

__all__ = [
    "Drawn",
    "Guidance",
    "Guide",
    "Steps",
    "agreement",
    "drawn",
    "each_step",
    "held_together",
    "ramped",
    "translating",
]


@dataclass(frozen=True)
class Guidance:
    """How strongly neighbouring slices are held together.

    Attributes:
        weight: of the term on images in [0, 1]; 0 for none. Too much of it makes blur.
        ramp: share of the rounds over which the weight grows from 0.
        confidence: count less where the motion does not explain the source's own slices.
        method: by which motion is found: "demons", "tvl1", or "still" for none.
    """

    weight: float = 10.0
    ramp: float = 0.2
    confidence: bool = True
    method: str = "demons"

    def __post_init__(self) -> None:
        """Refuse what no run can follow.

        Raises:
            ConfigError: a negative weight, or a ramp that is no share.
        """
        if not self.weight >= 0:
            raise ConfigError(f"weight of guidance is {self.weight:g}; 0 or more was expected")
        if not 0 <= self.ramp <= 1:
            raise ConfigError(f"ramp of guidance is {self.ramp:g}; a share was expected, 0 to 1")


class Guide:
    """Plays a system's rounds with guidance added.

    Args:
        system: translates slices or patches.
        guidance: how strongly.
        rounds: of the whole run.

    Raises:
        UsageError: the system has guidance of its own, or lets no gradient reach its networks when
            it translates.
    """

    def __init__(self, system: Translator, guidance: Guidance, rounds: int) -> None:
        name = type(system).__name__
        if system.motion:
            raise UsageError(f"{name} has guidance among its arguments: set it there")
        self.system = system
        self.guidance = guidance
        self.ramp = round(guidance.ramp * rounds)
        self.players = translating(system)
        if not self.players:
            raise UsageError(
                f"{name} translates by networks that learn without a gradient from their images "
                "(an average of weights, or none at all), so guidance cannot reach them"
            )

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The system's round; `guidance` and `guidance_back` are the losses that join it.

        Raises:
            UsageError: the batch brings no neighbours.
        """
        weight = ramped(self.guidance.weight, int(self.system.rounds), self.ramp)
        for turn in self.system.play(batch):
            if not weight or turn.player not in self.players:
                yield turn
                continue
            pairs = drawn(self.system, batch)
            losses = held_together(pairs, confident=self.guidance.confidence)
            yield Turn(turn.player, **turn.losses, **{n: weight * v for n, v in losses.items()})


class Steps(NamedTuple):
    """Real slices, the next ones, and the motion between; N of them.

    N is the batch; of patches, the batch times all slices of a patch but one.

    Attributes:
        real, further: (N, C, X, Y): each slice, and the next one up.
        field: (N, 2, X, Y): of :class:`Neighbour`.
        inside: (N, 1, X, Y): likewise.
    """

    real: Tensor
    further: Tensor
    field: Tensor
    inside: Tensor


class Drawn(NamedTuple):
    """Neighbouring slices, translated together.

    Attributes:
        way: "" from source to target, "_back" the other way.
        first, second: (N, C, X, Y): what became of the real slices, and of the next ones.
        steps: the real ones.
    """

    way: str
    first: Tensor
    second: Tensor
    steps: Steps


def each_step(system: Translator, slab: Tensor, neighbour: Neighbour) -> Steps:
    """The centre slices of slabs and their neighbours; or all of patches.

    Args:
        slab: (B, C * k, X, Y), or (B, C, X, Y, Z): whose neighbour it is.
    """
    if neighbour.slab is not None:
        further = system.centre(neighbour.slab)
        return Steps(system.centre(slab), further, neighbour.field, neighbour.inside)
    return Steps(*_consecutive(slab), _each(neighbour.field), _each(neighbour.inside))


def drawn(system: Translator, batch: Batch) -> list[Drawn]:
    """What a batch's slices and their neighbours become; on both ways where these are known.

    Raises:
        UsageError: the batch brings no neighbours.
    """
    if batch.neighbour is None:
        raise UsageError(
            "guidance needs each window's neighbour, and this batch brings none: call `follow` on "
            "the windows"
        )
    asked = batch.target_contrast

    def there(slabs: Tensor) -> Tensor:
        target = None if asked is None else asked.repeat(len(slabs) // len(asked))
        return system.translate(slabs, target=target)

    ways: list[tuple[str, Callable[[Tensor], Tensor], Tensor, Neighbour]] = [
        ("", there, batch.source, batch.neighbour)
    ]
    back = system.way_back
    if back is not None and batch.target_neighbour is not None:
        slab = batch.target if batch.target_slab is None else batch.target_slab
        ways.append(("_back", back, slab, batch.target_neighbour))
    pairs = []
    for way, translate, slab, neighbour in ways:
        if neighbour.slab is None:
            first, second = _consecutive(translate(slab))
        else:
            first, second = translate(torch.cat([slab, neighbour.slab])).chunk(2)
        pairs.append(Drawn(way, first, second, each_step(system, slab, neighbour)))
    return pairs


def held_together(pairs: Sequence[Drawn], *, confident: bool) -> dict[str, Tensor]:
    """`guidance` of the way there, and `guidance_back`: see :func:`agreement`."""
    return {f"guidance{pair.way}": agreement(pair, confident=confident) for pair in pairs}


def agreement(pair: Drawn, *, confident: bool) -> Tensor:
    """How far translated neighbours are from each other, there and back averaged.

    What would come from beyond the window does not count.

    Args:
        pair: the neighbours.
        confident: weigh by :func:`medi2i.losses.guidance.trust`, else by what is inside.
    """
    _, first, second, (real, further, field, inside) = pair
    forth = field.detach()
    back = invert(forth)
    losses = []
    for motion, moving, fixed, real_moving, real_fixed in (
        (forth, first, second, real, further),
        (back, second, first, further, real),
    ):
        weight = inside * leads_inside(motion)
        if confident:
            weight = trust(warp(real_moving, motion), real_fixed, weight)
        # positions want float32, and so does what is drawn there
        bent = warp(moving.to(torch.promote_types(moving.dtype, torch.float32)), motion)
        losses.append(deformation_guidance(bent, fixed, weight))
    return torch.stack(losses).mean()


def ramped(weight: float, rounds: int, ramp: int) -> float:
    """The weight after so many rounds: it grows from 0 over the first `ramp`."""
    return weight * min(1.0, rounds / ramp) if ramp else weight


def translating(system: Translator) -> tuple[str, ...]:
    """The players whose networks `translate` goes through; random numbers stay as they are."""
    device = system.rounds.device
    source = torch.zeros(1, system.channels, *[32] * system.dims, device=device)
    target = torch.zeros(1, dtype=torch.long, device=device) if system.conditions else None
    was_training = system.training
    system.eval()
    try:
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), torch.enable_grad():
            image = system.translate(source, target=target)
    finally:
        system.train(was_training)
    if not image.requires_grad:
        return ()
    owned = {player: system.parameters_of(player) for player in system.players}
    every = [parameter for own in owned.values() for parameter in own]
    slopes = iter(torch.autograd.grad(image.sum(), every, allow_unused=True))
    reached = {player: [next(slopes) is not None for _ in own] for player, own in owned.items()}
    return tuple(player for player, each in reached.items() if any(each))


def _each(patch: Tensor) -> Tensor:
    """(B, C, X, Y, Z) -> (B * Z, C, X, Y): every slice for itself."""
    return patch.movedim(-1, 1).flatten(0, 1)


def _consecutive(patch: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, X, Y, Z) -> twice (B * (Z - 1), C, X, Y): all slices but the last, and the next."""
    return _each(patch[..., :-1]), _each(patch[..., 1:])
