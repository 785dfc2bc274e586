"""``medi2i anomaly``: what it writes, and how it ends when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medi2i.model import write_model
from medi2i.volume import Volume, load_volume, save_volume
from tests.anomaly.test_find import domain_model, flair
from tests.cli.conftest import Call, seen, write_scan

WRITTEN = ["anomaly.json", "anomaly.nii.gz", "anomaly.png", "lesions.json", "lesions.nii.gz"]
WRITTEN += ["lesions.tsv"]
WITH_MODEL = sorted(
    [*WRITTEN, "difference.json", "difference.nii.gz", "healthy.json", "healthy.nii.gz"]
)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save_volume(flair(), tmp_path / "in" / "sub-1_FLAIR.nii.gz", dtype="int16")


def names(folder: Path) -> list[str]:
    return sorted(path.name.removeprefix("sub-1_FLAIR_desc-synth_") for path in folder.iterdir())


def test_the_baseline_writes_maps_table_picture_and_sidecars(
    call: Call, scan: Path, tmp_path: Path
) -> None:
    answer = call("anomaly", scan, "-o", tmp_path / "out", "--model", "intensity")
    assert answer.code == 0, answer.err
    assert "1 lesion, 0." in answer.out
    assert names(tmp_path / "out") == sorted(WRITTEN)
    stem = tmp_path / "out" / "sub-1_FLAIR_desc-synth_"
    source = load_volume(scan)
    for name in ("anomaly", "lesions"):
        volume = load_volume(f"{stem}{name}.nii.gz")
        assert np.array_equal(volume.affine, source.affine)
        assert volume.shape == source.shape
        record = json.loads(Path(f"{stem}{name}.json").read_text())
        assert record["ResearchOnly"] is True
        assert "not for diagnosis" in record["Description"]
        assert record["Map"] == name
        assert record["Sources"][0]["Name"] == "sub-1_FLAIR.nii.gz"
        assert str(tmp_path) not in json.dumps(record)
    header, row = Path(f"{stem}lesions.tsv").read_text().splitlines()
    cells = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert float(cells["volume_ml"]) == pytest.approx(record["LesionVolumeML"], abs=1e-4)
    assert [float(cells[f"{axis}_mm"]) for axis in "xyz"] == pytest.approx([8, 0, 4], abs=0.3)
    assert record["ImageScore"] == pytest.approx(float(cells["peak"]), abs=1e-4)
    with Image.open(f"{stem}anomaly.png") as picture:
        assert min(picture.size) > 100


def test_a_model_also_writes_the_healthy_scan_and_the_difference(
    call: Call, scan: Path, tmp_path: Path
) -> None:
    model = write_model(domain_model(), tmp_path / "model")
    answer = call(
        "anomaly", scan, "-o", tmp_path / "out", "--model", model, "--json", "--device", "cpu"
    )
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)
    assert names(tmp_path / "out") == WITH_MODEL
    healthy, difference = (load_volume(row["output"][n]) for n in ("healthy", "difference"))
    np.testing.assert_allclose(
        healthy.voxels + difference.voxels, load_volume(scan).voxels, atol=1e-2
    )
    record = json.loads((tmp_path / "out/sub-1_FLAIR_desc-synth_healthy.json").read_text())
    assert record["Model"]["System"] == "stargan"
    assert any("no calibration" in warning for warning in record["Warnings"])


def test_what_exists_is_kept_unless_told(call: Call, scan: Path, tmp_path: Path) -> None:
    assert call("anomaly", scan).code == 0
    before = seen(tmp_path)
    answer = call("anomaly", scan)
    assert answer.code == 3
    assert "--overwrite" in answer.err
    assert seen(tmp_path) == before
    assert call("anomaly", scan, "--overwrite", "-q").out == ""


def test_a_page_that_exists_is_kept_before_the_work(call: Call, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    page = out / "sub-1_FLAIR_desc-synth_anomaly_report.html"
    page.write_text("mine")
    answer = call("anomaly", scan, "-o", out, "--report")
    assert answer.code == 3
    assert "_report.html" in answer.err
    assert [path.name for path in out.iterdir()] == [page.name]
    answer = call("anomaly", scan, "-o", out, "--report", "--overwrite", "--json")
    (row,) = json.loads(answer.out)
    assert row["report"] == str(page)
    lines = Path(row["table"]).read_text().splitlines()
    assert lines[1].split("\t")[1] in page.read_text()
    assert "Calibrated on: tissue more than 2 mm from the expert" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--from", "t1"], 3, 'model "healthy" turns FLAIR'),
        (["--from", "t1", "--model", "intensity"], 3, "intensity alone finds lesions in FLAIR"),
        (["--from", "t9"], 2, "t9"),
        (["--rate", "0.9"], 2, "healthy tissue was measured"),
        (["--rate", "2"], 2, "between 0 and 1"),
        (["-o", "lesions.nii.gz"], 2, "a folder was expected"),
        (["--model", "no-such-model"], 4, "neither a shipped model"),
        (["--volume", "3"], 2, "volume"),
    ],
)
def test_errors_leave_nothing(
    call: Call, scan: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    before = seen(tmp_path)
    answer = call("anomaly", scan, *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert seen(tmp_path) == before


def test_one_bad_scan_does_not_stop_the_others(call: Call, scan: Path, tmp_path: Path) -> None:
    other = write_scan(tmp_path / "in" / "sub-2_T1w.nii.gz")
    answer = call("anomaly", tmp_path / "no.nii", other, scan, "--json")
    assert answer.code == 1
    assert [row["status"] for row in json.loads(answer.out)] == ["failed", "failed", "done"]
    assert "2 of 3 inputs failed" in answer.err
    again = save_volume(flair(), tmp_path / "b" / scan.name)
    answer = call("anomaly", scan, again, "-o", tmp_path / "out")
    assert (answer.code, "two inputs would both become" in answer.err) == (2, True)


def test_a_translator_is_no_model_for_this(call: Call, scan: Path, tiny: Path) -> None:
    answer = call("anomaly", scan, "--model", tiny)
    assert answer.code == 4
    assert "one of domains" in answer.err


def test_a_constant_scan_is_refused(call: Call, tmp_path: Path) -> None:
    path = save_volume(Volume.of(np.ones((9, 9, 9))), tmp_path / "x_FLAIR.nii")
    answer = call("anomaly", path)
    assert answer.code == 3
    assert "constant" in answer.err


def test_a_registered_scan_has_places_in_the_template(call: Call, scan: Path) -> None:
    moved = sitk.TranslationTransform(3, (-3.0, 4.0, 5.0))  # LPS, template -> scan
    name = "sub-1_from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm.txt"
    sitk.WriteTransform(moved, str(scan.with_name(name)))
    assert call("anomaly", scan, "--model", "intensity").code == 0
    table = scan.with_name("sub-1_FLAIR_desc-synth_lesions.tsv").read_text().splitlines()
    cells = dict(zip(*(line.split("\t") for line in table), strict=True))
    own, there = ([float(cells[f"{a}_{of}mm"]) for a in "xyz"] for of in ("", "mni_"))
    assert [t - o for t, o in zip(there, own, strict=True)] == pytest.approx([-3, 4, -5], abs=0.11)


def test_a_bad_transform_is_found_before_the_work(
    call: Call, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medi2i.anomaly.find.anomalies_in", None)
    name = "sub-1_from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm.txt"
    scan.with_name(name).write_text("nothing")
    answer = call("anomaly", scan, "--model", "intensity")
    assert answer.code == 3
    assert name in answer.err
