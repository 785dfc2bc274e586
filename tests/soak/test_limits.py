"""Names and folders that nobody would make on purpose, and that are there all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medi2i.data.cohort import find_cohort
from medi2i.errors import MissingFileError
from medi2i.jobs.study import find_visits
from medi2i.volume import Volume, load_volume, save_volume
from tests.cli.conftest import Call, head, seen, write_scan
from tests.soak.caps import capped

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such names or links")

NAMES = {
    "not ASCII": "Ärzte 名前 🧠_T1w.nii.gz",
    "blanks and quotes": "a 'b' \"c\"_T1w.nii.gz",
    "reserved on Windows": "CON_T1w.nii.gz",
    "a colon": "a:b_T1w.nii.gz",
    "a trailing dot before": "a._T1w.nii.gz",
    "markup": "[red]a[bold]_T1w.nii.gz",
    "an option": "-q_T1w.nii.gz",
    "a line feed": "a\nb_T1w.nii.gz",
    "a backslash": "a\\b_T1w.nii.gz",
}


GIB = 1 << 30
LARGEST = 6 * GIB
"""What a scan of 512 x 512 x 600 voxels may take, 0.6 GiB as float32. Measured: 4.9 GiB."""


@posix
def test_memory_for_a_large_scan(
    tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--soak"):
        pytest.skip("only in the large form")
    x, y, z = np.ogrid[-1:1:512j, -1:1:512j, -1:1:600j]
    inside = np.square(x) + np.square(y) + np.square(z) < 0.8
    voxels = np.where(inside, 500 + 300 * np.sin(9 * x) * np.cos(7 * y), 0).astype(np.float32)
    scan = Volume.of(voxels, np.diag([0.45, 0.45, 0.35, 1]))
    save_volume(scan, tmp_path / "t1.nii", dtype="int16")
    command = [sys.executable, "-m", "medi2i", "translate", tmp_path / "t1.nii", "--to", "t2"]
    command += ["--model", tiny, "-o", tmp_path / "t2.nii", "--from", "t1", "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), cwd=Path(__file__).parents[2])
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    made = load_volume(tmp_path / "t2.nii")
    assert made.shape == voxels.shape
    assert used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) < LARGEST


@posix
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_unusual_names(name: str, call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / name)
    answer = call("translate", "--to", "t2", "--model", tiny, "--json", "--", scan)
    assert answer.code == 0, answer.err
    stem = name.removesuffix("_T1w.nii.gz")
    assert set(seen(tmp_path)) == {name} | {
        f"{stem}_T1w_desc-synth_T2w{ending}" for ending in (".nii.gz", ".json")
    }


@posix
def test_a_name_that_is_not_unicode(tiny: Path, tmp_path: Path) -> None:
    """A real process: what is printed must not end in a traceback."""
    good = write_scan(tmp_path / "x_T1w.nii.gz")
    scan = os.fsencode(tmp_path) + b"/\xff_T1w.nii.gz"
    try:
        good.rename(os.fsdecode(scan))
    except OSError:
        pytest.skip("this file system takes no such name")
    bad = os.fsencode(tmp_path) + b"/\xfe_T1w.nii.gz"
    Path(os.fsdecode(bad)).write_bytes(b"x")
    for options in ([], ["--json"]):
        command = [
            sys.executable,
            "-m",
            "medi2i",
            "translate",
            os.fsdecode(scan),
            os.fsdecode(bad),
            "--to",
            "t2",
            "--overwrite",
        ]
        ran = subprocess.run(
            [*command, "--model", str(tiny), *options],
            capture_output=True,
            check=False,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
        )
        assert b"Traceback" not in ran.stderr, ran.stderr.decode(errors="replace")
        assert ran.returncode == 1
        assert b"is not gzip-compressed" in ran.stderr + ran.stdout
    made = Path(os.fsdecode(scan)).with_name(os.fsdecode(b"\xff_T1w_desc-synth_T2w.nii.gz"))
    assert made.is_file()
    record = json.loads(made.with_name(made.name[:-7] + ".json").read_text())
    assert record["Sources"][0]["Name"] == Path(os.fsdecode(scan)).name


@pytest.mark.parametrize("length", [200, 245])
def test_long_names(length: int, call: Call, tiny: Path, tmp_path: Path) -> None:
    """There is room for the result's name, or a sentence says that there is none."""
    scan = write_scan(tmp_path / f"{'x' * (length - len('_T1w.nii.gz'))}_T1w.nii.gz")
    before = seen(tmp_path)
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-q")
    if answer.code == 0:
        assert len(seen(tmp_path)) == 3
    else:
        assert answer.code == 3
        assert "name" in answer.err
        assert seen(tmp_path) == before
    assert (answer.code == 0) == (length == 200)


@pytest.mark.parametrize("command", ["translate", "info", "evaluate", "report"])
def test_an_endless_name(command: str, call: Call, tmp_path: Path) -> None:
    options = {"translate": ("--to", "t2"), "evaluate": ("b.nii",)}.get(command, ())
    for name in ("x" * 5000 + ".nii", "a\0b.nii"):
        answer = call(command, tmp_path / name, *options)
        assert answer.code in (2, 3), answer
        assert answer.err


@posix
def test_links_that_lead_in_a_circle(call: Call, tiny: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    write_scan(scans / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    (scans / "sub-1" / "again").symlink_to(scans)
    (scans / "self_T1w.nii.gz").symlink_to("self_T1w.nii.gz")
    (scans / "nowhere_T1w.nii.gz").symlink_to("gone.nii.gz")
    (scans / "sub-2").symlink_to("sub-2")
    with capped(seconds=20, memory=4 << 30):
        assert len(find_cohort(scans)) == 1
        assert len(find_visits(scans)) == 1
        answer = call("translate", scans, "--to", "t2", "--model", tiny, "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert sum(name.endswith(".nii.gz") for name in seen(tmp_path / "out")) == 1
    answer = call("translate", scans / "self_T1w.nii.gz", "--to", "t2", "--model", tiny)
    assert answer.code == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_no_scan(call: Call, tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe_T1w.nii.gz")
    with capped(seconds=20, memory=4 << 30):
        for place in (tmp_path, tmp_path / "pipe_T1w.nii.gz"):
            assert call("translate", place, "--to", "t2", "--model", tiny).code == 3


def test_ten_thousand_empty_files(call: Call, tiny: Path, tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number}.{'nii.gz' if number % 2 else 'dcm'}").touch()
    with capped(seconds=20, memory=4 << 30):
        answer = call("translate", tmp_path, "--to", "t2", "--model", tiny)
        assert answer.code == 3
        assert "do not say" in answer.err
        answer = call("info", tmp_path)
        assert answer.code == 3
        assert "holds no DICOM image" in answer.err
        with pytest.raises(MissingFileError):
            find_cohort(tmp_path)


def test_inputs_stay_as_they_are(call: Call, tiny: Path, tmp_path: Path) -> None:
    """Inputs may be read-only, and keep their bytes and dates."""
    scan = write_scan(tmp_path / "in" / "t1.nii.gz", voxels=head(3))
    scan.chmod(0o400)
    date = scan.stat().st_mtime_ns
    before = scan.read_bytes()
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", tmp_path / "out")
    assert answer.code == 0
    assert (scan.stat().st_mtime_ns, scan.read_bytes()) == (date, before)
