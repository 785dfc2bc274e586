"""Two processes that train as one: `torchrun` on two CPU ranks."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medi2i.experiment import read_config, run_experiment
from medi2i.training.distributed import Ranks, joined

CONFIG = """
system: pix2pix
task: {sources: [T1w], targets: [T2w]}
arguments: {depth: 3, features: 4, patch: 1}
data:
  size: 24
  background: 1.0  # all weights alike, so that the mean of two halves is the mean of the whole
  augmentation: {flip: 0, affine: 0, elastic: 0, bias: 0, gamma: 0, noise: 0, anisotropy: 0}
training:
  rounds: 8
  batch_size: 4
  optimiser: {name: sgd, lr: 1e-3, momentum: 0.5}
  schedule: constant
  average: 0.5
  log_every: 2
  checkpoint_every: 4
  validate_every: 4
  workers: 0
validation: {volumes: 1}
"""

RANK = '''
"""What torchrun starts: the command line, and a note of the weights that each rank ended with."""
import os, sys
import torch
from medi2i.experiment import run
from medi2i.cli import main

class Noted(run.Trainer):
    def run(self):
        scores = super().run()
        torch.save(
            {"state": self.system.state_dict(), "average": self.average, "scores": scores},
            f"rank{os.environ['RANK']}.pt",
        )
        return scores

run.Trainer = Noted
sys.argv = ["medi2i", "train", *sys.argv[1:]]
main()
'''


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, make_study: Any) -> Path:
    """A folder with alone/, one rank with batches of 4, and pair/, two ranks with batches of 2."""
    folder = tmp_path_factory.mktemp("ranks")
    make_study(folder / "study", {"sub-1": "train", "sub-2": "train", "sub-3": "val"})
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "rank.py").write_text(RANK)
    run_experiment(
        read_config(folder / "run.yaml"), [folder / "study"], folder / "alone", device="cpu"
    )
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("rank.py", "run.yaml", "--data", "study", "-o", "pair", "--batch-size=2", "-q"),
            "--device=cpu",
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


def losses(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "log.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    return [(int(number), name, float(value)) for number, name, value in rows]


def test_two_ranks_log_the_curve_of_one_with_the_doubled_batch(together: Path) -> None:
    alone, pair = losses(together / "alone"), losses(together / "pair")
    assert [row[:2] for row in pair] == [row[:2] for row in alone]
    assert len({name for _, name, _ in alone if "/" in name}) > 3
    for (number, name, expected), (_, _, found) in zip(alone, pair, strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), (number, name)


def test_both_ranks_end_with_the_same_weights(together: Path) -> None:
    first, second = (torch.load(together / f"rank{n}.pt", weights_only=True) for n in (0, 1))
    for name in first["state"]:
        assert torch.equal(first["state"][name], second["state"][name]), name
    for name in first["average"]:
        assert torch.equal(first["average"][name], second["average"][name]), name
    assert first["scores"] == second["scores"]
    kept = load_file(together / "pair" / "last" / "weights.safetensors")
    alone = load_file(together / "alone" / "last" / "weights.safetensors")
    for name, tensor in kept.items():
        if name in first["average"]:
            assert torch.equal(tensor, first["average"][name]), name
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)


def test_each_rank_keeps_its_own_random_numbers(together: Path) -> None:
    content = torch.load(together / "pair" / "checkpoint.pt", weights_only=True)
    first, second = (rank["random"]["torch"] for rank in content["ranks"])
    assert not torch.equal(first, second)


def test_a_lone_rank_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == Ranks(0, 1)
        assert ranks.leads
        network = nn.Linear(2, 2)
        before = network.weight.detach().clone()
        ranks.agree(network)
        network(torch.ones(2)).sum().backward()
        ranks.average(list(network.parameters()))
        ranks.wait()
        assert torch.equal(network.weight, before)
        assert network.bias.grad is not None
        assert network.bias.grad.tolist() == [1, 1]
        assert ranks.gather("own") == ["own"]
        assert ranks.mean({"loss": 2.0}) == {"loss": 2.0}
