from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from medi2i import Volume, load_volume, save_volume
from medi2i.data.cohort import find_cohort
from tests.cli.conftest import Answer, Call


@pytest.fixture(scope="session")
def anatomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small label map: boxes of skin, fluid, cortex, white matter."""
    grid = np.zeros((60, 64, 56), np.float32)
    grid[3:57, 3:61, 3:53] = 511
    grid[5:55, 5:59, 5:51] = 24
    grid[7:53, 7:57, 7:49] = 3
    grid[10:50, 10:54, 10:46] = 2
    grid[26:34, 28:36, 24:32] = 4
    folder = tmp_path_factory.mktemp("anatomy")
    save_volume(Volume.of(grid), folder / "head-a.nii.gz", dtype="int16")
    return folder


def said(answer: Answer) -> str:
    return " ".join((answer.out + answer.err).split())


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_data_set_that_medi2i_reads_again(call: Call, anatomy: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = call(
        "simulate", out, "-n", 3, "--contrasts", "t1", "t2", "flair", "--anatomy", anatomy,
        "--lesions", "ms", "--twins", "--seed", 4, "--validation", 0.34,
    )  # fmt: skip
    assert result.code == 0, said(result)
    cohort = find_cohort(out)
    assert [s.name for s in cohort] == ["sub-001", "sub-002", "sub-003"]
    assert [s.split for s in cohort] == ["train", "train", "val"]
    assert [len(s.scans) for s in cohort] == [3, 3, 3]
    side = json.loads((out / "sub-001/anat/sub-001_T2w.json").read_text())
    assert side["Synthetic"] is True
    assert 0.06 < side["EchoTime"] < 0.2  # seconds, as BIDS has it
    assert side["Simulation"]["Pathology"] == "ms"
    derived = out / "derivatives/medi2i-simulate/sub-001"
    brain = load_volume(derived / "anat/sub-001_desc-brain_mask.nii.gz")
    assert set(np.unique(brain.voxels)) == {0.0, 1.0}
    assert (derived / "anat/sub-001_desc-healthy_FLAIR.nii.gz").is_file()
    assert (derived / "sub-001.png").read_bytes().startswith(b"\x89PNG")
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["BIDSVersion"].startswith("1.")
    assert str(tmp_path) not in json.dumps(described)


def test_equal_seeds_give_equal_bytes_and_others_do_not(
    call: Call, anatomy: Path, tmp_path: Path
) -> None:
    def made(name: str, seed: int) -> dict[str, str]:
        arguments = ("-n", 1, "--contrasts", "t1 t2", "--anatomy", anatomy, "--seed", seed)
        result = call("simulate", tmp_path / name / "set", *arguments)
        assert result.code == 0, said(result)
        found = hashes(tmp_path / name / "set")
        return {k: v for k, v in found.items() if k.endswith((".nii.gz", "w.json", ".tsv"))}

    first, again, other = made("a", 1), made("b", 1), made("c", 2)
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".nii.gz"))


def test_who_exists_is_kept_or_replaced_only_when_asked(
    call: Call, anatomy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    fixed = ("--contrasts", "t1", "--anatomy", anatomy)
    assert call("simulate", out, "-n", 1, *fixed).code == 0
    before = hashes(out)
    refused = call("simulate", out, "-n", 2, *fixed)
    assert refused.code != 0
    assert "sub-001" in said(refused)
    assert hashes(out) == before
    assert call("simulate", out, "-n", 2, *fixed, "--skip-existing").code == 0
    after = hashes(out)
    assert after["sub-001/anat/sub-001_T1w.nii.gz"] == before["sub-001/anat/sub-001_T1w.nii.gz"]
    assert "sub-002/anat/sub-002_T1w.nii.gz" in after
    assert call("simulate", out, "-n", 1, *fixed, "--overwrite", "--seed", 5).code == 0
    assert (
        hashes(out)["sub-001/anat/sub-001_T1w.nii.gz"] != before["sub-001/anat/sub-001_T1w.nii.gz"]
    )


def test_a_protocol_file_sets_a_sequence_exactly(call: Call, anatomy: Path, tmp_path: Path) -> None:
    file = tmp_path / "protocol.yaml"
    file.write_text("T2w: {sequence: SpinEcho, tr: 5000, te: 95}\n")
    out = tmp_path / "set"
    result = call(
        "simulate", out, "-n", 1, "-c", "t2", "--anatomy", anatomy, "--protocol", file
    )  # fmt: skip
    assert result.code == 0, said(result)
    side = json.loads((out / "sub-001/anat/sub-001_T2w.json").read_text())
    assert (side["RepetitionTime"], side["EchoTime"]) == (5.0, 0.095)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--contrasts", "ct"), "ct"),
        (("--spacing", 0, 1, 1), "spacing is"),
        (("--spacing", 1, 1, 99), "spacing is"),
        (("--anatomy", "nowhere"), "no label maps"),
        (("--lesions", "ms", "--shapes", "nowhere"), "lesion masks"),
        (("--overwrite", "--skip-existing"), "exclude"),
    ],
)
def test_bad_arguments_end_with_a_sentence_and_no_files(
    call: Call, tmp_path: Path, anatomy: Path, arguments: tuple[object, ...], words: str
) -> None:
    out = tmp_path / "set"
    given = arguments if "--anatomy" in arguments else (*arguments, "--anatomy", anatomy)
    result = call("simulate", out, "-n", 1, *given)
    assert result.code not in (0, None)
    assert words in said(result)
    assert "Traceback" not in said(result)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("T2w: {sequence: SpinEcho, tr: 50, te: 100}", "must be shorter than tr"),
        ("T2w: {sequence: SpinEko, tr: 5000, te: 100}", "SpinEcho"),
        ("T2w: 7", "sequence"),
        ("T2w: {sequence: SpinEcho, tr: -1, te: 100}", "greater than 0"),
    ],
)
def test_impossible_protocols(
    call: Call, tmp_path: Path, anatomy: Path, text: str, words: str
) -> None:
    file = tmp_path / "protocol.yaml"
    file.write_text(text)
    out = tmp_path / "set"
    result = call("simulate", out, "-n", 1, "--anatomy", anatomy, "--protocol", file)
    assert result.code not in (0, None)
    assert words in said(result)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [("value", "unknown label"), ("empty", "empty"), ("spacing", "mm"), ("fraction", "fractions")],
)
def test_maps_that_cannot_be_used(call: Call, tmp_path: Path, change: str, words: str) -> None:
    grid = np.zeros((20, 20, 20), np.float32)
    grid[4:16, 4:16, 4:16] = 0 if change == "empty" else 2
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if change == "spacing" else np.eye(4)
    if change in ("value", "fraction"):
        grid[0, 0, 0] = 777 if change == "value" else 0.5
    folder = tmp_path / "maps"
    save_volume(Volume.of(grid, affine), folder / "map.nii.gz")
    result = call("simulate", tmp_path / "set", "-n", 1, "--anatomy", folder)
    assert result.code not in (0, None)
    assert words in said(result)
    assert "map.nii.gz" in said(result)
    assert not (tmp_path / "set").exists()


def test_a_disk_that_fills_up_leaves_whole_subjects_only(
    call: Call, tmp_path: Path, anatomy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    saved = save_volume
    count = 0

    def full(*arguments: object, **named: object) -> Path:
        nonlocal count
        count += 1
        if count > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return saved(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("medi2i.formats.simulated.save_volume", full)
    out = tmp_path / "set"
    result = call("simulate", out, "-n", 3, "-c", "t1 t2", "--anatomy", anatomy)
    assert result.code not in (0, None)
    assert "disk is full" in said(result)
    assert [s.name for s in find_cohort(out)] == ["sub-001"]
    assert not list(out.rglob(".medi2i-*"))
    assert not (out / "sub-002").exists()
    assert not (out / "derivatives/medi2i-simulate/sub-002").exists()
