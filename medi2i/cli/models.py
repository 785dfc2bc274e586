"""``medi2i models``: the trained models at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medi2i.cli.console import complain, ends_well, err, out, print_json

__all__ = ["models"]

models = typer.Typer(help="List, show, verify and import trained models.", no_args_is_help=True)

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
    from medi2i.model import CARD

    folder, record = _record(name)
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
        typer.Argument(metavar="NAME|FOLDER", help="All that ships by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Load models and compare their weights with the sha256 on record."""
    from medi2i.errors import ModelError
    from medi2i.inference.glance import read_glance_net
    from medi2i.model import read_model
    from medi2i.zoo import aids, shipped

    rows: list[dict[str, Any]] = []
    chosen = names or [*shipped(), *aids()]
    if not chosen:
        err.print(NONE)
    for name in chosen:
        try:
            folder, record = _record(name)
            if name in aids():
                read_glance_net(folder)
            else:
                read_model(folder)
            rows.append({"name": name, "ok": True, "sha256": record["sha256"]})
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


@models.command("import")
@ends_well
def import_model(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="latest_net_G.pth, 200000-G.ckpt and the like.")
    ],
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="CODE",
            help="Whose code wrote it: pytorch-CycleGAN-and-pix2pix (pix2pix), CycleGAN, "
            "CUT, UNIT, MUNIT, DRIT, BicycleGAN, pix2pixHD, stargan or stargan-v2.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model folder; a new one.")],
    source: Annotated[
        list[str], typer.Option("--source", metavar="CONTRAST", help="What goes in; repeatable.")
    ],
    target: Annotated[
        list[str], typer.Option("--target", metavar="CONTRAST", help="What comes out; repeatable.")
    ],
    on_demand: Annotated[
        bool,
        typer.Option(
            "--on-demand",
            help="Any source to any target, as StarGAN does; targets in the order of its labels.",
        ),
    ] = False,
    slices: Annotated[
        int, typer.Option(min=1, help="Neighbouring slices among the input channels.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Bring along a model that was trained with the authors' code.

    Only tensors are read, never code; names and shapes must all fit.
    """
    from medi2i.contrasts import Contrast
    from medi2i.errors import OutputError
    from medi2i.files import check_writable
    from medi2i.model import WEIGHTS, read_record, write_model
    from medi2i.task import Task
    from medi2i.zoo.official import import_official

    if output.exists():
        raise OutputError(f'"{output}" exists; choose a new folder for the imported model')
    sources, targets = (tuple(map(Contrast.parse, names)) for names in (source, target))
    task = Task(sources, targets, on_demand)
    model = import_official(checkpoint, origin, task, slices=slices, name=output.name)
    check_writable(output / WEIGHTS)
    write_model(model, output)
    if as_json:
        print_json(read_record(output))
        return
    out.print(
        f"{output}: {model.system_name}, {task}; {model.card['networks']}",
        markup=False,
        soft_wrap=True,
    )


def _record(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a model or of another network that ships, and its model.json."""
    from medi2i.inference.glance import KEYS
    from medi2i.model import read_record
    from medi2i.zoo import aids, folder_of

    if name in aids():
        return aids()[name], read_record(aids()[name], KEYS)
    folder = folder_of(name)
    return folder, read_record(folder)
