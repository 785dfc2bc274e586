from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import MakeStudy
from tests.pipelines.stories import story

benchmark_training = story("benchmark_training")


def test_a_run_says_how_long_it_waited(
    make_study: MakeStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = make_study(tmp_path / "study", {"sub-1": "train", "sub-2": "train"})
    words = [str(tmp_path / "out"), "--data", str(study), "--size", "16", "--batch-size", "2"]
    benchmark_training.main([*words, "--rounds", "12", "--device", "cpu", "--workers", "0"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["rounds / s"] > 0
    assert 0 < found["waiting"] < 1
    with pytest.raises(SystemExit):
        benchmark_training.main([*words, "--rounds", "10"])
    assert "--rounds must be more than 10" in capsys.readouterr().err


def test_the_table_compares_with_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {(1, 0): 2.0, (1, 1): 3.0, (2, 0): 1.5, (2, 1): 2.0}

    def measured(chosen: object, data: Path, ranks: int, workers: int) -> dict[str, float]:
        rate = speeds[ranks, workers]
        return {"rounds / s": rate, "windows / s": 8 * ranks * rate, "waiting": 0.25}

    monkeypatch.setattr(benchmark_training, "measured", measured)
    monkeypatch.setattr(benchmark_training, "simulated", lambda folder: folder)
    (tmp_path / "out").mkdir()
    benchmark_training.main([str(tmp_path / "out")])
    lines = (tmp_path / "out" / "training.md").read_text().splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in lines[2:]}
    assert cells["one process"] == ["2", "16", "25.0%", "1.00 |"]
    assert [row[-1] for row in cells.values()] == ["1.00 |", "1.50 |", "1.50 |", "2.00 |"]
