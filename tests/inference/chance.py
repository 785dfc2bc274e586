"""Tiny one-to-many systems: chance by a code, and chance by torch's random state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.contrasts import Contrast
from medi2i.model import Model
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.task import Task, View

__all__ = ["PAIR", "Coded", "Dropped", "model_of"]

PAIR = Task((Contrast.T1W,), (Contrast.T2W,))


class Coded(Translator):
    """The centre slice of the first source plus `reach` times the first two numbers of a code.

    The second number adds a ramp along the last axis, and output m is m more; a condition adds ten
    times its place.
    """

    paper = Paper("none")
    pairing = Pairing.PAIRED
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    one_to_many = True
    code_size = 3

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        reach: float = 0.25,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.reach = reach
        self.codes: list[Tensor] = []

    def play(self, batch: Batch) -> Iterator[Turn]:
        yield from ()

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        shape = (-1, *[1] * self.dims)
        image = source[:, self.slices // 2, None]
        if target is not None:
            image = image + 10 * target.reshape(shape)[:, None]
        return image + torch.arange(self.outputs, device=source.device).reshape(shape)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        self.codes.append(code.clone())
        shift, slope = self.reach * code[:, :2].T.reshape(2, -1, *[1] * (self.dims + 1))
        ramp = torch.linspace(-1, 1, source.shape[-1], device=source.device)
        image: Tensor = self.translate(source, target=target) + shift + slope * ramp
        return image


class Dropped(Coded):
    """Half of the voxels are dropped; the code is empty."""

    code_size = 0

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        self.codes.append(code.clone())
        return torch.nn.functional.dropout(self.translate(source, target=target), 0.5)


def model_of(
    kind: type[Translator],
    task: Task = PAIR,
    view: View | None = None,
    normaliser: Any = "none",
    **settings: float,
) -> Model:
    """A model named "drawer" of such a system."""
    view = view or View()
    system = kind(
        dims=view.dims,
        slices=view.slices,
        inputs=task.inputs,
        outputs=task.outputs,
        conditions=task.conditions,
        **settings,
    )
    name = kind.__name__.lower()
    return Model("drawer", name, settings, task, view, system.eval(), normaliser)
