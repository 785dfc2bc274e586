"""The report of an evaluation: scores of methods over cases, the worst case first, and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medi2i.anomaly.beside import by_dice
from medi2i.anomaly.table import BASELINE, METRICS, READING, AnomalyTable
from medi2i.anomaly.table import cells as anomaly_cells
from medi2i.evaluation import Case, Row, ScoreTable
from medi2i.evaluation.evaluate import Scan
from medi2i.evaluation.table import BASELINES
from medi2i.files import write_whole
from medi2i.report.html import Html, data_uri, document, element
from medi2i.report.index import link
from medi2i.report.panels import Panel, aligned, difference_panels, picture
from medi2i.report.parts import TITLES, footer_part, header_part, metric, protocol_part
from medi2i.report.tables import number, sortable, text
from medi2i.volume import Volume, load_volume

__all__ = ["Picture", "chosen_rows", "picture_of", "write_anomaly_cohort", "write_cohort"]

WIDTH = 700
"""Pixels of a picture, about."""
ORDER = "ssim"
"""Cases are listed by it, the lowest first."""


@dataclass(frozen=True)
class Picture:
    """One that is shown.

    Attributes:
        caption: what it shows.
        content: PNG.
    """

    caption: str
    content: bytes


def chosen_rows(table: ScoreTable) -> list[tuple[str, Row]]:
    """For each translation and method "worst" and "median", with the row that is it by SSIM.

    Of an even number of cases the better one in the middle is the median; one alone is "only".
    """
    found: list[tuple[str, Row]] = []
    for one in table.summaries():
        if one.method not in BASELINES:
            own = [r for r in table.rows if (r.task, r.method) == (one.task, one.method)]
            ranked = _worst_first(own)
            if len(ranked) > 1:
                found.append(("worst", ranked[0]))
            found.append(("median" if len(ranked) > 1 else "only", ranked[len(ranked) // 2]))
    return found


def picture_of(what: str, row: Row, case: Case) -> Picture:
    """Source, synthetic and acquired scan and the difference, in three planes.

    Args:
        what: as in :func:`chosen_rows`.
        row: what `case` scored.
    """

    def loaded(scan: Scan) -> Volume:
        return scan if isinstance(scan, Volume) else load_volume(scan)

    synthetic, real = loaded(case.predictions[row.method]), loaded(case.target)
    source = None if case.source is None else loaded(case.source)
    start, _, target = row.task.partition("->")
    panels = [] if source is None else [Panel(f"source {start}".rstrip(), source)]
    panels += [Panel(f"SYNTHETIC {target}", synthetic), Panel(f"acquired {target}", real)]
    panels += difference_panels(synthetic, real, source)
    scores = f"PSNR {row.scores.psnr:.2f} dB, SSIM {row.scores.ssim:.4f}"
    return Picture(
        f"{row.task}, {row.method}, {what}: {row.case} ({scores})",
        picture(aligned(panels), width=WIDTH),
    )


def write_cohort(
    path: Path,
    table: ScoreTable,
    *,
    pictures: Sequence[Picture] = (),
    pages: Mapping[tuple[str, str], Path] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page of scores.

    Args:
        path: .html.
        table: methods and baselines.
        pictures: of some cases.
        pages: of scans, by translation and case; linked from `path`.

    Raises:
        OutputError: `path` exists and `overwrite` is False, or cannot be written.
    """
    methods = dict.fromkeys(row.method for row in table.rows if row.method not in BASELINES)
    cases = len({row.case for row in table.rows})
    names = f"{', '.join(methods)}; {cases} case{'' if cases == 1 else 's'}; {table.protocol.key}"
    heads = ["translation", "method", "cases", *(TITLES.get(m, m) for m in table.metrics)]
    lines = []
    for one in table.summaries():
        cells = [text(one.task), text(one.method), number(one.cases, str(one.cases))]
        for name in table.metrics:
            shown, ends = metric(name, one.mean[name]), one.interval[name]
            if ends:
                shown += f" [{metric(name, ends[0])}, {metric(name, ends[1])}]"
            cells.append(number(one.mean[name], shown, ends))
        lines.append(cells)
    summary = element(
        "section",
        element("h2", "Scores"),
        sortable(heads, lines),
        element("p", "[ ]: 95 % bootstrap interval of the mean over cases.", class_="hint"),
        *protocol_part(table),
        id="scores",
    )
    return _page(
        path,
        header_part("Scores", names),
        summary,
        _pictures(pictures),
        _cases(path.parent, table, pages or {}),
        overwrite=overwrite,
    )


def write_anomaly_cohort(
    path: Path, table: AnomalyTable, *, pictures: Sequence[Picture] = (), overwrite: bool = False
) -> Path:
    """Write the page of how well what is not normal is found.

    Args:
        path: .html.
        table: methods, the baseline of intensity too.
        pictures: of some cases, all methods beside each other.

    Raises:
        OutputError: `path` exists and `overwrite` is False, or cannot be written.
    """
    titles = [title for title, _ in METRICS.values()]
    lines = []
    for one in table.methods:
        shown = dict(zip(METRICS, anomaly_cells(one), strict=True))
        cells = [number(one.mean.get(m), shown[m], one.interval.get(m)) for m in METRICS]
        lines.append([text(one.method), *cells, number(one.threshold)])
    summary = element(
        "section",
        element("h2", "Scores"),
        sortable(["method", *titles, "threshold"], lines),
        *(element("p", note) for note in table.notes),
        element("p", READING, class_="hint"),
        id="scores",
    )
    place = {case: number for number, case in enumerate(by_dice(table))}
    # the worst first, whoever has no lesion last
    rows = sorted(table.rows, key=lambda row: place.get(row.case, len(place)))
    names = (*METRICS, "lesion_ml")
    each = [
        [text(row.case), text(row.method), *(number(row.scores.get(name)) for name in names)]
        for row in rows
    ]
    cases = element(
        "section",
        element("h2", "Cases"),
        element("p", "By the mean Dice of all methods, the worst first.", class_="hint"),
        sortable(["case", "method", *titles, "lesions, ml"], each),
        id="cases",
    )
    people = len({row.case for row in table.rows})
    said = f"{', '.join(one.method for one in table.methods)}; {people} scans"
    return _page(
        path,
        header_part("What is not normal: scores", f'{said}; "{BASELINE}" learns nothing'),
        summary,
        _pictures(pictures),
        cases,
        overwrite=overwrite,
    )


def _page(path: Path, *parts: Html | None, overwrite: bool) -> Path:
    whole = document(
        "medi2i: scores", *parts, footer_part(), style="report.css", script="tables.js"
    )
    return write_whole(path, whole, overwrite=overwrite)


def _pictures(pictures: Sequence[Picture]) -> Html | None:
    if not pictures:
        return None
    figures = [
        element(
            "figure",
            element("figcaption", one.caption),
            element("img", src=data_uri(one.content), alt=one.caption),
        )
        for one in pictures
    ]
    return element(
        "section",
        element("h2", "Pictures"),
        element("div", *figures, class_="panels"),
        class_="pictures",
        id="pictures",
    )


def _cases(folder: Path, table: ScoreTable, pages: Mapping[tuple[str, str], Path]) -> Html:
    """A line per case and method with the baselines' SSIM beside it."""
    scored = {(row.task, row.case, row.method): row.scores for row in table.rows}
    beside = [name for name in BASELINES if any(row.method == name for row in table.rows)]
    heads = ["translation", "case", "method", *(TITLES.get(m, m) for m in table.metrics)]
    heads += [f"{name}: SSIM" for name in beside] + (["page"] if pages else [])
    lines = []
    for row in _worst_first([row for row in table.rows if row.method not in BASELINES]):
        values = row.scores.as_dict()
        cells = [text(row.task), text(row.case), text(row.method)]
        for name in table.metrics:
            value = values.get(name, math.nan)
            cells.append(number(value, metric(name, value)))
        for name in beside:
            rival = scored.get((row.task, row.case, name))
            cells.append(number(rival.ssim, metric("ssim", rival.ssim)) if rival else number(None))
        if pages:
            page = pages.get((row.task, row.case))
            cells.append(text(None if page is None else link(folder, page)))
        lines.append(cells)
    return element(
        "section",
        element("h2", "Cases"),
        element("p", "By SSIM, the worst first.", class_="hint"),
        sortable(heads, lines),
        id="cases",
    )


def _worst_first(rows: Sequence[Row]) -> list[Row]:
    """By the score that cases are listed by; what has none comes last."""

    def key(row: Row) -> tuple[bool, float]:
        value = float(row.scores.as_dict()[ORDER])
        return math.isnan(value), 0.0 if math.isnan(value) else value

    return sorted(rows, key=key)
