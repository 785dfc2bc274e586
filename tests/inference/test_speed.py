from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.contrasts import Contrast
from medi2i.inference import engines, faster, speed
from medi2i.inference.engines import EngineName
from medi2i.model import Model
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.task import Task, View


class One(Translator):
    """One convolution: 18 operations per voxel."""

    paper = Paper("none")
    pairing = Pairing.PAIRED
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)

    def play(self, batch: Batch) -> Iterator[Turn]:
        yield from ()

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        image: Tensor = self.convolution(source)
        return image


def test_every_engine_is_measured_beside_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise TypeError("no rule")

    monkeypatch.setattr(speed, "SIDE", 32)
    monkeypatch.setattr(speed, "MATRIX", 64)
    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    monkeypatch.setattr(faster, "compiled", lambda _, eager, *__: eager)
    monkeypatch.setattr(faster, "converted", none)
    model = Model("one", "one", {}, Task((Contrast.T1W,), (Contrast.T2W,)), View(), One().eval())
    asked = list(EngineName)[1:]
    told: list[str] = []
    found = speed.measure(model, device="cpu", engines=asked, turns=1, tell=told.append)
    assert told == ["torch", "compile", "openvino"]
    matmul, eager, compiled, converted = found
    assert (matmul.name, matmul.share) == ("matmul", 1.0)
    assert matmul.rate * matmul.seconds == pytest.approx(2 * 64**3)
    batch = 2**19 // 32**2
    for measured in (eager, compiled):
        assert measured.rate * measured.seconds == pytest.approx(18 * 32**2 * batch)
        assert measured.share == pytest.approx(measured.rate / matmul.rate)
    assert compiled.difference is not None
    assert compiled.difference < 1e-6
    assert "TypeError: no rule" in converted.problem
    assert converted.seconds == 0


def test_matrix_products_are_of_the_size_that_is_counted() -> None:
    assert speed.matmul(torch.device("cpu"))().shape == (speed.MATRIX, speed.MATRIX)
