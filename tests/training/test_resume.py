"""Runs that are killed, as a job scheduler would kill them, and resumed from what is on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

CONFIG = """
system: pix2pix
task: {sources: [T1w], targets: [T2w]}
arguments: {depth: 6, features: 2, patch: 1, norm: batch}  # six halvings: it has dropout
view: {slices: 3}
data:
  size: 40
  augmentation: {flip: 0.5, affine: 0.3, elastic: 0, anisotropy: 0, bias: 0, gamma: 0, noise: 0.5}
training:
  rounds: 20
  batch_size: 2
  optimiser: {lr: 1e-3}
  schedule: cosine
  warmup: 3
  average: 0.9
  clip: 50.0
  log_every: 4
  validate_every: 7
  checkpoint_every: 5
  workers: 0
validation: {volumes: 1}
"""

LAUNCHER = '''
"""`python -m medi2i train` again and again; forked, so that five runs import torch once."""
import os, signal, sys
import medi2i.experiment, torchio, torch._dynamo, torch.utils.tensorboard  # all that takes long
from medi2i.cli import main
from medi2i.training.trainer import Trainer

def run(arguments, death):
    """In a child of its own; killed when it reaches the round `death`."""
    child = os.fork()
    if child == 0:
        round_ = Trainer._round
        def mortal(self, batch):
            if self.played == death:
                print(f"killed before round {death}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return round_(self, batch)
        Trainer._round = mortal
        sys.argv = ["medi2i", "train", *arguments]
        main()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expected = 0 if death is None else -signal.SIGKILL
    assert status == expected, (status, expected)

common = sys.argv[1:]
run([*common, "-o", "whole"], None)
for number, death in enumerate((3, 12, 18)):  # before a checkpoint, between two, near the end
    run([*common, "-o", "parts", *["--resume"][:number]], death)
run([*common, "-o", "parts", "--resume"], None)
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_study: Any) -> Path:
    """A folder with whole/, which ran through, and parts/, which was killed three times."""
    folder = tmp_path_factory.mktemp("runs")
    make_study(
        folder / "study", {"sub-1": "train", "sub-2": "train", "sub-3": "val"}, shape=(36, 32, 8)
    )
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "launcher.py").write_text(LAUNCHER)
    command = [sys.executable, "launcher.py", "run.yaml", "--data", "study", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    path = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [path, environment.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed before round") == 3
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "last/weights.safetensors",
        "last/model.json",
        "best/weights.safetensors",
        "best/model.json",
        "log.csv",
        "config.yaml",
    ],
)
def test_a_killed_and_resumed_run_leaves_the_same_bytes(runs: Path, name: str) -> None:
    assert (runs / "parts" / name).read_bytes() == (runs / "whole" / name).read_bytes()


def test_a_killed_run_leaves_no_other_files(runs: Path) -> None:
    def names(run: str) -> list[str]:
        folder = runs / run
        found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        return sorted(name for name in found if not name.startswith("tensorboard"))

    assert names("parts") == names("whole")
    assert sum(name.endswith(".png") for name in names("whole")) == 3
