"""``medi2i bids``: names, sessions, labels, who lacks a source; stopped, shared out, run again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.inference import translate as inference
from medi2i.jobs import crew
from medi2i.jobs.plan import Job
from medi2i.jobs.scans import Found
from medi2i.volume import load_volume
from tests.cli.conftest import SHAPE, Call, head, seen, write_scan

SCANS = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_FLAIR.nii.gz",  # T1w comes first in the model's task
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_run-1_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_run-2_T1w.nii.gz",
    "sub-03/anat/sub-03_T2w.nii.gz",
    "sub-04/anat/sub-04_FLAIR.nii",
    "sub-04/anat/._sub-04_T1w.nii",  # as some systems leave them
    "sub-04/anat/sub-04_desc-synth_T1w.nii.gz",
)
MADE = {
    "sub-01/anat/sub-01": "T1w",
    "sub-02/ses-a/anat/sub-02_ses-a": "T1w",
    "sub-02/ses-b/anat/sub-02_ses-b_run-1": "T1w",
    "sub-04/anat/sub-04": "FLAIR",
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Four people, five sessions, one of them without a source for T2w."""
    root = tmp_path / "study"
    for number, name in enumerate(SCANS):
        write_scan(root / name, seed=number)
    about = {"Name": "Study", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.1/x"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    return root


def results(out: Path) -> dict[str, str]:
    """What a run has made: all but hidden files and logs."""
    return {
        name: digest
        for name, digest in seen(out).items()
        if digest != "folder" and not name.startswith((".", "logs"))
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def ends(answer: Any) -> list[str]:
    return [row["status"] for row in json.loads(answer.out)]


def test_a_data_set(call: Call, tiny: Path, study: Path, tmp_path: Path) -> None:
    before, out = seen(study), study / "derivatives" / "medi2i"
    command = ("bids", study, out, "participant", "--to", "T2w", "--model", tiny)
    answer = call(*command)
    assert answer.code == 0, answer.err
    names = [f"{stem}_desc-synth_T2w{end}" for stem in MADE for end in (".json", ".nii.gz")]
    assert set(results(out)) == {*names, "README.md", "dataset_description.json"}
    for stem, contrast in MADE.items():
        record = json.loads((out / f"{stem}_desc-synth_T2w.json").read_text())
        assert record["SourceContrast"] == [contrast]
        (source,) = record["Sources"]
        assert source.startswith(f"bids:raw:{stem}_{contrast}.nii")
        assert record["SkullStripped"] is False
        taken = '"sub-02_ses-b_run-1_T1w.nii.gz" was taken of 2 T1w scans, as the first by name'
        assert record["Warnings"] == ([taken] if "run-1" in stem else [])
        assert load_volume(out / f"{stem}_desc-synth_T2w.nii.gz").shape == SHAPE
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "medi2i bids"
    assert about["DatasetLinks"] == {"raw": "../.."}
    assert about["SourceDatasets"] == [{"URL": "../..", "DOI": "10.1/x"}]
    assert 'by model "tiny", from T1w, else FLAIR' in answer.err
    assert "1 without a source (logs/lacking.tsv)" in answer.err
    assert "sub-03: no T1w or FLAIR; scans there: T2w" in answer.err
    assert table(out / "logs" / "lacking.tsv") == [
        {
            "participant_id": "sub-03",
            "session_id": "n/a",
            "problem": "no T1w or FLAIR; scans there: T2w",
        }
    ]
    after = seen(study)
    assert {name: after[name] for name in before} == before

    # again: nothing is touched
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    again = call(*command, "--json")
    assert again.code == 0
    assert ends(again) == ["skipped"] * 4
    assert seen(study) == after
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert str(tmp_path) not in again.out

    # something else than before is made anew, and said
    write_scan(study / "x.nii.gz", seed=99).replace(study / SCANS[0])
    rows = json.loads(call(*command, "--json").out)
    assert [row.get("changed") for row in rows] == [["Sources"], None, None, None]
    rows = json.loads(call(*command, "--json", "--seed", 5, "--dtype", "float64").out)
    assert [row["changed"] for row in rows] == [["Seed", "Type"]] * 4
    (out / "sub-01/anat/sub-01_desc-synth_T2w.json").write_text("{}")  # not known who made it
    refused = call(*command, "--seed", 5, "--dtype", "float64")
    assert refused.code == 1
    assert "does not say what it was made of; give --overwrite" in refused.err
    (line,) = table(out / "logs" / "failures.tsv")
    assert (line["participant_id"], line["file"]) == ("sub-01", "sub-01/anat/sub-01_T1w.nii.gz")
    assert call(*command, "--overwrite").code == 0
    assert not (out / "logs" / "failures.tsv").exists()


def test_labels(call: Call, tiny: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("bids", study, out, "participant", "--to", "T2w", "--model", tiny, "--json")
    rows = json.loads(call(*command, "--participant-label", "sub-04", "01", "--seed", "1").out)
    assert [Path(row["output"]).parts[0] for row in rows] == ["sub-01", "sub-04"]
    assert len(json.loads(call(*command, "--participant-label", "02").out)) == 2
    answer = call(*command, "--participant_label", "02", "01", "--session-label", "b")
    (row,) = json.loads(answer.out)
    assert row["output"] == "sub-02/ses-b/anat/sub-02_ses-b_run-1_desc-synth_T2w.nii.gz"
    (line,) = table(out / "logs" / "lacking.tsv")
    assert (line["participant_id"], line["session_id"]) == ("sub-01", "ses-b")
    rows = json.loads(call(*command, "--from", "flair").out)
    assert [row["status"] for row in rows] == ["done", "done"]
    assert rows[0]["changed"] == ["Sources", "Seed"]
    assert len(table(out / "logs" / "lacking.tsv")) == 4  # three without FLAIR, one of no session
    nobody = call(*command, "--participant-label", "03")
    assert (nobody.code, json.loads(nobody.out)) == (0, [])


BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "participant": (
        ("--participant-label", "1", "7"),
        2,
        "1, 7 is not in the data set; the labels",
    ),
    "its labels": (("--participant-label", "7"), 2, "there are 01, 02, 03, 04"),
    "session": (("--session-label", "c"), 2, "session c is not in the data set; the labels"),
    "source": (("--from", "pd"), 2, "--from asks for PDw; the model turns"),
    "target": (("--to", "pd"), 3, "PDw was asked for"),
    "shard": (("--shard", "3/2"), 2, "1/N to N/N was expected"),
    "who works": (("--workers", "2", "--dask", "x:1"), 2, "both say who works"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calls(call: Call, tiny: Path, study: Path, tmp_path: Path, case: str) -> None:
    options, code, says = BAD[case]
    command = ("bids", study, tmp_path / "out", "participant", "--to", "T2w", "--model", tiny)
    answer = call(*command, *options)
    assert answer.code == code, answer.err
    assert says in " ".join(answer.err.split())
    assert not (tmp_path / "out").exists()


def test_bad_folders(call: Call, tiny: Path, study: Path, tmp_path: Path) -> None:
    more = ("--to", "T2w", "--model", tiny)
    before = seen(study)
    group = call("bids", study, tmp_path / "out", "group", *more)
    assert (group.code, "participant was expected" in group.err) == (2, True)
    assert call("bids", study, study, "participant", *more).code == 2
    empty = call("bids", tmp_path / "none", tmp_path / "out", "participant", *more)
    assert (empty.code, "a BIDS folder was expected" in empty.err) == (3, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset_description.json").write_text('{"DatasetType": "raw"}')
    answer = call("bids", study, other, "participant", *more)
    assert (answer.code, "not one of derivatives" in answer.err) == (2, True)
    assert seen(study) == before


def test_failures(
    call: Call, tiny: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken file, a broken side-car, and a defect cost one session each."""
    broken = study / SCANS[0]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-60])
    (study / "sub-04/anat/sub-04_FLAIR.json").write_text("{")
    run_model = inference.run_model

    def fail(model: Any, scans: Any, *arguments: Any, **options: Any) -> Any:
        if any("ses-a" in scan.name for scan in scans.values()):
            raise KeyError("DOE^JANE")
        return run_model(model, scans, *arguments, **options)

    monkeypatch.setattr(inference, "run_model", fail)
    out = tmp_path / "out"
    command = ("bids", study, out, "participant", "--to", "T2w", "--model", tiny)
    answer = call(*command)
    assert answer.code == 1
    assert answer.err.count("error:") == 3
    assert "1 done; 3 failed (logs/failures.tsv)" in answer.err
    lines = table(out / "logs" / "failures.tsv")
    assert [(line["participant_id"], line["session_id"]) for line in lines] == [
        ("sub-01", "n/a"),
        ("sub-02", "ses-a"),
        ("sub-04", "n/a"),
    ]
    for line, said in zip(lines, ("truncated", "defect of medi2i: KeyError", "JSON"), strict=True):
        assert said in line["problem"]
    said = answer.err + answer.out + (out / "logs" / "failures.tsv").read_text()
    assert "DOE" not in said
    assert str(tmp_path) not in said
    assert set(seen(out)) == {
        ".bidsignore",
        "README.md",
        "dataset_description.json",
        "logs",
        "logs/failures.tsv",
        "logs/lacking.tsv",
        "sub-02",
        "sub-02/ses-b",
        "sub-02/ses-b/anat",
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_desc-synth_T2w.json",
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_desc-synth_T2w.nii.gz",
    }
    broken.write_bytes(whole)
    assert call(*command, "--participant-label", "01").code == 0
    assert len(table(out / "logs" / "failures.tsv")) == 2


def test_no_memory_for_a_batch(
    call: Call, tiny: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_model, sizes = inference.run_model, []

    def short(*arguments: Any, **options: Any) -> Any:
        sizes.append(options["batch_size"])
        if options["batch_size"] != 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return run_model(*arguments, **options)

    monkeypatch.setattr(inference, "run_model", short)
    command = ("bids", study, tmp_path / "out", "participant", "--to", "T2w", "--model", tiny)
    answer = call(*command, "--participant-label", "01", "--json")
    assert answer.code == 0
    assert sizes == [None, 1]
    assert json.loads(answer.out)[0]["again"].startswith("the memory did not do")


def test_what_another_process_makes_is_left_to_it(
    call: Call, tiny: Path, study: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    claim = out / ".medi2i" / "sub-01_desc-synth_T2w.nii.gz.claim"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"Host": "another", "Process": 1, "Started": 1, "Token": "t"}))
    command = ("bids", study, out, "participant", "--to", "T2w", "--model", tiny, "--json")
    answer = call(*command)
    assert answer.code == 0
    assert ends(answer) == ["elsewhere", "done", "done", "done"]
    assert not (out / "sub-01").exists()
    os.utime(claim, (0, 0))  # nobody touched it for ten minutes
    assert ends(call(*command))[0] == "done"
    assert not claim.parent.exists()


def test_shards_and_slurm(
    call: Call, tiny: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("participant", "--to", "T2w", "--model", tiny, "--json")
    call("bids", study, tmp_path / "whole", *more)
    assert len(ends(call("bids", study, tmp_path / "parts", *more, "--shard", "1/2"))) == 2
    for name, value in {"ID": 7, "MIN": 6, "MAX": 7, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert ends(call("bids", study, tmp_path / "parts", *more)) == ["done", "done"]
    whole, parts = seen(tmp_path / "whole"), seen(tmp_path / "parts")
    assert whole == parts


def test_nobody_is_named(call: Call, tiny: Path, study: Path, tmp_path: Path) -> None:
    """What headers and side-cars of the scans say stays there."""
    for name in SCANS[:5]:
        image = nib.nifti1.load(study / name)
        header = image.header.copy()
        header["descrip"], header["db_name"] = b"DOE^JANE", b"DOE^JANE"
        header["aux_file"], header["intent_name"] = b"DOE^JANE", b"DOE^JANE"
        extension = nib.nifti1.Nifti1Extension("comment", b"DOE^JANE 1970-01-01")
        header.extensions.append(extension)
        voxels = np.asarray(image.dataobj)
        nib.nifti1.save(nib.nifti1.Nifti1Image(voxels, image.affine, header), study / name)
        side = {"PatientName": "DOE^JANE", "AcquisitionDateTime": "1970-01-01"}
        stem = name.removesuffix(".nii.gz")
        (study / f"{stem}.json").write_text(json.dumps(side))
    broken = study / SCANS[2]
    broken.write_bytes(broken.read_bytes()[:-60])
    out = tmp_path / "out"
    command = ("bids", study, out, "participant", "--to", "T2w", "--model", tiny, "-v")
    answer = call(*command, "--preview")
    assert answer.code == 1
    said = [answer.out.encode(), answer.err.encode()]
    for path in out.rglob("*"):
        if path.is_file():
            packed = path.name.endswith(".gz")
            said.append(load_volume(path).header.binaryblock if packed else path.read_bytes())
            said.append(path.name.encode())
    assert len(said) > 10
    for content in said:
        assert b"DOE" not in content
        assert b"1970" not in content


# Processes


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_and_run_again(call: Call, tiny: Path, study: Path, tmp_path: Path) -> None:
    (study / SCANS[2]).unlink()
    write_scan(study / SCANS[2], voxels=np.tile(head(), (8, 8, 24)))
    out = tmp_path / "out"
    command = ["bids", study, out, "participant", "--to", "T2w", "--model", tiny]
    command += ["--batch-size", 1]
    program = [sys.executable, "-m", "medi2i", *map(str, command)]
    run = subprocess.Popen(program, stderr=subprocess.PIPE)
    claim = out / ".medi2i" / "sub-02_ses-a_desc-synth_T2w.nii.gz.claim"
    first = out / "sub-01" / "anat" / "sub-01_desc-synth_T2w.nii.gz"
    while not (first.exists() and claim.exists()) and run.poll() is None:
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    _, complained = run.communicate()
    assert run.returncode == -signal.SIGKILL, complained
    stage = out / "sub-02" / "ses-a" / "anat" / ".medi2i-sub-02_ses-a_desc-synth_T2w.nii.gz-x"
    stage.mkdir(parents=True, exist_ok=True)  # as one killed while writing leaves it
    times = first.stat().st_mtime_ns
    answer = call(*command, "--json")
    assert answer.code == 0, answer.err
    assert sorted(ends(answer)) == ["done", "done", "done", "skipped"]
    assert first.stat().st_mtime_ns == times
    command[2] = tmp_path / "whole"
    assert call(*command).code == 0
    assert seen(out) == seen(tmp_path / "whole")


def test_two_processes(
    call: Call, tiny: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as one, also when one of the two is killed."""
    start = crew._start
    started: list[Any] = []

    def wounded(*arguments: Any) -> Any:
        worker = start(*arguments)
        if not started:
            worker.process.kill()
        started.append(worker)
        return worker

    monkeypatch.setattr(crew, "_start", wounded)
    more = ("participant", "--to", "T2w", "--model", tiny, "--json")
    call("bids", study, tmp_path / "one", *more)
    answer = call("bids", study, tmp_path / "two", *more, "--workers", 2)
    assert answer.code == 0, answer.err
    assert ends(answer) == ["done"] * 4
    assert len(started) == 3
    assert seen(tmp_path / "one") == seen(tmp_path / "two")


def test_a_job_that_ends_its_process_twice() -> None:
    t2 = Contrast.T2W
    job, other = (
        Job({t2: Found(Path(f"sub-{n}_T2w.nii"), Path(), t2, False)}, Path()) for n in "12"
    )
    gone: Any = SimpleNamespace(exitcode=-9, join=lambda: None)
    pipe: Any = SimpleNamespace(close=lambda: None)
    waiting, ended = deque([other]), Counter[Job]()
    assert list(crew._lost(crew._Worker(gone, pipe, deque([job])), ended, waiting)) == []
    assert list(waiting) == [job, other]
    (row,) = crew._lost(crew._Worker(gone, pipe, deque([job])), ended, deque())
    assert row["status"] == "failed"
    assert "ended (signal SIGKILL), 2 times; the memory may not do" in row["error"]


def test_dask(call: Call, tiny: Path, study: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    more = ("participant", "--to", "T2w", "--model", tiny, "--json")
    call("bids", study, tmp_path / "one", *more)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:
        address = cluster.scheduler_address
        answer = call("bids", study, tmp_path / "two", *more, "--dask", address)
    assert answer.code == 0, answer.err
    assert ends(answer) == ["done"] * 4
    assert seen(tmp_path / "one") == seen(tmp_path / "two")
