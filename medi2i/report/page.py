"""The report of one scan: one HTML file that needs no network and no other file.

In it are the volumes, on one grid, and NiiVue to scroll through them; where the viewer is not
installed, or the browser cannot run it, the same volumes as a picture. Text is escaped, and the
page's content security policy lets nothing run but the page's own script, and nothing be loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medi2i.evaluation.table import BASELINES, ScoreTable
from medi2i.files import write_whole
from medi2i.report.embed import BUDGET, embed
from medi2i.report.findings import FOUND, Findings, findings_part
from medi2i.report.html import data_block, document
from medi2i.report.origins import origins
from medi2i.report.panels import Panel, aligned, thumbnail
from medi2i.report.parts import (
    card_part,
    footer_part,
    header_part,
    provenance_part,
    scores_part,
    warnings_part,
)
from medi2i.report.viewer import find_viewer
from medi2i.report.volumes import picture_part, viewer_part, voxel_at

__all__ = ["Entry", "write_report"]


@dataclass(frozen=True)
class Entry:
    """What a list of reports says of one.

    Attributes:
        page: where it was written.
        title: what was made of what.
        subject: names of the sources, as the side-car has them.
        model: which made it.
        figures: numbers by their title.
        warnings: sentences.
        picture: a small PNG.
    """

    page: Path
    title: str
    subject: str
    model: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    picture: bytes = b""


def write_report(
    path: Path,
    panels: Sequence[Panel],
    record: Mapping[str, Any],
    *,
    scores: ScoreTable | None = None,
    unscored: str = "",
    findings: Findings | None = None,
    warnings: Sequence[str] = (),
    card: str = "",
    budget: int = BUDGET,
    overwrite: bool = False,
) -> Entry:
    """Write the report of one scan.

    Args:
        path: .html.
        panels: the first two are blended at the start; others that lie on another grid are
            resampled onto the first one's.
        record: what the side-car says.
        scores: under their protocol, baselines too.
        unscored: why there are no scores.
        findings: what is not normal; the page opens at the largest lesion.
        warnings: beside those of the record.
        card: the model card, Markdown.
        budget: bytes that the volumes may take; above it they are shown coarser.

    Raises:
        UsageError: no panels.
        OutputError: `path` exists and `overwrite` is False, or cannot be written.
    """
    shown = aligned(panels)
    viewer = find_viewer()
    said = (*map(str, record.get("Warnings") or ()), *warnings)
    title = _title(record)
    names = ", ".join(source.name for source in origins(record))
    at = findings.place if findings else None
    body: list[str | None] = [header_part(title, names), warnings_part(said)]
    if viewer is not None:
        files, spacing = embed([(p.volume, p.window()) for p in shown], budget=budget)
        body.append(viewer_part(shown, files, spacing, at))
    body += [
        picture_part(shown, viewer is not None, at),
        scores_part(scores, unscored),
        findings_part(findings, record) if findings else None,
        provenance_part(record, FOUND if findings else ()),
        card_part(card),
        footer_part(viewer),
    ]
    if viewer is not None:
        body.append(data_block("viewer-code", viewer.code))
    whole = document(f"medi2i: {title}", *body, style="report.css", script="report.js")
    write_whole(path, whole, overwrite=overwrite)
    model = record.get("Model")
    return Entry(
        path,
        title,
        names,
        str(model.get("Name", "")) if isinstance(model, Mapping) else "",
        _figures(scores, record),
        said,
        thumbnail(shown, level=None if at is None else voxel_at(shown, at)[2]),
    )


def _title(record: Mapping[str, Any]) -> str:
    contrasts = " + ".join(map(str, record.get("SourceContrast") or ())) or "a scan"
    if record.get("Map") == "anomaly":
        return f"What is not normal in {contrasts}"
    return f"SYNTHETIC {record.get('TargetContrast', 'scan')} from {contrasts}"


def _figures(scores: ScoreTable | None, record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a list of reports."""
    found: dict[str, float] = {}
    for row in scores.rows if scores else ():
        if row.method not in BASELINES:
            found = {"PSNR, dB": row.scores.psnr, "SSIM": row.scores.ssim}
    for key, name in (("ImageScore", "image score"), ("Lesions", "lesions")):
        value = record.get(key)
        if isinstance(value, int | float):
            found[name] = float(value)
    return found
