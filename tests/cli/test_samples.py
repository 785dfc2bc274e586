"""``medi2i translate --samples``: several images of one scan, their mean and deviation."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i import nifti
from medi2i.figures import Row, three_planes
from medi2i.formats import synthetic
from medi2i.model import write_model
from medi2i.systems import SYSTEMS
from medi2i.volume import load_volume
from tests.cli.conftest import Call, head, seen, write_scan
from tests.inference.chance import Coded, model_of

STEM = "t1_desc-synth_T2w"


@pytest.fixture
def drawer(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of a one-to-many system: T1w into T2w."""
    monkeypatch.setitem(SYSTEMS, "coded", Coded)
    folder = tmp_path_factory.mktemp("models") / "drawer"
    return write_model(model_of(Coded, normaliser="robust"), folder)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "t1.nii.gz")


def whole(samples: int, stem: str = STEM, extension: str = ".nii.gz") -> set[str]:
    """The names of all files of one synthetic scan."""
    stems = [stem, f"{stem}_std", *(f"{stem}_sample-{n}" for n in range(1, samples + 1))]
    return {name + ending for name in stems for ending in (extension, ".json")}


def voxels(path: Path) -> NDArray[np.float64]:
    return load_volume(path).voxels.astype(np.float64)


# What is written


def test_samples_mean_and_deviation(call: Call, drawer: Path, scan: Path) -> None:
    folder = scan.parent
    answer = call(
        *("translate", scan, "--to", "t2", "--model", drawer, "--samples", 4, "--seed", 1, "--json")
    )
    assert answer.code == 0, answer.err
    assert set(seen(folder)) == {scan.name, *whole(4)}
    made = [folder / f"{STEM}_sample-{number}.nii.gz" for number in (1, 2, 3, 4)]
    stack = np.stack([voxels(path) for path in made])
    mean, std = folder / f"{STEM}.nii.gz", folder / f"{STEM}_std.nii.gz"
    np.testing.assert_allclose(voxels(mean), stack.mean(0), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(voxels(std), stack.std(0), rtol=1e-5, atol=1e-4)
    inside = head() > 0
    assert voxels(std)[inside].mean() > 10
    source = load_volume(scan)
    for path in (*made, mean, std):
        volume = load_volume(path)
        assert np.array_equal(volume.affine, source.affine)
        assert volume.header["sform_code"] == source.header["sform_code"]
    (row,) = json.loads(answer.out)
    assert row["output"] == str(mean)
    assert row["samples"] == [str(path) for path in made]
    assert row["maps"] == {"std": str(std)}
    assert set(row["seconds"]) == {"load", "look", "normalise", "network", "stitch", "save"}
    assert min(row["seconds"].values()) >= 0


def test_every_side_car(call: Call, drawer: Path, scan: Path) -> None:
    call("translate", scan, "--to", "t2", "--model", drawer, "--samples", 2, "--seed", 5)

    def record(name: str) -> dict[str, Any]:
        content = json.loads((scan.parent / f"{name}.json").read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content

    names = [f"{STEM}_sample-{number}.nii.gz" for number in (1, 2)]
    for name in (STEM, f"{STEM}_std", f"{STEM}_sample-1", f"{STEM}_sample-2"):
        content = record(name)
        assert content["Synthetic"] is True
        assert content["Seed"] == 5
        assert content["Sources"][0]["SHA256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
        assert "SYNTHETIC T2w" in content["Description"]
    assert record(STEM)["Statistic"] == "mean"
    assert record(STEM)["Samples"] == record(f"{STEM}_std")["Samples"] == names
    assert record(f"{STEM}_std")["Map"] == "std"
    assert record(f"{STEM}_std")["Description"].startswith("Standard deviation of samples: SYNTH")
    for number in (1, 2):
        content = record(f"{STEM}_sample-{number}")
        assert content["Sample"] == number
        assert not {"Samples", "Statistic", "Map"} & set(content)
    for name, says in (
        (STEM, "mean of 2 samples"),
        (f"{STEM}_std", "standard deviation of samples"),
        (f"{STEM}_sample-2", "sample 2"),
    ):
        header = nib.nifti1.load(scan.parent / f"{name}.nii.gz").header
        said = bytes(header["descrip"]).rstrip(b"\0").decode()
        assert said.endswith(f"T1w->T2w synthetic {says}")


def test_one_translation_says_nothing_of_samples(call: Call, drawer: Path, scan: Path) -> None:
    answer = call("translate", scan, "--to", "t2", "--model", drawer, "--json")
    assert answer.code == 0, answer.err
    assert set(seen(scan.parent)) == {scan.name, f"{STEM}.nii.gz", f"{STEM}.json"}
    assert not {"samples", "maps"} & set(json.loads(answer.out)[0])
    record = json.loads((scan.parent / f"{STEM}.json").read_text())
    assert not {"Sample", "Samples", "Statistic", "Map"} & set(record)


def test_a_sample_is_the_same_among_more(call: Call, drawer: Path, scan: Path) -> None:
    for count, seed in ((2, 0), (4, 0), (3, 1)):
        call(
            *("translate", scan, "--to", "t2", "--model", drawer, "--samples", count),
            *("--seed", seed, "-o", scan.parent / f"{count}.nii"),
        )
    for number in (1, 2):
        two, four, other = (
            (scan.parent / f"{count}_sample-{number}.nii").read_bytes() for count in (2, 4, 3)
        )
        assert two == four
        assert two != other


def test_names_follow_the_output(call: Call, drawer: Path, scan: Path) -> None:
    place = scan.parent / "new" / "x.nii"
    answer = call(
        *("translate", scan, "--to", "t2", "--model", drawer, "--samples", 2, "-o", place)
    )
    assert answer.code == 0, answer.err
    assert set(seen(place.parent)) == whole(2, "x", ".nii")


def test_whole_numbers_leave_the_deviation_its_fractions(
    call: Call, drawer: Path, scan: Path
) -> None:
    call(
        *("translate", scan, "--to", "t2", "--model", drawer, "--samples", 2),
        *("--dtype", "int16"),
    )
    types = {
        name: nib.nifti1.load(scan.parent / f"{STEM}{name}.nii.gz").get_data_dtype()
        for name in ("", "_sample-1", "_sample-2", "_std")
    }
    assert [types.pop("_std"), set(types.values())] == [np.float32, {np.dtype("int16")}]


def test_preview(call: Call, drawer: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Row] = []

    def draw(rows: list[Row], **options: Any) -> Any:
        drawn.extend(rows)
        return three_planes(rows, **options)

    monkeypatch.setattr(synthetic, "three_planes", draw)
    answer = call(
        *("translate", scan, "--to", "t2", "--model", drawer, "--samples", 3, "--preview", "--json")
    )
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)[0]["preview"] == str(scan.parent / f"{STEM}_preview.png")
    assert set(seen(scan.parent)) == {scan.name, f"{STEM}_preview.png", *whole(3)}
    assert [row.caption for row in drawn] == [
        "source T1w",
        "SYNTHETIC T2w, mean of 3 samples",
        "standard deviation of samples",
        "SYNTHETIC T2w, sample 1",
        "SYNTHETIC T2w, sample 2",
    ]
    assert drawn[3].limits() == drawn[4].limits() == drawn[1].limits()


def test_several_scans(call: Call, drawer: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        write_scan(tmp_path / "study" / f"sub-{number}_T1w.nii", seed=number)
    command = ("translate", tmp_path / "study", "--to", "t2", "--model", drawer, "--samples", 2)
    answer = call(*command, "--json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)) == 2
    expected = whole(2, "sub-1_desc-synth_T2w") | whole(2, "sub-2_desc-synth_T2w")
    assert set(seen(tmp_path / "study")) == {"sub-1_T1w.nii", "sub-2_T1w.nii", *expected}
    again = call(*command, "--json", "--skip-existing")  # what was made is no input
    assert [row["status"] for row in json.loads(again.out)] == ["skipped", "skipped"]


# What cannot be


def test_a_deterministic_model(call: Call, tiny: Path, scan: Path) -> None:
    before = seen(scan.parent)
    answer = call(*("translate", scan, "--to", "t2", "--model", tiny, "--samples", 8, "--json"))
    assert answer.code == 2
    assert 'model "tiny", system "unet" as it was built, gives one image per scan' in answer.err
    assert "leave --samples out" in answer.err
    assert json.loads(answer.out) == []
    assert seen(scan.parent) == before


@pytest.mark.parametrize("samples", ["1", "0", "-2", "many", "2.5"])
def test_bad_numbers(call: Call, drawer: Path, scan: Path, samples: str) -> None:
    before = seen(scan.parent)
    answer = call("translate", scan, "--to", "t2", "--model", drawer, "--samples", samples)
    assert answer.code == 2
    assert "--samples" in answer.err
    assert seen(scan.parent) == before


def test_a_companion_is_an_input(call: Call, drawer: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "x_std.nii")
    before = seen(tmp_path)
    answer = call(
        *("translate", scan, "--from", "t1", "--to", "t2", "--model", drawer, "--samples", 2),
        *("-o", tmp_path / "x.nii", "--overwrite"),
    )
    assert answer.code == 2
    assert f'"{scan}" is an input; another name was expected with -o' in answer.err
    assert seen(tmp_path) == before


# What is there


@pytest.mark.parametrize("there", sorted(whole(2)))
def test_whatever_exists_is_kept(call: Call, drawer: Path, scan: Path, there: str) -> None:
    (scan.parent / there).write_text("mine")
    before = seen(scan.parent)
    command = ("translate", scan, "--to", "t2", "--model", drawer, "--samples", 2)
    answer = call(*command)
    assert answer.code == 3
    assert f'"{scan.parent / there}" exists; give --overwrite' in answer.err
    assert seen(scan.parent) == before
    answer = call(*command, "--skip-existing")  # a part of it is not the whole
    assert answer.code == 3
    assert "which belongs to it, does not; give --overwrite to make all of them anew" in answer.err
    assert seen(scan.parent) == before


def test_overwrite_and_skip(call: Call, drawer: Path, scan: Path) -> None:
    command = ("translate", scan, "--to", "t2", "--model", drawer, "--samples", 2, "--json")
    call(*command)
    before = seen(scan.parent)
    answer = call(*command, "--skip-existing", "--seed", 1)
    assert json.loads(answer.out)[0]["status"] == "skipped"
    assert seen(scan.parent) == before
    answer = call(*command, "--overwrite", "--seed", 1)
    assert json.loads(answer.out)[0]["status"] == "done"
    after = seen(scan.parent)
    assert set(after) == set(before)
    assert {name for name in after if after[name] == before[name]} == {scan.name}


# All or nothing


@pytest.mark.parametrize("old", [False, True], ids=["nothing there", "an older set there"])
@pytest.mark.parametrize("failing", ["third sample", "third file", "interruption", "preview"])
def test_a_failure_leaves_what_was(
    call: Call,
    drawer: Path,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    old: bool,
) -> None:
    out = scan.parent / "out"
    command: tuple[Any, ...] = ("translate", scan, "--to", "t2", "--model", drawer, "-o", out)
    command += ("--samples", 4, "--preview", "--overwrite")
    if old:
        assert call(*command).code == 0
    before = seen(scan.parent)
    calls = []
    error: BaseException = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    owner: Any = nifti
    name, after = "write", 2
    if failing == "third sample":
        error, owner, name = RuntimeError("CUDA out of memory"), Coded, "sample"
        after = 2 * 1  # one pass per sample
    elif failing == "interruption":
        error = KeyboardInterrupt()
    elif failing == "preview":
        owner, name, after = synthetic, "three_planes", 0
    work = getattr(owner, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) > after:
            raise error
        return work(*arguments, **options)

    monkeypatch.setattr(owner, name, fail)
    answer = call(*command, "--seed", 9)
    again = failing == "third sample"  # once more with half the windows, and with one
    assert len(calls) == after + (3 if again else 1)
    assert seen(scan.parent) == before
    code, says = {
        "third sample": (3, "needs more memory"),
        "interruption": (130, "interrupted"),
    }.get(failing, (3, "cannot be written: the disk is full"))
    assert answer.code == code
    assert says in answer.err
    assert ".medi2i-" not in answer.err
