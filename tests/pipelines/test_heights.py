from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeStudy
from tests.pipelines.stories import story

heights = story("heights")


def test_both_settings_are_scored(
    make_study: MakeStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    people = {"sub-1": "train", "sub-2": "train", "sub-3": "val", "sub-4": "val"}
    study = make_study(tmp_path / "study", people)
    run = tmp_path / "run"
    words = [str(run), "--data", str(study), "--size", "32", "--seeds", "1", "2", "--device", "cpu"]
    heights.main([*words, "--rounds", "2"])
    table = capsys.readouterr().out
    for row in ("matching, seed 1", "random, mean", "identity", "matching - random"):
        assert f"| {row} | " in table
    weights = {
        name: (run / f"cyclegan-{name}-1" / "last" / "weights.safetensors").read_bytes()
        for name in ("matching", "random")
    }
    assert weights["matching"] != weights["random"]
    heights.main([*words, "--rounds", "2"])
    assert capsys.readouterr().out == table, "what is finished is not done again"
    with pytest.raises(SystemExit, match="another configuration"):
        heights.main([*words, "--rounds", "3"])


def test_what_matching_gains() -> None:
    rows = {
        "matching": [{"psnr": 21.0, "ssim": 0.8}, {"psnr": 23.0, "ssim": 0.7}],
        "random": [{"psnr": 20.0, "ssim": 0.7}, {"psnr": 20.0, "ssim": 0.7}],
    }
    lines = heights.table(rows, [1, 2], {"psnr": 18.0, "ssim": 0.6}).splitlines()
    assert "| matching, mean | 22.00 | 0.7500 |" in lines
    assert lines[-1] == "| matching - random | +2.00 ± 1.41 | +0.0500 ± 0.0707 |"
