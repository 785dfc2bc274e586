"""``medi2i translate``: names, side-cars, folders, several contrasts, what is kept and skipped."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medi2i import __version__, zoo
from medi2i.inference import translate as inference
from medi2i.model import Model
from medi2i.volume import load_volume
from tests.cli.conftest import SHAPE, Call, head, seen, write_scan


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# One scan


@pytest.mark.parametrize(
    ("name", "to", "becomes"),
    [
        ("t1.nii.gz", "t2", "t1_desc-synth_T2w"),
        ("t1.nii", "FLAIR", "t1_desc-synth_FLAIR"),
        ("sub-01_ses-2_T1w.nii.gz", "T2w", "sub-01_ses-2_desc-synth_T2w"),
        ("IXI002-Guys-0828-T1.nii.gz", "t2", "IXI002-Guys-0828-T1_desc-synth_T2w"),
        ("Müller, Jörg T1.nii.gz", "t2", "Müller, Jörg T1_desc-synth_T2w"),
    ],
)
def test_default_name(
    name: str, to: str, becomes: str, call: Call, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Ordner mit Leerzeichen"
    scan = write_scan(folder / name)
    answer = call("translate", scan, "--to", to, "--model", tiny)
    assert answer.code == 0, answer.err
    assert set(seen(folder)) == {name, f"{becomes}.nii.gz", f"{becomes}.json"}
    assert str(folder / becomes) in answer.out
    assert answer.err == ""


def test_geometry_is_kept(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    call("translate", scan, "--to", "t2", "--model", tiny)
    before, after = map(load_volume, (scan, tmp_path / "t1_desc-synth_T2w.nii.gz"))
    assert after.shape == before.shape == SHAPE
    assert np.array_equal(after.affine, before.affine)
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert after.header[field] == before.header[field]
    assert after.header.get_data_dtype() == np.float32
    assert after.header["scl_slope"] == 1
    assert bytes(after.header["descrip"]).rstrip(b"\0").decode() == (
        f"medi2i {__version__} T1w->T2w synthetic"
    )


def test_sidecar(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "private" / "t1.nii.gz")
    call("translate", scan, "--to", "t2", "--model", tiny, "--seed", 3)
    text = (tmp_path / "private" / "t1_desc-synth_T2w.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["Synthetic"] is True
    assert "SYNTHETIC T2w" in record["Description"]
    assert record["SourceContrast"] == ["T1w"]
    assert record["TargetContrast"] == "T2w"
    assert record["Sources"] == [{"Name": "t1.nii.gz", "SHA256": sha256(scan)}]
    assert record["Model"]["Name"] == "tiny"
    assert record["Model"]["SHA256"] == sha256(tiny / "weights.safetensors")
    assert record["Normalisation"]["Method"] == "robust"
    fitted = record["Normalisation"]["Fitted"]["T1w"]
    assert fitted["low"] == 0 < fitted["high"] <= head().max()
    assert record["Warnings"] == []
    assert record["Seed"] == 3
    assert {"Name": "medi2i", "Version": __version__} in record["GeneratedBy"]
    assert "private" not in text  # folders may name patients


def test_equal_input_gives_equal_bytes(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    for place, batch in (("a.nii.gz", 1), ("b.nii.gz", 1)):
        call(
            *("translate", scan, "--to", "t2", "--model", tiny, "-o", tmp_path / place),
            *("--batch-size", batch),
        )
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.usefixtures("shipped")
def test_a_model_is_found_by_the_target(call: Call, tmp_path: Path) -> None:
    # the first scan's contrast is not served, the second one's is
    scans = [write_scan(tmp_path / name) for name in ("pd.nii", "t1.nii")]
    answer = call("translate", *scans, "--to", "t2")
    assert answer.code == 1
    assert (tmp_path / "t1_desc-synth_T2w.nii.gz").is_file()
    assert 'model "default" turns any of T1w, T2w, FLAIR' in answer.err


def test_contrast_that_is_given(call: Call, tiny: Path, tmp_path: Path) -> None:
    silent, other = write_scan(tmp_path / "series7.nii"), write_scan(tmp_path / "x_FLAIR.nii")
    (tmp_path / "series7.json").write_text("{ not JSON, and not needed")
    answer = call("translate", silent, other, "--to", "t2", "--from", "t1", "--model", tiny)
    assert answer.code == 0, answer.err
    assert answer.err == (
        'warning: "x_FLAIR.nii" is taken for T1w, as --from says; its name or side-car says FLAIR\n'
    )
    record = json.loads((tmp_path / "x_FLAIR_desc-synth_T2w.json").read_text())
    assert record["SourceContrast"] == ["T1w"]
    assert len(record["Warnings"]) == 1


@pytest.mark.parametrize("place", ["t2.nii", "deep/er/t2.nii.gz"])
def test_output_file(place: str, call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "t1.nii.gz")
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", tmp_path / place)
    assert answer.code == 0, answer.err
    assert load_volume(tmp_path / place).shape == SHAPE
    assert (tmp_path / place.replace(".gz", "").replace(".nii", ".json")).is_file()
    assert set(seen(tmp_path / "in")) == {"t1.nii.gz"}


def test_output_folder(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    call("translate", scan, "--to", "t2", "--model", tiny, "-o", tmp_path / "v1.0")
    assert (tmp_path / "v1.0" / "t1_desc-synth_T2w.nii.gz").is_file()


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float64"])
def test_dtype(dtype: str, call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    place = tmp_path / "t2.nii"
    answer = call(
        "translate", scan, "--to", "t2", "--model", tiny, "--dtype", dtype, "-o", place, "-q"
    )
    assert answer.code == 0, answer.err
    assert nib.nifti1.load(place).get_data_dtype() == np.dtype(dtype)


def test_whole_numbers_warn_where_they_are_coarse(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz", voxels=head() / np.float32(1000))
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "--dtype", "int16")
    assert answer.code == 0
    assert "much detail is lost; float32 keeps it" in answer.err


def test_preview(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "--preview", "--json")
    (row,) = json.loads(answer.out)
    assert row["preview"] == str(tmp_path / "t1_desc-synth_T2w_preview.png")
    with Image.open(row["preview"]) as picture:
        assert min(picture.size) > 100


def test_how_loud(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    command = ("translate", scan, "--to", "t2", "--model", tiny, "--overwrite")
    assert call(*command, "-q") == (0, "", "")
    assert len(call(*command).out.splitlines()) == 1
    loud = call(*command, "-v").out.splitlines()
    assert len(loud) == 2
    for stage in ("load", "normalise", "network", "stitch", "save"):
        assert f"{stage} 0." in loud[1]


def test_overwrite_and_skip(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    made = tmp_path / "t1_desc-synth_T2w.nii.gz"
    made.write_text("old")
    command = ("translate", scan, "--to", "t2", "--model", tiny, "--json")
    answer = call(*command, "--skip-existing")
    assert answer.code == 0
    assert json.loads(answer.out)[0]["status"] == "skipped"
    assert made.read_text() == "old"
    answer = call(*command, "--overwrite")
    assert json.loads(answer.out)[0]["status"] == "done"
    assert load_volume(made).shape == SHAPE


def test_a_failed_overwrite_keeps_what_was(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    command = ("translate", scan, "--to", "t2", "--model", tiny, "--preview", "--overwrite")
    call(*command)
    before = seen(tmp_path)
    monkeypatch.setattr("medi2i.formats.synthetic.three_planes", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(*command, "--seed", 1)
    assert seen(tmp_path) == before


# Several scans


def test_one_bad_among_several(call: Call, tiny: Path, tmp_path: Path) -> None:
    scans = [write_scan(tmp_path / f"sub-{number}_T1w.nii.gz") for number in range(3)]
    scans[1].write_bytes(scans[1].read_bytes()[:-50])
    answer = call("translate", *scans, tmp_path / "none.nii", "--to", "t2", "--model", tiny)
    assert answer.code == 1
    assert len(answer.out.splitlines()) == 2
    assert answer.err.count("error:") == 2
    assert "2 of 4 inputs failed; the others are done" in answer.err
    rows = json.loads(
        call("translate", *scans, "--to", "t2", "--model", tiny, "--json", "--skip-existing").out
    )
    assert [row["status"] for row in rows] == ["skipped", "failed", "skipped"]
    assert rows[1]["input"] == [str(scans[1])]
    assert "truncated" in rows[1]["error"]


def test_the_model_is_loaded_once(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str | Path] = []
    load = zoo.load_model

    def counted(name: str | Path) -> Model:
        loaded.append(name)
        return load(name)

    monkeypatch.setattr(zoo, "load_model", counted)
    scans = [write_scan(tmp_path / f"sub-{number}_T1w.nii") for number in range(4)]
    assert call("translate", *scans, "--to", "t2", "--model", tiny).code == 0
    assert len(loaded) == 1


def test_a_scan_that_is_named_twice(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii")
    answer = call(
        "translate", scan, tmp_path / "." / "t1.nii", tmp_path, "--to", "t2", "--model", tiny
    )
    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 1


def test_two_inputs_for_one_output(call: Call, tiny: Path, tmp_path: Path) -> None:
    one, two = (write_scan(tmp_path / name / "t1.nii") for name in "ab")
    before = seen(tmp_path)
    answer = call("translate", one, two, "--to", "t2", "--model", tiny, "-o", tmp_path / "out")
    assert answer.code == 2
    assert "two inputs would both become" in answer.err
    answer = call("translate", one, two, "--to", "t2", "--model", tiny, "-o", tmp_path / "x.nii")
    assert answer.code == 2
    assert "names one file, but 2 scans" in answer.err
    assert seen(tmp_path) == before


def test_folder(call: Call, tiny: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in (
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",  # T1w comes first in the model's task
        "sub-1/anat/sub-1_T2w.nii.gz",  # the target itself
        "sub-1/anat/sub-1_T1w_mask.nii.gz",
        "sub-2/anat/sub-2_FLAIR.nii.gz",
        "sub-3/anat/sub-3_run-1_T1w.nii.gz",
        "sub-3/anat/sub-3_run-2_T1w.nii.gz",
        "sub-4/anat/._sub-4_T1w.nii.gz",  # as some systems leave them
        "derivatives/other/sub-1/anat/sub-1_T1w.nii.gz",
    ):
        write_scan(study / name)
    out = tmp_path / "out"
    command = ("translate", study, "--to", "t2", "--model", tiny, "-o", out)
    answer = call(*command)
    assert answer.code == 0, answer.err
    made = {
        path.relative_to(out).as_posix().removesuffix("_desc-synth_T2w.nii.gz")
        for path in out.rglob("*.nii.gz")
    }
    assert made == {
        "sub-1/anat/sub-1",
        "sub-2/anat/sub-2",
        "sub-3/anat/sub-3_run-1",
        "sub-3/anat/sub-3_run-2",
    }
    record = json.loads((out / "sub-1/anat/sub-1_desc-synth_T2w.json").read_text())
    assert record["SourceContrast"] == ["T1w"]

    answer = call(*command, "--from", "flair", "--overwrite")
    assert answer.code == 1  # sub-3 has no FLAIR
    assert answer.err.count("--from asks for FLAIR") == 2
    record = json.loads((out / "sub-1/anat/sub-1_desc-synth_T2w.json").read_text())
    assert record["SourceContrast"] == ["FLAIR"]

    beside = call("translate", study, "--to", "t2", "--model", tiny, "--json")
    again = call("translate", study, "--to", "t2", "--model", tiny, "--json", "--skip-existing")
    assert len(json.loads(beside.out)) == len(json.loads(again.out)) == 4
    assert {row["status"] for row in json.loads(again.out)} == {"skipped"}


def test_several_contrasts_of_one_head(call: Call, joint: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in (
        "BraTS-001-t1",
        "BraTS-001-flair",
        "BraTS-001-t2",
        "sub-2_T1w",
        "sub-2_FLAIR",
        "sub-3_T1w",
    ):
        write_scan(study / f"{name}.nii", seed=len(name))
    answer = call("translate", study, "--to", "t2", "--model", joint, "-o", tmp_path / "out")
    assert answer.code == 1
    assert 'turns T1w+FLAIR -> T2w; found "' in answer.err
    made = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert made == {"BraTS-001-t1_desc-synth_T2w.nii.gz", "sub-2_desc-synth_T2w.nii.gz"}
    record = json.loads((tmp_path / "out" / "sub-2_desc-synth_T2w.json").read_text())
    assert record["SourceContrast"] == ["T1w", "FLAIR"]
    assert [source["Name"] for source in record["Sources"]] == ["sub-2_T1w.nii", "sub-2_FLAIR.nii"]
    assert set(record["Normalisation"]["Fitted"]) == {"T1w", "FLAIR"}


def test_another_grid_is_said(call: Call, joint: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "t1.nii")
    write_scan(tmp_path / "flair.nii", voxels=head()[1:])
    answer = call("translate", tmp_path, "--to", "t2", "--model", joint)
    assert answer.code == 0, answer.err
    warning = "FLAIR was brought onto the grid of T1w by their headers alone"
    assert warning in answer.err
    assert warning in (tmp_path / "t1_desc-synth_T2w.json").read_text()


def test_several_contrasts_that_are_named(call: Call, joint: Path, tmp_path: Path) -> None:
    flair, t1 = (write_scan(tmp_path / name) for name in ("b/fla.nii", "a/mprage.nii"))
    answer = call("translate", flair, t1, "--to", "t2", "--model", joint)
    assert answer.code == 0, answer.err
    assert (tmp_path / "a" / "mprage_desc-synth_T2w.nii.gz").is_file()
    other = write_scan(tmp_path / "a" / "t1.nii")
    answer = call("translate", tmp_path / "a", t1, other, "--to", "t2", "--model", joint)
    assert answer.code == 3
    answer = call(
        "translate",
        write_scan(tmp_path / "a" / "flair.nii"),
        t1,
        other,
        "--to",
        "t2",
        "--model",
        joint,
    )
    assert answer.code == 3
    assert "one scan of each contrast was expected" in answer.err


# Interruption


def test_interruption(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [write_scan(tmp_path / f"sub-{number}_T1w.nii") for number in range(3)]
    run_model, runs = inference.run_model, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        runs.append(arguments)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return run_model(*arguments, **options)

    monkeypatch.setattr(inference, "run_model", interrupted)
    answer = call(
        "translate", *scans, "--to", "t2", "--model", tiny, "--json", "-o", tmp_path / "out"
    )
    assert answer.code == 130
    assert "interrupted; what was finished is kept" in answer.err
    (row,) = json.loads(answer.out)
    assert row["status"] == "done"
    assert set(seen(tmp_path / "out")) == {
        "sub-0_desc-synth_T2w.nii.gz",
        "sub-0_desc-synth_T2w.json",
    }


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_sigint(tiny: Path, tmp_path: Path) -> None:
    scans, out = [write_scan(tmp_path / "sub-1_T1w.nii")], tmp_path / "out"
    for number in range(2, 9):  # enough that the last is far when the first is there
        voxels = np.tile(head(), (8, 8, 24))
        scans.append(write_scan(tmp_path / f"sub-{number}_T1w.nii", voxels=voxels))
    command = [sys.executable, "-m", "medi2i", "translate", *scans, "--to", "t2", "-o", out]
    command += ["--model", tiny, "--batch-size", "1"]
    run = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = out / "sub-1_desc-synth_T2w.nii.gz"
    while not first.exists() and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    said, complained = run.communicate(timeout=60)
    assert run.returncode == 130, complained
    assert "Traceback" not in complained
    made = sorted(out.glob("*.nii.gz"))
    assert 1 <= len(made) < len(scans)
    assert said.count("\n") <= len(made)
    whole = {path.name for path in made} | {path.name[:-7] + ".json" for path in made}
    assert set(seen(out)) == whole  # nothing half-written


# A real scan


def test_a_real_scan(call: Call, tiny: Path, shared_data: Path, tmp_path: Path) -> None:
    scan = next(shared_data.glob("lgg/sub-*/anat/*_T1w.nii.gz"))
    answer = call("translate", scan, "--to", "flair", "--model", tiny, "-o", tmp_path, "-q")
    assert answer.code == 0, answer.err
    (made,) = tmp_path.glob("*.nii.gz")
    before, after = load_volume(scan), load_volume(made)
    assert after.shape == before.shape
    assert np.array_equal(after.affine, before.affine)
    for field in ("sform_code", "qform_code", "pixdim", "xyzt_units"):
        assert np.array_equal(after.header[field], before.header[field])
    assert not np.array_equal(after.voxels, before.voxels)


def test_a_page_beside_the_scan(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    ask = ("translate", scan, "--to", "t2", "--model", tiny, "--report")
    assert call(*ask).code == 0
    page = tmp_path / "t1_desc-synth_T2w_report.html"
    assert "t1.nii.gz" in page.read_text(encoding="utf-8")
    (tmp_path / "t1_desc-synth_T2w.nii.gz").unlink()
    (tmp_path / "t1_desc-synth_T2w.json").unlink()
    answer = call(*ask)
    assert answer.code != 0
    assert "_report.html" in answer.err
    assert not (tmp_path / "t1_desc-synth_T2w.nii.gz").exists()
    assert call(*ask, "--overwrite").code == 0
