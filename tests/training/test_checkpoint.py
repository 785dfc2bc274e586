from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medi2i.errors import TrainingError
from medi2i.training.checkpoint import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)


def drawn() -> list[Any]:
    return [
        torch.rand(2).tolist(),
        torch.randn(1).tolist(),
        np.random.standard_normal(3).tolist(),  # noqa: NPY002 - the generator under test
        [random.random(), random.gauss(0, 1)],  # noqa: S311
    ]


def test_all_random_numbers_go_on_after_a_file(tmp_path: Path) -> None:
    drawn()  # odd counts: numpy and Python then hold back half of a Gaussian pair
    save_checkpoint(tmp_path / "checkpoint.pt", {"random": random_states()})
    expected = drawn()
    drawn()
    restore_random_states(load_checkpoint(tmp_path / "checkpoint.pt")["random"])
    assert drawn() == expected


def test_content_comes_back(tmp_path: Path) -> None:
    content = {"tensor": torch.arange(3), "number": 1.5, "nested": {"list": [1, (2, "x")]}}
    save_checkpoint(tmp_path / "a" / "checkpoint.pt", content)
    back = load_checkpoint(tmp_path / "a" / "checkpoint.pt")
    assert torch.equal(back["tensor"], content["tensor"])  # type: ignore[arg-type]
    assert (back["number"], back["nested"]) == (1.5, {"list": [1, (2, "x")]})
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["checkpoint.pt"]


class Harmful:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-here"),)


@pytest.mark.parametrize("kind", ["damaged", "pickle", "code"])
def test_nothing_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    if kind == "damaged":
        save_checkpoint(path, {"tensor": torch.zeros(100)})
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Harmful()))
    else:
        torch.save({"x": Harmful()}, path)
    with pytest.raises(TrainingError, match=r'checkpoint ".*checkpoint.pt" cannot be read'):
        load_checkpoint(path)
    assert not (tmp_path / "was-here").exists()
