"""What `medi2i systems` says, as a table that is read without torch: catalogue.json, in here.

    python -m medi2i.systems.catalogue

writes it anew; a test holds it to the classes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from medi2i.errors import UsageError
from medi2i.files import write_whole
from medi2i.networks.shapes import without_values
from medi2i.systems import SYSTEMS, Translator

__all__ = ["TABLE", "described", "written"]

TABLE = Path(__file__).with_suffix(".json")


def described(name: str, kind: type[Translator]) -> dict[str, Any]:
    """A system's row; parameters as it is built by default in 2-D and in 3-D."""
    sizes: dict[str, int] = {}
    for dims in (2, 3):
        with without_values(), suppress(UsageError):  # not made for so many dimensions
            sizes[str(dims)] = sum(p.numel() for p in kind(dims=dims).parameters())
    return {
        "name": name,
        "pairing": kind.pairing.value,
        "dims": [int(dims) for dims in sizes],
        "one_to_many": kind.one_to_many,
        "parameters": sizes,
        "paper": str(kind.paper),
    }


def written() -> str:
    """The whole table as JSON, in the order of the catalogue."""
    rows = [described(name, kind) for name, kind in SYSTEMS.items()]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write_whole(TABLE, written())
