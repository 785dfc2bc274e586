"""Names, numbers, dates and folders of the input go nowhere: not into files, not onto the screen.

What is written is called as the input file is, and the `dataset_description.json` of `medi2i bids`
holds the way from its folder to the data set, both as documented. A message about one file that was
named on the command line repeats how it was named.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medi2i.model import write_model
from medi2i.volume import Volume, save_volume
from tests.anomaly.test_find import SPOT, domain_model, flair
from tests.cli.conftest import Answer, Call, write_scan

SECRETS = ("plantedname", "planted-id", "19010203", "1901-02-03", "plantedward", "20011223")
HEADER = {"descrip": "PlantedName 19010203", "aux_file": "PLANTED-ID", "db_name": "PlantedWard"}
SIDECAR = {
    "PatientName": "PlantedName^Jane",
    "PatientID": "PLANTED-ID",
    "PatientBirthDate": "1901-02-03",
    "AcquisitionDateTime": "20011223T101112",
    "InstitutionName": "PlantedWard",
    "EchoTime": 0.09,
}
DATA = re.compile(
    rb'(?:data:image/png;base64,|<script type="text/plain" id="volume-\d+">)([\w+/=]+)'
)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder that names somebody."""
    return tmp_path / "PlantedName^Jane" / "PLANTED-ID_19010203" / "PlantedWard"


def plant(path: Path, scan: Volume | None = None, *, seed: int = 0) -> Path:
    """A scan with names in its header, in an extension, and in a side-car beside it."""
    if scan is None:
        write_scan(path, seed=seed)
    else:
        save_volume(scan, path)
    image = nib.Nifti1Image.from_filename(path)
    whole = nib.Nifti1Image(np.asarray(image.dataobj).copy(), image.affine, image.header)
    for field, value in {**HEADER, "intent_name": "PlantedName"}.items():
        whole.header[field] = value.encode()
    whole.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PlantedName 1901-02-03"))
    whole.to_filename(path)
    path.with_name(path.name.removesuffix(".nii.gz") + ".json").write_text(json.dumps(SIDECAR))
    return path


def contents(content: bytes) -> Iterator[bytes]:
    """A file, and all that is packed in it."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield from contents(gzip.decompress(content))
    elif content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            yield repr((picture.info, dict(picture.getexif()))).encode()
    for packed in DATA.finditer(content):
        yield from contents(base64.b64decode(packed.group(1)))


def told(text: bytes) -> set[str]:
    """The secrets in it."""
    lowered = text.lower()
    return {secret for secret in SECRETS if secret.encode() in lowered}


def leaks(folder: Path) -> dict[str, set[str]]:
    """Which file holds which secret, in its name or content."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        parts = [name.encode(), *(contents(path.read_bytes()) if path.is_file() else ())]
        if secrets := set().union(*map(told, parts)):
            found[name] = secrets
    return found


def ends_in_silence(answer: Answer, code: int = 0) -> None:
    """The command has ended so, and said nothing that it should not."""
    assert answer.code == code, answer.err
    assert told((answer.out + answer.err).encode()) == set()


def test_what_is_planted_is_found(planted: Path) -> None:
    plant(planted / "sub-01_T1w.nii.gz")
    there = leaks(planted)
    assert there["sub-01_T1w.nii.gz"] == {"plantedname", "planted-id", "19010203", "1901-02-03",
                                          "plantedward"}  # fmt: skip
    assert there["sub-01_T1w.json"] == set(SECRETS) - {"19010203"}
    packed = base64.b64encode(gzip.compress(b"PlantedName"))
    page = b'<script type="text/plain" id="volume-0">' + packed + b"</script>"
    assert set().union(*map(told, contents(page))) == {"plantedname"}


def test_translate_and_report(call: Call, tiny: Path, planted: Path, tmp_path: Path) -> None:
    scan, out = plant(planted / "sub-01_T1w.nii.gz"), tmp_path / "out"
    reference = plant(planted / "sub-01_T2w.nii.gz", seed=1)
    more = ("--to", "t2", "--model", tiny, "-o", out, "--preview", "--report", "--device", "cpu")
    ends_in_silence(call("translate", scan, *more, "-v"))
    assert len(list(out.iterdir())) == 4
    assert leaks(out) == {}
    pages = ("--source", planted, "--reference", reference, "-o", tmp_path / "pages")
    ends_in_silence(call("report", out, *pages))
    assert leaks(tmp_path / "pages") == {}
    ends_in_silence(call("translate", planted, *more, "--overwrite"))
    assert leaks(out) == {}


def test_a_page_of_several_sources(call: Call, joint: Path, planted: Path, tmp_path: Path) -> None:
    scans = [plant(planted / f"sub-01_{contrast}.nii.gz") for contrast in ("FLAIR", "T1w")]
    more = ("--to", "t2", "--model", joint, "-o", tmp_path / "out", "--report", "--device", "cpu")
    ends_in_silence(call("translate", *scans, *more))
    (page,) = (tmp_path / "out").glob("*_report.html")
    assert all(f"source {contrast}" in page.read_text() for contrast in ("T1w", "FLAIR"))
    assert leaks(tmp_path / "out") == {}


def test_dicom(call: Call, tiny: Path, planted: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install medi2i[dicom]")
    from tests.formats.dicoms import write_series

    write_series(
        planted / "exam",
        PatientName="PlantedName^Jane",
        PatientBirthDate="19010203",
        StudyDate="20011223",
        SeriesDate="20011223",
        InstitutionName="PlantedWard",
        StudyDescription="PlantedName",
        ReferringPhysicianName="PlantedName^Doctor",
    )
    out = tmp_path / "out"
    more = ("--to", "t2", "--model", tiny, "-o", out, "--device", "cpu")
    ends_in_silence(call("translate", planted / "exam", *more, "--preview", "--report"))
    assert len(list(out.iterdir())) == 4
    assert leaks(out) == {}


def test_anomaly(call: Call, planted: Path, tmp_path: Path) -> None:
    scan, out = plant(planted / "sub-1_FLAIR.nii.gz", flair()), tmp_path / "out"
    ends_in_silence(call("anomaly", scan, "-o", out, "--report"))
    model = write_model(domain_model(), planted / "model")
    more = ("--model", model, "--overwrite", "--report", "--device", "cpu")
    ends_in_silence(call("anomaly", scan, "-o", out, *more))
    assert (out / "sub-1_FLAIR_desc-synth_anomaly_report.html").is_file()
    assert leaks(out) == {}


def test_a_data_set(call: Call, tiny: Path, planted: Path, tmp_path: Path) -> None:
    plant(planted / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    plant(planted / "sub-02" / "anat" / "sub-02_T1w.nii.gz").write_bytes(b"\x1f\x8b broken")
    plant(planted / "sub-03" / "anat" / "sub-03_T2w.nii.gz")
    out = tmp_path / "out"
    more = ("participant", "--to", "T2w", "--model", tiny, "--report", "--device", "cpu")
    ends_in_silence(call("bids", planted, out, *more), code=1)
    page = out / "sub-01" / "anat" / "sub-01_desc-synth_T2w_report.html"
    assert "source T1w" in page.read_text()
    page.unlink()
    ends_in_silence(call("bids", planted, out, *more, "--json"), code=1)
    assert page.is_file()  # made anew, though its scan was done before
    assert set(leaks(out)) == {"dataset_description.json"}
    told_there = json.loads((out / "dataset_description.json").read_text())
    assert told_there.pop("DatasetLinks")["raw"].endswith("/PlantedWard")
    told_there.pop("SourceDatasets")
    assert told(json.dumps(told_there).encode()) == set()


def test_scores(call: Call, tiny: Path, planted: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        for seed, contrast in enumerate(("T1w", "T2w")):
            name = f"sub-{number}"
            plant(planted / name / "anat" / f"{name}_{contrast}.nii.gz", seed=number + seed)
    (planted / "sub-3" / "anat" / "sub-3_T1w.nii.gz").write_bytes(b"\x1f\x8b broken")
    out = tmp_path / "out"
    more = ("--model", tiny, "-o", out, "--device", "cpu", "--report")
    answer = call("evaluate", planted, "--from", "t1", "--to", "t2", *more)
    ends_in_silence(answer, code=1)
    assert 'sub-3, T1w->T2w: "sub-3_T1w.nii.gz"' in answer.err
    assert "1 translations failed" in answer.err
    assert leaks(out) == {}
    page = (out / "report.html").read_text()
    assert page.count("_report</a>") == 2
    links = re.findall(r'href="([^"]+)"', page)
    assert all((out / link).is_file() for link in links)

    made = out / "T1w-to-T2w" / "sub-1_desc-synth_T2w.nii.gz"
    real = planted / "sub-1" / "anat"
    two = (made, real / "sub-1_T2w.nii.gz", "--source", real / "sub-1_T1w.nii.gz")
    ends_in_silence(call("evaluate", *two, "-o", tmp_path / "two", "--report"))
    assert leaks(tmp_path / "two") == {}


def test_scores_of_anomalies(call: Call, planted: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        name = f"sub-{number}"
        scan = flair(seed=number)
        plant(planted / name / "anat" / f"{name}_FLAIR.nii.gz", scan)
        mask = np.zeros(scan.shape, np.uint8)
        mask[SPOT] = 1
        place = planted / "derivatives" / "expert" / name / "anat"
        plant(place / f"{name}_label-lesion_mask.nii.gz", scan.like(mask))
    (planted / "sub-2" / "anat" / "sub-2_FLAIR.nii.gz").write_bytes(b"\x1f\x8b broken")
    models = [write_model(domain_model(), tmp_path / name / "best") for name in ("one", "two")]
    out = tmp_path / "out"
    more = ("--device", "cpu", "--report", "-o", out, "--model", models[0], "--model", models[1])
    answer = call("evaluate", "--anomaly", planted, *more)
    ends_in_silence(answer)
    assert leaks(out) == {}
    record = json.loads((out / "scores.json").read_text())
    assert [one["method"] for one in record["methods"]] == ["intensity", "one/best", "two/best"]
    assert any(note.startswith("sub-2 is left out") for note in record["notes"])
    assert str(tmp_path) not in json.dumps(record)
    assert (out / "report.html").read_text().count("<img") == 2
