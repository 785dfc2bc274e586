"""``medi2i translate``: scans in, synthetic scans out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    EngineOption,
    FuseOption,
    QualityOption,
    VoxelType,
    check_together,
    complain,
    contrasts_of,
    end,
    ends_well,
    err,
    following,
    print_json,
    quality_of,
    tell,
)
from medi2i.inference.engines import EngineName
from medi2i.inference.passes import Quality

if TYPE_CHECKING:
    from medi2i.errors import Medi2iError
    from medi2i.jobs.work import Row

__all__ = ["page_for", "show", "translate"]


class FileFormat(StrEnum):
    """What --format takes."""

    NIFTI = "nifti"
    DICOM = "dicom"


ENDS = {"skipped": "exists, skipped", "elsewhere": "another process makes it, skipped"}
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
            metavar="NAME|FOLDER",
            help="A shipped or installed model, or a model folder; found by --to.",
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
    quality: QualityOption = Quality.FAST,
    fuse: FuseOption = None,
    engine: EngineOption = EngineName.AUTO,
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
    deidentify: Annotated[
        bool,
        typer.Option("--deidentify", help="Take the patient out of a DICOM series (PS3.15 E.1)."),
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a PNG: source | synthetic.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write an HTML page to scroll through.")
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
    from medi2i.errors import UsageError
    from medi2i.jobs.plan import Options, choose_model, plan_jobs, ready_model
    from medi2i.jobs.scans import find_scans
    from medi2i.jobs.work import failure, work_through

    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; give one")
    check_together(quiet=quiet, verbose=verbose, uncertainty=uncertainty, samples=samples)
    if file_format is FileFormat.DICOM and (
        samples or uncertainty or preview or report or dtype is not VoxelType.FLOAT32
    ):
        raise UsageError(
            "--format dicom writes one series of 16-bit images; leave --samples, --uncertainty, "
            "--preview, --report and --dtype out"
        )
    if burn_in and file_format is not FileFormat.DICOM:
        raise UsageError("--burn-in marks the pixels of a DICOM series; give --format dicom")
    if deidentify and file_format is not FileFormat.DICOM:
        raise UsageError(
            "--deidentify is for a DICOM series; give --format dicom (NIfTI names nobody)"
        )
    target, given = contrasts_of(to, source)
    if output is not None and not output.is_dir() and _other_format(output):
        raise UsageError(f'-o "{output}" is no NIfTI file; .nii, .nii.gz or a folder was expected')
    if output is not None and file_format is FileFormat.DICOM and _nifti(output):
        raise UsageError(f'-o "{output}" is a NIfTI file; --format dicom takes a folder')
    options = Options(
        target=target,
        device=device.value,
        batch_size=batch_size,
        volume=volume,
        dtype=dtype.value,
        seed=seed,
        samples=samples or 0,
        uncertainty=uncertainty,
        quality=quality_of(quality, fuse),
        engine=engine,
        preview=preview,
        overwrite=overwrite,
        skip_existing=skip_existing,
        dicom=file_format is FileFormat.DICOM,
        burn_in=burn_in,
        deidentify=deidentify,
    )
    rows: list[Row] = []
    codes: list[int] = []
    silent = quiet or as_json

    def take(row: Row) -> None:
        if report and row["status"] == "done":
            row["report"] = str(page_for(row, volume, overwrite=overwrite))
        if row["status"] == "failed":
            codes.append(row.pop("code"))
        rows.append(row)
        show(row, quiet=silent, verbose=verbose)

    def failed(paths: Sequence[Path], error: Medi2iError) -> None:
        take(failure(paths, error))

    try:
        scans = find_scans(inputs, given, target, failed, volume, series or ())
        if scans:
            name = choose_model(model, (scan.contrast for scan in scans), options)
            loaded = ready_model(name, options)
            jobs = plan_jobs(scans, loaded, given, output, failed, options)
            if report and not (overwrite or skip_existing):
                from medi2i.report import refuse_existing

                refuse_existing([job.output for job in jobs])
            with following(len(jobs), quiet=silent) as (advance, begin):

                def over(row: Row) -> None:
                    take(row)
                    advance()

                work_through(loaded, jobs, options, over, begin)
    finally:  # what was done before an interruption is reported too
        if as_json:
            print_json(rows)
    end(codes, len(rows))


def page_for(row: Row, volume: int | None, *, overwrite: bool) -> Path:
    """Write the page of a finished scan; what came as DICOM is not shown beside it."""
    from medi2i.report import page_of, report_on

    output, sources = Path(row["output"]), [Path(one) for one in row["input"]]
    shown = sources if all(map(_nifti, sources)) else None
    report_on(output, source=shown, volume=volume, overwrite=overwrite)
    return page_of(output)


def _nifti(output: Path) -> bool:
    """Whether a name is one of a NIfTI file."""
    from medi2i.formats.names import EXTENSIONS

    return output.name.lower().endswith(EXTENSIONS)


def _other_format(output: Path) -> bool:
    """Whether a name is one of a file, and not of NIfTI."""
    return output.suffix.lower() in OTHER_FORMATS and not _nifti(output)


def show(row: Row, *, quiet: bool, verbose: bool) -> None:
    """How one scan ended, for a person; failures also where nothing else is wanted."""
    if row["status"] == "failed":
        complain(row["error"])
    if quiet or row["status"] == "failed":
        return
    if row["status"] != "done":
        tell(f"{row['output']}  {ENDS[row['status']]}")
        return
    seconds: dict[str, float] = row["seconds"]
    tell(f"{row['output']}  ({sum(seconds.values()):.1f} s)")
    if verbose:
        parts = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
        tell(f"  {parts}")
    for warning in row["warnings"]:
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
