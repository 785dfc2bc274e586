"""A table of how well methods find anomalies: means with intervals, CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medi2i.anomaly.froc import Froc
from medi2i.evaluation.overview import readable
from medi2i.evaluation.table import plain
from medi2i.files import write_whole

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "BASELINE",
    "METRICS",
    "READING",
    "AnomalyRow",
    "AnomalyTable",
    "MethodScores",
    "cells",
]

BASELINE = "intensity"
"""The method that learns nothing and stands in every table."""

METRICS: Mapping[str, tuple[str, int]] = {
    "auroc": ("AUROC of slices", 3),
    "auprc": ("AUPRC of voxels", 3),
    "best_dice": ("best Dice", 3),
    "dice": ("Dice", 3),
    "sensitivity": ("lesions found", 3),
    "small_found": ("small ones", 3),
    "residual": ("change of healthy tissue", 4),
    "inside_outside": ("inside / outside", 2),
    "false_positive_ml": ("false, ml", 1),
}
"""The columns: title, and digits behind the point."""

READING = (
    "AUROC: highest score of a slice in the brain, diseased against healthy slices. Best Dice: at "
    "the threshold that suits each scan, which only its truth tells. Lesions found: share of those "
    "in slices, at one false alarm per slice; small ones: share of those below 0.1 ml of which any "
    "voxel is found at the threshold for Dice. Change of healthy tissue: mean absolute change "
    "outside of lesions, as a share of the scan's range; inside / outside: how many times more "
    "lesions change. False: what is found outside of lesions. [ ]: 95 % bootstrap interval over "
    "people."
)


@dataclass(frozen=True)
class AnomalyRow:
    """One scan by one method: scores by name; nan where there is none."""

    case: str
    method: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class MethodScores:
    """One method over all scans.

    Attributes:
        cases: scans.
        mean: by metric: over scans that have it; AUROC and sensitivity over all slices.
        interval: ends of the 95 % bootstrap interval over people; None for fewer than two.
        threshold: for Dice; the mean where each scan has its own.
        froc: the free-response curve over slices; None without a lesion.
    """

    method: str
    cases: int
    mean: Mapping[str, float]
    interval: Mapping[str, tuple[float, float] | None]
    threshold: float
    froc: Froc | None = None


@dataclass(frozen=True)
class AnomalyTable:
    """The scores of methods on the same scans.

    Attributes:
        rows: of each scan. methods: of all scans, the baseline first.
        notes: sentences on how the threshold came about and who is left out.
        seed: of the bootstrap.
    """

    rows: tuple[AnomalyRow, ...]
    methods: tuple[MethodScores, ...]
    notes: tuple[str, ...] = ()
    seed: int = 0

    def as_csv(self) -> str:
        """A line per scan, then three per method: mean, low, high."""
        names = [*METRICS, "lesion_ml", "small_lesions", "threshold"]
        stream = io.StringIO(newline="")
        columns = ["statistic", "method", "case", *names]
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()

        def line(statistic: str, method: str, case: str, scores: Mapping[str, float]) -> None:
            known = {name: value for name, value in scores.items() if not math.isnan(value)}
            writer.writerow({"statistic": statistic, "method": method, "case": case, **known})

        for row in self.rows:
            line("case", row.method, row.case, row.scores)
        for one in self.methods:
            line("mean", one.method, "", {**one.mean, "threshold": one.threshold})
            for end, statistic in enumerate(("low", "high")):
                ends = {name: pair[end] for name, pair in one.interval.items() if pair}
                line(statistic, one.method, "", ends)
        return stream.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """Everything, the free-response curves too, as JSON takes it."""
        result: dict[str, Any] = plain(
            {
                "bootstrap": {"seed": self.seed, "level": 0.95, "unit": "person"},
                "notes": self.notes,
                "rows": [asdict(row) for row in self.rows],
                "methods": [asdict(one) for one in self.methods],
            }
        )
        return result

    def as_markdown(self, costs: Mapping[str, Mapping[str, Any]] | None = None) -> str:
        """A line per method, and how to read it.

        Args:
            costs: further columns, by method and then by title.
        """
        more = list(dict.fromkeys(name for own in (costs or {}).values() for name in own))
        heads = ["", *(title for title, _ in METRICS.values()), *more]
        lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for one in self.methods:
            own = (costs or {}).get(one.method, {})
            line = [one.method, *cells(one), *(readable(own.get(name)) for name in more)]
            lines.append(f"| {' | '.join(line)} |")
        people = f"{self.methods[0].cases} scans." if self.methods else ""
        return "\n".join([*lines, "", " ".join([people, *self.notes, READING])]) + "\n"

    def to_rich(self, *, per_case: bool = True) -> Table:
        """The table for a terminal.

        Args:
            per_case: also a line for each scan.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(title="anomalies")
        for name in ("method", "case"):
            table.add_column(name)
        for title, _ in METRICS.values():
            table.add_column(title, justify="right")
        for one in self.methods:
            for row in self.rows if per_case else ():
                if row.method == one.method:
                    own = [_number(row.scores.get(n, math.nan), d) for n, (_, d) in METRICS.items()]
                    table.add_row(*map(Text, [row.method, row.case, *own]), style="dim")
            which = f"all {one.cases}"
            style = "dim" if one.method == BASELINE else ""
            whole = [one.method, which, *cells(one)]
            table.add_row(*map(Text, whole), style=style, end_section=True)
        table.caption = Text("\n".join([*self.notes, READING]))
        return table

    def save(self, folder: Path) -> None:
        """Write scores.csv, scores.json and scores.md into a folder that is there."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(folder / "scores.csv", self.as_csv())
        write_whole(folder / "scores.json", text + "\n")
        write_whole(folder / "scores.md", self.as_markdown())


def cells(one: MethodScores) -> list[str]:
    """Each of `METRICS` with its interval, rounded."""
    shown = []
    for name, (_, digits) in METRICS.items():
        cell = _number(one.mean.get(name, math.nan), digits)
        if pair := one.interval.get(name):
            cell += f" [{_number(pair[0], digits)}, {_number(pair[1], digits)}]"
        shown.append(cell)
    return shown


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
