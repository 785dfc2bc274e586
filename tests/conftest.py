"""What every test may ask for: a device, the real scans."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from medi2i.volume import Volume, save_volume

os.environ["COLUMNS"] = "160"  # tables as on a wide terminal, wherever the tests run
os.environ["MEDI2I_MODELS"] = str(Path(__file__).parent / "nothing")  # not what this user installed
os.environ["MEDI2I_CACHE"] = tempfile.mkdtemp(prefix="medi2i-tests-")  # nor what was converted
REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="where networks run: cpu (default), cuda, cuda:1, ..."
    )
    parser.addoption(
        "--soak", type=int, default=0, help="so many spoiled inputs, and more kills (make soak)"
    )
    parser.addoption("--first", type=int, default=0, help="their first seed: others than before")
    parser.addoption("--input", default="", help="one spoiled input again: 'dicom 1234'")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that was asked for with --device."""
    wanted = torch.device(request.config.getoption("--device"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device cuda was asked for, but torch finds no CUDA device", returncode=2)
    return wanted


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real scans; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real scans are not here (../shared/data beside the checkout)")
    return folder


class MakeStudy(Protocol):
    """Writes a small BIDS folder of made-up heads and returns it."""

    def __call__(
        self,
        folder: Path,
        people: Mapping[str, str | None],
        contrasts: Sequence[str] = ("T1w", "T2w"),
        shape: tuple[int, int, int] = (24, 20, 12),
    ) -> Path: ...


@pytest.fixture(scope="session")
def make_study() -> MakeStudy:
    """A study by name and split of each person; contrasts are simple functions of one anatomy."""

    def make(
        folder: Path,
        people: Mapping[str, str | None],
        contrasts: Sequence[str] = ("T1w", "T2w"),
        shape: tuple[int, int, int] = (24, 20, 12),
    ) -> Path:
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
        inside = np.square(grid * 1.2).sum(0) < 1
        for number, person in enumerate(people):
            phase = np.random.default_rng(number).uniform(0, 6, 3)
            waves = np.sin(5 * grid + phase[:, None, None, None]).mean(0)
            for power, contrast in enumerate(contrasts, start=1):
                voxels = np.where(inside, 600 + 400 * np.cos(2 * power * waves), 0)
                name = f"{person}_{contrast}.nii"
                save_volume(Volume.of(voxels), folder / person / "anat" / name)
        rows = ["participant_id\tsplit", *(f"{p}\t{s or 'n/a'}" for p, s in people.items())]
        (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
        return folder

    return make
