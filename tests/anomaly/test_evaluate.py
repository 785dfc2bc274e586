from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from medi2i.anomaly.evaluate import Look, common_threshold, evaluate_anomalies, score_looks
from medi2i.anomaly.froc import Froc, cuts_of, froc, small_lesions, tally
from medi2i.anomaly.scoring import dice
from medi2i.anomaly.table import AnomalyTable
from medi2i.data.cohort import find_cohort
from medi2i.errors import ModelError, UsageError
from medi2i.model import Model
from medi2i.task import Task
from medi2i.volume import save_volume
from tests.anomaly.test_find import FLAIR, SPOT, domain_model, flair, healing


def look(case: str, *, hit: float, miss: float, ill: bool = True, changes: bool = True) -> Look:
    """10 x 10 x 3 of brain; a lesion of 12 voxels in slice 1 that scores `hit`, the rest `miss`."""
    scores = np.full((10, 10, 3), miss, np.float32)
    lesions = np.zeros(scores.shape, bool)
    if ill:
        lesions[:4, :3, 1] = True
        scores[lesions] = hit
    brain = np.ones(scores.shape, bool)
    changed = scores if changes else None
    return Look(case, scores, brain, lesions, (10.0, 10.0, 10.0), 0.5, changed)


def test_one_method_by_hand() -> None:
    # a finds its lesion; in b healthy tissue scores higher than the lesion; c is healthy
    looks = [
        look("a", hit=0.8, miss=0.1),
        look("b", hit=0.4, miss=0.6),
        look("c", hit=0, miss=0.2, ill=False),
    ]
    rows, scores = score_looks("m", looks)
    a, b, c = (row.scores for row in rows)
    assert (a["dice"], a["best_dice"], a["auprc"]) == (1, 1, 1)
    assert a["residual"] == pytest.approx(0.1)
    assert a["inside_outside"] == pytest.approx(8)
    assert a["false_positive_ml"] == 0
    assert a["lesion_ml"] == 12
    assert (b["dice"], b["false_positive_ml"]) == (0, 288)
    assert b["auprc"] == pytest.approx(12 / 300)
    assert b["best_dice"] == pytest.approx(2 * 12 / (300 + 12))
    assert math.isnan(c["dice"])
    assert math.isnan(c["inside_outside"])
    assert c["residual"] == pytest.approx(0.2)
    assert scores.mean["dice"] == 0.5  # of two: the healthy scan has none
    assert scores.mean["residual"] == pytest.approx((0.1 + 0.6 + 0.2) / 3)
    # slices: diseased 0.8 and 0.6; healthy 0.1 twice, 0.6 twice, 0.2 three times: the first beats
    # seven, the second five and two halves
    assert scores.mean["auroc"] == pytest.approx((7 + 5 + 2 / 2) / 14)
    assert scores.froc is not None
    assert (scores.froc.lesions, scores.froc.images) == (2, 9)
    assert scores.mean["sensitivity"] == pytest.approx(0.5)
    low, high = scores.interval["sensitivity"] or (-1, -1)
    assert 0 <= low <= 0.5 <= high <= 1
    assert scores.threshold == 0.5


def test_small_lesions_are_counted_apart() -> None:
    lesions = np.zeros((20, 20, 20), bool)
    lesions[:10, :10, 0] = True  # of 100 mm3: no longer small
    lesions[15, 15, 10:12] = lesions[16, 16, 12] = True  # one, over corners
    lesions[0, 0, 15] = True
    lesions[19, 0, 15] = True
    found = np.zeros(lesions.shape, bool)
    found[16, 16, 12] = found[0, 0, 14] = True  # beside the second is not in it
    assert small_lesions(found, lesions, (1.0, 1.0, 1.0)) == (1, 3)
    assert small_lesions(found, lesions, (1.0, 1.0, 0.5)) == (1, 4)
    assert small_lesions(found, lesions, (5.0, 5.0, 5.0)) == (0, 0)
    some = Look("a", found.astype(np.float32), ~lesions | found, lesions, (1.0, 1.0, 1.0), 0.5)
    ((row,), scores) = score_looks("m", [some])
    assert row.scores["small_found"] == scores.mean["small_found"] == pytest.approx(1 / 3)


def test_the_baseline_changes_nothing_so_that_nothing_is_said_of_it() -> None:
    ((row,), scores) = score_looks("intensity", [look("a", hit=1, miss=0, changes=False)])
    assert math.isnan(row.scores["residual"])
    assert math.isnan(scores.mean["inside_outside"])
    assert scores.interval["auroc"] is None


def test_one_threshold_for_all_has_the_highest_mean() -> None:
    random = np.random.default_rng(0)
    looks = []
    for number in range(3):
        one = look(str(number), hit=0, miss=0)
        noise = random.random(one.scores.shape).astype(np.float32)
        looks.append(Look("x", noise + 0.7 * one.lesions, one.brain, one.lesions, one.spacing, 9.0))

    def mean(cut: float) -> float:
        return float(np.mean([dice(one.scores >= cut, one.lesions) for one in looks]))

    best = common_threshold(looks)
    assert mean(best) >= max(mean(cut) for cut in np.linspace(0.3, 1.6, 40)) - 0.01
    assert mean(best) > mean(9.0)
    with pytest.raises(UsageError, match="nobody has a lesion"):
        common_threshold([look("c", hit=0, miss=0, ill=False)])


def test_tallies_add_up_to_the_curve() -> None:
    random = np.random.default_rng(1)
    maps = [random.random((20, 20, 3)) for _ in range(3)]
    lesions = [random.random((20, 20, 3)) < 0.05 for _ in range(3)]
    cuts = cuts_of(maps)
    parts = [tally(m, t, cuts, sliced=True) for m, t in zip(maps, lesions, strict=True)]
    assert Froc.of(parts, cuts) == froc(maps, lesions, sliced=True)
    assert sum(part.images for part in parts) == 9


# ---- a cohort


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three people with a bright lesion, one in "train"; a fourth without lesion, or mask."""
    root = tmp_path / "study"
    rows = ["participant_id\tsplit"]
    for number in range(1, 5):
        name = f"sub-{number}"
        scan = flair(lesion=number < 4, seed=number)
        save_volume(scan, root / name / "anat" / f"{name}_FLAIR.nii.gz")
        if number < 4:
            mask = np.zeros(scan.shape, np.uint8)
            mask[SPOT] = 1
            place = root / "derivatives" / "expert" / name / "anat"
            save_volume(scan.like(mask), place / f"{name}_label-lesion_mask.nii.gz")
        rows.append(f"{name}\t{'train' if number == 1 else 'val'}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def scored(study: Path, models: dict[str, Model] | None = None, **more: object) -> AnomalyTable:
    cohort = find_cohort(study)
    return evaluate_anomalies(
        cohort.split("val").subjects,
        models or {},
        device="cpu",
        **more,  # type: ignore[arg-type]
    )


def test_a_cohort_with_an_oracle_beside_the_baseline(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = domain_model()
    healing(model, monkeypatch)
    tuning = find_cohort(study).split("train").subjects
    table = scored(study, {"oracle": model}, tuning=tuning)
    baseline, oracle = table.methods
    assert (baseline.method, oracle.method) == ("intensity", "oracle")
    assert [row.case for row in table.rows] == ["sub-2", "sub-3"] * 2
    assert oracle.mean["auroc"] == 1
    assert oracle.mean["sensitivity"] == 1
    assert oracle.mean["dice"] > 0.6
    assert oracle.mean["inside_outside"] > 5
    assert oracle.mean["residual"] < 0.02
    assert math.isnan(baseline.mean["residual"])
    assert baseline.threshold != oracle.threshold
    assert "of 1 other people" in table.notes[-2]
    assert table.notes[-1].startswith("100 % of the lesions' volume")


def test_who_has_no_mask_is_left_out_with_a_note(study: Path) -> None:
    table = scored(study)
    assert {row.case for row in table.rows} == {"sub-2", "sub-3"}
    assert any("sub-4 is left out" in note for note in table.notes)
    assert "calibration" in table.notes[-2]
    healthy = scored(study, healthy=True)
    assert [row.case for row in healthy.rows] == ["sub-2", "sub-3", "sub-4"]
    assert healthy.rows[2].scores["lesion_ml"] == 0
    assert healthy.rows[2].scores["false_positive_ml"] >= 0
    same = scored(study, tuning=find_cohort(study).split("val").subjects)
    assert same.methods[0].mean["best_dice"] >= same.methods[0].mean["dice"]


def test_the_table_in_three_forms(study: Path) -> None:
    table = scored(study, threshold=0.93)
    lines = list(csv.DictReader(io.StringIO(table.as_csv())))
    assert [line["statistic"] for line in lines] == ["case", "case", "mean", "low", "high"]
    assert float(lines[2]["threshold"]) == 0.93
    assert float(lines[3]["dice"]) <= float(lines[2]["dice"]) <= float(lines[4]["dice"])
    assert lines[0]["residual"] == ""
    record = json.loads(json.dumps(table.as_dict(), allow_nan=False))
    assert record["methods"][0]["froc"]["lesions"] == 2 * 3  # in slices
    assert record["rows"][0]["scores"]["residual"] is None
    text = table.as_markdown({"intensity": {"minutes": 0.5}})
    assert "| minutes |" in text
    assert len({line.count("|") for line in text.splitlines() if "|" in line}) == 1
    assert "at a score of 0.93" in text


def test_what_cannot_be_scored(study: Path) -> None:
    val = find_cohort(study).split("val").subjects
    with pytest.raises(UsageError, match="one of the two"):
        scored(study, threshold=0.5, tuning=val)
    with pytest.raises(UsageError, match='named "intensity"'):
        scored(study, {"intensity": domain_model()})
    with pytest.raises(UsageError, match="nobody can be scored"):
        evaluate_anomalies([val[2]], {}, device="cpu")
    ill = domain_model()
    ill.task = Task((FLAIR,), (FLAIR,), domains=("young", "old"))
    with pytest.raises(ModelError):
        scored(study, {"old": ill})
