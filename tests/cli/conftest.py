"""A tiny model, small scans, and a way to call the command line and see what it left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from medi2i import zoo
from medi2i.cli import app
from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, write_model
from medi2i.task import Task, View
from medi2i.volume import Volume, save_volume

SHAPE = (13, 16, 9)
AFFINE = np.array([[-1.2, 0, 0.1, 9], [0, 1.1, 0, -8], [0, 0.1, 2, 5], [0, 0, 0, 1]])
THREE = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)


class Answer(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture(scope="session")
def call() -> Call:
    """`call("translate", path, "--to", "t2")`; a traceback fails the test."""

    def run(*arguments: object) -> Answer:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


def write_tiny(folder: Path, task: Task, *, name: str = "tiny") -> Path:
    """An untrained U-Net of two stages: same seed, same weights."""
    torch.manual_seed(0)
    view = View(dims=2, slices=1)
    arguments = {"features": (4, 8)}
    system = build_system("unet", arguments, task, view)
    return write_model(Model(name, "unet", arguments, task, view, system.eval()), folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: any of T1w, T2w, FLAIR into any other."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny", Task(THREE, THREE, True))


@pytest.fixture(scope="session")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: T1w and FLAIR together into T2w."""
    task = Task((Contrast.T1W, Contrast.FLAIR), (Contrast.T2W,))
    return write_tiny(tmp_path_factory.mktemp("models") / "joint", task)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one model, `default`, in the place of the one that comes with medi2i."""
    folder = tmp_path / "zoo"
    write_tiny(folder / "default", Task(THREE, THREE, True), name="default")
    monkeypatch.setattr(zoo, "FOLDER", folder)
    return folder


def head(seed: int = 0) -> NDArray[np.float32]:
    """Something like a head: (X, Y, Z), 0 outside, up to about 1000 inside."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    phase = np.random.default_rng(seed).uniform(0, 6, 3)[:, None, None, None]
    inside = np.square(grid * 1.2).sum(0) < 1
    waves = np.sin(4 * grid + phase).mean(0)
    return np.where(inside, 600 + 400 * waves, 0).astype(np.float32)


def write_scan(path: Path, *, seed: int = 0, voxels: NDArray[np.float32] | None = None) -> Path:
    """A small oblique scan as int16, or `voxels` as float32."""
    scan = Volume.of(head(seed) if voxels is None else voxels, AFFINE)
    return save_volume(scan, path, dtype="int16" if voxels is None else "float32")


def seen(folder: Path) -> dict[str, str]:
    """Every file and folder below `folder`, and what is in it."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }
