"""What answers without scans: help, version, the catalogue, the models, this machine, the demo."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from medi2i import __version__, simulate
from medi2i.systems import SYSTEMS
from tests.cli.conftest import Call, seen, write_scan

COMMANDS = (
    "translate",
    "train",
    "evaluate",
    "anomaly",
    "simulate",
    "bids",
    "systems",
    "demo",
    "info",
    "models",
)
HEAVY = {"torch", "numpy", "rich", "nibabel", "SimpleITK", "monai", "torchio", "scipy", "skimage"}


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
from medi2i.cli import main
for arguments in (["--help"], ["translate", "-h"], ["models", "-h"], ["--version"]):
    sys.argv = ["medi2i", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end.code
print("imported:", *(name for name in sys.modules if "." not in name))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not HEAVY & set(run.stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(call: Call, option: str) -> None:
    answer = call(option)
    assert answer.code == 0
    for command in COMMANDS:
        assert command in answer.out
        assert call(command, option).code == 0


def test_help_says_the_exit_codes_and_the_limits(call: Call) -> None:
    assert "not a medical device" in " ".join(call("-h").out.split())
    said = " ".join(call("translate", "-h").out.split())
    assert "0 done, 1 some inputs failed, 2 usage, 3 bad input, 4 bad model, 130" in said


def test_version(call: Call) -> None:
    assert call("--version").out == f"medi2i {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["transalte"], ["translate"], ["translate", "t1.nii"], ["systems", "--jsno"]]
)
def test_usage_errors(call: Call, arguments: list[str]) -> None:
    answer = call(*arguments)
    assert answer.code == 2
    assert answer.out == ""


def test_systems(call: Call) -> None:
    rows = json.loads(call("systems", "--json").out)
    assert [row["name"] for row in rows] == list(SYSTEMS)
    for row in rows:
        assert row["pairing"] in ("paired", "unpaired")
        assert row["dims"] == [2, 3]
        assert re.search(r"et al|&|^[A-Z]\w+ \d{4}", row["paper"]), "authors"
        assert re.search(r"arXiv:\d{4}\.\d{5}|\d+:\d+-\d+|\d+\(\d+\)", row["paper"]), (
            "where to find it"
        )
    unet = SYSTEMS["unet"](dims=2)
    counts = {row["name"]: row["parameters"] for row in rows}
    assert counts["unet"]["2"] == sum(p.numel() for p in unet.parameters())
    table = call("systems").out
    for row in rows:
        assert row["name"] in table
        assert row["paper"].split()[0] in table  # a narrow terminal breaks the rest


def test_models(call: Call, shipped: Path) -> None:
    (record,) = json.loads(call("models", "list", "--json").out)
    assert record["name"] == "default"
    assert "default" in call("models", "list").out
    assert json.loads(call("models", "show", "default").out)["name"] == "default"
    (shipped / "default" / "README.md").write_text("# A card\n")
    assert "A card" in call("models", "show", "default").out
    weights = (shipped / "default" / "weights.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert json.loads(call("models", "show", "default", "--json").out)["sha256"] == digest
    assert call("models", "verify").out == f"default: ok, sha256 {digest}\n"
    (row,) = json.loads(call("models", "verify", shipped / "default", "--json").out)
    assert row["ok"] is True


def test_no_models(call: Call, shipped: Path) -> None:
    for path in (shipped / "default").iterdir():
        path.unlink()
    answer = call("models", "list")
    assert (answer.code, answer.out) == (0, "")
    assert "no model comes with this installation" in answer.err
    assert json.loads(call("models", "list", "--json").out) == []


def test_info(call: Call, tmp_path: Path) -> None:
    (machine,) = json.loads(call("info", "--json").out)
    assert machine["medi2i"] == __version__
    scan = write_scan(tmp_path / "sub-1_T1w.nii.gz")
    (row,) = json.loads(call("info", scan, "--json").out)
    assert row["contrast"] == "T1w"
    assert row["shape"] == [13, 16, 9]
    assert row["orientation"] == "LAS"
    answer = call("info", scan, tmp_path / "missing.nii")
    assert answer.code == 1
    assert "LAS" in answer.out
    assert "does not exist" in answer.err


def test_closed_pipe(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii")
    program = [sys.executable, "-m", "medi2i", "info", str(scan), "--json"]
    run = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()
    _, err = run.communicate()
    assert err == b""
    assert run.returncode == 1


@pytest.mark.usefixtures("shipped")
def test_demo(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # drawn once: that the same seed gives the same head is what tests/simulate says
    small = functools.cache(functools.partial(simulate.simulate, spacing=(8.0, 8.0, 8.0)))
    monkeypatch.setattr(simulate, "simulate", small)
    made = []
    for _ in range(2):  # a second time replaces the first
        answer = call("demo", "-o", tmp_path / "demo")
        assert answer.code == 0, answer.err
        made.append(seen(tmp_path / "demo"))
    assert made[0] == made[1]
    for method in ("default", "identity"):
        assert method in answer.out
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores["protocol"]["name"] == "brain-3d"
    assert 0 < scores["rows"][0]["voxels"] < 4000  # a brain at 8 mm
    assert (tmp_path / "demo" / "sub-phantom0_desc-synth_T2w.nii.gz").is_file()
    with Image.open(tmp_path / "demo" / "preview.png") as picture:
        assert min(picture.size) > 100
