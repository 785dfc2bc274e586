"""What was found in a scan that is not normal: lesions, the threshold, and where it comes from."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medi2i.errors import FormatError
from medi2i.report.html import Html, element
from medi2i.report.parts import pairs
from medi2i.report.tables import number
from medi2i.report.volumes import Place

__all__ = ["FOUND", "Findings", "findings_part", "read_findings"]

FOUND: Mapping[str, str] = {
    "ImageScore": "image score, the highest in the brain",
    "Lesions": "lesions",
    "LesionVolumeML": "their volume, ml",
    "Threshold": "threshold of the score",
    "FalsePositiveRate": "share of healthy tissue that reaches it",
    "SmallestLesionMM3": "smallest lesion, mm3",
    "Calibration": "calibration",
}
"""What the side-car says of it, and how the page does."""
READING = (
    "Lesions are connected pieces of what scores at least the threshold; centres are world "
    "coordinates, RAS mm; peak and mean are scores. No lesion found does not mean that there is "
    "none."
)
_TITLES = {"id": "", "volume_ml": "volume, ml", "x_mm": "x, mm", "y_mm": "y, mm", "z_mm": "z, mm"}


@dataclass(frozen=True)
class Findings:
    """The lesions of a scan as their table has them, by column; the largest first."""

    lesions: tuple[Mapping[str, str], ...]

    @property
    def place(self) -> Place | None:
        """The centre of the largest lesion, RAS mm; None without one."""
        return _centre(self.lesions[0]) if self.lesions else None


def read_findings(table: Path) -> Findings | None:
    """The table of lesions that lies beside a map of anomalies; None where it is not there.

    Raises:
        FormatError: it is not one of medi2i.
    """
    if not table.is_file():
        return None
    try:
        lines = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
        for line in lines:
            for value in line.values():
                float(value)
            _centre(line)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f'"{table}" is no table of lesions as medi2i writes them') from error
    return Findings(tuple(lines))


def findings_part(findings: Findings, record: Mapping[str, Any]) -> Html:
    """The lesions, the threshold and the tissue that it was calibrated on.

    Args:
        record: what the side-car of the map says.
    """
    said = [
        (title, f"{record[key]:.4g}")
        for key, title in FOUND.items()
        if isinstance(record.get(key), int | float)
    ]
    return element(
        "section",
        element("h2", "Lesions"),
        _table(findings) if findings.lesions else element("p", "None was found."),
        element("p", READING, class_="hint"),
        element("h2", "Threshold"),
        pairs(said),
        *_calibration(record.get("Calibration")),
        id="findings",
    )


def _table(findings: Findings) -> Html:
    columns = list(findings.lesions[0])
    heads = [element("th", _TITLES.get(name, name)) for name in columns]
    lines = []
    for lesion in findings.lesions:
        first, *rest = columns
        place = " ".join(f"{one:g}" for one in _centre(lesion))
        go = element("button", lesion[first], type="button", class_="go", data_at=place)
        cells = [number(float(lesion[name]), lesion[name]) for name in rest]
        lines.append(element("tr", element("th", go), *cells))
    table = element("table", element("tr", *heads), *lines, class_="numbers")
    return element("div", table, class_="long")


def _calibration(record: Any) -> list[Html]:
    """On which tissue, and which share of it reaches which score."""
    if not isinstance(record, Mapping):
        return []
    origin = str(record.get("origin") or "unknown tissue")
    rates, values = record.get("rates") or (), record.get("values") or ()
    heads = [element("th", "share of healthy tissue"), *(element("th", f"{r:g}") for r in rates)]
    reached = [element("th", "score that it reaches"), *(number(v, f"{v:.4g}") for v in values)]
    return [
        element("p", f"Calibrated on: {origin}."),
        element(
            "details",
            element("summary", "The calibration"),
            element("table", element("tr", *heads), element("tr", *reached), class_="numbers"),
        ),
    ]


def _centre(lesion: Mapping[str, str]) -> Place:
    x, y, z = (float(lesion[f"{axis}_mm"]) for axis in "xyz")
    return x, y, z
