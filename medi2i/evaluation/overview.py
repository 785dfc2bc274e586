"""One line per method: its scores beside what it cost to train, for readers and for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from medi2i.errors import UsageError
from medi2i.evaluation.table import BASELINES, ScoreTable, bootstrap_interval

__all__ = ["Overview", "paired_test", "readable"]

FEWEST = 5
"""Cases for a paired test: with four, no outcome has p < 0.1."""
DIGITS = {"psnr": 2, "through-plane": 2}
TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "mae": "MAE", "nmse": "NMSE"}


def paired_test(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed ranks for two methods on the same cases.

    Args:
        one, other: a score per case, in the same order.

    Returns:
        None for fewer than five cases, and where both are alike or a score is not finite.

    Raises:
        UsageError: they differ in length.

    >>> paired_test([0.5, 0.6, 0.7, 0.8, 0.9], [0.4, 0.48, 0.57, 0.66, 0.75])
    0.0625
    """
    if len(one) != len(other):
        raise UsageError(
            f"{len(one)} and {len(other)} scores were given; a paired test needs both methods on "
            "the same cases"
        )
    difference = np.subtract(one, other)
    if len(one) < FEWEST or not np.isfinite(difference).all() or np.abs(difference).max() < 1e-12:
        return None
    return float(wilcoxon(difference).pvalue)


@dataclass(frozen=True)
class Overview:
    """The scores of one task, a line per method.

    A metric is averaged over the cases that have it: where nobody is ill, there are no lesions.

    Attributes:
        table: the scores; of one task.
        metrics: the columns, in order.
        costs: by method, then by column: what else there is to say. Methods stand in this order,
            after the baselines and whoever is not named here.
        tested: the metric of the paired test, and the method that all others are tested against.

    Raises:
        UsageError: several tasks.
    """

    table: ScoreTable
    metrics: Sequence[str]
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tested: tuple[str, str] = ("ssim", "pointwise")

    def __post_init__(self) -> None:
        tasks = sorted({row.task for row in self.table.rows})
        if len(tasks) != 1:
            raise UsageError(f"the scores are of {len(tasks)} tasks ({', '.join(tasks)}), not one")

    @property
    def methods(self) -> list[str]:
        """In the order of the lines."""
        there = {row.method for row in self.table.rows}
        baselines = [name for name in BASELINES if name in there]
        named = [name for name in self.costs if name in there]
        return [*baselines, *sorted(there - {*baselines, *named}), *named]

    def scores(self, method: str, metric: str) -> dict[str, float]:
        """By case, of those that have the metric."""
        rows = [(row.case, row.scores.as_dict()) for row in self.table.rows if row.method == method]
        return {case: float(scores[metric]) for case, scores in rows if metric in scores}

    def p_value(self, method: str) -> float | None:
        """Of the paired test; see :func:`paired_test`."""
        metric, against = self.tested
        one, other = self.scores(method, metric), self.scores(against, metric)
        shared = [case for case in one if case in other]
        return paired_test([one[c] for c in shared], [other[c] for c in shared])

    def as_csv(self) -> str:
        """Every number: means, the ends of their 95 % intervals, p, costs."""
        metric, against = self.tested
        test, costs = f"p ({metric} against {against})", self._cost_columns
        ends = [f"{name} {end}" for name in self.metrics for end in ("low", "high")]
        stream = io.StringIO(newline="")
        fields = ["method", "cases", *self.metrics, *ends, test, *costs]
        writer = csv.DictWriter(stream, fields, restval="", lineterminator="\n")
        writer.writeheader()
        for method in self.methods:
            line: dict[str, Any] = {"method": method, "cases": len(self.scores(method, "ssim"))}
            for name in self.metrics:
                mean, interval = self._mean(method, name)
                if mean is not None:
                    line[name] = mean
                if interval:
                    line[f"{name} low"], line[f"{name} high"] = interval
            p = self.p_value(method)
            line |= {} if p is None else {test: p}
            writer.writerow(line | {k: v for k, v in self._costs(method).items() if v is not None})
        return stream.getvalue()

    def as_markdown(self) -> str:
        """The same, rounded, with a sentence on how to read it."""
        metric, against = self.tested
        heads = [TITLES.get(name, name) for name in self.metrics]
        heads = ["", *heads, f"p ({TITLES.get(metric, metric)})", *self._cost_columns]
        lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for method in self.methods:
            cells = [method]
            for name in self.metrics:
                digits = DIGITS.get(name, 4)
                mean, interval = self._mean(method, name)
                cell = "-" if mean is None else f"{mean:.{digits}f}"
                if interval:
                    cell += f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
                cells.append(cell)
            p = self.p_value(method)
            cells.append("-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001")
            costs = self._costs(method)
            cells += [readable(costs.get(column)) for column in self._cost_columns]
            lines.append(f"| {' | '.join(cells)} |")
        cases = {row.case for row in self.table.rows}
        sentence = (
            f"{self.table.rows[0].task}, {len(cases)} subjects, {self.table.protocol.key}; [ ]: "
            f"95 % bootstrap interval of the mean; p: two-sided Wilcoxon test of {metric} against "
            f'{against}, "-" below {FEWEST} subjects.'
        )
        return "\n".join([*lines, "", " ".join([sentence, *self.table.notes])]) + "\n"

    @property
    def _cost_columns(self) -> list[str]:
        return list(dict.fromkeys(column for costs in self.costs.values() for column in costs))

    def _costs(self, method: str) -> Mapping[str, Any]:
        return self.costs.get(method, {})

    def _mean(self, method: str, metric: str) -> tuple[float | None, tuple[float, float] | None]:
        values = list(self.scores(method, metric).values())
        if not values:
            return None, None
        return float(np.mean(values)), bootstrap_interval(values, seed=self.table.seed)


def readable(value: Any) -> str:
    """Thousands apart, three digits of what is small."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, float) and (not math.isfinite(value) or abs(value) < 100):
        return f"{value:.3g}"
    return f"{value:,.0f}".replace(",", " ")
