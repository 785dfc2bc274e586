"""The command line: one file per command, each importing what it needs when it runs."""

from __future__ import annotations

import typer

from medi2i.cli.anomaly import anomaly
from medi2i.cli.bids import Labels, bids
from medi2i.cli.demo import demo
from medi2i.cli.evaluate import evaluate
from medi2i.cli.info import info
from medi2i.cli.models import models
from medi2i.cli.prepare import prepare
from medi2i.cli.report import report
from medi2i.cli.simulate import simulate
from medi2i.cli.systems import systems
from medi2i.cli.train import train
from medi2i.cli.translate import translate

__all__ = ["app", "main"]

app = typer.Typer(
    name="medi2i",
    help="Turn one MRI contrast of the brain into another. For research; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from medi2i import __version__

        typer.echo(f"medi2i {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and end."
    ),
) -> None:
    del version


for command in (translate, prepare, anomaly, report, train, evaluate, simulate, systems, demo):
    app.command()(command)
app.command()(info)
app.command(cls=Labels)(bids)
app.add_typer(models, name="models")


def main() -> None:
    """What the ``medi2i`` script calls."""
    app()
