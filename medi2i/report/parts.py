"""The written parts of a report: scores, warnings, provenance, model card."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from medi2i.evaluation.table import BASELINES, ScoreTable
from medi2i.report.html import Html, element, join
from medi2i.report.viewer import Viewer

__all__ = [
    "BANNER",
    "TITLES",
    "card_part",
    "flattened",
    "footer_part",
    "header_part",
    "metric",
    "pairs",
    "protocol_part",
    "provenance_part",
    "scores_part",
    "warnings_part",
]

BANNER = "SYNTHETIC: computed, not acquired. For research, not for diagnosis."

APART = ("Description", "Synthetic", "Warnings")
"""What a side-car says that stands elsewhere on the page."""
TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "mae": "MAE", "nmse": "NMSE"}
_STRONG, _CODE = re.compile(r"\*\*(.+?)\*\*"), re.compile(r"`(.+?)`")


def header_part(title: str, names: str = "") -> Html:
    """What every page begins with."""
    return element(
        "header",
        element("h1", title),
        element("p", names, class_="names") if names else None,
        element("p", BANNER, class_="banner"),
    )


def footer_part(viewer: Viewer | None = None) -> Html:
    """What every page ends with; the viewer's licence, where it is in the page."""
    if viewer is None:
        return element("footer", element("p", BANNER))
    name = f"Viewer: NiiVue, from ipyniivue {viewer.version}, BSD-2-Clause"
    licence = element("details", element("summary", name), element("pre", viewer.licence))
    return element("footer", element("p", BANNER), licence)


def warnings_part(warnings: Sequence[str]) -> Html | None:
    """Every warning as a sentence; None without warnings."""
    if not warnings:
        return None
    return element(
        "section",
        element("h2", "Warnings"),
        element("ul", *(element("li", warning) for warning in warnings)),
        class_="warnings",
        id="warnings",
    )


def scores_part(scores: ScoreTable | None, why_not: str = "") -> Html | None:
    """The scores with baselines and the whole record of their protocol.

    Args:
        why_not: said where there are no scores; "" says nothing.
    """
    if scores is None:
        said = element("p", why_not) if why_not else None
        return said and element("section", element("h2", "Scores"), said, id="scores")
    names = scores.metrics
    heads = [element("th", "")]
    heads += [element("th", TITLES.get(name, name.replace("_", " "))) for name in names]
    lines = [element("tr", *heads)]
    for row in scores.rows:
        values = row.scores.as_dict()
        cells = [element("td", metric(name, values.get(name, math.nan))) for name in names]
        kind = "baseline" if row.method in BASELINES else None
        lines.append(element("tr", element("th", row.method), *cells, class_=kind))
    return element(
        "section",
        element("h2", "Scores"),
        element("table", *lines, class_="numbers"),
        *protocol_part(scores),
        id="scores",
    )


def protocol_part(scores: ScoreTable) -> list[Html]:
    """What scores mean, and the whole record of their protocol."""
    record = {key: str(value) for key, value in scores.protocol.as_dict().items()}
    return [
        element(
            "p",
            f"Under {scores.protocol.key}. Scores of other protocols cannot be compared with "
            "these. identity hands the source back, pointwise maps its intensities one by one.",
        ),
        *(element("p", note) for note in scores.notes),
        element("details", element("summary", "The protocol"), pairs(record.items())),
    ]


def provenance_part(record: Mapping[str, Any], apart: Collection[str] = ()) -> Html:
    """Everything else that the side-car says.

    Args:
        apart: more of what stands elsewhere on the page.
    """
    rest = {key: value for key, value in record.items() if key not in {*APART, *apart}}
    return element("section", element("h2", "Provenance"), pairs(flattened(rest)), id="provenance")


def flattened(record: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as lines: name, value.

    >>> list(flattened({"Model": {"Name": "default"}, "Shape": [4, 5]}))
    [('Model Name', 'default'), ('Shape', '4, 5')]
    """
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield from flattened(value, f"{name} {key}".lstrip())
    elif isinstance(record, list | tuple):
        if any(isinstance(item, Mapping | list | tuple) for item in record):
            for number, item in enumerate(record, start=1):
                yield from flattened(item, f"{name} {number}" if len(record) > 1 else name)
        elif record:
            yield name, ", ".join(map(str, record))
    elif record not in (None, ""):
        yield name, str(record)


def card_part(card: str) -> Html | None:
    """A model card: its opening, and the rest folded away."""
    if not card.strip():
        return None
    opening, heading, rest = card.partition("\n## ")
    return element(
        "section",
        element("h2", "Model card"),
        *_blocks(opening),
        element("details", element("summary", "The whole card"), *_blocks(heading[1:] + rest))
        if rest
        else None,
        class_="card",
        id="card",
    )


def _blocks(markdown: str) -> Iterator[Html]:
    """Headings, paragraphs, lists and tables; lists and tables as they were typed."""
    for block in re.split(r"\n\s*\n", markdown.strip()):
        if block.startswith("#"):
            head, _, block = block.partition("\n")
            yield element("h3", head.lstrip("# "))
        if block.startswith(("|", "- ", "```")):
            yield element("pre", block)
        elif block:
            yield element("p", _inline(block))


def _inline(text: str) -> Html:
    escaped = html.escape(" ".join(text.split()))
    return Html(_CODE.sub(r"<code>\1</code>", _STRONG.sub(r"<strong>\1</strong>", escaped)))


def pairs(lines: Iterable[tuple[str, str]]) -> Html:
    """Names, and what stands for each."""
    return element("dl", *(join(element("dt", k), element("dd", v)) for k, v in lines))


def metric(name: str, value: float) -> str:
    """A score as it is shown."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.2f}" if name == "psnr" else f"{value:.4f}"
