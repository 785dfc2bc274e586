"""``medi2i systems``: the catalogue."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from medi2i.cli.console import ends_well, out, print_json

__all__ = ["systems"]


@ends_well
def systems(
    as_json: Annotated[bool, typer.Option("--json", help="Print the catalogue as JSON.")] = False,
) -> None:
    """List the translation systems: pairing, dimensions, size, paper."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from medi2i.errors import UsageError
    from medi2i.networks.shapes import without_values
    from medi2i.systems import SYSTEMS

    rows: list[dict[str, Any]] = []
    for name, kind in SYSTEMS.items():
        sizes: dict[str, int] = {}
        for dims in (2, 3):
            with without_values(), suppress(UsageError):  # not made for so many dimensions
                sizes[str(dims)] = sum(p.numel() for p in kind(dims=dims).parameters())
        rows.append(
            {
                "name": name,
                "pairing": kind.pairing.value,
                "dims": [int(dims) for dims in sizes],
                "one_to_many": kind.one_to_many,
                "parameters": sizes,
                "paper": str(kind.paper),
            }
        )
    if as_json:
        print_json(rows)
        return
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
