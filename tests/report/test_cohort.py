"""Pages of evaluations: they hold what the CSV and the JSON hold, and nothing of where it was."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from medi2i.anomaly.table import METRICS, AnomalyRow, AnomalyTable, MethodScores
from medi2i.cli.evaluate_cohort import write_page
from medi2i.evaluation import Case, compare
from medi2i.evaluation.protocols import protocol
from medi2i.evaluation.scoring import Scores
from medi2i.evaluation.table import Row, ScoreTable
from medi2i.report.cohort import chosen_rows, picture_of, write_anomaly_cohort, write_cohort
from medi2i.report.html import policy
from tests.report.conftest import EVIL, Finished, Parsed, finish

Cell = tuple[str, dict[str, str | None]]


class Tables(HTMLParser):
    """The tables of a page by the id of their section: heads, then lines of (text, attributes)."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.heads: dict[str, list[str]] = {}
        self.lines: dict[str, list[list[Cell]]] = {}
        self._section, self._tag, self._in_head = "", "", False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._section = dict(attrs).get("id") or ""
            self.heads[self._section], self.lines[self._section] = [], []
        elif tag == "thead":
            self._in_head = True
        elif tag == "tr" and not self._in_head:
            self.lines[self._section].append([])
        elif tag == "td":
            self.lines[self._section][-1].append(("", dict(attrs)))
        self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        self._in_head = self._in_head and tag != "thead"
        self._tag = "" if tag in ("td", "button") else self._tag

    def handle_data(self, data: str) -> None:
        if self._in_head and self._tag == "button":
            self.heads[self._section].append(data)
        elif self._tag in ("td", "a") and self.lines.get(self._section):
            text, attributes = self.lines[self._section][-1][-1]
            self.lines[self._section][-1][-1] = (text + data, attributes)

    def column(self, section: str, head: str) -> list[Cell]:
        place = self.heads[section].index(head)
        return [line[place] for line in self.lines[section]]


def cases_in(folder: Path) -> tuple[list[Case], list[Finished]]:
    made = [finish(folder / name, name) for name in ("sub-01", "sub-02", "sub-03")]
    scans = [made[0].scan, made[1].reference, made[2].source]  # the second is perfect
    return [
        Case(f"{one.source.name} {EVIL}", "T1w->T2w", {f"unet {EVIL}": scan}, one.reference, source)
        for one, scan, source in zip(made, scans, [m.source for m in made], strict=True)
    ], made


def test_the_page_of_scores_holds_what_the_csv_holds(tmp_path: Path) -> None:
    cases, _ = cases_in(tmp_path / "Jane Doe")
    table = compare(cases)
    rows = chosen_rows(table)
    assert [what for what, _ in rows] == ["worst", "median"]
    named = {case.name: case for case in cases}
    pictures = [picture_of(what, row, named[row.case]) for what, row in rows]
    page = write_cohort(tmp_path / "out" / "report.html", table, pictures=pictures)

    parsed, tables = Parsed(page), Tables(page)
    lines = list(csv.DictReader(io.StringIO(table.to_csv(tmp_path / "scores.csv").read_text())))
    titles = {"psnr": "PSNR, dB", "ssim": "SSIM", "mae": "MAE", "nmse": "NMSE"}
    for name, title in titles.items():
        told = {
            method: (attributes["data-sort"], attributes.get("data-low"))
            for (method, _), (_, attributes) in zip(
                tables.column("scores", "method"), tables.column("scores", title), strict=True
            )
        }
        means = {one["method"]: one[name] for one in lines if one["statistic"] == "mean"}
        lows = {one["method"]: one[name] for one in lines if one["statistic"] == "low"}
        assert set(told) == {f"unet {EVIL}", "identity", "pointwise"} == set(means)
        for method, (mean, low) in told.items():
            assert float(mean or "") == float(means[method])
            assert low is None or float(low) == float(lows[method])
        scored = {r["case"]: r[name] for r in lines if r["statistic"] == "case"
                  and r["method"].startswith("unet")}  # fmt: skip
        each = zip(tables.column("cases", "case"), tables.column("cases", title), strict=True)
        assert {c: float(a["data-sort"] or "") for (c, _), (_, a) in each} == {
            case: float(value) for case, value in scored.items()
        }
    order = [float(a["data-sort"] or "") for _, a in tables.column("cases", "SSIM")]
    assert order == sorted(order)
    assert order[-1] == pytest.approx(1, abs=1e-4)
    identity = {r["case"]: float(r["ssim"]) for r in lines if r["method"] == "identity"
                and r["statistic"] == "case"}  # fmt: skip
    beside = zip(
        tables.column("cases", "case"), tables.column("cases", "identity: SSIM"), strict=True
    )
    assert {c: float(a["data-sort"] or "") for (c, _), (_, a) in beside} == identity

    assert "Under brain-3d@1" in parsed.text
    assert "page" not in tables.heads["cases"]  # there are none
    assert len(parsed.all("img")) == 2
    assert all((image["src"] or "").startswith("data:image/png") for image in parsed.all("img"))
    assert set(parsed.scripts) == {""}
    content = page.read_text()
    assert EVIL not in content
    assert policy("", "").partition("; ")[0] in content
    for leak in (str(tmp_path), "Jane", "http:", "https:"):
        assert leak not in content


def test_pages_of_scans_are_linked_where_they_are_not_older(tmp_path: Path) -> None:
    cases, made = cases_in(tmp_path)
    fresh = made[0].scan.with_name("sub-01_desc-synth_T2w_report.html")
    fresh.write_text("x")
    table = compare(cases)
    page = tmp_path / "report.html"
    write_page(page, table, cases)
    links = [page.parent / unquote(link["href"] or "") for link in Parsed(page).all("a")]
    assert links == [fresh]
    os.utime(fresh, ns=(0, 0))
    write_page(page, table, cases)
    assert Parsed(page).all("a") == []


def row(case: str, ssim: float, method: str = "m") -> Row:
    return Row(case, "T1w->T2w", method, Scores("brain-3d@1", 20, ssim, 0.1, 0.1, 10))


@pytest.mark.parametrize(
    ("ssims", "expected"),
    [
        ((0.5,), [("only", 0.5)]),
        ((0.5, 0.4), [("worst", 0.4), ("median", 0.5)]),
        ((0.5, 0.4, 0.6), [("worst", 0.4), ("median", 0.5)]),
        ((0.5, 0.4, 0.6, 0.1), [("worst", 0.1), ("median", 0.5)]),
        ((0.5, math.nan, 0.6), [("worst", 0.5), ("median", 0.6)]),
    ],
)
def test_the_worst_and_the_median(
    ssims: tuple[float, ...], expected: list[tuple[str, float]]
) -> None:
    rows = [row(str(number), ssim) for number, ssim in enumerate(ssims)]
    rows += [row(str(number), 0.0, "identity") for number in range(len(ssims))]
    table = ScoreTable(protocol("brain-3d"), tuple(rows))
    assert [(what, one.scores.ssim) for what, one in chosen_rows(table)] == expected


def test_the_page_of_anomalies_holds_what_the_json_holds(tmp_path: Path) -> None:
    dice = {("a", "intensity"): 0.75, ("b", "intensity"): 0.25, ("c", "intensity"): math.nan}
    dice |= {("a", EVIL): 0.5, ("b", EVIL): 0.125, ("c", EVIL): math.nan}
    rows = [
        AnomalyRow(case, method, {"dice": value, "auprc": value / 2, "lesion_ml": 1 / 3})
        for (case, method), value in dice.items()
    ]
    methods = [
        MethodScores(name, 3, {"dice": mean, "auroc": math.nan}, {"dice": (0.1, 1 / 3)}, 0.9)
        for name, mean in (("intensity", 0.5), (EVIL, 0.3125))
    ]
    table = AnomalyTable(tuple(rows), tuple(methods), (f"left out: {EVIL}.",))
    page = write_anomaly_cohort(tmp_path / "report.html", table)
    tables, record = Tables(page), json.loads(json.dumps(table.as_dict()))
    for (method, _), (shown, cell), one in zip(
        tables.column("scores", "method"),
        tables.column("scores", METRICS["dice"][0]),
        record["methods"],
        strict=True,
    ):
        assert method == one["method"]
        assert float(cell["data-sort"] or "") == one["mean"]["dice"]
        assert [float(cell[f"data-{end}"] or "") for end in ("low", "high")] == one["interval"][
            "dice"
        ]
        assert shown == f"{one['mean']['dice']:.3f} [0.100, 0.333]"
    found = [
        (case, method, cell["data-sort"])
        for (case, _), (method, _), (_, cell) in zip(
            *(tables.column("cases", head) for head in ("case", "method", "Dice")), strict=True
        )
    ]
    assert found == [
        *(("b", "intensity", "0.25"), ("b", EVIL, "0.125"), ("a", "intensity", "0.75")),
        *(("a", EVIL, "0.5"), ("c", "intensity", ""), ("c", EVIL, "")),
    ]
    assert EVIL not in page.read_text()
    assert f"left out: {EVIL}." in Parsed(page).text
