"""``medi2i translate`` without --from on scans whose names say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.inference.glance import Glance
from medi2i.simulate import phantom
from medi2i.volume import Volume, load_volume, save_volume
from tests.cli.conftest import Call, write_scan


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one phantom under names that say nothing, or the wrong thing."""
    folder = tmp_path_factory.mktemp("heads")
    scans = phantom(7, contrasts=["t1", "t2"], shape=(80, 96, 80), spacing=(2, 2, 2))
    t1, t2 = scans[Contrast.T1W], scans[Contrast.T2W]
    save_volume(t1, folder / "series1.nii.gz", dtype="int16")
    save_volume(t2, folder / "series2.nii.gz", dtype="int16")
    save_volume(t2, folder / "wrong_FLAIR.nii.gz", dtype="int16")
    noise = t1.like(np.abs(np.random.default_rng(0).standard_normal(t1.shape)) * 100)
    save_volume(noise, folder / "noise.nii.gz", dtype="int16")
    save_volume(noise, folder / "noise_T1w.nii.gz", dtype="int16")
    return folder


def warnings(path: Path) -> list[str]:
    told: list[str] = json.loads(path.read_text(encoding="utf-8"))["Warnings"]
    return told


def test_a_silent_scan_is_recognised(call: Call, tiny: Path, heads: Path, tmp_path: Path) -> None:
    answer = call(
        "translate", heads / "series1.nii.gz", "--to", "t2", "--model", tiny, "-o", tmp_path
    )
    assert answer.code == 0, answer.err
    record = json.loads((tmp_path / "series1_desc-synth_T2w.json").read_text())
    assert record["SourceContrast"] == ["T1w"]
    (sentence,) = record["Warnings"]
    assert sentence.startswith("contrast recognised from the image: T1w (")
    assert sentence in answer.err
    assert load_volume(tmp_path / "series1_desc-synth_T2w.nii.gz").shape == (80, 96, 80)


def test_the_target_itself_is_refused(call: Call, tiny: Path, heads: Path) -> None:
    answer = call("translate", heads / "series2.nii.gz", "--to", "t2", "--model", tiny)
    assert answer.code == 3
    assert 'series2.nii.gz" is T2w already' in answer.err


def test_what_is_no_head(call: Call, tiny: Path, heads: Path, tmp_path: Path) -> None:
    """Not guessed at without a name; with one it is done, and doubted."""
    out = ("--to", "t2", "--model", tiny, "-o", tmp_path)
    answer = call("translate", heads / "noise.nii.gz", *out)
    assert answer.code == 3
    assert "does not look like the MRI of a head" in answer.err
    assert list(tmp_path.iterdir()) == []
    assert call("translate", heads / "noise_T1w.nii.gz", *out).code == 0
    (sentence,) = warnings(tmp_path / "noise_T1w_desc-synth_T2w.json")
    assert "does not look like the MRI of a head" in sentence


def test_a_name_that_contradicts_the_image_wins_and_is_doubted(
    call: Call, tiny: Path, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def certain(volume: Volume) -> Glance:
        shares = {Contrast.T2W: 0.995, Contrast.FLAIR: 0.001}
        empty = np.zeros((2, 2, 2), np.float32)
        return Glance(Contrast.T2W, 0.995, shares, 0.99, volume, empty, empty)

    monkeypatch.setattr("medi2i.inference.recognise.glance", certain)
    answer = call(
        *("translate", heads / "wrong_FLAIR.nii.gz", "--to", "t1", "--model", tiny, "-o", tmp_path)
    )
    assert answer.code == 0, answer.err
    record = json.loads((tmp_path / "wrong_FLAIR_desc-synth_T1w.json").read_text())
    assert record["SourceContrast"] == ["FLAIR"]
    assert record["Warnings"] == [
        '"wrong_FLAIR.nii.gz" is taken for FLAIR, but its image looks like T2w (0.99)'
    ]


def test_too_little_of_a_head(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "series3.nii")
    answer = call("translate", scan, "--to", "t2", "--model", tiny)
    assert answer.code == 3
    assert 'which contrast is "' in answer.err
    assert "mm of a head along one axis" in answer.err
    assert "give it with --from" in answer.err


def test_it_is_verified_and_shown_like_the_translators(call: Call) -> None:
    answer = call("models", "verify", "glance")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("glance: ok, sha256 ")
    assert "glance: ok" in call("models", "verify").out
    assert "head" in call("models", "show", "glance").out
    assert "glance" not in call("models", "list").out


def test_one_scan_is_read_once(
    call: Call, tiny: Path, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path, **options: int | None) -> Volume:
        read.append(path)
        return load_volume(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("medi2i.jobs.scans.load_volume", counted)
    silent = heads / "series1.nii.gz"
    assert call("translate", silent, "--to", "t2", "--model", tiny, "-o", tmp_path).code == 0
    assert read == [silent]
