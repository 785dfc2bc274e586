"""A list of reports as one HTML page, to sort and to open them from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from medi2i.errors import UsageError
from medi2i.files import write_whole
from medi2i.report.html import Html, data_uri, document, element
from medi2i.report.page import Entry
from medi2i.report.parts import header_part
from medi2i.report.tables import number, sortable, text

__all__ = ["link", "write_index"]


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
    heads = ["", "report", "what", "sources", "model", *numbers, "warnings"]
    lines = [_line(path.parent, entry, numbers) for entry in entries]
    body = [header_part("Reports"), sortable(heads, lines)]
    return write_whole(
        path,
        document("medi2i: reports", *body, style="report.css", script="tables.js"),
        overwrite=overwrite,
    )


def _line(folder: Path, entry: Entry, numbers: Sequence[str]) -> list[Html]:
    image = element("img", src=data_uri(entry.picture), alt="") if entry.picture else None
    said = element("ul", *(element("li", warning) for warning in entry.warnings))
    count = len(entry.warnings)
    return [
        text(image),
        text(link(folder, entry.page)),
        text(entry.title),
        text(element("span", entry.subject, class_="file")),
        text(entry.model),
        *(number(entry.figures.get(name)) for name in numbers),
        text(said if count else None, sort=str(count)),
    ]


def link(folder: Path, page: Path) -> Html:
    """The way from a folder to a page."""
    to = Path(os.path.relpath(page, folder)).as_posix()
    return element("a", page.stem, href=quote(to))
