"""``medi2i systems``: the catalogue."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from medi2i.cli.console import ends_well, out, print_json

__all__ = ["systems"]


@ends_well
def systems(
    as_json: Annotated[bool, typer.Option("--json", help="Print the catalogue as JSON.")] = False,
) -> None:
    """List the translation systems: pairing, dimensions, size, paper."""
    import torch
    from rich.table import Column, Table

    from medi2i.systems import SYSTEMS

    rows: list[dict[str, Any]] = []
    for name, kind in SYSTEMS.items():
        with torch.device("meta"):  # parameters are counted, not made
            built = {dims: kind(dims=dims) for dims in (2, 3)}
        rows.append(
            {
                "name": name,
                "pairing": kind.pairing.value,
                "dims": list(built),
                "one_to_many": kind.one_to_many,
                "parameters": {
                    str(dims): sum(p.numel() for p in system.parameters())
                    for dims, system in built.items()
                },
                "paper": str(kind.paper),
            }
        )
    if as_json:
        print_json(rows)
        return
    table = Table(
        "system",
        "pairing",
        "dims",
        "one-to-many",
        "parameters 2-D, 3-D",
        Column("paper", overflow="fold"),
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
