from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np
import pytest

from medi2i.errors import UsageError
from medi2i.evaluation import Overview, Row, Scores, ScoreTable, paired_test, protocol

CASES = [f"sub-{number}" for number in range(6)]
COSTS: dict[str, dict[str, Any]] = {
    "slow": {"pairing": "paired", "parameters": 1_234_567, "s / round": 0.12345},
    "fast": {"pairing": "unpaired", "parameters": 89, "s / round": None},
}


def overview(costs: dict[str, dict[str, Any]] = COSTS) -> Overview:
    """Methods that differ by a fixed amount; two cases have lesions, where SSIM is halved."""
    rows = []
    for place, case in enumerate(CASES):
        for method, offset in (("fast", 0.1), ("identity", 0.0), ("slow", 0.2), ("pointwise", 0.0)):
            ssim = 0.5 + 0.01 * place**2 + offset
            extra = {"lesion": ssim / 2} if place in (1, 3) else {}
            scores = Scores("brain-3d@1", 40 * ssim, ssim, 1 - ssim, 0.1, 100, extra)
            rows.append(Row(case, "T1w->T2w", method, scores))
    table = ScoreTable(protocol("brain-3d"), tuple(rows), ("A note.",), seed=3)
    return Overview(table, ("psnr", "ssim", "lesion", "absent"), costs)


def lines(text: str) -> dict[str, dict[str, str]]:
    return {line["method"]: line for line in csv.DictReader(io.StringIO(text))}


def test_baselines_come_first_and_then_the_order_of_the_costs() -> None:
    assert overview().methods == ["identity", "pointwise", "slow", "fast"]
    assert overview({}).methods == ["identity", "pointwise", "fast", "slow"]


def test_means_are_over_those_who_have_the_metric() -> None:
    line = lines(overview().as_csv())["slow"]
    values = [0.7 + 0.01 * place**2 for place in range(6)]
    assert line["cases"] == "6"
    assert float(line["ssim"]) == pytest.approx(np.mean(values))
    assert float(line["psnr"]) == pytest.approx(40 * np.mean(values))
    assert float(line["lesion"]) == pytest.approx((values[1] + values[3]) / 4)
    # two cases: the interval reaches from one to the other
    assert float(line["lesion low"]) == pytest.approx(values[1] / 2)
    assert float(line["lesion high"]) == pytest.approx(values[3] / 2)
    assert float(line["ssim low"]) < float(line["ssim"]) < float(line["ssim high"])
    assert line["absent"] == line["absent low"] == ""


def test_every_method_is_tested_against_the_pointwise_map() -> None:
    written = lines(overview().as_csv())
    column = "p (ssim against pointwise)"
    assert float(written["slow"][column]) == pytest.approx(2 / 2**6)  # all six signs alike
    assert written["identity"][column] == ""  # the same scores
    assert written["pointwise"][column] == ""
    assert (written["slow"]["parameters"], written["fast"]["s / round"]) == ("1234567", "")


def test_markdown_says_the_same_in_short() -> None:
    text = overview().as_markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    slow = next(line for line in table if line.startswith("| slow"))
    cells = [cell.strip() for cell in slow.strip("|").split("|")]
    assert cells[1].startswith("31.67 [")
    assert cells[2].startswith("0.7917 [")
    assert cells[4:] == ["-", "0.031", "paired", "1 234 567", "0.123"]
    assert "T1w->T2w, 6 subjects, brain-3d@1" in text
    assert "A note." in text


def test_one_task_at_a_time() -> None:
    rows = [
        Row("a", task, "m", Scores("brain-3d@1", 1, 1, 1, 1, 1)) for task in ("T1w->T2w", "b->c")
    ]
    with pytest.raises(UsageError, match="2 tasks"):
        Overview(ScoreTable(protocol("brain-3d"), tuple(rows)), ("ssim",))


def test_the_paired_test_needs_cases_and_differences() -> None:
    higher, lower = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [0.4, 0.48, 0.57, 0.66, 0.75, 0.79]
    assert paired_test(higher, lower) == paired_test(lower, higher) == pytest.approx(2 / 2**6)
    # the largest difference the other way: ranks 6 against 15; of 64 signs 7 have as little, twice
    assert paired_test([*higher[:5], 0.5], [*lower[:5], 0.79]) == pytest.approx(2 * 14 / 64)
    assert paired_test(higher[:4], lower[:4]) is None
    assert paired_test(higher, higher) is None
    assert paired_test([*higher[:5], math.inf], lower) is None
    with pytest.raises(UsageError, match="the same cases"):
        paired_test(higher, lower[:5])
