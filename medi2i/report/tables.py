"""Tables of a page; a click on a heading sorts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from medi2i.report.html import Html, element

__all__ = ["number", "sortable", "text"]


def sortable(heads: Sequence[str], lines: Iterable[Sequence[Html]]) -> Html:
    """A table with a button in each heading that is not empty.

    Args:
        heads: one for each cell of a line.
        lines: of cells, in the order that is shown first.
    """
    titles = [
        element("th", element("button", head, type="button") if head else "", scope="col")
        for head in heads
    ]
    return element(
        "table",
        element("thead", element("tr", *titles)),
        element("tbody", *(element("tr", *line) for line in lines)),
        class_="list",
    )


def text(*content: str | None, sort: str | None = None) -> Html:
    """A cell; it is sorted by what it shows, or by `sort`."""
    return element("td", *content, data_sort=sort)


def number(
    value: float | None, shown: str = "", interval: tuple[float, float] | None = None
) -> Html:
    """A cell that shows a number in short and keeps the whole of it, to be sorted by.

    Args:
        value: None and nan are missing.
        shown: how; by default four digits.
        interval: whose ends are kept, too; `shown` says them already.

    >>> number(0.123456)
    '<td data-sort="0.123456">0.1235</td>'
    """
    if value is None or math.isnan(value):
        return element("td", shown or "", data_sort="")
    low, high = (_whole(end) for end in interval) if interval else (None, None)
    return element(
        "td", shown or f"{value:.4g}", data_sort=_whole(value), data_low=low, data_high=high
    )


def _whole(value: float) -> str:
    """All digits, as Python and JavaScript read them."""
    return repr(float(value)).replace("inf", "Infinity")
