"""One objective that moves several players at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from medi2i.systems.base import Translator, Turn

__all__ = ["together"]


def together(
    system: Translator, losses: Mapping[str, Tensor], *players: str, clip: float | None = None
) -> Iterator[Turn]:
    """A turn for each player, all with the gradients of one objective at one place.

    The gradients are computed once, before anybody moves. The turns that follow carry them: their
    objective has the right value, and its slope is these gradients; zero for what the objective
    does not reach. The first player's turn lists the losses, the others' their sum. `clip` is the
    largest norm that a player's gradient may have.
    """
    values = {name: loss.detach() for name, loss in losses.items()}
    objective = torch.stack(list(losses.values())).sum()
    owned = [system.parameters_of(player) for player in players]
    every = [parameter for own in owned for parameter in own]
    gradients = iter(torch.autograd.grad(objective, every, materialize_grads=True))
    for player, own in zip(players, owned, strict=True):
        slopes = [next(gradients) for _ in own]
        if clip is not None:
            share = (clip / (nn.utils.get_total_norm(slopes) + 1e-6)).clamp(max=1.0)
            slopes = [share * slope for slope in slopes]
        carried = _carrier(own, slopes)
        name, *rest = values
        yield Turn(player, **{name: values[name] + carried}, **{n: values[n] for n in rest})
        values = {"joint": objective.detach()}


def _carrier(parameters: list[nn.Parameter], gradients: list[Tensor]) -> Tensor:
    """Zero, with the given gradient with respect to the parameters."""
    parts = [
        ((parameter - parameter.detach()) * gradient).sum()
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    return torch.stack(parts).sum()
