"""``medi2i systems``: what the catalogue says of each system."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from medi2i.errors import UsageError
from medi2i.systems import SYSTEMS
from medi2i.systems.catalogue import TABLE, described, written
from tests.cli.conftest import Call
from tests.inference.chance import Coded


class Flat(Coded):
    """A system for slices alone, with five numbers to learn."""

    def __init__(self, *, dims: int = 2, **settings: Any) -> None:
        if dims != 2:
            raise UsageError("slices were expected")
        super().__init__(dims=dims, **settings)
        self.line = torch.nn.Linear(4, 1)
        torch.nn.init.orthogonal_(self.line.weight)


def test_what_is_said_of_a_system(call: Call) -> None:
    rows = {row["name"]: row for row in json.loads(call("systems", "--json").out)}
    assert list(rows) == list(SYSTEMS)
    for name, row in rows.items():
        assert row["one_to_many"] == SYSTEMS[name].one_to_many
    (line,) = (line for line in call("systems").out.splitlines() if "starganv2" in line)
    assert "yes" in line
    assert described("flat", Flat) == {
        "name": "flat",
        "pairing": "paired",
        "dims": [2],
        "one_to_many": True,
        "parameters": {"2": 5},
        "paper": "none",
    }


def test_the_table_is_that_of_the_classes() -> None:
    said = "the catalogue has changed: python -m medi2i.systems.catalogue"
    assert TABLE.read_text(encoding="utf-8") == written(), said


@pytest.mark.parametrize("dims", [2, 3])
def test_counts_are_those_of_real_networks(call: Call, dims: int) -> None:
    rows = {row["name"]: row for row in json.loads(call("systems", "--json").out)}
    system = SYSTEMS["unet"](dims=dims)
    counted = sum(parameter.numel() for parameter in system.parameters())
    assert rows["unet"]["parameters"][str(dims)] == counted > 1e6


def printed(program: str) -> str:
    """What a program prints that ends well in a process of its own."""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_torch_is_not_loaded() -> None:
    """It takes longer than all the rest."""
    told = printed(
        "import sys; from medi2i.cli.systems import systems; systems(as_json=True); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert len(json.loads(told)) == len(SYSTEMS)


def test_the_compiler_is_not_loaded_to_count() -> None:
    """Initialising on the meta device would load it."""
    printed(
        "import sys; from medi2i.systems.catalogue import written; written(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
