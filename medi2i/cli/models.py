"""``medi2i models``: the trained models at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medi2i.cli.console import complain, ends_well, err, out, print_json

__all__ = ["models"]

models = typer.Typer(help="List, show and verify trained models.", no_args_is_help=True)

NONE = "no model comes with this installation; train one with medi2i train"

Name = Annotated[
    str, typer.Argument(metavar="NAME|FOLDER", help="A shipped model or a model folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@models.command("list")
@ends_well
def list_models(as_json: Json = False) -> None:
    """List the models that come with medi2i."""
    from rich.table import Table

    from medi2i.model import read_record
    from medi2i.zoo import shipped

    records = {name: read_record(folder) for name, folder in shipped().items()}
    if as_json:
        print_json([{**record, "name": name} for name, record in records.items()])
        return
    if not records:
        err.print(NONE)
        return
    table = Table("model", "system", "from", "to", "parameters", "sha256")
    for name, record in records.items():
        task = record["task"]
        table.add_row(
            name,
            record["system"],
            ", ".join(task["sources"]),
            ", ".join(task["targets"]),
            f"{record.get('parameters', 0) / 1e6:.1f} M",
            record["sha256"][:12],
        )
    out.print(table)


@models.command("show")
@ends_well
def show_model(name: Name, as_json: Json = False) -> None:
    """Show a model's record and its card."""
    from medi2i.model import CARD, read_record

    folder = _folder(name)
    record = read_record(folder)
    if as_json:
        print_json(record)
        return
    card = folder / CARD
    if card.is_file():
        from rich.markdown import Markdown

        out.print(Markdown(card.read_text(encoding="utf-8")))
        return
    out.print_json(data=record)


@models.command("verify")
@ends_well
def verify_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FOLDER", help="All shipped models by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Load models and compare their weights with the sha256 on record."""
    from medi2i.errors import ModelError
    from medi2i.model import read_model
    from medi2i.zoo import shipped

    rows: list[dict[str, Any]] = []
    chosen = names or list(shipped())
    if not chosen:
        err.print(NONE)
    for name in chosen:
        try:
            model = read_model(_folder(name))
            rows.append({"name": name, "ok": True, "sha256": model.sha256})
        except ModelError as error:
            complain(error)
            rows.append({"name": name, "ok": False, "error": str(error)})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            if row["ok"]:
                out.print(
                    f"{row['name']}: ok, sha256 {row['sha256']}", markup=False, soft_wrap=True
                )
    if not all(row["ok"] for row in rows):
        raise typer.Exit(ModelError.exit_code)


def _folder(name: str) -> Path:
    from medi2i.zoo import folder_of

    return folder_of(name)
