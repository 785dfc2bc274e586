"""HTML that cannot be broken by what stands in it: text is escaped unless it is HTML already."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from typing import Any

__all__ = ["Html", "asset", "data_block", "data_uri", "document", "element", "join", "policy"]

_VOID = {"br", "img", "input", "meta"}


class Html(str):
    """A piece of HTML; everything else is text."""

    __slots__ = ()


def element(tag: str, *content: str | None, **attributes: str | int | bool | None) -> Html:
    """One element; `class_` is "class", and `data_to` is "data-to".

    Args:
        content: :class:`Html` as it is, other text escaped; None is left out.
        attributes: None and False are left out, True stands without a value.

    >>> element("td", "<b>", Html("<i>x</i>"), class_="name", hidden=True)
    '<td class="name" hidden>&lt;b&gt;<i>x</i></td>'
    """
    opened = tag
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        opened += f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
    if tag in _VOID:
        return Html(f"<{opened}>")
    return Html(f"<{opened}>{join(*content)}</{tag}>")


def join(*content: str | None) -> Html:
    """Pieces after each other; text is escaped."""
    return Html(
        "".join(
            part if isinstance(part, Html) else html.escape(part)
            for part in content
            if part is not None
        )
    )


def asset(name: str) -> str:
    """One of the style sheets and scripts of the report."""
    return resources.files("medi2i.report").joinpath("assets", name).read_text(encoding="utf-8")


def data_block(name: str, content: bytes | Any) -> Html:
    """What a script reads and no browser shows: bytes as base64, anything else as JSON."""
    if isinstance(content, bytes):
        text, kind = base64.b64encode(content).decode(), "text/plain"
    else:
        # Nothing in JSON can then end the element.
        text = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
        kind = "application/json"
    return element("script", Html(text), type=kind, id=name)


def data_uri(png: bytes) -> str:
    """A PNG as an address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def policy(style: str, script: str) -> str:
    """What a page may load and run: itself; nothing over a network, no script but its own."""

    def own(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = {
        "default-src": "'none'",
        "style-src": own(style),
        "script-src": f"{own(script)} blob:",  # blob: is the viewer, unpacked from this page
        "img-src": "data: blob:",
        "connect-src": "data: blob:",  # the viewer reads its font from itself
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


def document(title: str, *body: str | None, style: str, script: str) -> str:
    """A whole page with one style sheet and one script, which run at its end.

    Args:
        style, script: names of assets.
    """
    look, work = asset(style), asset(script)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(
            f'<meta http-equiv="Content-Security-Policy" content="{policy(look, work)}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="referrer" content="no-referrer">'
            '<meta name="robots" content="noindex">'
        ),
        element("title", title),
        element("style", Html(look)),
    )
    whole = element("html", head, element("body", *body, element("script", Html(work))), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
