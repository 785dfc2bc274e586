"""A list of reports as one HTML page, to sort and to open them from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from medi2i.errors import UsageError
from medi2i.files import write_whole
from medi2i.report.html import Html, data_uri, document, element
from medi2i.report.page import BANNER, Entry

__all__ = ["write_index"]


def write_index(path: Path, entries: Sequence[Entry], *, overwrite: bool = False) -> Path:
    """Write a page with a line for each report: picture, numbers, warnings, link.

    Args:
        path: .html; links are relative to its folder.
        entries: as `write_report` returns them, in any order.

    Raises:
        UsageError: no entries.
        OutputError: `path` exists and `overwrite` is False, or cannot be written.
    """
    if not entries:
        raise UsageError("A list of no reports was asked for; give at least one.")
    numbers = list(dict.fromkeys(name for entry in entries for name in entry.figures))
    columns = ["", "report", "what", "sources", "model", *numbers, "warnings"]
    heads = [
        element("th", element("button", name, type="button") if name else "", scope="col")
        for name in columns
    ]
    lines = [_line(path.parent, entry, numbers) for entry in entries]
    body = [
        element("header", element("h1", "Reports"), element("p", BANNER, class_="banner")),
        element(
            "table",
            element("thead", element("tr", *heads)),
            element("tbody", *lines),
            class_="list",
        ),
    ]
    return write_whole(
        path,
        document("medi2i: reports", *body, style="report.css", script="index.js"),
        overwrite=overwrite,
    )


def _line(folder: Path, entry: Entry, numbers: Sequence[str]) -> Html:
    to = Path(os.path.relpath(entry.page, folder)).as_posix()
    image = element("img", src=data_uri(entry.picture), alt="") if entry.picture else None
    cells = [
        element("td", image),
        element("td", element("a", entry.page.stem, href=quote(to))),
        element("td", entry.title),
        element("td", entry.subject),
        element("td", entry.model),
    ]
    for name in numbers:
        value = entry.figures.get(name)
        text = "" if value is None else f"{value:.4g}"
        cells.append(element("td", text, data_sort="" if value is None else repr(value)))
    said = element("ul", *(element("li", warning) for warning in entry.warnings))
    count = len(entry.warnings)
    cells.append(element("td", said if count else "", data_sort=str(count)))
    return element("tr", *cells)
