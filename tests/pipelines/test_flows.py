from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, write_model
from medi2i.systems import Translator
from medi2i.task import Task, View
from tests.pipelines.stories import story

flows = story("flows")

TASK = Task((Contrast.T1W,), (Contrast.T2W,))
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"features": [4, 8]},
    "alignflow": {"levels": 2, "steps": 1, "width": 4, "patch_features": 4, "patch": 1},
    "flow_deformation": {"levels": 2, "steps": 1, "width": 4, "patch_features": 4, "patch": 1},
    "pix2pix_flow": {"levels": 2, "steps": 1, "width": 4},
    "flow_disentangle": {"levels": 2, "steps": 1, "width": 4, "features": 4},
}


def small(name: str) -> Translator:
    torch.manual_seed(0)
    return build_system(name, SMALL[name], TASK, View(spacing=2.0)).eval()


@pytest.fixture
def comparison(make_study: Callable[..., Path], tmp_path: Path) -> Path:
    """What compare.py leaves of flows that have begun from data and learned nothing else."""
    make_study(tmp_path / "cohort", {"sub-1": "train", "sub-2": "train", "sub-3": "val"})
    (tmp_path / "settings.json").write_text(json.dumps({"data": "None", "size": "16"}))
    for name in flows.FLOWS:
        system = small(name).train()
        next(system.play(flows.example(system, 16)))  # the flows take their scales from data
        model = Model("small", name, SMALL[name], TASK, View(spacing=2.0), system.eval())
        write_model(model, tmp_path / name / "last")
        (tmp_path / name / "result.json").write_text("{}")
    return tmp_path


def test_what_flows_know_and_cost(
    comparison: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flows, "fresh", small)
    out = comparison / "out"
    words = ["--windows", "2", "--repeats", "1", "--side", "32"]
    flows.main([str(out), str(comparison), *words])
    text = (out / "flows.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    known = {row[0].strip("| "): row for row in rows[1:5]}
    assert list(known) == list(flows.FLOWS)
    for name, row in known.items():
        assert float(row[3]) < 1e-4, name  # there and back
        assert row[4].strip(" |") == "yes"
        assert ("b given a" in row[1]) is (name == "flow_disentangle")
    costs = {row[0].strip("| "): row for row in rows[6:]}
    assert list(costs) == ["unet", *flows.FLOWS]
    assert costs["unet"][-1].strip(" |") == "1.0 / 1.0 / 1.0"
    with Image.open(out / "samples.png") as picture:
        assert picture.width > 3 * 16


def test_a_folder_without_flows_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(SystemExit, match="holds no finished run of alignflow"):
        flows.main([str(tmp_path / "out"), str(tmp_path)])


def test_what_a_step_keeps_is_counted_once() -> None:
    kept = flows.Kept()
    weight = torch.nn.Parameter(torch.ones(8, 8))
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        x = torch.ones(4, 8) @ weight  # keeps its 4 x 8 input; the parameter does not count
        (x.sin() * x).sum()  # both keep x, the product sin(x) too
    assert kept.bytes == 4 * 8 * 4 * 3
