"""What others make of the derivatives: BIDS's own validator is content, pybids finds them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medi2i.report import find_viewer
from tests.cli.conftest import Call, write_scan

SCANS = (
    "sub-01/anat/sub-01_T1w",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w",
    "sub-02/ses-b/anat/sub-02_ses-b_run-1_T1w",
    "sub-03/anat/sub-03_T2w",  # lacks a source
    "sub-04/anat/sub-04_acq-mprage_ce-gad_T1w",  # of a contrast that the model does not take
    "sub-05/anat/sub-05_acq-3d_FLAIR",
)
MADE = (
    "sub-01_desc-synth_T2w.nii.gz",
    "sub-02_ses-a_desc-synth_T2w.nii.gz",
    "sub-02_ses-b_run-1_desc-synth_T2w.nii.gz",
    "sub-05_acq-3d_desc-synth_T2w.nii.gz",
)


@pytest.fixture
def derivatives(call: Call, tiny: Path, tmp_path: Path) -> Path:
    """Of five people, with everything beside the scans that can be asked for."""
    study = tmp_path / "study"
    for number, name in enumerate(SCANS):
        write_scan(study / f"{name}.nii.gz", seed=number)
    about = {"Name": "Study", "BIDSVersion": "1.10.0"}
    (study / "dataset_description.json").write_text(json.dumps(about))
    out = study / "derivatives" / "medi2i"
    extras = ["--preview", *(["--report"] if find_viewer() else [])]
    answer = call("bids", study, out, "participant", "--to", "t2", "--model", tiny, *extras)
    assert answer.code == 0, answer.err
    return out


def complaints(folder: Path) -> dict[str, str]:
    """The code of each complaint of the validator, and how bad it is."""
    pytest.importorskip("bids_validator_deno", reason="bids-validator-deno is not installed")
    start = "from bids_validator_deno import cli; cli()"
    ended = subprocess.run(
        [sys.executable, "-c", start, str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    found: list[dict[str, Any]] = json.loads(ended.stdout)["issues"]["issues"]
    return {issue["code"]: issue["severity"] for issue in found}


def test_the_validator_is_content(derivatives: Path) -> None:
    """Even without a warning but one: who the authors are it cannot know."""
    assert complaints(derivatives) == {"TOO_FEW_AUTHORS": "warning"}
    assert "SYNTHETIC" in (derivatives / "README.md").read_text()
    (scan,) = derivatives.rglob(MADE[0])
    scan.rename(scan.with_name("sub-01_desc-synth_T2.nii.gz"))  # and it would have found fault
    assert "error" in complaints(derivatives).values()


def test_pybids_finds_the_scans(derivatives: Path) -> None:
    bids = pytest.importorskip("bids", reason="pybids is not installed")
    layout = bids.BIDSLayout(derivatives.parents[1], derivatives=derivatives)
    found = layout.get(scope="derivatives", desc="synth", suffix="T2w", extension=".nii.gz")
    assert sorted(file.filename for file in found) == sorted(MADE)
    (scan,) = [file for file in found if file.entities["subject"] == "05"]
    assert scan.entities["acquisition"] == "3d"
    told = scan.get_metadata()
    assert told["Sources"] == ["bids:raw:sub-05/anat/sub-05_acq-3d_FLAIR.nii.gz"]
    assert told["Synthetic"] is True
    assert told["SkullStripped"] is False
