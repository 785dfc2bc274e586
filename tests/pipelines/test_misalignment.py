from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.stories import story

misalignment = story("misalignment")


class Compare:
    """Stands for compare.py: writes the table that a level would have had."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.broken = ""

    def run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        assert not check
        assert Path(command[1]).name == "compare.py"
        self.commands.append(command[2:])
        level = float(command[command.index("--misalignment") + 1])
        if command[command.index("--misalignment") + 1] == self.broken:
            return subprocess.CompletedProcess(command, 1)
        folder = Path(command[2])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "table.csv").open("w", encoding="utf-8", newline="") as stream:
            names = [f"{score}{end}" for score in ("ssim", "psnr") for end in ("", " low", " high")]
            writer = csv.DictWriter(stream, ["method", *names], restval="")
            writer.writeheader()
            for method, loss in (("identity", 0.0), ("pix2pix", 0.03), ("reggan", 0.01)):
                ssim = 0.8 - loss * level
                writer.writerow(
                    {"method": method, "ssim": ssim, "ssim low": ssim - 0.05}
                    | {"ssim high": ssim + 0.05, "psnr": 20 + 100 * (ssim - 0.8)}
                )
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Compare:
    stands_in = Compare()
    monkeypatch.setattr(subprocess, "run", stands_in.run)
    return stands_in


def test_the_curve(compare: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    misalignment.main([str(out), "--levels", "5", "0", "1", "--minutes", "2", "--seed", "7"])
    first, *others = compare.commands
    assert [Path(c[0]).name for c in compare.commands] == ["level-0", "level-1", "level-5"]
    for command in compare.commands:
        assert " ".join(command).endswith("--systems unet pix2pix reggan")
        assert command[command.index("--minutes") + 1] == "2"
        assert command[command.index("--seed") + 1] == "7"
    assert "--data" not in first  # it simulates; the others learn from the same people
    for command in others:
        assert command[command.index("--data") + 1] == str(out / "level-0" / "cohort")
        assert command[command.index("--size") + 1] == "64"
    text = (out / "curve.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "| SSIM | level 0 | level 1 | level 5 | last - first |"
    assert lines[3] == (
        "| pix2pix | 0.8000 [0.7500, 0.8500] | 0.7700 [0.7200, 0.8200] | "
        "0.6500 [0.6000, 0.7000] | -0.1500 |"
    )
    assert "| reggan | 20.00 [20.00, 20.00] |" in text  # no interval of a single subject
    with (out / "curve.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 3
    name, method, level, *numbers = rows[5].values()
    assert (name, method, level) == ("ssim", "pix2pix", "5")
    assert [float(number) for number in numbers] == pytest.approx([0.65, 0.6, 0.7])
    with Image.open(out / "curve.png") as picture:
        pixels = np.asarray(picture)
    for colour in misalignment.COLOURS[:3]:
        assert (pixels == colour).all(-1).sum() > 100


def test_a_level_that_failed_is_named_and_the_others_are_shown(
    compare: Compare, tmp_path: Path
) -> None:
    compare.broken = "1.0"
    study = ["--data", str(tmp_path / "study"), "--levels", "0", "1", "5", "--systems", "reggan"]
    with pytest.raises(SystemExit, match="level 1"):
        misalignment.main([str(tmp_path / "out"), *study])
    for command in compare.commands:
        assert command[command.index("--data") + 1] == str(tmp_path / "study")
        assert "--size" not in command
    text = (tmp_path / "out" / "curve.md").read_text(encoding="utf-8")
    assert "| SSIM | level 0 | level 5 | last - first |" in text
    compare.broken = "3.0"
    with pytest.raises(SystemExit, match="no level has a table"):
        misalignment.main([str(tmp_path / "none"), "--levels", "3"])
