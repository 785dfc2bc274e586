"""Disks that are full, folders that vanish, what the dead left: nothing half is left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import Tensor

from medi2i import files
from medi2i.errors import OutputError
from medi2i.files import atomic_write, clear_staging, clear_temporary, staging, whole_folder
from medi2i.systems.unet import UNetRegression
from tests.cli.conftest import Call, seen, write_scan


def test_what_the_dead_left_goes_and_what_the_living_hold_stays(tmp_path: Path) -> None:
    output = tmp_path / "t2.nii"
    with staging(tmp_path, [output.name]) as stage:
        (stage / output.name).write_text("half")
        clear_staging(output)
        assert stage.exists()
        (tmp_path / ".medi2i-t2.nii-dead").mkdir()
        (tmp_path / ".medi2i-t3.nii-dead").mkdir()
        clear_staging(output)
        assert {p.name for p in tmp_path.iterdir()} == {stage.name, ".medi2i-t3.nii-dead"}
    (tmp_path / "best").mkdir()
    for left in (".medi2i-0123.tmp", "best/.medi2i-4567.tmp", "mine.tmp"):
        (tmp_path / left).touch()
    clear_temporary(tmp_path)
    left_over = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert left_over == {"t2.nii", "mine.tmp"}


def test_a_folder_comes_back_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    for name in ("a", "a-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(f"old {name}")
    code = (
        "import os; from pathlib import Path; from medi2i.files import whole_folder\n"
        "usual = Path.replace\n"
        "def replace(*paths): usual(*paths); os.kill(os.getpid(), 9)\n"
        "Path.replace = replace\n"
        "with whole_folder(Path('a-b'), overwrite=True) as folder: (folder / 'x').touch()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert ran.returncode == -9
    assert not (tmp_path / "a-b").exists()
    clear_staging(tmp_path / "a")  # nothing of this one
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputError, match="exists already"), whole_folder(tmp_path / "a-b"):
        pass
    assert {p.name: (p / "x").read_text() for p in tmp_path.iterdir()} == {
        "a": "old a",
        "a-b": "old a-b",
    }


@pytest.mark.parametrize("fails", [1, 2])
def test_a_folder_comes_back_when_a_rename_fails(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, usual, done = tmp_path / "a", Path.replace, [0]
    place.mkdir()
    (place / "x").write_text("old")

    def replace(path: Path, target: Path) -> Path:
        done[0] += 1
        if done[0] == fails:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return usual(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with (
        pytest.raises(OutputError, match="read-only or not yours"),
        whole_folder(place, overwrite=True) as folder,
    ):
        (folder / "x").write_text("new")
    assert seen(tmp_path).keys() == {"a", "a/x"}
    assert (place / "x").read_text() == "old"


FULL = "the disk is full"
BROKEN = {
    "a mount that is gone": (errno.ENODEV, "No such device"),
    "a server that forgot": (errno.ESTALE, "handle"),
    "a failing disk": (errno.EIO, "error"),
    "permission denied": (errno.EACCES, "read-only or not yours"),
    "a quota": (errno.EDQUOT, "uota"),
}


@pytest.mark.parametrize(
    ("after", "number", "says"),
    [*((after, errno.ENOSPC, FULL) for after in range(4)), *((1, *why) for why in BROKEN.values())],
    ids=[*(f"full after {after}" for after in range(4)), *BROKEN],
)
def test_a_disk_that_takes_no_more(
    after: int,
    number: int,
    says: str,
    call: Call,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of three files is the one that cannot be written."""
    scan = write_scan(tmp_path / "t1.nii.gz")
    before, done = seen(tmp_path), [0]
    usual = atomic_write

    def write(path: Path, fill: Callable[[BinaryIO], None], **options: Any) -> Path:
        def fails(stream: BinaryIO) -> None:
            fill(stream)
            if done[0] == after:
                raise OSError(number, os.strerror(number))
            done[0] += 1

        return usual(path, fails, **options)

    for module in ("volume", "files", "formats.synthetic"):
        monkeypatch.setattr(f"medi2i.{module}.atomic_write", write)
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "--preview", "-q")
    if after < 3:
        assert says in answer.err
        assert "cannot be written" in answer.err
        assert answer.code == 3
        assert seen(tmp_path) == before
    else:
        assert answer.code == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_on_one_output(overwrite: bool, tmp_path: Path) -> None:
    """All is of one making: of the first where nothing is replaced, else of the last."""
    names = ["a.json", "a.nii"]

    def make(stage: Path, who: str) -> None:
        for name in names:
            (stage / name).write_text(who)

    refused = contextlib.nullcontext() if overwrite else pytest.raises(OutputError, match="exists")
    with refused, staging(tmp_path / "files", names, overwrite=overwrite) as late:
        with staging(tmp_path / "files", names, overwrite=overwrite) as early:
            make(early, "early")
        make(late, "late")
    refused = contextlib.nullcontext() if overwrite else pytest.raises(OutputError)
    with refused, whole_folder(tmp_path / "folder", overwrite=overwrite) as late:
        with whole_folder(tmp_path / "folder", overwrite=overwrite) as early:
            make(early, "early")
        make(late, "late")
    found = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("a.*")}
    who = "late" if overwrite else "early"
    assert found == {f"{place}/{name}": who for place in ("files", "folder") for name in names}
    assert not list(tmp_path.rglob(".medi2i-*"))


def test_a_clock_that_jumps(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back and forth by up to a year: nothing is done twice, no duration is negative."""
    for number in range(2):
        name = f"sub-{number}"
        write_scan(tmp_path / "in" / name / "anat" / f"{name}_T1w.nii.gz", seed=number)
    command = (
        *("bids", tmp_path / "in", tmp_path / "out", "participant", "--to", "t2"),
        *("--model", tiny, "--json"),
    )
    assert call(*command).code == 0
    before, usual, rng = seen(tmp_path), time.time, random.Random(0)  # noqa: S311
    monkeypatch.setattr(time, "time", lambda: usual() + rng.uniform(-3e7, 3e7))
    for options in ((), ("--overwrite",)):
        answer = call(*command, *options)
        assert answer.code == 0, answer.err
        rows = json.loads(answer.out)
        assert [row["status"] for row in rows] == ["done" if options else "skipped"] * 2
        assert all(least >= 0 for row in rows for least in row.get("seconds", {}).values())
        assert seen(tmp_path) == before


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """The system's own refusal, in the middle of a write."""
    code = (
        "import resource, signal; from medi2i.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_whole('new/x', bytes(5000))\n"
        "except OSError as error: print(type(error).__name__, error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith('OutputError "new/x" cannot be written: ')
    assert seen(tmp_path) == {}


@pytest.mark.parametrize("vanishes", ["the stage", "the folder"])
def test_an_output_folder_that_vanishes(
    vanishes: str, call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    before, out = seen(tmp_path), tmp_path / "out"
    usual = files._check_target

    def vanish(path: Path, overwrite: bool) -> None:
        if path == out / "t1_desc-synth_T2w.json":  # all is made and about to move up
            for stage in out.glob(".medi2i-*"):
                shutil.rmtree(stage)
            if vanishes == "the folder" and out.exists():
                shutil.rmtree(out)
        usual(path, overwrite)

    monkeypatch.setattr(files, "_check_target", vanish)
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", out, "-q")
    assert answer.code == 3
    assert "cannot be written" in answer.err
    assert seen(tmp_path) == before


def test_a_read_only_folder(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="read-only or not yours"):
        atomic_write(place / "x", lambda stream: None)
    assert list(place.iterdir()) == []


class Small:
    """A network on a device whose memory holds so many windows, fewer and fewer."""

    def __init__(self, error: Exception, *holds: int) -> None:
        self.error, self.holds, self.tried = error, list(holds), list[int]()

    def __call__(
        self, system: UNetRegression, source: Tensor, *, target: Tensor | None = None
    ) -> Tensor:
        self.tried.append(len(source))
        if len(source) > self.holds[0]:
            raise self.error
        if len(self.holds) > 1:
            self.holds.pop(0)
        return TRANSLATE(system, source, target=target)


TRANSLATE = UNetRegression.translate
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [GPU, CPU, MemoryError()], ids=["GPU", "CPU", "Python"])
def test_too_little_memory_is_one_smaller_retry(
    error: Exception, call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    command = ("translate", scan, "--to", "t2", "--model", tiny, "--overwrite", "--json")
    assert call(*command, "--batch-size", 3).code == 0
    before = seen(tmp_path)
    device = Small(error, 3)
    monkeypatch.setattr(UNetRegression, "translate", lambda self, *a, **k: device(self, *a, **k))
    answer = call(*command)
    assert answer.code == 0, answer.err
    assert device.tried == [7, 3, 3, 3, 1]  # the slices that are not blank
    (row,) = json.loads(answer.out)
    assert "3 would have fitted: --batch-size 3; done again so" in row["again"]
    assert seen(tmp_path) == before


@pytest.mark.parametrize(
    ("holds", "tried", "says"),
    [
        ((0,), [7, 3, 1], "a single window of 13 x 16 needs more memory than is free"),
        ((4, 1), [7, 3, 3, 1], "3 windows of 13 x 16 at once need more memory than is free; 1"),
    ],
    ids=["for one", "for less than before"],
)
def test_far_too_little_memory_is_a_sentence(
    holds: tuple[int, ...],
    tried: list[int],
    says: str,
    call: Call,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    before = seen(tmp_path)
    device = Small(GPU, *holds)
    monkeypatch.setattr(UNetRegression, "translate", lambda self, *a, **k: device(self, *a, **k))
    answer = call("translate", scan, "--to", "t2", "--model", tiny)
    assert answer.code == 3
    assert f"t1.nii.gz: {says}" in answer.err
    assert answer.err.count("\n") == 1
    assert device.tried == tried
    assert seen(tmp_path) == before
