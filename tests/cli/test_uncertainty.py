from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medi2i import load_volume
from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, write_model
from medi2i.task import Task, View
from tests.cli.conftest import Call, write_scan


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: T1w into T2w, with its uncertainty."""
    torch.manual_seed(0)
    task, view = Task((Contrast.T1W,), (Contrast.T2W,)), View(dims=2)
    arguments = {"features": (4, 8), "spread": 1.0}
    system = build_system("unet", arguments, task, view)
    model = Model("knowing", "unet", arguments, task, view, system.eval())
    return write_model(model, tmp_path_factory.mktemp("models") / "knowing")


def test_a_map_and_its_side_car_lie_beside_the_scan(
    call: Call, knowing: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    answer = call("translate", scan, "--from", "t1", "--to", "t2", "--model", knowing,
                  "--uncertainty", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)
    path = Path(row["maps"]["uncertainty"])
    assert path.name == "t1_desc-synth_T2w_uncertainty.nii.gz"
    unsure, synthetic = load_volume(path), load_volume(row["output"])
    assert unsure.shape == synthetic.shape
    assert unsure.voxels.max() > 0
    side = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert side["Synthetic"] is True


def test_models_that_do_not_know_and_samples_are_refused(
    call: Call, tiny: Path, knowing: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    fixed = ("translate", scan, "--from", "t1", "--to", "t2", "--uncertainty")
    answer = call(*fixed, "--model", tiny)
    assert answer.code == 2
    assert "does not know how sure" in " ".join(answer.err.split())
    answer = call(*fixed, "--model", knowing, "--samples", 3)
    assert answer.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["t1.nii.gz"]
