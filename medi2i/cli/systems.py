"""``medi2i systems``: the catalogue."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any

import typer

from medi2i.cli.console import ends_well, out, print_json

__all__ = ["systems"]


@ends_well
def systems(
    as_json: Annotated[bool, typer.Option("--json", help="Print the catalogue as JSON.")] = False,
) -> None:
    """List the translation systems: pairing, dimensions, size, paper."""
    # The package that it lies in would load torch, which takes longer than all the rest.
    table = files("medi2i") / "systems" / "catalogue.json"
    rows: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))
    if as_json:
        print_json(rows)
    else:
        _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    table = Table(
        Column("system", no_wrap=True),
        "pairing",
        "dims",
        "one-to-many",
        "parameters 2-D, 3-D",
        Column("paper", overflow="fold"),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for row in rows:
        table.add_row(
            row["name"],
            row["pairing"],
            ", ".join(map(str, row["dims"])),
            "yes" if row["one_to_many"] else "no",
            ", ".join(f"{size / 1e6:.1f} M" for size in row["parameters"].values()),
            row["paper"],
        )
    out.print(table)
