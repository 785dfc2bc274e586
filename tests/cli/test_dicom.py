"""DICOM on the command line: listed, chosen, translated into NIfTI and into a derived series."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install medi2i[dicom]")

import SimpleITK as sitk
from pydicom import Dataset, dcmread

from medi2i.formats.dicom import series_in
from medi2i.formats.dicom.burn import burned
from medi2i.formats.dicom.derived import quantised
from medi2i.volume import load_volume
from tests.cli.conftest import Call, seen
from tests.formats.dicoms import OBLIQUE, SAGITTAL, positions, write_enhanced, write_series
from tests.formats.dicoms import stored_values as values

T2: dict[str, Any] = {
    "SeriesInstanceUID": "1.2.3.4.7",
    "SeriesNumber": 7,
    "SeriesDescription": "t2_tse",
    "ScanningSequence": "SE",
    "RepetitionTime": 4000,
    "EchoTime": 100,
    "InversionTime": None,
    "prefix": "T2",
}
FALSE = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "ContrastBolusAgent")


def written(folder: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


# Listing


def test_info_lists_series(call: Call, tmp_path: Path) -> None:
    write_series(tmp_path / "exam")
    paths = write_series(tmp_path / "exam", **T2)
    paths[3].unlink()
    answer = call("info", tmp_path / "exam")
    assert answer.code == 0, answer.err
    head, first, second, problem = answer.out.splitlines()
    shown = [" ".join(line.split()) for line in (head, first, second)]
    assert shown == [
        "series description contrast matrix spacing mm files",
        "3 t1_mprage_sag T1w 13 x 16 x 9 0.75 x 1.25 x 2.5 9",
        "7 t2_tse T2w 13 x 16 x 8 8",
    ]
    assert problem.startswith("series 7: 1 slice(s) of DICOM series 7 are missing between")
    assert "lanted" not in answer.out.replace("PLANTED", "planted")


def test_info_as_json(call: Call, tmp_path: Path) -> None:
    write_series(tmp_path / "exam", AcquisitionNumber=1)
    write_series(tmp_path / "exam", AcquisitionNumber=2, prefix="B")
    (row,) = json.loads(call("info", tmp_path / "exam", "--json").out)
    assert row["matrix"] == [13, 16, 9]
    assert row["spacing mm"] == [0.75, 1.25, 2.5]
    assert (row["volumes"], row["files"], row["contrast"]) == (2, 18, "T1w")


def test_info_of_an_empty_folder(call: Call, tmp_path: Path) -> None:
    answer = call("info", tmp_path)
    assert answer.code == 3
    assert "holds no DICOM image" in answer.err


# Choosing


def test_translate_into_nifti(call: Call, tiny: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "exam", orientation=OBLIQUE)
    before = seen(tmp_path / "exam")
    answer = call("translate", tmp_path / "exam", "--to", "t2", "--model", tiny)
    assert answer.code == 0, answer.err
    assert seen(tmp_path / "exam") == before
    scan = load_volume(tmp_path / "exam_series-3_desc-synth_T2w.nii.gz")
    source = series_in(tmp_path / "exam")[0][0].load()
    np.testing.assert_allclose(scan.affine, source.affine, atol=1e-5)
    assert scan.header["sform_code"] == scan.header["qform_code"] == 1
    record = json.loads((tmp_path / "exam_series-3_desc-synth_T2w.json").read_text())
    (recorded,) = record["Sources"]
    assert recorded["Name"] == "DICOM series 3"
    assert recorded["Files"] == 9
    assert "lanted" not in json.dumps(record).replace("PLANTED", "planted")


def test_an_archive_and_a_file(call: Call, tiny: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "exam")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for path in (tmp_path / "exam").iterdir():
            packed.write(path, f"a/{path.name}")
    enhanced = write_enhanced(tmp_path / "e.dcm", values(), positions(9), [1.0] * 9)
    answer = call("translate", tmp_path / "x.zip", enhanced, "--to", "t2", "--model", tiny)
    assert answer.code == 0, answer.err
    one, other = (
        load_volume(tmp_path / f"{name}_series-3_desc-synth_T2w.nii.gz") for name in ("x", "e")
    )
    assert np.array_equal(one.affine, other.affine)


def test_several_series_fit(call: Call, tiny: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "exam")
    write_series(tmp_path / "exam", **T2)
    ask = ("translate", tmp_path / "exam", "--to", "flair", "--model", tiny)
    answer = call(*ask)
    assert answer.code == 3
    assert '3 "t1_mprage_sag" (T1w), 7 "t2_tse" (T2w); choose one with --series' in answer.err
    assert call(*ask, "--series", 7).code == 0
    assert (tmp_path / "exam_series-7_desc-synth_FLAIR.nii.gz").exists()
    assert call(*ask, "--from", "t1").code == 0
    assert (tmp_path / "exam_series-3_desc-synth_FLAIR.nii.gz").exists()
    answer = call(*ask, "--series", 8)
    assert answer.code == 2
    assert 'there is no series 8 in "' in answer.err


def test_the_series_that_fits_is_taken(call: Call, tiny: Path, tmp_path: Path) -> None:
    """The other is the target already, or a localiser."""
    write_series(tmp_path / "exam")
    write_series(tmp_path / "exam", **T2)
    localiser = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    other = {"SeriesInstanceUID": "1.2", "SeriesNumber": 1, "ImageType": localiser}
    write_series(tmp_path / "exam", orientation=SAGITTAL, prefix="L", **other)  # type: ignore[arg-type]
    answer = call("translate", tmp_path / "exam", "--to", "t2", "--model", tiny)
    assert answer.code == 0, answer.err
    assert (tmp_path / "exam_series-3_desc-synth_T2w.nii.gz").exists()


def test_a_model_of_two_contrasts_takes_both(call: Call, joint: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "exam")
    flair = {**T2, "SeriesDescription": "t2_flair", "RepetitionTime": 9000, "InversionTime": 2500}
    write_series(tmp_path / "exam", **flair)
    answer = call(
        *("translate", tmp_path / "exam", "--to", "t2", "--model", joint, "--format", "dicom")
    )
    assert answer.code == 0, answer.err
    one = written(tmp_path / "exam_series-3_desc-synth_T2w_dicom")[0]
    assert len(one.SourceImageSequence) == 2
    assert "computed from T1w + FLAIR" in one.DerivationDescription


def test_two_studies_are_two_heads(call: Call, tiny: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "exam")
    other = {"StudyInstanceUID": "1.9", "SeriesInstanceUID": "1.9.1", "SeriesNumber": 4}
    write_series(tmp_path / "exam", prefix="B", **other)  # type: ignore[arg-type]
    answer = call("translate", tmp_path / "exam", "--to", "t2", "--model", tiny)
    assert answer.code == 0, answer.err
    assert len(list(tmp_path.glob("exam_series-*.nii.gz"))) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--burn-in",), "give --format dicom"),
        (("--format", "dicom", "--preview"), "leave --samples"),
        (("--format", "dicom", "-o", "x.nii.gz"), "takes a folder"),
    ],
)
def test_contradictions(
    arguments: tuple[str, ...], says: str, call: Call, tiny: Path, tmp_path: Path
) -> None:
    answer = call("translate", tmp_path, "--to", "t2", "--model", tiny, *arguments)
    assert answer.code == 2
    assert says in answer.err


# A derived series


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """An oblique T1w series."""
    write_series(tmp_path / "exam", orientation=OBLIQUE, RescaleSlope=2, RescaleIntercept=-10)
    return tmp_path / "exam"


def test_a_derived_series(call: Call, tiny: Path, exam: Path) -> None:
    assert call("translate", exam, "--to", "t2", "--model", tiny, "--format", "dicom").code == 0
    source = sorted(
        (dcmread(path) for path in exam.iterdir()), key=lambda one: -int(one.InstanceNumber)
    )
    found = written(exam.with_name("exam_series-3_desc-synth_T2w_dicom"))
    assert len(found) == 9
    assert len({one.SOPInstanceUID for one in found}) == 9
    assert not {one.SOPInstanceUID for one in found} & {one.SOPInstanceUID for one in source}
    assert len({one.SeriesInstanceUID for one in found}) == 1
    for number, (one, was) in enumerate(zip(found, source, strict=True), start=1):
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        assert one.preamble == bytes(128)
        assert one.InstanceNumber == number
        assert one.SeriesInstanceUID != was.SeriesInstanceUID
        for same in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
            assert one[same].value == was[same].value
        for same in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(one[same].value, was[same].value, atol=1e-9)
        assert list(one.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert one.SyntheticData == "YES"
        assert one.SeriesDescription == "SYNTH T2w (medi2i) NOT FOR DIAGNOSIS"
        assert "SYNTHETIC T2w computed from T1w" in one.DerivationDescription
        (reference,) = one.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == was.SOPInstanceUID
        purposes = [
            item.PurposeOfReferenceCodeSequence[0].CodeValue
            for item in one.ContributingEquipmentSequence
        ]
        assert purposes == ["109101", "109102"]
        assert not any(one.get(keyword) for keyword in FALSE)
        assert not [element for element in one if element.tag.is_private]
        assert one.ScanningSequence == "RM"
    record = json.loads(exam.with_name("exam_series-3_desc-synth_T2w_dicom.json").read_text())
    assert record["TargetContrast"] == "T2w"


def test_values_and_grid_come_through(call: Call, tiny: Path, exam: Path) -> None:
    """The series holds what the NIfTI file holds, to half a step, for us and for SimpleITK."""
    for how in ("nifti", "dicom"):
        assert call("translate", exam, "--to", "t2", "--model", tiny, "--format", how).code == 0
    scan = load_volume(exam.with_name("exam_series-3_desc-synth_T2w.nii.gz"))
    folder = exam.with_name("exam_series-3_desc-synth_T2w_dicom")
    (series,), _ = series_in(folder)
    assert series.synthetic
    back = series.load()
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-5)
    slope = float(written(folder)[0].RescaleSlope)
    assert slope == pytest.approx(np.abs(scan.voxels).max() / 32767, rel=1e-6)
    np.testing.assert_allclose(back.voxels, scan.voxels, atol=slope * 0.501)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(image).transpose(2, 1, 0), back.voxels, rtol=1e-5
    )
    lps = np.diag([-1.0, -1, 1]) @ back.affine[:3, :3]
    np.testing.assert_allclose(
        np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing(), lps, atol=1e-5
    )


def test_synthetic_series_are_no_sources(call: Call, tiny: Path, exam: Path) -> None:
    call("translate", exam, "--to", "t2", "--model", tiny, "--format", "dicom", "-o", exam)
    answer = call("translate", exam, "--to", "flair", "--model", tiny)
    assert answer.code == 0, answer.err
    assert exam.with_name("exam_series-3_desc-synth_FLAIR.nii.gz").exists()


def test_what_exists_is_kept(call: Call, tiny: Path, exam: Path) -> None:
    ask = ("translate", exam, "--to", "t2", "--model", tiny, "--format", "dicom")
    assert call(*ask).code == 0
    before = seen(exam.parent)
    answer = call(*ask)
    assert answer.code == 3
    assert "exists" in answer.err
    assert "skipped" in call(*ask, "--skip-existing").out
    assert seen(exam.parent) == before
    assert call(*ask, "--overwrite").code == 0
    assert seen(exam.parent) == before
    assert call(*ask, "--overwrite", "--deidentify").code == 0
    assert seen(exam.parent).keys() == before.keys()
    assert seen(exam.parent) != before


def test_dicom_needs_dicom(call: Call, tiny: Path, tmp_path: Path) -> None:
    from tests.cli.conftest import write_scan

    scan = write_scan(tmp_path / "t1.nii.gz")
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "--format", "dicom")
    assert answer.code == 2
    assert "is not DICOM" in answer.err
    assert call("translate", scan, "--to", "t2", "--model", tiny, "--series", 3).code == 2


def test_from_enhanced(call: Call, tiny: Path, tmp_path: Path) -> None:
    """Each slice refers to its frame."""
    enhanced = write_enhanced(tmp_path / "e.dcm", values()[::-1], positions(9)[::-1], [1.0] * 9)
    ask = ("translate", enhanced, "--to", "t2", "--model", tiny, "--format", "dicom")
    assert call(*ask).code == 0
    found = written(tmp_path / "e_series-3_desc-synth_T2w_dicom")
    assert [one.SourceImageSequence[0].ReferencedFrameNumber for one in found] == list(
        range(9, 0, -1)
    )


def test_burn_in(call: Call, tiny: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "exam", values((4, 40, 64)))
    ask = ("translate", tmp_path / "exam", "--to", "t2", "--model", tiny, "--format", "dicom")
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    assert call(*ask, "-o", plain).code == 0
    assert call(*ask, "-o", marked, "--burn-in").code == 0
    one, other = (
        series_in(folder / "exam_series-3_desc-synth_T2w_dicom")[0][0].load().voxels
        for folder in (plain, marked)
    )
    assert np.array_equal(one[:, 20:], other[:, 20:])
    assert (other[:, :12].max((0, 1)) == one.max()).all()


def test_nobody_is_named_once_deidentified(call: Call, tiny: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "Planted", values((4, 40, 64)), PatientAge="077Y")
    ask = ("translate", tmp_path / "Planted", "--to", "t2", "--model", tiny, "-o", tmp_path / "out")
    answer = call(*ask, "--deidentify")
    assert answer.code == 2
    assert "give --format dicom" in answer.err
    assert call(*ask, "--format", "dicom", "--deidentify").code == 0
    (sidecar,) = (tmp_path / "out").glob("*.json")
    assert "lanted" not in sidecar.read_text()
    assert len(json.loads(sidecar.read_text())["Sources"][0]["SHA256"]) == 64
    for one in (dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")):
        assert "lanted" not in str(one).replace("PLANTED", "planted")
        assert one.PatientIdentityRemoved == "YES"


def test_the_word_fits_or_is_refused(call: Call, tiny: Path, exam: Path) -> None:
    ask = ("translate", exam, "--to", "t2", "--model", tiny, "--format", "dicom")
    before = seen(exam.parent)
    answer = call(*ask, "--burn-in")
    assert answer.code == 2
    assert "cannot hold the word SYNTHETIC" in answer.err
    assert seen(exam.parent) == before
    marked = burned(np.random.default_rng(0).normal(size=(256, 256, 2)).astype(np.float32))
    ink = marked[:, :, 0] == marked.max()
    assert 80 < np.flatnonzero(ink.any(1)).max() <= 0.4 * 256


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1.0, 1e30])
def test_quantised_values_fit(scale: float) -> None:
    given = (np.random.default_rng(0).normal(size=(3, 4, 5)) * scale).astype(np.float32)
    found = quantised(given)
    assert np.abs(found.stored).max() <= 32767
    np.testing.assert_allclose(found.stored * found.slope, given, atol=max(found.slope, 1e-30))
