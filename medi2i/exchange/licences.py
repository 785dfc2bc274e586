"""The licence of a model: as a model hub names it, and as a text that travels with the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

__all__ = ["LICENCE", "licence_identifier", "licence_text"]

LICENCE = "LICENSE"
"""The name of the file."""
_IDENTIFIERS = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
    *("gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail"),
)


def licence_identifier(card: Mapping[str, Any]) -> str:
    """The identifier by which huggingface.co lists the licence that a card names.

    "other" for what is not on its list, "unknown" where the card names none.

    >>> licence_identifier({"licence": "CC BY 4.0"}), licence_identifier({})
    ('cc-by-4.0', 'unknown')
    """
    said = card.get("licence")
    if not isinstance(said, str) or not said.strip():
        return "unknown"
    key = re.sub(r"[\s_-]+", "-", said.strip().lower())
    return key if key in _IDENTIFIERS else "other"


def licence_text(folder: Path, card: Mapping[str, Any]) -> str:
    """What goes into the file LICENSE beside the weights of a model folder.

    The folder's own such file; else the text of the Apache License, where the card names it and
    this installation has it; else what the card says, or that it says nothing.
    """
    own = folder / LICENCE
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    identifier = licence_identifier(card)
    if identifier == "apache-2.0" and (text := _apache()):
        return text
    if identifier == "unknown":
        return (
            "The card of this model names no licence. Ask whoever trained it before using or "
            "passing on its weights.\n"
        )
    return f"The card of this model says of its licence: {str(card['licence']).strip()}\n"


def _apache() -> str:
    """The licence of medi2i itself, which is the Apache License 2.0; "" where it is not there."""
    try:
        files = distribution("medi2i").files or ()
    except PackageNotFoundError:
        return ""
    texts = [str(file.read_text()) for file in files if file.name == LICENCE]
    return next((text for text in texts if "Apache License" in text), "")
