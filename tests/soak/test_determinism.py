"""Equal input gives equal bytes: every command that writes, run twice.

In the large form the second run is another process, whose hashes have another seed, and a third has
two threads: then voxels may differ in their last digits.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, write_model
from medi2i.task import Task, View
from medi2i.volume import Volume, load_volume, save_volume
from tests.anomaly.test_find import domain_model, flair
from tests.cli.conftest import seen, write_scan
from tests.conftest import MakeStudy
from tests.soak.launcher import Launcher

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the launcher forks"),
    pytest.mark.xdist_group("launcher"),
]

RUN = """
system: unet
task: {sources: [T1w], targets: [T2w]}
arguments: {features: [4, 8]}
data: {size: 16}
training: {rounds: 4, batch_size: 1, workers: 0, log_every: 1, validate_every: 2,
  checkpoint_every: 2}
validation: {volumes: 1}
"""
DIFFERS = ("tensorboard/events.",)
"""With the time, the host and the process in name and content. All else is equal."""
ALIKE = 1e-4
"""Of the largest value of a scan: by so much voxels may differ between one thread and two, which
add up in another order. Measured: 2e-7; none for the default network on a head."""
LARGE = ("uncertainty", "quality", "monai")
"""Commands of the large form only."""

Commands = dict[str, tuple[object, ...]]


def model_of(folder: Path, system: str, arguments: Mapping[str, object]) -> Path:
    import torch

    torch.manual_seed(0)
    task, view = Task((Contrast.T1W,), (Contrast.T2W,)), View(dims=2)
    built = build_system(system, arguments, task, view).eval()
    return write_model(Model(folder.name, system, arguments, task, view, built), folder)


@pytest.fixture
def commands(tiny: Path, make_study: MakeStudy, tmp_path: Path) -> Commands:
    """What to call, but for `-o`, by a name."""
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.formats.dicoms import write_series

    (tmp_path / "run.yaml").write_text(RUN)
    scan = write_scan(tmp_path / "t1.nii.gz")
    other = write_scan(tmp_path / "t2.nii.gz", seed=1)
    lesion = save_volume(flair(), tmp_path / "sub-1_FLAIR.nii.gz", dtype="int16")
    labels = np.zeros((60, 64, 56), np.float32)
    for edge, label in ((3, 511), (5, 24), (7, 3), (10, 2), (26, 4)):
        labels[edge:-edge, edge:-edge, edge:-edge] = label
    save_volume(Volume.of(labels), tmp_path / "anatomy" / "head.nii.gz", dtype="int16")
    write_series(tmp_path / "exam" / "1")
    models = tmp_path / "models"
    drawer = {"depth": 3, "features": 4, "blocks": 2, "patch": 1}
    several = model_of(models / "drawer", "bicyclegan", drawer)
    knowing = model_of(models / "knowing", "unet", {"features": (4, 8), "spread": 1.0})
    domains = write_model(domain_model(), models / "domains")
    study = make_study(tmp_path / "study", {"sub-1": "train", "sub-2": "val"})
    to_t2 = ("--to", "t2", "--model")
    return {
        "translate": ("translate", scan, *to_t2, tiny, "--preview", "--report"),
        "samples": ("translate", scan, *to_t2, several, "--samples", 2, "--preview"),
        "uncertainty": ("translate", scan, *to_t2, knowing, "--uncertainty"),
        "quality": ("translate", scan, *to_t2, tiny, "--quality", "best"),
        "dicom": ("translate", tmp_path / "exam", *to_t2, tiny, "--format", "dicom"),
        "anomaly": ("anomaly", lesion, "--model", domains),
        "train": ("train", tmp_path / "run.yaml", "--data", study),
        "evaluate": ("evaluate", scan, other, "--source", scan),
        "cohort": ("evaluate", study, *to_t2, tiny, "--split", "val", "--from", "t1"),
        "bids": ("bids", study, "OUT", "participant", *to_t2, tiny, "--preview"),
        "prepare": ("prepare", scan, other, "--no-bias-correction", "--preview"),
        "simulate": (
            *("simulate", "OUT", "-n", 2, "--contrasts", "t1 flair", "--lesions", "ms", "--twins"),
            *("--anatomy", tmp_path / "anatomy", "--spacing", 4, 4, 4),
        ),
        "huggingface": ("models", "export", tiny, "--format", "huggingface"),
        "monai": (
            *("models", "export", tiny, "--format", "monai-bundle"),
            *("--from", "t1", "--to", "t2"),
        ),
    }


def written(launcher: Launcher, command: tuple[object, ...], out: Path) -> dict[str, str]:
    """What a command writes."""
    shutil.rmtree(out, ignore_errors=True)
    given = [out if word == "OUT" else word for word in command]
    place = () if "OUT" in command else ("-o", out)
    status, _ = launcher(*given, *place, watched=out)
    assert status == 0, command
    found = {name: what for name, what in seen(out).items() if not name.startswith(DIFFERS)}
    assert len(found) > 1, command
    return found


def test_every_command(
    commands: Commands, launch: Launcher, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    large = request.config.getoption("--soak")
    chosen = {name: what for name, what in commands.items() if large or name not in LARGE}
    out = tmp_path / "out"
    first = {name: written(launch, what, out) for name, what in chosen.items()}
    with ExitStack() as stack:
        other = stack.enter_context(another(tmp_path)) if large else launch
        second = {name: written(other, what, out) for name, what in chosen.items()}
    unlike = {
        f"{name}: {path}"
        for name, files in first.items()
        for path in files.keys() | second[name].keys()
        if files.get(path) != second[name].get(path)
    }
    assert unlike == set()


def test_one_thread_and_two(
    commands: Commands,
    launch: Launcher,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, float], None],
) -> None:
    if not request.config.getoption("--soak"):
        pytest.skip("only in the large form")
    apart: dict[str, float] = {}
    with another(tmp_path, threads=2) as two:
        for name, command in commands.items():
            scans: list[dict[str, Volume]] = []
            for launcher in (launch, two):
                written(launcher, command, tmp_path / "out")
                paths = sorted((tmp_path / "out").rglob("*.nii.gz"))
                scans.append({path.name: load_volume(path) for path in paths})
            assert scans[0].keys() == scans[1].keys()
            for path, scan in scans[0].items():
                difference = float(np.abs(scan.voxels - scans[1][path].voxels).max())
                largest = float(np.abs(scan.voxels).max())
                apart[f"{name}: {path}"] = difference / largest if largest else difference
    assert len(apart) > 15
    assert max(apart.values()) < ALIKE, apart
    record_property("threads", max(apart.values()))


@contextmanager
def another(folder: Path, threads: int = 1) -> Iterator[Launcher]:
    """A second process that runs commands."""
    place = folder / f"launcher-{threads}"
    place.mkdir()
    launcher = Launcher(place, threads)
    try:
        yield launcher
    finally:
        launcher.end()
