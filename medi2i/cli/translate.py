"""``medi2i translate``: scans in, synthetic scans out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    complain,
    ends_well,
    err,
    print_json,
    tell,
)
from medi2i.cli.jobs import Found, find_scans, plan_jobs
from medi2i.cli.work import FileFormat, Options, VoxelType, check_places, do_jobs

if TYPE_CHECKING:
    from medi2i.model import Model

__all__ = ["translate"]


OTHER_FORMATS = {".dcm", ".gz", ".hdr", ".img", ".mgh", ".mgz", ".mha", ".nrrd", ".png", ".zip"}
"""What nobody calls a folder."""


@ends_well
def translate(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Scans (.nii, .nii.gz), folders of scans, DICOM folders or zips."),
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
            help="Contrast of the scans, where names and side-cars are silent and the image leaves "
            "it open; of a folder's scans, those to take.",
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
    samples: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Draw this many from a one-to-many system: also written are each of them and "
            "their standard deviation; the result is their mean.",
        ),
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Also write the error to be expected in each voxel."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Other samples for another seed.")] = 0,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Which series of DICOM, as `medi2i info` lists them."),
    ] = None,
    file_format: Annotated[
        FileFormat,
        typer.Option("--format", help="Of the output; dicom: a derived series, from DICOM only."),
    ] = FileFormat.NIFTI,
    burn_in: Annotated[
        bool, typer.Option("--burn-in", help="Write SYNTHETIC into the pixels of a DICOM series.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a PNG: source | synthetic.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out what exists.")
    ] = False,
    dtype: Annotated[VoxelType, typer.Option(help="Of the output.")] = VoxelType.FLOAT32,
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
    if uncertainty and samples:
        raise UsageError("--uncertainty and --samples give two maps of one thing; give one")
    if file_format is FileFormat.DICOM and (
        samples or uncertainty or preview or dtype is not VoxelType.FLOAT32
    ):
        raise UsageError(
            "--format dicom writes one series of 16-bit images; leave --samples, --uncertainty, "
            "--preview and --dtype out"
        )
    if burn_in and file_format is not FileFormat.DICOM:
        raise UsageError("--burn-in marks the pixels of a DICOM series; give --format dicom")
    try:
        target = Contrast.parse(to)
        given = None if source is None else Contrast.parse(source)
    except Medi2iError as error:
        raise UsageError(str(error)) from error
    if given is target:
        raise UsageError(f"--from and --to are both {target}; two different contrasts are needed")
    if output is not None and not output.is_dir() and _other_format(output):
        raise UsageError(f'-o "{output}" is no NIfTI file; .nii, .nii.gz or a folder was expected')
    if output is not None and file_format is FileFormat.DICOM and _nifti(output):
        raise UsageError(f'-o "{output}" is a NIfTI file; --format dicom takes a folder')
    options = Options(
        target=target,
        device=device,
        batch_size=batch_size,
        volume=volume,
        dtype=dtype,
        seed=seed,
        samples=samples or 0,
        uncertainty=uncertainty,
        preview=preview,
        overwrite=overwrite,
        skip_existing=skip_existing,
        format=file_format,
        burn_in=burn_in,
    )
    results: list[dict[str, Any]] = []
    codes: list[int] = []

    def failed(paths: Sequence[Path], error: Medi2iError) -> None:
        complain(error)
        codes.append(error.exit_code)
        row = {"input": [str(path) for path in paths], "status": "failed", "error": str(error)}
        results.append(row)

    try:
        scans = find_scans(inputs, given, target, failed, volume, series or ())
        if scans:
            loaded = _model(model, scans, options)
            as_dicom = file_format is FileFormat.DICOM
            jobs = plan_jobs(scans, loaded, given, target, output, failed, as_dicom=as_dicom)
            check_places(jobs, options)
            for result in do_jobs(loaded, jobs, options, failed, quiet=quiet or as_json):
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


def _nifti(output: Path) -> bool:
    """Whether a name is one of a NIfTI file."""
    from medi2i.formats.names import EXTENSIONS

    return output.name.lower().endswith(EXTENSIONS)


def _other_format(output: Path) -> bool:
    """Whether a name is one of a file, and not of NIfTI."""
    return output.suffix.lower() in OTHER_FORMATS and not _nifti(output)


def _model(name: str | None, scans: Sequence[Found], options: Options) -> Model:
    """The model asked for, or the first shipped one that serves one of the scans."""
    from medi2i.errors import ContrastError
    from medi2i.inference.samples import check_samples
    from medi2i.inference.translate import check_uncertainty, choose_device
    from medi2i.zoo import find_model, load_model

    target = options.target
    choose_device(options.device)  # refuses one that is not there
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
    if options.samples:
        check_samples(model, options.samples)
    if options.uncertainty:
        check_uncertainty(model)
    return model


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
