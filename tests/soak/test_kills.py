"""Commands that are killed while they write: their results are whole or absent, and come again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medi2i.files import clear_staging
from medi2i.model import read_model, write_model
from tests.cli.conftest import seen, write_scan
from tests.conftest import MakeStudy
from tests.soak.launcher import Launcher

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
    pytest.mark.xdist_group("launcher"),
]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: {-9, 0}, signal.SIGTERM: {143, -15, 0}, signal.SIGINT: {130, 0}}
"""0: threads touched fewer files this time, and the moment did not come."""

Found = dict[str, str]
Kills = Callable[..., None]


@pytest.fixture
def kills(
    launch: Launcher, request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]
) -> Kills:
    """Kills a command at random moments, a few or with --soak 50, and runs it again each time."""

    def run(
        *command: object,
        out: Path,
        made: Callable[[Path], Found] = visible,
        left: Callable[[Path], None] | None = None,
        again: tuple[object, ...] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        command: makes `out`, the only thing in its folder.
        made: what counts of it.
        left: looks at what a killed run has left.
        again: options of the second run.
        before: what happens before each run.
        """

        def prepare() -> None:
            shutil.rmtree(out.parent, ignore_errors=True)
            out.parent.mkdir()
            if before is not None:
                before()

        prepare()
        status, count = launch(*command, watched=out.parent)
        assert status == 0
        assert count > 10
        expected = made(out)
        assert expected
        rng = random.Random(7)  # noqa: S311
        ends: Counter[str] = Counter()
        for number in range(50 if request.config.getoption("--soak") else len(SIGNALS)):
            deadly, how = rng.randrange(1, count + 1), SIGNALS[number % 3]
            prepare()
            status, _ = launch(*command, watched=out.parent, deadly=deadly, number=how)
            moment = (deadly, how, status)
            assert status in CODES[how], moment
            ends["finished before" if status == 0 else f"by {how.name}"] += 1
            if left is not None:
                left(out)
            status, _ = launch(*command, *again, watched=out.parent)
            assert status == 0, moment
            assert hidden(out.parent) == [], moment
            assert made(out) == expected, moment
        assert ends["finished before"] <= 1 + ends.total() // 4, ends
        record_property("kills", dict(ends))

    return run


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*") if p.name != ".bidsignore"]


def visible(folder: Path) -> Found:
    return {name: what for name, what in seen(folder).items() if "medi2i-" not in name}


def test_translate(kills: Kills, tiny: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_scan(tmp_path / "in" / f"sub-{number}_T1w.nii.gz", seed=number)
    command = ("translate", tmp_path / "in", "--to", "t2", "--model", tiny, "--preview", "-q")

    def whole(out: Path) -> None:
        there = set(visible(out))
        for scan in (name for name in there if name.endswith(".nii.gz")):
            stem = scan.removesuffix(".nii.gz")
            assert {f"{stem}.json", f"{stem}_preview.png"} <= there

    out = tmp_path / "made" / "out"
    kills(*command, "-o", out, out=out, left=whole, again=("--overwrite",))


def test_translate_into_dicom(
    kills: Kills, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A series is there with all its slices, or not at all."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    if not request.config.getoption("--soak"):
        pytest.skip("only in the large form")
    from tests.formats.dicoms import write_series

    slices = len(write_series(tmp_path / "in" / "exam"))
    command = ("translate", tmp_path / "in", "--to", "t2", "--model", tiny, "-q", "--overwrite")

    def images(out: Path) -> Found:
        return {
            str(path.relative_to(out)): str(pydicom.dcmread(path).PixelData[:2000])
            for path in sorted(out.rglob("*.dcm"))
            if ".medi2i-" not in str(path)
        }

    def whole(out: Path) -> None:
        assert len(images(out)) in (0, slices)

    out = tmp_path / "made" / "out"
    kills(*command, "--format", "dicom", "-o", out, out=out, made=images, left=whole)


CONFIG = """
system: unet
task: {sources: [T1w], targets: [T2w]}
arguments: {features: [4, 8]}
data: {size: 16}
training: {rounds: 6, batch_size: 1, workers: 0, log_every: 1, validate_every: 2,
  checkpoint_every: 2}
validation: {volumes: 1}
"""


def test_train(kills: Kills, make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"sub-1": "train", "sub-2": "val"})
    (tmp_path / "run.yaml").write_text(CONFIG)

    def made(run: Path) -> Found:
        """All but TensorBoard's events, and the checkpoint, which shares fewer strings."""
        left = ("tensorboard", "checkpoint.pt")
        return {name: what for name, what in seen(run).items() if not name.startswith(left)}

    out = tmp_path / "made" / "run"
    command = ("train", tmp_path / "run.yaml", "--data", study, "-q", "--resume", "-o", out)
    kills(*command, out=out, made=made)


def test_bids(kills: Kills, tiny: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for number in range(3):
        name = f"sub-{number}"
        contrast = "T1w" if number else "T2w"  # one has no source
        write_scan(study / name / "anat" / f"{name}_{contrast}.nii.gz", seed=number)
    (study / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    out = tmp_path / "made" / "out"

    def whole(out: Path) -> None:
        there = visible(out)
        for scan in (name for name in there if name.endswith(".nii.gz")):
            assert json.loads((out / scan.replace(".nii.gz", ".json")).read_text())["MadeOf"]

    kills("bids", study, out, "participant", "--to", "t2", "--model", tiny, out=out, left=whole)


@pytest.mark.parametrize("kind", ["huggingface", "monai-bundle"])
@pytest.mark.parametrize("over", [False, True], ids=["anew", "over an earlier one"])
def test_models_export(
    kind: str, over: bool, kills: Kills, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A folder that is replaced is there, or is put back: killed between two renames as well."""
    if not request.config.getoption("--soak") and not (over and kind == "huggingface"):
        pytest.skip("only in the large form")
    earlier = write_model(read_model(tiny), tmp_path / "earlier")
    (earlier / "notes.txt").write_text("of the earlier one")
    out = tmp_path / "made" / "out"
    old = visible(earlier)
    command = ("models", "export", tiny, "--format", kind, "-o", out, "--overwrite")
    pair = ("--from", "t1", "--to", "t2") if kind == "monai-bundle" else ()
    states: list[Found] = []

    def before() -> None:
        if over:
            shutil.copytree(earlier, out)

    def whole(out: Path) -> None:
        clear_staging(out)
        if over or out.exists():
            states.append(visible(out))

    kills(*command, *pair, out=out, left=whole, before=before)
    new = visible(out)
    assert all(state in (old, new) for state in states)
    assert new != old
    assert not over or old in states
