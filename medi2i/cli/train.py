"""``medi2i train``: from scans and a YAML file to a model folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    ends_well,
    err,
    out,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from medi2i.training.log import Progress

__all__ = ["train"]


@ends_well
def train(
    config: Annotated[Path, typer.Argument(help="The run's YAML file; see configs/.")],
    data: Annotated[
        list[Path], typer.Option("--data", help="BIDS folder or table of scans; repeatable.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Begin with the weights of this model, by name or folder, instead of noise.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    device: Device = DeviceName.AUTO,
    cache: Annotated[
        Path | None, typer.Option(help="Keep decoded scans here between runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Train a system on a cohort.

    The folder receives best/ and last/ (model folders for --model), checkpoint.pt, log.csv,
    tensorboard/, samples/ and config.yaml. A run that was stopped goes on with --resume and ends
    with the same weights as one that was not. Several GPUs: torchrun -m medi2i train ...
    """
    from medi2i.errors import InputError, OutputError
    from medi2i.experiment import read_config, run_experiment
    from medi2i.files import check_writable

    changes = {"rounds": rounds, "batch_size": batch_size, "workers": workers, "seed": seed}
    checked = read_config(config, start=start, **changes)
    leads = os.environ.get("RANK", "0") == "0"  # torchrun starts several of us
    fresh, begun = not output.exists(), (output / "config.yaml").is_file()
    if leads and begun and not resume:
        raise OutputError(
            f'"{output}" holds a run; give --resume to go on with it, or choose another folder'
        )
    check_writable(output / "config.yaml")
    with progress_bar(quiet=quiet or as_json or not leads, extra=("told",)) as bar:
        reading = bar.add_task("reading scans", total=None, told="")
        running = bar.add_task("training", total=checked.training.rounds, visible=False, told="")

        def prepared(done: int, of: int, name: str) -> None:
            bar.update(reading, completed=done, total=of, told=name)
            if done == of:
                bar.update(reading, visible=False)

        def watch(progress: Progress) -> None:
            changes: dict[str, Any] = {"completed": progress.played, "visible": True}
            if progress.losses:
                changes["told"] = _losses(progress)
            bar.update(running, **changes)

        def notice(sentence: str) -> None:
            if not quiet:
                err.print(sentence, markup=False, soft_wrap=True)

        try:
            scores = run_experiment(
                checked,
                data,
                output,
                device=device,
                cache=cache,
                prepared=prepared,
                watch=watch,
                notice=notice,
            )
        except InputError:
            if leads and not begun and not (output / "log.csv").exists():  # refused before it began
                (output / "config.yaml").unlink(missing_ok=True)
                if fresh and output.exists():
                    output.rmdir()
            raise
    if not leads:
        return
    if as_json:
        print_json({"folder": str(output), "scores": scores})
        return
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if "/" not in name)
    out.print(f"{output / 'best'}  {shown}", markup=False, soft_wrap=True)


def _losses(progress: Progress) -> str:
    losses = "  ".join(f"{name} {value:.4g}" for name, value in progress.losses.items())
    ssim = f"  val ssim {progress.scores['ssim']:.3f}" if "ssim" in progress.scores else ""
    return f"{losses}{ssim}  {progress.rounds_per_second:.2f}/s"
