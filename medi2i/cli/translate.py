"""``medi2i translate``: scans in, synthetic scans out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    complain,
    ends_well,
    err,
    out_of_memory,
    print_json,
    progress_bar,
    tell,
)
from medi2i.cli.jobs import Failed, Found, Job, find_scans, plan_jobs

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.model import Model
    from medi2i.volume import Volume

__all__ = ["translate"]


OTHER_FORMATS = {".dcm", ".gz", ".hdr", ".img", ".mgh", ".mgz", ".mha", ".nrrd", ".png", ".zip"}
"""What nobody calls a folder."""

FINE = 200
"""A span of intensities that whole numbers can still show."""


class VoxelType(StrEnum):
    """What --dtype takes."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    INT32 = "int32"


@dataclass(frozen=True)
class Options:
    """What is the same for all jobs."""

    target: Contrast
    device: DeviceName
    batch_size: int | None
    volume: int | None
    dtype: VoxelType
    seed: int
    preview: bool
    overwrite: bool
    skip_existing: bool


@ends_well
def translate(
    inputs: Annotated[
        list[Path], typer.Argument(help="Scans (.nii, .nii.gz), or folders of scans.")
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="CONTRAST", help="Contrast wanted: t1, t2, flair, pd, t1c."),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CONTRAST",
            help="Contrast of the scans, where names and side-cars are silent; of a folder's "
            "scans, those to take.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER", help="A shipped model or a model folder; found by --to."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File (for one scan) or folder; beside the input."),
    ] = None,
    device: Device = DeviceName.AUTO,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows through the network at once.")
    ] = None,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Which volume of a 4-D scan, from 0.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a PNG: source | synthetic.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out what exists.")
    ] = False,
    dtype: Annotated[VoxelType, typer.Option(help="Of the output.")] = VoxelType.FLOAT32,
    seed: Annotated[int, typer.Option(help="For models that draw samples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Where the time went.")] = False,
) -> None:
    """Translate scans into another contrast.

    The result lies beside the input (t1.nii.gz -> t1_desc-synth_T2w.nii.gz) with a JSON file that
    says how it was made. Several inputs share one loaded model; an input that fails does not stop
    the others.

    Exit codes: 0 done, 1 some inputs failed, 2 usage, 3 bad input, 4 bad model, 130 interrupted.
    """
    from medi2i.contrasts import Contrast
    from medi2i.errors import Medi2iError, UsageError

    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; give one")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other; give one")
    try:
        target = Contrast.parse(to)
        given = None if source is None else Contrast.parse(source)
    except Medi2iError as error:
        raise UsageError(str(error)) from error
    if given is target:
        raise UsageError(f"--from and --to are both {target}; two different contrasts are needed")
    if output is not None and not output.is_dir() and _other_format(output):
        raise UsageError(f'-o "{output}" is no NIfTI file; .nii, .nii.gz or a folder was expected')
    options = Options(
        target, device, batch_size, volume, dtype, seed, preview, overwrite, skip_existing
    )
    results: list[dict[str, Any]] = []
    codes: list[int] = []

    def failed(paths: Sequence[Path], error: Medi2iError) -> None:
        complain(error)
        codes.append(error.exit_code)
        row = {"input": [str(path) for path in paths], "status": "failed", "error": str(error)}
        results.append(row)

    try:
        scans = find_scans(inputs, given, target, failed)
        if scans:
            loaded = _model(model, scans, target, device)
            jobs = plan_jobs(scans, loaded, given, target, output, failed)
            for result in _results(loaded, jobs, options, failed, quiet=quiet or as_json):
                results.append(result)
                if not (quiet or as_json):
                    _tell(result, verbose)
    finally:  # what was done before an interruption is reported too
        if as_json:
            print_json(results)
    if codes:
        done = len(results) > len(codes)
        if done:
            err.print(f"{len(codes)} of {len(results)} inputs failed; the others are done")
        raise typer.Exit(1 if done else codes[0] if len(set(codes)) == 1 else 3)


def _other_format(output: Path) -> bool:
    """Whether a name is one of a file, and not of NIfTI."""
    from medi2i.formats.names import EXTENSIONS

    name = output.name.lower()
    return output.suffix.lower() in OTHER_FORMATS and not name.endswith(EXTENSIONS)


def _model(name: str | None, scans: Sequence[Found], target: Contrast, device: DeviceName) -> Model:
    """The model asked for, or the first shipped one that serves one of the scans."""
    from medi2i.errors import ContrastError
    from medi2i.inference.translate import choose_device
    from medi2i.zoo import find_model, load_model

    choose_device(device)  # refuses one that is not there
    if name is None:
        contrasts = list(dict.fromkeys(scan.contrast for scan in scans))
        refusals: list[ContrastError] = []
        for sources in [contrasts, *([contrast] for contrast in contrasts)]:
            try:
                name = find_model(sources, target)
                break
            except ContrastError as error:
                refusals.append(error)
        else:
            raise refusals[-1]
    model = load_model(name)
    if target not in model.task.targets:
        raise ContrastError(f'model "{model.name}" turns {model.task}; {target} was asked for')
    return model


def _results(
    model: Model, jobs: Sequence[Job], options: Options, failed: Failed, *, quiet: bool
) -> Iterator[dict[str, Any]]:
    """Run the jobs one after the other, with a progress bar; yield those that end well."""
    from medi2i.errors import InputError, Medi2iError

    with progress_bar(quiet=quiet) as bar:
        total = bar.add_task(f"{len(jobs)} scans", total=len(jobs), visible=len(jobs) > 1)
        for job in jobs:
            windows = bar.add_task(job.name, total=None)

            def watch(done: int, of: int, task: Any = windows) -> None:
                bar.update(task, completed=done, total=of)

            try:
                yield _run(model, job, options, watch)
            except Medi2iError as error:
                failed(job.inputs, error)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                problem = f"{job.name} needs more memory than device {options.device} has free"
                failed(job.inputs, InputError(f"{problem}; a smaller --batch-size needs less"))
            bar.remove_task(windows)
            bar.advance(total)


def _run(
    model: Model, job: Job, options: Options, watch: Callable[[int, int], None]
) -> dict[str, Any]:
    """Load, translate, save; returns the row for the report."""
    import torch

    from medi2i.formats.names import beside
    from medi2i.formats.synthetic import PREVIEW, check_free, save_synthetic
    from medi2i.inference.translate import run_model
    from medi2i.volume import load_volume

    row: dict[str, Any] = {
        "input": [str(path) for path in job.inputs],
        "output": str(job.output),
    }
    if job.output.exists() and options.skip_existing:
        return {**row, "status": "skipped"}
    check_free(job.output, preview=options.preview, overwrite=options.overwrite)

    seconds: dict[str, float] = {}
    began = time.perf_counter()
    volumes = {
        contrast: load_volume(scan.path, volume=options.volume)
        for contrast, scan in job.sources.items()
    }
    seconds["load"] = time.perf_counter() - began
    torch.manual_seed(options.seed)
    result = run_model(
        model,
        volumes,
        options.target,
        device=options.device,
        batch_size=options.batch_size,
        watch=watch,
    )
    doubts = (scan.doubt for scan in job.sources.values() if scan.doubt)
    warnings = (
        *doubts,
        *result.warnings,
        *_moved(volumes),
        *_coarse(result.volume, options.dtype),
    )
    seconds |= result.seconds

    began = time.perf_counter()
    save_synthetic(
        job.output,
        model,
        {contrast: scan.path for contrast, scan in job.sources.items()},
        options.target,
        replace(result, warnings=warnings),
        device=options.device,
        seed=options.seed,
        dtype=options.dtype,
        shown=dict(list(volumes.items())[:1]) if options.preview else None,
        overwrite=options.overwrite,
    )
    seconds["save"] = time.perf_counter() - began
    if options.preview:
        row["preview"] = str(beside(job.output, PREVIEW))
    return {
        **row,
        "status": "done",
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "warnings": list(warnings),
    }


def _moved(volumes: Mapping[Contrast, Volume]) -> list[str]:
    """A warning for each contrast that lies on another grid than the first."""
    from medi2i.geometry import canonical_grid, same_grid

    grids = {contrast: canonical_grid(v.shape, v.affine) for contrast, v in volumes.items()}
    first, reference = next(iter(grids.items()))
    return [
        f"{contrast} was brought onto the grid of {first} by their headers alone: "
        "both must be of one position of the head"
        for contrast, grid in grids.items()
        if not same_grid(*reference, *grid)
    ]


def _coarse(volume: Volume, dtype: VoxelType) -> list[str]:
    """A warning where rounding to whole numbers takes the detail away."""
    span = float(volume.voxels.max()) - float(volume.voxels.min())
    if dtype.startswith("float") or span >= FINE:
        return []
    loss = f"intensities span {span:.3g} and were rounded to whole numbers ({dtype})"
    return [f"{loss}: much detail is lost; float32 keeps it"]


def _tell(result: Mapping[str, Any], verbose: bool) -> None:
    """One line for a person."""
    if result["status"] == "skipped":
        tell(f"{result['output']}  exists, skipped")
        return
    seconds: Mapping[str, float] = result["seconds"]
    tell(f"{result['output']}  ({sum(seconds.values()):.1f} s)")
    if verbose:
        parts = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
        tell(f"  {parts}")
    for warning in result["warnings"]:
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
