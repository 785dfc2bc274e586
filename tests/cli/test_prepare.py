"""``medi2i prepare``: what it writes, what it refuses, and that it leaves nothing half done."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medi2i import nifti
from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.simulate import phantom
from medi2i.volume import Volume, load_volume, save_volume
from tests.cli.conftest import Call, seen, write_scan
from tests.preparation.conftest import see_brains

T1W, T2W = Contrast.T1W, Contrast.T2W


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    see_brains(monkeypatch, tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def head() -> dict[Contrast, Volume]:
    """T1w, and T2w in another place and on another grid, at 5 mm."""
    scans = phantom(1, contrasts=["t1", "t2"], shape=(36, 43, 36), spacing=(5, 5, 5), bias=0)
    shift = sitk.TranslationTransform(3, (-6.0, 4, 3))
    affine = scans[T2W].affine.copy()
    affine[:3, 3] += (5, 0, -5)
    there = Volume.of(np.zeros((35, 44, 38)), affine)
    scans[T2W] = scans[T2W].resampled_onto(there, transform=shift)
    return scans


@pytest.fixture
def folder(head: dict[Contrast, Volume], tmp_path: Path) -> Path:
    """t1.nii.gz and t2.nii.gz of somebody, in a folder with a name."""
    place = tmp_path / "DOE^JANE"
    for name, contrast in (("t1", T1W), ("t2", T2W)):
        save_volume(head[contrast], place / f"{name}.nii.gz", dtype="int16")
    return place


def study(folder: Path, head: dict[Contrast, Volume]) -> Path:
    """A BIDS folder of two people."""
    for person in ("sub-1", "sub-2"):
        for contrast in (T1W, T2W):
            place = folder / person / "ses-a" / "anat" / f"{person}_ses-a_{contrast}.nii.gz"
            save_volume(head[contrast], place, dtype="int16")
    return folder


PREPARED = "t2_space-T1w_desc-preproc_T2w"


def test_scans_of_one_person(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medi2i.preparation.bias.SHRUNK_TO", 10.0)
    monkeypatch.setattr("medi2i.preparation.bias.ITERATIONS", (3,))
    before = seen(folder)
    scans = folder / "t1.nii.gz", folder / "t2.nii.gz"
    answer = call("prepare", *scans, "--strip", "--preview")
    assert answer.code == 0, answer.err
    after = seen(folder)
    assert set(after) - set(before) == {
        "t1_desc-preproc_T1w.nii.gz",
        "t1_desc-preproc_T1w.json",
        "t1_desc-preproc_T1w_preview.png",
        "t1_space-T1w_desc-brain_mask.nii.gz",
        "t1_space-T1w_desc-brain_mask.json",
        f"{PREPARED}.nii.gz",
        f"{PREPARED}.json",
        "t2_from-T2w_to-T1w_mode-image_xfm.tfm",
    }
    assert {name: after[name] for name in before} == before
    first, second = (
        load_volume(folder / f"{name}.nii.gz") for name in ("t1_desc-preproc_T1w", PREPARED)
    )
    mask = load_volume(folder / "t1_space-T1w_desc-brain_mask.nii.gz").voxels
    assert set(np.unique(mask)) == {0, 1}
    assert first.shape == second.shape == (36, 43, 36)
    assert not first.voxels[mask == 0].any()
    assert first.voxels[mask == 1].all()
    transform = sitk.ReadTransform(str(folder / "t2_from-T2w_to-T1w_mode-image_xfm.tfm"))
    gap = np.subtract(transform.TransformPoint((0.0, -10, 0)), (6.0, -14, -3))
    assert np.linalg.norm(gap) < 0.8  # a sixth of a voxel

    record = json.loads((folder / f"{PREPARED}.json").read_text())
    assert (record["Contrast"], record["Space"], record["SkullStripped"]) == ("T2w", "T1w", True)
    assert record["Sources"][0]["Name"] == "t2.nii.gz"
    assert {one["Name"] for one in record["GeneratedBy"]} == {"medi2i prepare", "SimpleITK"}
    steps = record["Steps"]
    assert steps["BiasCorrection"]["Method"] == "N4"
    assert steps["Registration"]["File"] == "t2_from-T2w_to-T1w_mode-image_xfm.tfm"
    assert steps["Registration"]["ShiftMillimetres"] == pytest.approx(7.81, abs=0.8)
    assert steps["Resampling"]["Interpolation"] == "linear"
    assert steps["BrainMask"]["File"] == "t1_space-T1w_desc-brain_mask.nii.gz"
    assert len(steps["BrainMask"]["SHA256"]) == 64
    assert steps["Stripping"] is True
    for path in folder.glob("*.json"):
        assert "DOE" not in path.read_text()
    with Image.open(folder / "t1_desc-preproc_T1w_preview.png") as picture:
        assert picture.size[1] > 5 * 180

    refused = call("prepare", *scans, "--strip", "--preview")
    assert refused.code == 3
    assert "exists; give --overwrite to replace it or --skip-existing" in refused.err
    skipped = call("prepare", *scans, "--strip", "--preview", "--skip-existing")
    assert skipped.code == 0
    assert skipped.out.count("exists, skipped") == 2
    assert seen(folder) == after
    assert call("prepare", *scans, "--strip", "--preview", "--overwrite").code == 0
    again = seen(folder)
    for name, digest in after.items():
        assert name.endswith((".json", ".png")) or again[name] == digest, name


def test_onto_another_and_apart(call: Call, folder: Path, tmp_path: Path) -> None:
    scans = folder / "t1.nii.gz", folder / "t2.nii.gz"
    plain = ("--no-bias-correction", "--json")
    answer = call("prepare", *scans, *plain, "--onto", "t2", "-o", tmp_path / "a", "--spacing", "8")
    rows = json.loads(answer.out)
    assert [(Path(row["output"]).name, row["space"]) for row in rows] == [
        ("t1_space-T2w_desc-preproc_T1w.nii.gz", "T2w"),
        ("t2_desc-preproc_T2w.nii.gz", "T2w"),
    ]
    for row in rows:
        assert load_volume(row["output"]).spacing == pytest.approx((8, 8, 8))
    answer = call(
        "prepare", *scans, *plain, "--no-registration", "--brain-mask", "--preview", "-o", tmp_path
    )
    assert answer.code == 0, answer.err
    for row, scan in zip(json.loads(answer.out), scans, strict=True):
        kept, came = load_volume(row["output"]), load_volume(scan)
        np.testing.assert_array_equal(kept.voxels, came.voxels)
        np.testing.assert_array_equal(kept.affine, came.affine)
    assert len(list(tmp_path.glob("*_mask.nii.gz"))) == 2
    assert len(list(tmp_path.glob("*_preview.png"))) == 2
    assert not list(tmp_path.glob("*.tfm"))


def test_a_study(call: Call, tmp_path: Path, head: dict[Contrast, Volume]) -> None:
    """One broken scan is an error; its person's other scan and the other person are done."""
    root = study(tmp_path / "study", head)
    broken = root / "sub-2" / "ses-a" / "anat" / "sub-2_ses-a_T2w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    answer = call("prepare", root, "--no-bias-correction", "--json")
    assert answer.code == 1
    assert "truncated or damaged" in answer.err
    assert "1 of 4 inputs failed" in answer.err
    derived = root / "derivatives" / "medi2i-prepare"
    described = json.loads((derived / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    one, other = find_cohort(derived)
    assert set(one.scans) == {T1W, T2W}
    assert set(other.scans) == {T1W}
    assert set(one.transforms) == {(T2W, T1W)}
    together = load_together(one, [T1W, T2W])
    there = load_volume(one.scans[T2W])
    np.testing.assert_array_equal(together[T2W].voxels, there.voxels)  # not moved twice
    assert len(find_cohort(root)) == 2  # derivatives are not mistaken for people


def test_a_study_without_the_reference(
    call: Call, tmp_path: Path, head: dict[Contrast, Volume]
) -> None:
    root = study(tmp_path / "study", head)
    (root / "sub-1" / "ses-a" / "anat" / "sub-1_ses-a_T2w.nii.gz").unlink()
    answer = call("prepare", root, "--no-bias-correction", "--onto", "t2", "-o", tmp_path / "out")
    assert answer.code == 1
    assert "sub-1_ses-a: T2w was asked for as the reference; the scans are T1w" in answer.err
    assert not (tmp_path / "out" / "sub-1").exists()
    assert (tmp_path / "out" / "sub-2" / "ses-a" / "anat").is_dir()


def test_a_registration_that_fails(call: Call, folder: Path, head: dict[Contrast, Volume]) -> None:
    noise = np.random.default_rng(0).random(head[T2W].shape) + 1
    save_volume(head[T2W].like(noise), folder / "t2.nii.gz", overwrite=True)
    scans = folder / "t1.nii.gz", folder / "t2.nii.gz"
    answer = call("prepare", *scans, "--no-bias-correction")
    assert answer.code == 1
    assert '"t2.nii.gz" could not be registered to "t1.nii.gz"' in " ".join(answer.err.split())
    assert (folder / "t1_desc-preproc_T1w.nii.gz").is_file()
    assert not list(folder.glob("*T2w*"))


Bad = Callable[[Path], list[object]]


def plain(*options: object) -> Bad:
    return lambda folder: [folder / "t1.nii.gz", folder / "t2.nii.gz", *options]


def renamed(name: str, *options: object) -> Bad:
    def make(folder: Path) -> list[object]:
        return [folder / "t1.nii.gz", write_scan(folder / name), *options]

    return make


BAD: dict[str, tuple[Bad, int, str]] = {
    "missing": (lambda f: [f / "t9.nii"], 3, "does not exist"),
    "folder among scans": (lambda f: [f / "t1.nii.gz", f], 2, "is a folder among 2 inputs"),
    "no BIDS folder": (lambda f: [f], 3, "holds no scan of a known contrast"),
    "twice the same contrast": (renamed("mprage.nii"), 3, "two scans are T1w"),
    "nameless": (renamed("series7.nii"), 3, "neither name nor side-car nor image tell"),
    "synthetic": (renamed("x_desc-synth_T2w.nii"), 3, "is a synthetic scan"),
    "unknown contrast": (plain("--onto", "ct"), 2, '"ct" is not a contrast'),
    "onto what is not there": (plain("--onto", "flair"), 2, "FLAIR was asked for as the reference"),
    "contrast of several": (plain("--contrast", "t1"), 2, "was given for 2 scans"),
    "contrast of a study": (lambda f: [f, "--contrast", "t1"], 2, "--contrast is for a single"),
    "nothing to do": (plain("--no-bias-correction", "--no-registration"), 2, "every step is"),
    "onto nothing": (plain("--onto", "t1", "--no-registration"), 2, "give one"),
    "spacing": (plain("--spacing", "0"), 2, "a spacing of 0 mm; 0.25 to 10 was expected"),
    "two wishes": (plain("--overwrite", "--skip-existing"), 2, "contradict each other"),
    "no such volume": (plain("--volume", "3", "--no-bias-correction"), 2, "has no volume 3"),
    "a file as folder": (lambda f: [*plain()(f), "-o", f / "t1.nii.gz"], 2, "is a file; a folder"),
    "too thin for a mask": (
        lambda f: [write_scan(f / "pd.nii"), "--brain-mask", "--no-bias-correction"],
        3,
        "no brain is seen",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(call: Call, folder: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "too thin for a mask":
        empty = np.zeros((13, 16, 9), bool)
        monkeypatch.setattr("tests.preparation.conftest.Seen.brain_mask", empty)
    make, code, sentence = BAD[case]
    arguments = make(folder)
    before = seen(folder)
    answer = call("prepare", *arguments)
    assert answer.code == code, answer.err
    assert sentence in " ".join(answer.err.split())
    assert answer.out == ""
    assert seen(folder) == before


def test_a_full_disk_leaves_nothing(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, count = seen(folder), [0]

    def write(*args: object, **options: object) -> None:
        count[0] += 1
        if count[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args, **options)  # type: ignore[arg-type]

    original = nifti.write
    monkeypatch.setattr(nifti, "write", write)
    scans = folder / "t1.nii.gz", folder / "t2.nii.gz"
    answer = call("prepare", *scans, "--no-bias-correction")
    assert answer.code == 3
    assert "the disk is full" in answer.err
    assert count[0] == 2
    assert seen(folder) == before


def test_help_says_what_is_on(call: Call) -> None:
    said = " ".join(call("prepare", "-h").out.split())
    assert "On by default: bias correction and registration" in said
    assert "never changed in place" in said
    assert "0 done, 1 some scans failed, 2 usage, 3 bad input, 4 bad model, 130" in said
