"""``medi2i models``: the trained models at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medi2i.cli.console import complain, ends_well, err, out, print_json
from medi2i.exchange.export import BundleFormat

__all__ = ["models"]

models = typer.Typer(
    help="List, show, verify, import, export, install, remove models.",
    no_args_is_help=True,
)

NONE = "no model comes with this installation; train one with medi2i train"

Name = Annotated[
    str, typer.Argument(metavar="NAME|FOLDER", help="A model by its name, or its folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@models.command("list")
@ends_well
def list_models(as_json: Json = False) -> None:
    """List the models that come with medi2i and those that were installed."""
    from rich.table import Table

    from medi2i.errors import ModelError
    from medi2i.model import read_record
    from medi2i.zoo import installed, shipped

    records: dict[str, dict[str, Any]] = {}
    for name, folder in {**shipped(), **installed()}.items():
        try:
            records[name] = {**read_record(folder), "installed": name not in shipped()}
        except ModelError as error:
            complain(error)
    if as_json:
        print_json([{**record, "name": name} for name, record in records.items()])
        return
    if not records:
        err.print(NONE)
        return
    table = Table("model", "system", "from", "to", "parameters", "sha256", "")
    for name, record in records.items():
        task = record["task"]
        table.add_row(
            name,
            record["system"],
            ", ".join(task["sources"]),
            ", ".join(task["targets"]),
            f"{record.get('parameters', 0) / 1e6:.1f} M",
            record["sha256"][:12],
            "installed" if record["installed"] else "",
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
        typer.Argument(metavar="NAME|FOLDER", help="All that ships or is installed by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Load models and compare their weights with the sha256 on record."""
    from medi2i.errors import ModelError
    from medi2i.inference.glance import read_glance_net
    from medi2i.inference.guards.posture import read_posture_net
    from medi2i.model import read_model
    from medi2i.zoo import aids, installed, shipped

    readers = {"glance": read_glance_net, "posture": read_posture_net}
    rows: list[dict[str, Any]] = []
    chosen = names or [*shipped(), *installed(), *aids()]
    if not chosen:
        err.print(NONE)
    for name in chosen:
        try:
            folder, record = _record(name)
            if name in readers:
                readers[name](folder)
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


@models.command("export")
@ends_well
def export(
    name: Name,
    kind: Annotated[BundleFormat, typer.Option("--format", help="For MONAI or huggingface.co.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder; a new one.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="CONTRAST", help="What a monai-bundle takes by default."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--to", metavar="CONTRAST", help="What a monai-bundle gives by default."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
) -> None:
    """Write a model as a MONAI bundle, or as a folder for huggingface.co.

    No code goes along: a bundle needs medi2i where it runs. Nothing is uploaded.
    """
    from medi2i.contrasts import Contrast
    from medi2i.errors import UsageError
    from medi2i.exchange.export import export_model
    from medi2i.zoo import folder_of

    if (source is None) != (target is None):
        raise UsageError("--from and --to belong together; give both or neither")
    pair = None
    if source is not None and target is not None:
        pair = Contrast.parse(source), Contrast.parse(target)
    model = export_model(folder_of(name), output, kind, pair=pair, overwrite=overwrite)
    out.print(f"{output}: {model.name}, {model.task}", markup=False, soft_wrap=True)
    if kind is BundleFormat.HUGGINGFACE and not model.card.get("licence"):
        err.print("the card names no licence: say one before anybody else gets the weights")


@models.command("install")
@ends_well
def install(
    given: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL", help="zip or tar archive, its https address, or a model folder."
        ),
    ],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Of the archive; any other is refused.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What it is called from then on; as its record says.")
    ] = None,
    max_size: Annotated[
        int, typer.Option(metavar="MB", min=1, help="Of what is fetched or unpacked.")
    ] = 500,
    as_json: Json = False,
) -> None:
    """Install a model, so that --model knows it by its name.

    Tensors and settings are read, never code. What was fetched is kept, and needs no network a
    second time. Models lie in $MEDI2I_MODELS, or among your data in medi2i/models.
    """
    from medi2i.exchange.install import install_model
    from medi2i.model import read_record
    from medi2i.zoo import installed

    known, model = install_model(
        given,
        name=name,
        sha256=sha256,
        max_bytes=max_size * 1_000_000,
        tell=lambda line: err.print(line, markup=False, soft_wrap=True),
    )
    folder = installed()[known]
    if as_json:
        print_json({**read_record(folder), "name": known, "folder": str(folder)})
        return
    out.print(f"{known}: {model.task}; {folder}", markup=False, soft_wrap=True)


@models.command("remove")
@ends_well
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An installed model.")],
) -> None:
    """Take an installed model away; what was fetched for it is kept."""
    from medi2i.exchange.install import remove_model

    out.print(f"{remove_model(name)} is gone", markup=False, soft_wrap=True)


def _record(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a model or of another network that ships, and its model.json."""
    from medi2i.inference.aids import KEYS
    from medi2i.model import read_record
    from medi2i.zoo import aids, folder_of

    if name in aids():
        return aids()[name], read_record(aids()[name], KEYS)
    folder = folder_of(name)
    return folder, read_record(folder)
