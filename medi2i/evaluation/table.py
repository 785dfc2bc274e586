"""A table of scores: rows, means with bootstrap intervals, CSV, JSON, terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medi2i.evaluation.protocols import Protocol
from medi2i.evaluation.scoring import Scores
from medi2i.files import write_whole

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["BASELINES", "Row", "ScoreTable", "Summary", "bootstrap_interval", "plain"]

BASELINES = ("identity", "pointwise")
RESAMPLES = 10_000

_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "mae": "MAE", "nmse": "NMSE"}


@dataclass(frozen=True)
class Row:
    """What one method scored on one case."""

    case: str
    task: str
    method: str
    scores: Scores

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "case": self.case,
            "task": self.task,
            "method": self.method,
            **self.scores.as_dict(),
        }


@dataclass(frozen=True)
class Summary:
    """A method's mean over the cases of a task, by metric, with the ends of a 95 % interval.

    The interval is None with one case, and for a metric that is not finite everywhere.
    """

    task: str
    method: str
    cases: int
    mean: Mapping[str, float]
    interval: Mapping[str, tuple[float, float] | None]


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The 2.5 and 97.5 percentiles of the mean of `values` drawn anew with replacement.

    Args:
        values: one per case.
        seed: the same seed draws the same cases, so that methods are compared on equal draws.

    Returns:
        None for fewer than two values, and where one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2 or not np.isfinite(array).all():
        return None
    drawn = np.random.default_rng(seed).integers(0, array.size, (resamples, array.size))
    low, high = np.percentile(array[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class ScoreTable:
    """The scores of methods on cases, under one protocol.

    Attributes:
        protocol: under which all were scored.
        rows: by task and case in the order given; the baselines follow the methods.
        notes: sentences on what is missing and why, and how the pointwise maps were fitted.
        seed: of the bootstrap.
    """

    protocol: Protocol
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    seed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The columns: the four that every protocol has, and its own."""
        extra = dict.fromkeys(name for row in self.rows for name in row.scores.extra)
        return ("psnr", "ssim", "mae", "nmse", *extra)

    def summaries(self) -> list[Summary]:
        """Mean and interval of each method on each task."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.task, row.method), []).append(row)
        tasks = list(dict.fromkeys(task for task, _ in groups))
        result = []
        # Stable sorts: tasks in their order, methods before baselines.
        for task, method in sorted(
            groups, key=lambda key: (tasks.index(key[0]), key[1] in BASELINES)
        ):
            rows = groups[task, method]
            columns = {
                name: [row.scores.as_dict().get(name, math.nan) for row in rows]
                for name in self.metrics
            }
            result.append(
                Summary(
                    task,
                    method,
                    len(rows),
                    {name: float(np.mean(column)) for name, column in columns.items()},
                    {
                        name: bootstrap_interval(column, seed=self.seed)
                        for name, column in columns.items()
                    },
                )
            )
        return result

    def to_csv(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a line per score, then a line per mean and per end of an interval.

        The column `statistic` tells them apart: case, mean, low, high.

        Raises:
            OutputError: `path` exists, or cannot be written.
        """
        stream = io.StringIO(newline="")
        columns = ["statistic", "task", "method", "case", "protocol", *self.metrics, "voxels"]
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({"statistic": "case", **row.as_dict()})
        for summary in self.summaries():
            shared = {
                "task": summary.task,
                "method": summary.method,
                "protocol": self.protocol.key,
            }
            writer.writerow({"statistic": "mean", **shared, **summary.mean})
            for end, statistic in enumerate(("low", "high")):
                ends = {name: pair[end] for name, pair in summary.interval.items() if pair}
                if ends:
                    writer.writerow({"statistic": statistic, **shared, **ends})
        return write_whole(path, stream.getvalue(), overwrite=overwrite)

    def as_dict(self) -> dict[str, Any]:
        """The protocol's record, every score, means, intervals and notes, as JSON takes them.

        Infinite scores are the text "inf", which JSON has no number for.
        """
        record = {
            "protocol": self.protocol.as_dict(),
            "bootstrap": {"resamples": RESAMPLES, "seed": self.seed, "level": 0.95},
            "notes": self.notes,
            "rows": [row.as_dict() for row in self.rows],
            "summary": [
                {
                    "task": summary.task,
                    "method": summary.method,
                    "cases": summary.cases,
                    "mean": summary.mean,
                    "interval": summary.interval,
                }
                for summary in self.summaries()
            ],
        }
        result: dict[str, Any] = plain(record)
        return result

    def to_json(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write `as_dict`.

        Raises:
            OutputError: `path` exists, or cannot be written.
        """
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        return write_whole(path, text + "\n", overwrite=overwrite)

    def to_rich(self, *, per_case: bool = True) -> Table:
        """The table for a terminal, with the means and intervals, and the notes below.

        Args:
            per_case: also a line for each case.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.protocol.key)
        for name in ("task", "method", "case"):
            table.add_column(name)
        for name in self.metrics:
            unit = " dB" if name == "psnr" else ""
            table.add_column(_TITLES.get(name, name.replace("_", " ")) + unit, justify="right")
        for summary in self.summaries():
            style = "dim" if summary.method in BASELINES else ""
            own = [r for r in self.rows if (r.task, r.method) == (summary.task, summary.method)]
            if per_case and summary.cases > 1:
                for row in own:
                    cells = [row.task, row.method, row.case]
                    scores = row.scores.as_dict()
                    cells += [_number(name, scores.get(name, math.nan)) for name in self.metrics]
                    table.add_row(*map(Text, cells), style="dim")
            which = own[0].case if summary.cases == 1 else f"mean of {summary.cases}"
            cells = [summary.task, summary.method, which]
            for name in self.metrics:
                cell = _number(name, summary.mean[name])
                if pair := summary.interval[name]:
                    cell += f" [{_number(name, pair[0])}, {_number(name, pair[1])}]"
                cells.append(cell)
            table.add_row(*map(Text, cells), style=style, end_section=per_case)
        few = any(summary.cases == 1 for summary in self.summaries())
        notes = [*self.notes, *(["One case has no interval."] if few else [])]
        brackets = "[ ]: 95 % bootstrap interval of the mean over cases."
        table.caption = Text("\n".join([brackets, *notes]))
        return table


def _number(metric: str, value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{value:.2f}" if metric == "psnr" else f"{value:.4f}"


def plain(value: Any) -> Any:
    """Nested values as JSON takes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
