from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, write_model
from medi2i.task import Task, View


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The story as a module."""
    path = Path(__file__).resolve().parents[2] / "pipelines" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning:monai")
@pytest.mark.parametrize("view", [View(dims=2, slices=3), View(dims=3, patch=16)])
def test_both_do_the_same_work(benchmark: ModuleType, view: View, tmp_path: Path) -> None:
    task = Task((Contrast.T1W, Contrast.T2W), (Contrast.T1W, Contrast.T2W), on_demand=True)
    arguments = {"features": (4, 8), "norm": "batch"}
    torch.manual_seed(0)
    system = build_system("unet", arguments, task, view)
    write_model(Model("tiny", "unet", arguments, task, view, system.eval()), tmp_path / "tiny")
    chosen = argparse.Namespace(
        model=str(tmp_path / "tiny"), size=(20, 24, 20), device="cpu", out=tmp_path, repeats=1
    )
    about = benchmark.make_scan(chosen)
    assert about["translation"] == "T1w->T2w"
    run = {
        "medi2i": benchmark.translate_with_medi2i(chosen),
        "MONAI": benchmark.translate_with_monai(chosen),
    }
    assert run["medi2i"].keys() == run["MONAI"].keys()
    for measured in run.values():
        assert 0 < measured["network's share"] < 1
    assert benchmark.agreement(chosen)["correlation of both translations"] > 0.95
    ratios = dict.fromkeys(run["MONAI"], 0.5)
    record = {"about": about, "medians": run, "ratios": ratios, "runs": [run]}
    table = benchmark.as_markdown(json.loads(json.dumps(record)))
    assert "| in all, s |" in table
    assert table.count("| 0.50 |") >= len(ratios)
