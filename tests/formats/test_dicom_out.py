"""What is written, checked against the standard's own lists: the MR image's and the profile's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install medi2i[dicom]")

from pydicom import Dataset, dcmread

from medi2i.formats.dicom import series_in
from medi2i.formats.dicom.deidentify import EMPTIED, REMOVED, deidentified
from medi2i.formats.dicom.derived import KEPT, Derivation, write_derived
from tests.formats.dicoms import write_series

PLANTED: dict[str, Any] = {
    "PatientAge": "099Y",
    "OtherPatientIDs": "PLANTED-OTHER",
    "StudyDescription": "Planted^Name's head",
    "AccessionNumber": "PLANTED-ACC",
    "ReferringPhysicianName": "Planted^Doctor",
    "InstitutionName": "Planted Hospital",
    "StationName": "PLANTED-STATION",
    "ClinicalTrialSubjectID": "PLANTED-SUBJECT",
    "ClinicalTrialSponsorName": "Planted Sponsor",
}
DATES = ("20200102", "101112", "19010203")


def derived(source: Path, folder: Path, *, hide: bool) -> list[Dataset]:
    """A series computed from the one in `source`, as it was written."""
    (series,), _ = series_in(source)
    derivation = Derivation("T2w", {"T1w": series}, "nobody's model", deidentify=hide)
    with write_derived(folder, derivation) as writer:
        writer.write(series.load())
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    write_series(tmp_path / "exam", **PLANTED)
    return tmp_path / "exam"


def walked(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    """(keyword, representation, value) of every element, nested ones too."""
    for element in dataset.iterall():
        if element.VR != "SQ" and element.keyword != "PixelData":
            yield element.keyword, element.VR, str(element.value)


@pytest.mark.parametrize("hide", [False, True], ids=["named", "de-identified"])
def test_every_module_of_an_mr_image_has_what_the_standard_requires(
    exam: Path, tmp_path: Path, hide: bool
) -> None:
    standard = pytest.importorskip("highdicom._standard_utils", reason="needs highdicom")
    modules = [m["key"] for m in standard.get_iod_module_map()["mr-image"] if m["usage"] == "M"]
    assert len(modules) > 9
    for one in derived(exam, tmp_path / "out", hide=hide):
        for module in modules:
            standard.check_required_attributes(one, module)
            for keyword, known in standard.construct_module_tree(module)["attributes"].items():
                if known["type"].value == "1":
                    assert one.get(keyword) not in (None, ""), (module, keyword)


def test_nothing_planted_is_left(exam: Path, tmp_path: Path) -> None:
    named = derived(exam, tmp_path / "named", hide=False)
    assert any("lanted" in value for one in named for _, _, value in walked(one))
    for one in derived(exam, tmp_path / "hidden", hide=True):
        for keyword, kind, value in walked(one):
            assert "planted" not in value.lower(), keyword
            assert value not in DATES, keyword
            assert kind not in ("DA", "TM", "DT") or not value.strip("None"), keyword
            assert not value.startswith("1.2.3.4"), keyword
        assert one.PatientIdentityRemoved == "YES"
        assert [c.CodeValue for c in one.DeidentificationMethodCodeSequence] == ["113100", "113105"]
        assert "SYNTHETIC" in one.DerivationDescription
        assert "NOT FOR DIAGNOSIS" in one.SeriesDescription


def test_the_profile_is_the_standards(exam: Path, tmp_path: Path) -> None:
    """Every element of the profile's table is gone, empty, replaced, or text of our own."""
    fields = pytest.importorskip(
        "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c",
        reason="needs dicom-anonymizer",
    )
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    ours = {
        *("SeriesDescription", "ImageComments", "DerivationDescription"),
        "ContributionDescription",
        *("DeidentificationMethod", "DeidentificationMethodCodeSequence"),
        *("PatientName", "PatientID"),  # the pseudonym
    }
    listed = {keyword_for_tag(tag): tag for tag in fields.ALL_TAGS if len(tag) == 2}
    assert len(listed) > 400
    before = derived(exam, tmp_path / "named", hide=False)[0]
    after = derived(exam, tmp_path / "hidden", hide=True)[0]
    left = {e.keyword: str(e.value) for e in after.iterall() if e.VR not in ("SQ", "UI")}
    left = {k: v for k, v in left.items() if k in listed and v not in ("", "None")}
    assert set(left) <= ours, left
    assert after.PatientName == after.PatientID != before.PatientID
    told = {keyword for keyword in listed if keyword in KEPT} - {"PatientName", "PatientID"}
    kept = {k for k in told if listed[k] not in fields.U_TAGS} - {*REMOVED, *EMPTIED} - ours
    assert not kept
    assert all(tag_for_keyword(keyword) for keyword in (*REMOVED, *EMPTIED))


def test_one_study_stays_one_and_its_references_hold(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", SeriesInstanceUID="1.2.3.4.7", SeriesNumber=7, prefix="B")
    write_series(tmp_path / "c", StudyInstanceUID="1.2.3.5")
    a, b, c = (derived(tmp_path / n, tmp_path / f"out {n}", hide=True) for n in "abc")
    assert len({one.StudyInstanceUID for one in (*a, *b)}) == 1
    assert len({one.PatientID for one in (*a, *b)}) == 1
    assert len({one.FrameOfReferenceUID for one in (*a, *b)}) == 1
    assert a[0].SeriesInstanceUID != b[0].SeriesInstanceUID
    assert a[0].PatientID != c[0].PatientID
    assert len({one.SOPInstanceUID for one in a}) == len(a)
    sources = [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in a]
    assert len(set(sources)) == len(a)
    again = derived(tmp_path / "a", tmp_path / "again", hide=True)
    assert sources == [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in again]
    assert all(one.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4" for one in a)
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in a)


def test_pixels_and_places_are_untouched(exam: Path, tmp_path: Path) -> None:
    named, hidden = (derived(exam, tmp_path / str(h), hide=h) for h in (False, True))
    for one, other in zip(named, hidden, strict=True):
        np.testing.assert_array_equal(one.pixel_array, other.pixel_array)
        assert one.ImagePositionPatient == other.ImagePositionPatient
        assert one.RescaleSlope == other.RescaleSlope


def test_private_elements_go_wherever_they_are() -> None:
    dataset, item = Dataset(), Dataset()
    dataset.StudyInstanceUID = "1.2.3"
    for one in (dataset, item):
        block = one.private_block(0x0029, "PLANTED", create=True)
        block.add_new(0x10, "LO", "Planted^Name")
    dataset.SourceImageSequence = [item]
    assert "lanted" not in str(deidentified(dataset))
    assert "lanted" in str(dataset)
