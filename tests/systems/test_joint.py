from __future__ import annotations

import torch
from torch import Tensor

from medi2i.systems.joint import together
from medi2i.systems.tunit import TUNIT


def small() -> TUNIT:
    torch.manual_seed(0)
    return TUNIT(size=16, features=2, widest=4, guide_features=2, style_size=4, hidden=4)


def test_turns_carry_the_value_and_the_gradients_of_one_objective() -> None:
    system = small()
    players = ("generator", "guide")
    weights = [p for player in players for p in system.parameters_of(player)]
    x = torch.randn(2, 1, 16, 16)

    def losses() -> dict[str, Tensor]:
        style = system.guide(x)[1]
        return {"one": system.generated(x, style).square().mean(), "two": style.abs().mean()}

    objective = torch.stack(list(losses().values())).sum()
    expected = torch.autograd.grad(objective, weights, materialize_grads=True)
    found: list[Tensor] = []
    for turn in together(system, losses(), *players):
        torch.testing.assert_close(turn.objective, objective, rtol=1e-6, atol=0)
        own = system.parameters_of(turn.player)
        found += torch.autograd.grad(turn.objective, own)
        for parameter in own:  # whoever has moved does not change what the next one gets
            parameter.data += 1
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    (place,) = (n for n, p in enumerate(weights) if p is system.guide.clusters.weight)
    assert not found[place].any(), "what the objective does not reach has a gradient of zero"
