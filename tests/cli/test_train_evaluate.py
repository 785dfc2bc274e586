"""``medi2i train`` and ``medi2i evaluate``, from a study to scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medi2i import zoo
from tests.cli.conftest import Call, seen
from tests.conftest import MakeStudy

CONFIG: dict[str, Any] = {
    "system": "unet",
    "task": {"sources": ["T1w", "T2w"], "targets": ["T1w", "T2w"], "on_demand": True},
    "view": {"dims": 2, "slices": 1},
    "arguments": {"features": [4, 8]},
    "data": {"size": 16},
    "training": {"rounds": 3, "batch_size": 2, "workers": 0, "validate_every": 2},
    "validation": {"volumes": 1},
}


@pytest.fixture(scope="module")
def study(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    people = {"sub-01": "train", "sub-02": "train", "sub-03": "val"}
    return make_study(tmp_path_factory.mktemp("study"), people)


@pytest.fixture(scope="module")
def trained(call: Call, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three rounds."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    answer = call("train", folder / "run.yaml", "--data", study, "-o", folder / "run", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["folder"] == str(folder / "run")
    assert 0 <= told["scores"]["ssim"] <= 1
    return folder / "run"


def test_what_a_run_leaves(trained: Path) -> None:
    there = set(seen(trained))
    for part in ("best", "last"):
        assert {f"{part}/model.json", f"{part}/weights.safetensors"} <= there
    assert {"config.yaml", "log.csv", "checkpoint.pt", "samples"} <= there


def test_a_trained_model_translates(call: Call, trained: Path, study: Path, tmp_path: Path) -> None:
    scan = study / "sub-03" / "anat" / "sub-03_T1w.nii"
    answer = call("translate", scan, "--to", "t2", "--model", trained / "best", "-o", tmp_path)
    assert answer.code == 0, answer.err
    record = json.loads((tmp_path / "sub-03_desc-synth_T2w.json").read_text())
    assert record["Model"]["Name"] == "run"


def test_a_run_is_not_overwritten(call: Call, trained: Path, study: Path) -> None:
    before = seen(trained)
    command = ("train", trained.parent / "run.yaml", "--data", study, "-o", trained, "-q")
    answer = call(*command)
    assert answer.code == 3
    assert "give --resume to go on with it" in answer.err
    answer = call(*command, "--resume", "--seed", 7)
    assert answer.code == 3
    assert "another configuration" in answer.err
    assert seen(trained) == before
    answer = call(*command, "--resume")  # it is over: nothing left to do
    assert answer.code == 0, answer.err


def test_nobody_to_score_is_said_once(
    call: Call, make_study: MakeStudy, trained: Path, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "study", {"sub-01": None})
    answer = call("train", trained.parent / "run.yaml", "--data", study, "-o", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert answer.err.count('no subject is in split "val": nothing is scored') == 1


def test_a_model_folder_is_asked_for(call: Call, trained: Path, study: Path) -> None:
    scan = study / "sub-03" / "anat" / "sub-03_T1w.nii"
    answer = call("translate", scan, "--to", "t2", "--model", trained)
    assert answer.code == 4
    assert "has no model.json" in answer.err


# evaluate


def test_two_scans(call: Call, study: Path, tmp_path: Path) -> None:
    anatomy = study / "sub-01" / "anat"
    t1, t2 = anatomy / "sub-01_T1w.nii", anatomy / "sub-01_T2w.nii"
    answer = call("evaluate", t1, t2, "--source", t1, "-o", tmp_path / "scores")
    assert answer.code == 0, answer.err
    assert "brain-3d@1" in answer.out
    assert "identity" in answer.out
    with (tmp_path / "scores" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["method"] for row in rows} == {"synthetic", "identity", "pointwise"}
    assert {row["task"] for row in rows} == {"T1w->T2w"}
    psnr = {row["method"]: row["psnr"] for row in rows}
    assert psnr["synthetic"] == psnr["identity"]  # the source was handed in as its translation
    before = seen(tmp_path)
    answer = call("evaluate", t1, t2, "-o", tmp_path / "scores")
    assert answer.code == 3
    assert "give --overwrite" in answer.err
    assert seen(tmp_path) == before
    options = ("--protocol", "skimage-3d", "--json", "--overwrite")
    answer = call("evaluate", t1, t2, *options, "-o", tmp_path / "scores")
    assert json.loads(answer.out)["protocol"]["name"] == "skimage-3d"


def test_a_cohort(call: Call, trained: Path, study: Path, tmp_path: Path) -> None:
    answer = call("evaluate", study, "--model", trained / "best", "--json", "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    scores = json.loads(answer.out)
    assert len(scores["rows"]) == 3 * 2 * 3  # subjects, directions, methods
    assert {row["method"] for row in scores["rows"]} == {"run", "identity", "pointwise"}
    assert scores == json.loads((tmp_path / "out" / "scores.json").read_text())
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz")}
    assert "out/T1w-to-T2w/sub-01_desc-synth_T2w.nii.gz" in made
    assert len(made) == 6
    answer = call(
        *("evaluate", study, "--model", trained / "best", "--split", "val", "--to", "t2"),
        "--no-per-case",
    )
    assert answer.code == 0
    assert "T1w->T2w" in answer.out
    assert "T2w->T1w" not in answer.out


def test_a_bad_subject_does_not_stop_the_others(
    call: Call, trained: Path, make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "study", {"sub-01": None, "sub-02": None})
    bad = study / "sub-01" / "anat" / "sub-01_T1w.nii"
    bad.write_bytes(bad.read_bytes()[:-1])
    command = ("evaluate", study, "--model", trained / "best", "--to", "t2")
    answer = call(*command, "--json")
    assert answer.code == 1
    assert "is truncated" in answer.err
    assert {row["case"] for row in json.loads(answer.out)["rows"]} == {"sub-02"}
    other = study / "sub-02" / "anat" / "sub-02_T2w.nii"
    other.write_bytes(other.read_bytes()[:-1])
    assert call(*command).code == 3


def test_one_name_in_two_studies(
    call: Call, trained: Path, make_study: MakeStudy, tmp_path: Path
) -> None:
    studies = [make_study(tmp_path / name, {"sub-01": "val"}) for name in ("here", "there")]
    answer = call("evaluate", *studies, "--model", trained / "best", "--to", "t2", "--json")
    assert answer.code == 0, answer.err
    cases = {row["case"] for row in json.loads(answer.out)["rows"]}
    assert cases == {"sub-01_here", "sub-01_there"}


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (["--protocol", "brain-4d"], "brain-4d", 2),
        (["--to", "ct"], "is not a contrast", 2),
        (["--to", "pd"], "no subject has both ends", 3),
        (["--split", "test"], 'no subject is in split "test"', 3),
        (["--source", "{study}/participants.tsv"], "belong to two scans", 2),
        (["--mask", "missing.nii"], "does not exist", 3),
    ],
)
def test_bad_questions(
    options: list[str], says: str, code: int, call: Call, trained: Path, study: Path
) -> None:
    before = seen(study)
    options = [option.format(study=study) for option in options]
    answer = call("evaluate", study, "--model", trained / "best", *options)
    assert says in answer.err
    assert answer.code == code
    assert seen(study) == before


def test_grids_that_differ(call: Call, study: Path, make_study: MakeStudy, tmp_path: Path) -> None:
    other = make_study(tmp_path / "other", {"sub-01": None}, shape=(24, 20, 14))
    name = "sub-01/anat/sub-01_T1w.nii"
    answer = call("evaluate", study / name, other / name)
    assert answer.code == 3
    assert "resample one onto the other" in answer.err
    answer = call("evaluate", study / name)
    assert answer.code == 2
    assert "two scans were expected" in answer.err


def test_the_pointwise_map_of_the_shipped_model(call: Call, study: Path, shipped: Path) -> None:
    from medi2i.evaluation import PointwiseMap
    from medi2i.volume import load_volume

    anatomy = study / "sub-02" / "anat"
    source, target = (
        load_volume(anatomy / f"sub-02_{contrast}.nii").voxels for contrast in ("T1w", "T2w")
    )
    fitted = PointwiseMap.of(source, target, source > 0)
    path = shipped / "default" / "pointwise.json"
    path.write_text(json.dumps({"T1w->T2w": fitted.as_dict()}))
    assert zoo.shipped()
    t1, t2 = (study / "sub-01" / "anat" / f"sub-01_{c}.nii" for c in ("T1w", "T2w"))
    scores = json.loads(call("evaluate", t1, t2, "--source", t1, "--json").out)
    assert [row["method"] for row in scores["rows"]] == ["synthetic", "identity", "pointwise"]
