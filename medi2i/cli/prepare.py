"""``medi2i prepare``: bias correction, one grid for all contrasts of a head, brain mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medi2i.cli.console import complain, end, ends_well, err, print_json, progress_bar, tell

__all__ = ["prepare"]


@ends_well
def prepare(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Scans of one person (.nii, .nii.gz), or one BIDS folder."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder; by default beside the first scan, or derivatives/medi2i-prepare in the "
            "BIDS folder.",
        ),
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction/--no-bias-correction", help="Even the coil's sensitivity (N4)."
        ),
    ] = True,
    registration: Annotated[
        bool,
        typer.Option(
            "--registration/--no-registration",
            help="Bring all scans of a person onto the grid of one of them (rigid).",
        ),
    ] = True,
    onto: Annotated[
        str | None,
        typer.Option(
            metavar="CONTRAST",
            help="Onto whose grid; by default the first scan's, in a BIDS folder the first of "
            "T1w, T2w, FLAIR, PDw.",
        ),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Resample to cubes of so many mm. Off by default.")
    ] = None,
    brain_mask: Annotated[
        bool,
        typer.Option("--brain-mask/--no-brain-mask", help="Also write a brain mask."),
    ] = False,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip/--no-strip", help="Set all outside of the brain to 0; writes the mask too."
        ),
    ] = False,
    contrast: Annotated[
        str | None,
        typer.Option(metavar="CONTRAST", help="Of a single scan that does not tell it."),
    ] = None,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Which volume of a 4-D scan, from 0.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a PNG: before, after, in turns.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out who is done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Make scans ready: even brightness, one grid, brain mask.

    On by default: bias correction and registration. Off: --spacing, --brain-mask, --strip. Scans
    are never changed in place: t2.nii.gz becomes t2_space-T1w_desc-preproc_T2w.nii.gz, with a JSON
    file that says what was done, and the transform (ITK, .tfm). Scans that cannot be registered
    are errors; the others are written.

    Exit codes: 0 done, 1 some scans failed, 2 usage, 3 bad input, 4 bad model, 130 interrupted.
    """
    from medi2i.contrasts import Contrast
    from medi2i.errors import Medi2iError, UsageError
    from medi2i.formats.bids import describe_dataset
    from medi2i.preparation.people import everybody, one_person, prepare_files
    from medi2i.preparation.prepare import Steps

    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; give one")
    try:
        wanted = None if onto is None else Contrast.parse(onto)
        told = None if contrast is None else Contrast.parse(contrast)
    except Medi2iError as error:
        raise UsageError(str(error)) from error
    steps = Steps(bias_correction, registration, spacing, brain_mask, strip)
    if wanted is not None and not registration:
        raise UsageError("--onto says whereto register, and --no-registration not to; give one")
    rows: list[dict[str, Any]] = []
    codes: list[int] = []

    def failed(what: Path | str, error: Medi2iError) -> None:
        complain(error)
        codes.append(error.exit_code)
        rows.append({"input": str(what), "status": "failed", "error": str(error)})

    study = inputs[0] if len(inputs) == 1 and inputs[0].is_dir() else None
    try:
        if study is not None:
            if told is not None:
                raise UsageError("--contrast is for a single scan; a BIDS folder names its scans")
            root = output or study / "derivatives" / "medi2i-prepare"
            people = everybody(study, root, steps, wanted, failed, pictures=preview)
        else:
            people = [
                one_person(inputs, output, steps, wanted, told, volume=volume, pictures=preview)
            ]
        with progress_bar(quiet=quiet or as_json) as bar:
            task = bar.add_task("preparing", total=len(people))
            for person in people:
                try:
                    found = prepare_files(
                        person,
                        steps,
                        failed,
                        volume=volume,
                        overwrite=overwrite,
                        skip_existing=skip_existing,
                    )
                except Medi2iError as error:
                    failed(person.name, error)
                    found = []
                for row in found:
                    rows.append(row)
                    if not (quiet or as_json):
                        _show(row)
                bar.advance(task)
        if study is not None and any(row["status"] == "done" for row in rows):
            describe_dataset(root, "Prepared scans", "medi2i prepare")
    finally:  # what was done before an interruption is reported too
        if as_json:
            print_json(rows)
    end(codes, len(rows))


def _show(row: Mapping[str, Any]) -> None:
    """One line for a person."""
    if row["status"] == "skipped":
        tell(f"{row['output']}  exists, skipped")
        return
    tell(f"{row['output']}  ({row['seconds']:.1f} s)")
    for warning in row["warnings"]:
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
