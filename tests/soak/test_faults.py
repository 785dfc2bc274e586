"""Commands that are killed, disks that are full, folders that vanish: nothing half is left.

A command is killed at the n-th time that it touches a file of its output, as Python's audit hooks
tell; so every moment that matters can be met, and met again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from medi2i import files
from medi2i.errors import OutputError
from medi2i.files import atomic_write, clear_staging, clear_temporary, staging
from tests.cli.conftest import Call, seen, write_scan
from tests.conftest import MakeStudy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

LAUNCHER = '''
"""Reads lines of JSON: [arguments, folder, n, signal]; n -1 counts. Forked: torch loads once."""
import json, os, signal, sys
import medi2i.experiment, torchio, torch._dynamo, torch.utils.tensorboard
import medi2i.jobs.work, medi2i.formats.synthetic, medi2i.evaluation.structure
from medi2i.cli import main
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}

def child(arguments, folder, deadly, number):
    count = 0
    def hook(event, values):
        nonlocal count
        if event in EVENTS and values and str(values[0]).startswith(folder):
            count += 1
            if count == deadly:
                os.kill(os.getpid(), number)
    sys.addaudithook(hook)
    sys.argv = ["medi2i", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    print(json.dumps(count), flush=True)
    os._exit(code)

for line in sys.stdin:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        child(*json.loads(line))
    print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)
'''


class Launcher:
    """Runs commands in children of one process that has loaded everything."""

    def __init__(self, folder: Path) -> None:
        path = folder / "launcher.py"
        path.write_text(LAUNCHER)
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        old = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, old]))
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(
        self, *arguments: object, watched: Path, deadly: int = -1, number: int = 9
    ) -> tuple[int, int]:
        """The exit status, and how often a file below `watched` was touched (0 if killed)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        words = [str(word) for word in arguments]
        self.process.stdin.write(json.dumps([words, str(watched), deadly, int(number)]) + "\n")
        self.process.stdin.flush()
        count = 0
        while True:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read() if self.process.stderr else ""
            try:
                told = json.loads(line)
            except ValueError:  # what the command itself says
                continue
            if isinstance(told, dict):
                return int(told["status"]), count
            count = int(told)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("launcher"))
    yield launcher
    launcher.process.kill()
    launcher.process.communicate()


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: {-9, 0}, signal.SIGTERM: {143, -15, 0}, signal.SIGINT: {130, 0}}
"""0: threads touched fewer files this time, and the moment did not come."""


def moments(count: int, soak: int) -> list[tuple[int, signal.Signals]]:
    """When to kill, and how: a few moments, or with --soak 50."""
    rng = random.Random(7)  # noqa: S311
    kills = 50 if soak else 4
    return [(rng.randrange(1, count + 1), SIGNALS[n % 3]) for n in range(kills)]


def voxels(folder: Path) -> dict[str, str]:
    """Checksums of scans; the rest by what it says, without the date."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if ".medi2i-" in name:
            continue
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            record.pop("Date")
            found[name] = json.dumps(record)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")] if folder.exists() else []


def test_a_killed_translation(
    launch: Launcher, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for number in range(2):
        write_scan(tmp_path / "in" / f"sub-{number}_T1w.nii.gz", seed=number)
    command = ("translate", tmp_path / "in", "--to", "t2", "--model", tiny, "--preview", "-q")
    whole = tmp_path / "whole"
    status, count = launch(*command, "-o", whole, watched=whole)
    assert status == 0
    assert count > 20
    expected = voxels(whole)
    assert len(expected) == 6
    ends: list[int] = []
    for deadly, how in moments(count, request.config.getoption("--soak")):
        out = tmp_path / "out"
        status, _ = launch(*command, "-o", out, watched=out, deadly=deadly, number=how)
        assert status in CODES[how], (deadly, how, status)
        ends.append(status)
        there = voxels(out)
        assert there.items() <= expected.items(), (deadly, how)  # whole, or not there
        for scan in (name for name in there if name.endswith(".nii.gz")):
            stem = scan.removesuffix(".nii.gz")
            assert {f"{stem}.json", f"{stem}_preview.png"} <= set(there), (deadly, how)
        if how is not signal.SIGKILL and status > 0:
            assert hidden(out) == [], (deadly, how)
        status, _ = launch(*command, "-o", out, "--overwrite", watched=out)
        assert status == 0
        assert hidden(out) == [], (deadly, how)
        assert voxels(out) == expected
        shutil.rmtree(out)
    assert ends.count(0) <= len(ends) // 4, ends
    assert -9 in ends


CONFIG = """
system: unet
task: {sources: [T1w], targets: [T2w]}
arguments: {features: [4, 8]}
data: {size: 16}
training: {rounds: 6, batch_size: 1, workers: 0, log_every: 1, validate_every: 2,
  checkpoint_every: 2}
validation: {volumes: 1}
"""


def test_a_killed_training(
    launch: Launcher, make_study: MakeStudy, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    study = make_study(tmp_path / "study", {"sub-1": "train", "sub-2": "val"})
    (tmp_path / "run.yaml").write_text(CONFIG)
    command = ("train", tmp_path / "run.yaml", "--data", study, "-q", "--resume")
    whole = tmp_path / "whole"
    status, count = launch(*command, "-o", whole, watched=whole)
    assert status == 0

    def made(run: Path) -> dict[str, str]:
        """All but TensorBoard's events, whose names have dates, and the checkpoint's own zip."""
        left = ("tensorboard", "checkpoint.pt")
        return {name: what for name, what in seen(run).items() if not name.startswith(left)}

    expected = made(whole)
    for deadly, how in moments(count, request.config.getoption("--soak")):
        run = tmp_path / "run"
        status, _ = launch(*command, "-o", run, watched=run, deadly=deadly, number=how)
        assert status in CODES[how], (deadly, how, status)
        if how is not signal.SIGKILL and status > 0:
            assert hidden(run) == [], (deadly, how)
        status, _ = launch(*command, "-o", run, watched=run)
        assert status == 0, (deadly, how)
        assert made(run) == expected, (deadly, how)
        shutil.rmtree(run)


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


@pytest.mark.parametrize("after", range(6))
def test_a_disk_that_fills_up(
    after: int, call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file is the one that no longer fits."""
    scan = write_scan(tmp_path / "t1.nii.gz")
    before, done = seen(tmp_path), [0]
    usual = atomic_write

    def write(path: Path, fill: Callable[[BinaryIO], None], **options: Any) -> Path:
        def full(stream: BinaryIO) -> None:
            fill(stream)
            if done[0] == after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done[0] += 1

        return usual(path, full, **options)

    for module in ("volume", "files", "formats.synthetic"):
        monkeypatch.setattr(f"medi2i.{module}.atomic_write", write)
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "--preview", "-q")
    if after < 3:
        assert "the disk is full" in answer.err
        assert answer.code == 3
        assert seen(tmp_path) == before
    else:  # there are three
        assert answer.code == 0


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
