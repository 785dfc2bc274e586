"""``--engine``: what runs the network, and what the side-car says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medi2i.contrasts import Contrast
from medi2i.inference import engines
from medi2i.inference.engines import EngineName
from medi2i.model import Model, build_system, write_model
from medi2i.task import Task, View
from tests.cli.conftest import Call, write_scan

needs_openvino = pytest.mark.skipif(
    EngineName.OPENVINO not in engines.there("cpu"), reason="the extra openvino is not installed"
)


@needs_openvino
def test_the_side_car_names_the_engine(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan, told = write_scan(tmp_path / "t1.nii.gz"), {}
    for engine in ("auto", "openvino"):
        output = tmp_path / f"{engine}.nii.gz"
        ask = ("--to", "t2", "--model", tiny, "--engine", engine, "-o", output, "--device", "cpu")
        answer = call("translate", scan, *ask)
        assert answer.code == 0, answer.err
        told[engine] = json.loads((tmp_path / f"{engine}.json").read_text())["Engine"]
    assert told["auto"] == {"Name": "torch"}, "a scan so small is not worth another"
    assert told["openvino"]["Name"] == "openvino"
    assert told["openvino"]["LargestDifference"] <= told["openvino"]["Bound"] == 1e-4


@pytest.mark.parametrize("command", ["translate", "bids", "anomaly"])
def test_one_that_is_not_there(
    call: Call, tiny: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "sub-1" / "anat").mkdir(parents=True)
    scan = write_scan(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    arguments: dict[str, tuple[object, ...]] = {
        "translate": (scan, "--to", "t2", "--model", tiny),
        "bids": (tmp_path, tmp_path / "out", "participant", "--to", "t2", "--model", tiny),
        "anomaly": (scan,),
    }
    given = (*arguments[command], "--engine", "openvino", "--device", "cpu")
    answer = call(command, *given)
    assert answer.code == 2
    assert "pip install medi2i[openvino]" in " ".join(answer.err.split())
    assert call(command, *arguments[command], "--engine", "tpu").code == 2
    assert list(tmp_path.rglob("*synth*")) == []


def test_samples_are_drawn_by_torch(call: Call, tmp_path: Path) -> None:
    task, arguments = Task((Contrast.T1W,), (Contrast.T2W,)), {"depth": 6, "features": 4}
    system = build_system("pix2pix", arguments, task, View())
    folder = write_model(
        Model("drawer", "pix2pix", arguments, task, View(), system.eval()), tmp_path / "drawer"
    )
    scan = write_scan(tmp_path / "t1.nii.gz")
    ask = ("translate", scan, "--to", "t2", "--model", folder, "--samples", "2")
    answer = call(*ask, "--engine", "compile", "--device", "cpu")
    assert answer.code == 2
    assert "samples are drawn by torch" in " ".join(answer.err.split())
    assert call(*ask).code == 0
    side_car = json.loads((tmp_path / "t1_desc-synth_T2w.json").read_text())
    assert side_car["Engine"] == {"Name": "torch"}
