"""``medi2i report``: a page per finished scan, to look at in a browser, and a list of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medi2i.cli.console import complain, end, ends_well, err, print_json, progress_bar, tell

__all__ = ["report"]

INDEX = "index.html"


@ends_well
def report(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Synthetic scans, maps of anomalies, or folders of them."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder; beside each scan, without a list."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(help="The scan that was translated, or the folder of such scans."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The acquired scan of the same contrast, or the folder of such scans."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Where to score; source > 0 without it.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|FOLDER", help="Which made them, for its card; if not shipped."),
    ] = None,
    protocol: Annotated[str, typer.Option(help="Of the scores.")] = "brain-3d",
    volume: Annotated[
        int | None, typer.Option(min=0, help="Which volume of a 4-D source, from 0.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Make a page of each finished translation or anomaly map.

    Source, result, and where they are there reference, difference, uncertainty and anomalies, to
    scroll through and to blend; scores with their protocol, warnings, provenance, model card.
    t1_desc-synth_T2w_report.html and the like need neither a network nor other files. With -o and
    several inputs index.html lists them.

    Exit codes: 0 done, 1 some inputs failed, 2 usage, 3 bad input, 4 bad model, 130 interrupted.
    """
    from medi2i.cli.evaluate_cohort import pointwise_maps
    from medi2i.errors import Medi2iError, OutputError, UsageError
    from medi2i.evaluation import protocol as protocol_called
    from medi2i.report import find_finished, find_viewer, page_of, report_on, write_index
    from medi2i.report.viewer import HOW
    from medi2i.zoo import folder_of

    chosen = protocol_called(protocol)
    scans = find_finished(inputs)
    pages = [page_of(scan, output) for scan in scans]
    if len(set(pages)) < len(pages):
        raise UsageError("two inputs would both become one page; report on them separately")
    if len(scans) > 1:
        for name, given in (("--source", source), ("--reference", reference), ("--mask", mask)):
            if given is not None and given.is_file():
                raise UsageError(f"{name} is one file, and there are {len(scans)} inputs")
    index = None if output is None or len(scans) < 2 else output / INDEX
    if index is not None and index.exists() and not overwrite:
        raise OutputError(f'"{index}" exists; give --overwrite to replace it')
    maps = pointwise_maps(folder_of(model or "default"))
    rows: list[dict[str, Any]] = []
    codes: list[int] = []
    entries = []
    try:
        with progress_bar(quiet=quiet or as_json) as bar:
            task = bar.add_task("pages", total=len(scans))
            for scan, page in zip(scans, pages, strict=True):
                try:
                    entry = report_on(
                        scan,
                        page,
                        source=source,
                        reference=reference,
                        mask=mask,
                        model=model,
                        protocol=chosen,
                        maps=maps,
                        volume=volume,
                        overwrite=overwrite,
                    )
                except Medi2iError as error:
                    complain(error)
                    codes.append(error.exit_code)
                    rows.append({"input": str(scan), "status": "failed", "error": str(error)})
                else:
                    entries.append(entry)
                    rows.append({"input": str(scan), "status": "done", "output": str(page)})
                    if not (quiet or as_json):
                        tell(str(page))
                bar.advance(task)
        if index is not None and entries:
            write_index(index, entries, overwrite=overwrite)
            if not (quiet or as_json):
                tell(str(index))
    finally:  # what was done before an interruption is reported too
        if as_json:
            print_json(rows)
    if find_viewer() is None and entries and not quiet:
        err.print(f"pictures only. {HOW}", markup=False, soft_wrap=True)
    end(codes, len(rows))
