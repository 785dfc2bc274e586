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
from medi2i.report.html import Html, data_block, data_uri, document, element
from medi2i.report.origins import origins
from medi2i.report.panels import Kind, Panel, aligned, picture, thumbnail
from medi2i.report.parts import card_part, provenance_part, scores_part, warnings_part
from medi2i.report.viewer import HOW, Viewer, find_viewer

__all__ = ["Entry", "write_report"]

BANNER = "SYNTHETIC: computed, not acquired. For research, not for diagnosis."
SETUP = (
    "This browser cannot run the viewer (JavaScript and WebGL 2 are needed); the pictures below "
    "show the same volumes."
)
_PLANES = (("3", "three planes"), ("0", "axial"), ("1", "coronal"), ("2", "sagittal"))
_AXES = ("left to right", "back to front", "bottom to top")


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
    body: list[str | None] = [
        element(
            "header",
            element("h1", title),
            element("p", names, class_="names") if names else None,
            element("p", BANNER, class_="banner"),
        ),
        warnings_part(said),
    ]
    if viewer is not None:
        files, spacing = embed([(p.volume, p.window()) for p in shown], budget=budget)
        body.append(_viewer_part(shown, files, spacing))
    body += [
        _picture_part(shown, viewer is not None),
        scores_part(scores, unscored),
        provenance_part(record),
        card_part(card),
        _footer(viewer),
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
        thumbnail(shown),
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


def _viewer_part(
    panels: Sequence[Panel], files: Sequence[bytes], spacing: tuple[float, float, float]
) -> Html:
    """Canvases and controls, hidden until the viewer runs, and what it shows."""
    upright = panels[0].volume
    plan = [
        {
            "caption": panel.caption,
            "kind": panel.kind.value,
            "window": [float(end) for end in panel.window()],
        }
        for panel in panels
    ]
    planes = [element("option", text, value=value) for value, text in _PLANES]
    sliders = [
        element(
            "label",
            _AXES[axis],
            element("input", type="range", class_="place", data_axis=axis, min=0, max=1000),
        )
        for axis in range(3)
    ]
    figures = [
        element(
            "figure",
            element("figcaption", panel.caption, element("output", class_="value"), _scale(panel)),
            element("div", element("canvas", id=f"panel-{number}"), class_="view"),
        )
        for number, panel in enumerate(panels)
    ]
    coarse = min(spacing) > 1.01 * min(upright.spacing)
    return element(
        "section",
        element(
            "div",
            element("label", "show ", element("select", *planes, id="plane")),
            *sliders,
            element("output", id="place"),
            class_="controls",
        ),
        element("div", *figures, class_="panels"),
        _blend_part(panels) if len(panels) > 1 else None,
        element(
            "p",
            "Scroll in any slice to move through all of them; drag with the right button to change "
            "the window. The patient's right is on the left."
            + (f" Shown at {' x '.join(f'{s:.2g}' for s in spacing)} mm." if coarse else ""),
            class_="hint",
        ),
        *(element("p", panel.note, class_="hint") for panel in panels if panel.note),
        data_block("plan", plan),
        *(data_block(f"volume-{number}", file) for number, file in enumerate(files)),
        id="live",
        hidden=True,
    )


def _scale(panel: Panel) -> Html | None:
    """What the ends of a coloured scale are."""
    if panel.kind is Kind.IMAGE:
        return None
    low, high = panel.window()
    return element("small", f"{low:.3g} to {high:.3g}", class_=f"scale {panel.kind}")


def _blend_part(panels: Sequence[Panel]) -> Html:
    def choice(name: str, chosen: int) -> Html:
        options = [
            element("option", panel.caption, value=number, selected=number == chosen)
            for number, panel in enumerate(panels)
        ]
        return element("select", *options, id=name, aria_label=f"{name} of the blend")

    return element(
        "figure",
        element(
            "figcaption",
            choice("under", 0),
            element(
                "input", type="range", id="blend", min=0, max=100, value=50, aria_label="blend"
            ),
            choice("over", 1),
        ),
        element("div", element("canvas", id="blended"), class_="view"),
        class_="blend",
    )


def _picture_part(panels: Sequence[Panel], viewer: bool) -> Html:
    """The same volumes without a viewer: open until it runs."""
    captions = "; ".join(panel.caption for panel in panels)
    return element(
        "details",
        element("summary", "Pictures"),
        element("p", SETUP if viewer else HOW, class_="hint", id="still-why"),
        element("noscript", element("p", "Scrolling needs JavaScript.")) if viewer else None,
        element("img", src=data_uri(picture(panels)), alt=f"Three planes each: {captions}"),
        id="still",
        open=True,
    )


def _footer(viewer: Viewer | None) -> Html:
    return element(
        "footer",
        element("p", BANNER),
        element(
            "details",
            element("summary", f"Viewer: NiiVue, from ipyniivue {viewer.version}, BSD-2-Clause"),
            element("pre", viewer.licence),
        )
        if viewer
        else None,
    )
