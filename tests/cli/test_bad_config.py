"""Every bad configuration has its own sentence, and no run is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Call, seen
from tests.conftest import MakeStudy

GOOD: dict[str, Any] = {
    "system": "unet",
    "task": {"sources": ["T1w"], "targets": ["T2w"]},
    "view": {"dims": 2, "slices": 1},
    "arguments": {"features": [4, 8]},
    "data": {"size": 16},
    "training": {"rounds": 1, "batch_size": 1, "workers": 0},
}


def changed(**changes: Any) -> dict[str, Any]:
    """`GOOD` with some keys replaced, or added to those below them."""
    result = dict(GOOD)
    for key, value in changes.items():
        below = key in result and isinstance(value, dict)
        result[key] = {**result[key], **value} if below else value
    return result


BAD: dict[str, tuple[Any, str]] = {
    "not YAML": ("system: [", "is not valid YAML"),
    "no mapping": ([1, 2], "keys and values were expected"),
    "no task": ({"system": "unet"}, 'lacks the key "task"'),
    "no system": ({"task": GOOD["task"]}, 'lacks the key "system"'),
    "unknown key": (changed(trainning={"rounds": 3}), 'did you mean "training"?'),
    "unknown key below": (changed(training={"round": 3}), 'did you mean "rounds"?'),
    "unknown argument": (changed(arguments={"feature": [4]}), 'did you mean "features"?'),
    "argument that follows": (changed(arguments={"dims": 3}), "leave them out"),
    "word for a number": (changed(training={"rounds": "many"}), "rounds of"),
    "truth for a number": (changed(training={"batch_size": True}), "batch_size of"),
    "list for a mapping": (changed(training=[1, 2]), "training of"),
    "unknown choice": (changed(training={"schedule": "sometimes"}), "schedule of"),
    "no list of contrasts": (changed(task={"sources": "T1w"}), "a list of contrasts"),
    "unknown contrast": (changed(task={"sources": ["CT"]}), '"CT" is not a contrast'),
    "equal contrasts": (changed(task={"targets": ["T1w"]}), "is both source and target"),
    "even number of slices": (changed(view={"slices": 2}), "an odd number was expected"),
    "four dimensions": (changed(view={"dims": 4}), "dims is 4"),
    "missing contrast": (changed(task={"targets": ["FLAIR"]}), "none of 2 subjects has"),
    "unknown protocol": (changed(validation={"protocol": "brain-4d"}), "brain-4d"),
}


@pytest.fixture(scope="module")
def study(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    people = {"sub-01": "train", "sub-02": "train", "sub-03": "val"}
    return make_study(tmp_path_factory.mktemp("study"), people)


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD.keys())
def test_bad_config(content: Any, says: str, call: Call, study: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    before = seen(tmp_path)
    answer = call("train", path, "--data", study, "-o", tmp_path / "run", "-q")
    assert says in answer.err
    assert answer.code in (2, 3)
    assert seen(tmp_path) == before


def test_unknown_system(call: Call, study: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(changed(system="pix2pixx")))
    answer = call("train", path, "--data", study, "-o", tmp_path / "run", "-q")
    assert 'did you mean "pix2pix"?' in answer.err
    assert answer.code == 4
    assert not (tmp_path / "run").exists()


def test_missing_config(call: Call, study: Path, tmp_path: Path) -> None:
    answer = call("train", tmp_path / "no.yaml", "--data", study, "-o", tmp_path / "run")
    assert "does not exist" in answer.err
    assert answer.code == 3
    assert seen(tmp_path) == {}


def break_scan(study: Path) -> None:
    path = next(study.glob("sub-02/anat/*_T2w.nii"))
    path.write_bytes(path.read_bytes()[:-1])


def split_twice(study: Path) -> None:
    table = study / "participants.tsv"
    table.write_text(table.read_text() + "sub-01\tval\n")


def nobody_trains(study: Path) -> None:
    table = study / "participants.tsv"
    table.write_text(table.read_text().replace("train", "test"))


def no_scans(study: Path) -> None:
    for path in study.rglob("*.nii"):
        path.unlink()


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (break_scan, "is truncated"),
        (split_twice, "is in two splits"),
        (nobody_trains, 'no subject is in split "train"'),
        (no_scans, "holds no scan of a known contrast"),
    ],
)
def test_bad_study(
    alter: Any, says: str, call: Call, make_study: MakeStudy, tmp_path: Path
) -> None:
    people = {"sub-01": "train", "sub-02": "train", "sub-03": "val"}
    study = make_study(tmp_path / "study", people)
    alter(study)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    before = seen(tmp_path)
    answer = call("train", path, "--data", study, "-o", tmp_path / "run", "-q")
    assert says in answer.err
    assert answer.code == 3
    assert seen(tmp_path) == before


def test_missing_study(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    answer = call("train", path, "--data", tmp_path / "study", "-o", tmp_path / "run", "-q")
    assert "a BIDS folder or a table was expected" in answer.err
    assert answer.code == 3
    assert not (tmp_path / "run").exists()
