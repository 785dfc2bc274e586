"""``medi2i evaluate --anomaly``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medi2i.model import write_model
from medi2i.volume import save_volume
from tests.anomaly.test_find import SPOT, domain_model, flair
from tests.cli.conftest import Call


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for number in (1, 2):
        name = f"sub-{number}"
        scan = flair(seed=number)
        save_volume(scan, root / name / "anat" / f"{name}_FLAIR.nii.gz")
        mask = np.zeros(scan.shape, np.uint8)
        mask[SPOT] = 1
        place = root / "derivatives" / "expert" / name / "anat"
        save_volume(scan.like(mask), place / f"{name}_label-lesion_mask.nii.gz")
    (root / "participants.tsv").write_text("participant_id\tsplit\nsub-1\ttrain\nsub-2\tval\n")
    return root


def test_models_beside_the_baseline(call: Call, study: Path, tmp_path: Path) -> None:
    models = [write_model(domain_model(), tmp_path / name) for name in ("one", "two")]
    answer = call(
        *("evaluate", "--anomaly", study, "--model", models[0], "--model", models[1]),
        *("--split", "val", "--tuned-on", "train", "-o", tmp_path / "out", "--json"),
        *("--device", "cpu"),
    )
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    methods = {one["method"]: one for one in record["methods"]}
    assert list(methods) == ["intensity", "one", "two"]  # the two have one name
    assert methods["intensity"]["mean"]["dice"] > 0.5
    assert {row["case"] for row in record["rows"]} == {"sub-2"}
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == record
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("scores.csv", "scores.json", "scores.md")
    ]


def test_the_baseline_alone(call: Call, study: Path) -> None:
    answer = call("evaluate", "--anomaly", study, "--threshold", "0.93")
    assert answer.code == 0, answer.err
    assert "intensity" in answer.out
    assert "all 2" in answer.out
    assert "0.93" in answer.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--anomaly", "--to", "t2"), "belong to translations"),
        (("--anomaly", "--threshold", "1", "--tuned-on", "train"), "one of the two"),
        (("--tuned-on", "train"), "belong to --anomaly"),
        (("--healthy",), "belong to --anomaly"),
        (("--anomaly", "--report"), "folder with -o"),
        (("--model", "a", "--model", "b"), "several models"),
    ],
)
def test_words_that_do_not_fit(call: Call, study: Path, words: tuple[str, ...], said: str) -> None:
    answer = call("evaluate", study, *words)
    assert answer.code == 2
    assert said in " ".join(answer.err.split())
