from __future__ import annotations

import json
from pathlib import Path

import pytest

from medi2i.contrasts import Contrast, contrast_of
from medi2i.errors import ContrastError, FormatError

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize("contrast", list(Contrast))
def test_a_contrast_is_its_bids_name(contrast: Contrast) -> None:
    assert str(contrast) == contrast.value == f"{contrast}"
    assert Contrast.parse(str(contrast)) is contrast
    assert json.dumps({"contrast": contrast}) == f'{{"contrast": "{contrast.value}"}}'


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        ("t1", Contrast.T1W),
        ("T1W", Contrast.T1W),
        ("t1n", Contrast.T1W),
        ("MPRAGE", Contrast.T1W),
        ("T1-weighted", Contrast.T1W),
        ("t1c", Contrast.T1CE),
        ("T1CE", Contrast.T1CE),
        ("t1gd", Contrast.T1CE),
        ("T1+C", Contrast.T1CE),
        ("ce-gad_T1w", Contrast.T1CE),
        ("t1post", Contrast.T1CE),
        ("t2", Contrast.T2W),
        ("T2w", Contrast.T2W),
        ("flair", Contrast.FLAIR),
        ("t2f", Contrast.FLAIR),
        ("T2-FLAIR", Contrast.FLAIR),
        ("pd", Contrast.PDW),
        ("PDw", Contrast.PDW),
    ],
)
def test_parse(text: str, contrast: Contrast) -> None:
    assert Contrast.parse(text) is contrast


@pytest.mark.parametrize("text", ["", "t3", "ct", "T2star", "bold"])
def test_parse_refuses_and_lists_what_is_known(text: str) -> None:
    with pytest.raises(ContrastError, match="T1w, T2w, FLAIR, PDw, ce-gad_T1w"):
        Contrast.parse(text)


def test_parse_names_the_nearest() -> None:
    with pytest.raises(ContrastError, match="nearest: FLAIR"):
        Contrast.parse("flare")


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-1_ses-2_acq-ax_run-1_T1w.nii.gz", Contrast.T1W),
        ("sub-1_ce-gad_T1w.nii.gz", Contrast.T1CE),
        ("sub-1_ce-gadovist_T1w.nii", Contrast.T1CE),
        ("sub-1_FLAIR.nii.gz", Contrast.FLAIR),
        ("T1w.nii.gz", Contrast.T1W),
        ("t1.nii", Contrast.T1W),
        ("ce-gad_T1w.nii.gz", Contrast.T1CE),
        ("patient_t1.nii.gz", Contrast.T1W),
        ("patient_T2w_brain.NII.GZ", Contrast.T2W),
        ("BraTS20_Training_001_t1ce.nii.gz", Contrast.T1CE),
        ("BraTS-GLI-00000-000-t2f.nii.gz", Contrast.FLAIR),
        ("IXI002-Guys-0828-PD.nii.gz", Contrast.PDW),
        ("t2_flair.nii.gz", Contrast.FLAIR),
        ("t1_desc-synth_T2w.nii.gz", Contrast.T2W),
        ("t1_desc-synth_FLAIR.nii.gz", Contrast.FLAIR),
        ("sub-t2_acq-t1_space-T2w_PDw.nii.gz", Contrast.PDW),
        ("my scan t1.nii.gz", Contrast.T1W),
        ("scan.nii.gz", None),
        ("sub-t1.nii.gz", None),  # a subject of that name
        ("sub-1_T2starw.nii.gz", None),
        ("sub-1_label-lesion_mask.nii.gz", None),
        ("sub-1_space-T1w_mask.nii.gz", None),
        ("t1_in_t2_space.nii.gz", None),
        ("ax_t1_flair.nii.gz", None),
        ("sub-1_ce-gad_FLAIR.nii.gz", None),
        ("sub-1_ce-feraheme_T1w.nii.gz", None),
        (".nii.gz", None),
    ],
)
def test_the_name_alone(tmp_path: Path, name: str, contrast: Contrast | None) -> None:
    assert contrast_of(tmp_path / name) is contrast


@pytest.mark.parametrize(
    ("name", "fields", "contrast"),
    [
        # what sequences are called
        ("a.nii.gz", {"SeriesDescription": "AX T2 FLAIR fs"}, Contrast.FLAIR),
        ("a.nii.gz", {"ProtocolName": "t1_mprage_sag_p2"}, Contrast.T1W),
        ("a.nii.gz", {"SeriesDescription": "t1_se_tra post Gd"}, Contrast.T1CE),
        ("a.nii.gz", {"SeriesDescription": "SAG T1 +C"}, Contrast.T1CE),
        ("a.nii.gz", {"SeriesDescription": "T2* gre"}, None),
        ("a.nii.gz", {"SeriesDescription": "AX T1 FLAIR"}, None),
        ("a.nii.gz", {"SeriesDescription": "PD T2 dual echo"}, None),
        ("a.nii.gz", {"SeriesDescription": "T1", "ProtocolName": "T2"}, None),
        # the agent
        ("a.nii.gz", {"SeriesDescription": "T1", "ContrastBolusAgent": "Gadovist"}, Contrast.T1CE),
        ("a.nii.gz", {"SeriesDescription": "T1", "ContrastBolusAgent": "none"}, Contrast.T1W),
        ("a_T1w.nii.gz", {"ContrastBolusAgent": "Gadovist"}, None),
        ("a_ce-gad_T1w.nii.gz", {"ContrastBolusAgent": "Gadovist"}, Contrast.T1CE),
        ("a_ce-gad_T1w.nii.gz", {"ContrastBolusAgent": "none"}, None),
        ("a_ce-gad_T1w.nii.gz", {"SeriesDescription": "T1 SE"}, Contrast.T1CE),
        ("a_T2w.nii.gz", {"ContrastBolusAgent": "Gadovist"}, Contrast.T2W),
        # times in seconds
        (
            "a.nii.gz",
            {"EchoTime": 0.12, "RepetitionTime": 9, "InversionTime": 2.5},
            Contrast.FLAIR,
        ),
        (
            "a.nii.gz",
            {"EchoTime": 0.003, "RepetitionTime": 2.3, "InversionTime": 0.9},
            Contrast.T1W,
        ),
        ("a.nii.gz", {"EchoTime": 0.1, "RepetitionTime": 4.5}, Contrast.T2W),
        (
            "a.nii.gz",
            {"EchoTime": 0.015, "RepetitionTime": 2.6, "ScanningSequence": "SE"},
            Contrast.PDW,
        ),
        (
            "a.nii.gz",
            {"EchoTime": 0.012, "RepetitionTime": 0.6, "ScanningSequence": "SE"},
            Contrast.T1W,
        ),
        ("a.nii.gz", {"EchoTime": 0.03, "RepetitionTime": 2.0}, None),  # could be fMRI
        ("a.nii.gz", {"EchoTime": 0.1, "RepetitionTime": 8.0, "ScanningSequence": "EP"}, None),
        ("a.nii.gz", {"EchoTime": "0.1", "RepetitionTime": None}, None),
        # against the name
        ("a_T1w.nii.gz", {"SeriesDescription": "AX T2"}, None),
        ("a_T2w.nii.gz", {"EchoTime": 0.12, "RepetitionTime": 9, "InversionTime": 2.5}, None),
        ("a_T2w.nii.gz", {"SeriesDescription": "something"}, Contrast.T2W),
        ("a_T2w.nii.gz", {}, Contrast.T2W),
    ],
)
def test_the_sidecar(
    tmp_path: Path, name: str, fields: dict[str, object], contrast: Contrast | None
) -> None:
    path = tmp_path / name
    path.with_name(name.replace(".nii.gz", ".json")).write_text(json.dumps(fields))
    assert contrast_of(path) is contrast


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\x00", b'{"a": NaN'])
def test_a_broken_sidecar_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t1.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"t1\.json"):
        contrast_of(tmp_path / "t1.nii.gz")


def test_real_names() -> None:
    scans = sorted(DATA.glob("*/sub-*/anat/*.nii.gz"))
    if not scans:
        pytest.skip("the real scans in ../shared/data are absent")
    for scan in scans:
        contrast = contrast_of(scan)
        assert contrast is not None
        assert scan.name.endswith(f"_{contrast}.nii.gz")
