"""``--quality`` and ``--fuse``: several looks at a scan, averaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medi2i.volume import Volume, load_volume, save_volume
from tests.cli.conftest import Call, head


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save_volume(Volume.of(head(), np.diag([1.2, 1.1, 1.5, 1])), tmp_path / "t1.nii.gz")


def test_the_better_takes_more_looks_and_says_so(call: Call, tiny: Path, scan: Path) -> None:
    made, passes = {}, {}
    for quality in ("fast", "planes", "best"):
        output = scan.parent / f"{quality}.nii.gz"
        told = ("--to", "t2", "--model", tiny, "--quality", quality, "-o", output)
        answer = call("translate", scan, *told)
        assert answer.code == 0, answer.err
        made[quality] = load_volume(output).voxels
        passes[quality] = json.loads((scan.parent / f"{quality}.json").read_text())["Passes"]
    assert passes["fast"] == ["axial"]
    assert passes["planes"] == ["axial", "coronal", "sagittal"]
    assert passes["best"] == ["axial", "axial, mirrored", "coronal", "sagittal"]
    assert not np.allclose(made["fast"], made["planes"])
    assert not np.allclose(made["planes"], made["best"])


def test_fuse_is_another_word_for_planes(call: Call, tiny: Path, scan: Path) -> None:
    one, other = scan.parent / "one.nii", scan.parent / "other.nii"
    ask = ("translate", scan, "--to", "t2", "--model", tiny)
    assert call(*ask, "--fuse", "planes", "-o", one).code == 0
    assert call(*ask, "--quality", "planes", "-o", other).code == 0
    assert one.read_bytes() == other.read_bytes()


def test_samples_are_not_averaged_over_looks(call: Call, tiny: Path, scan: Path) -> None:
    ask = ("translate", scan, "--to", "t2", "--model", tiny)
    answer = call(*ask, "--quality", "best", "--samples", "3")
    assert answer.code == 2
    assert not list(scan.parent.glob("*synth*"))
    assert call(*ask, "--quality", "finest").code == 2
