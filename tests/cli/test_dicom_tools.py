"""What others make of a derived series: dicom-validator finds no fault, dcm2niix the same scan."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install medi2i[dicom]")

from pydicom import Dataset, dcmread
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from medi2i.formats.dicom import series_in
from medi2i.formats.dicom.derived import Derivation, write_derived
from tests.cli.conftest import Call
from tests.formats.dicoms import OBLIQUE, positions, stored_values, write_enhanced, write_series

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
SCALE = {"Rescale Intercept", "Rescale Slope", "Rescale Type"}
"""What the MR image has no module for: a standard extended SOP class (PS3.2), which readers know,
for scanners write it too."""


# dicom-validator: its rules, with the standard's tables as highdicom brings them


def _code(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _module(attributes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The attributes of a module by their tags, those of a sequence's items below it."""
    module: dict[str, Any] = {}
    for attribute in attributes:
        place = module
        for keyword in attribute["path"]:
            place = place[_code(tag_for_keyword(keyword) or 0)].setdefault("items", {})
        entry = {"name": attribute["keyword"], "type": attribute["type"]}
        if "C" in attribute["type"]:
            entry["cond"] = {"type": "U"}  # the condition is for a person to check
        place[_code(tag_for_keyword(attribute["keyword"]) or 0)] = entry
    return module


@pytest.fixture(scope="module")
def validate() -> Callable[[Dataset], set[str]]:
    """What dicom-validator says of an MR image."""
    pytest.importorskip("dicom_validator", reason="dicom-validator is not installed")
    standard = pytest.importorskip("highdicom._standard_utils", reason="needs highdicom")
    from dicom_validator.validator.dicom_info import DicomInfo
    from dicom_validator.validator.iod_validator import IODValidator

    modules = {
        module["key"]: module["usage"] for module in standard.get_iod_module_map()["mr-image"]
    }
    attributes = standard.get_module_attribute_map()
    dictionary = {
        _code(tag): {"name": name, "vr": vr, "vm": vm, "prop": retired}
        for tag, (vr, vm, name, retired, _) in DicomDictionary.items()
    }
    image: dict[str, Any] = {
        "title": "MR Image IOD",
        "modules": {key: {"ref": key, "use": usage} for key, usage in modules.items()},
        "group_macros": {},
    }
    info = DicomInfo(
        dictionary=dictionary,
        iods={MR_IMAGE: image},
        modules={key: _module(attributes[key]) for key in modules},
    )

    def said(dataset: Dataset) -> set[str]:
        result = IODValidator(dataset, info, log_level=logging.CRITICAL).validate()
        return {
            f"{dictionary[_code(tag.tag)]['name']}: {error.code.name}"
            for module in result.module_errors.values()
            for tag, error in module.items()
        }

    return said


def ordinary(folder: Path) -> None:
    write_series(folder, stored_values((4, 40, 64)), orientation=OBLIQUE)


def enhanced(folder: Path) -> None:
    folder.mkdir()
    write_enhanced(folder / "e.dcm", stored_values((4, 40, 64)), positions(4), [1.0] * 4)


@pytest.mark.parametrize("make", [ordinary, enhanced])
@pytest.mark.parametrize("options", [{}, {"deidentify": True}, {"burn_in": True}], ids=str)
def test_the_validator_is_content(
    validate: Callable[[Dataset], set[str]],
    make: Callable[[Path], None],
    options: dict[str, bool],
    tmp_path: Path,
) -> None:
    make(tmp_path / "exam")
    (series,), _ = series_in(tmp_path / "exam")
    derivation = Derivation("T2w", {"T1w": series}, "nobody's model", **options)
    with write_derived(tmp_path / "out", derivation) as writer:
        writer.write(series.load())
    images = [dcmread(path) for path in sorted((tmp_path / "out").iterdir())]
    assert len(images) == 4
    for image in images:
        assert validate(image) == {f"{name}: TagUnexpected" for name in SCALE}
        assert image.BodyPartExamined == "BRAIN"  # or Laterality is due (2C)
    spoiled = images[0]  # and it would have found fault
    del spoiled.PixelSpacing, spoiled.SourceImageSequence[0].ReferencedSOPInstanceUID
    del spoiled.PatientID
    spoiled.KVP = 120
    assert validate(spoiled) - {f"{name}: TagUnexpected" for name in SCALE} == {
        "Pixel Spacing: TagMissing",
        "Referenced SOP Instance UID: TagMissing",
        "Patient ID: TagMissing",
        "KVP: TagUnexpected",
    }


# dcm2niix


def converted(folder: Path, out: Path) -> Any:
    """The image that dcm2niix makes of a series."""
    program = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed").bin
    out.mkdir()
    command = [program, "-z", "n", "-b", "y", "-f", "scan", "-o", str(out), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (scan,) = out.glob("*.nii")
    return nib.nifti1.load(scan)


def test_dcm2niix_finds_the_scan_of_the_direct_route(
    call: Call, tiny: Path, tmp_path: Path
) -> None:
    """DICOM -> medi2i -> dcm2niix, medi2i alone, and dcm2niix -> medi2i: to one rounding step."""
    exam = tmp_path / "exam"
    write_series(exam, stored_values((9, 24, 32)), orientation=OBLIQUE, SpacingBetweenSlices=2.5)
    ask = ("--to", "t2", "--model", tiny, "-o")
    assert call("translate", exam, "--format", "dicom", *ask, tmp_path / "out").code == 0
    through = converted(tmp_path / "out" / "exam_series-3_desc-synth_T2w_dicom", tmp_path / "found")
    found = nib.funcs.as_closest_canonical(through)
    step = float(through.dataobj.slope)
    says = json.loads((tmp_path / "found" / "scan.json").read_text())
    assert says["SeriesDescription"] == "SYNTH T2w (medi2i) NOT FOR DIAGNOSIS"
    assert says["ImageType"][:2] == ["DERIVED", "SECONDARY"]

    converted(exam, tmp_path / "before")
    for scan, source in (("a.nii", exam), ("b.nii", tmp_path / "before" / "scan.nii")):
        answer = call("translate", source, "--from", "t1", *ask, tmp_path / scan)
        assert answer.code == 0, answer.err
        direct = nib.funcs.as_closest_canonical(nib.nifti1.load(tmp_path / scan))
        assert direct.shape == found.shape
        np.testing.assert_allclose(found.affine, direct.affine, atol=1e-4)
        np.testing.assert_allclose(found.get_fdata(), direct.get_fdata(), rtol=0, atol=step)
        assert direct.get_fdata().std() > 20 * step
