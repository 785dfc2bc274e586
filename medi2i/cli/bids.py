"""``medi2i bids``: a whole BIDS data set, on one machine or on many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from medi2i.cli.console import (
    Device,
    DeviceName,
    EngineOption,
    FuseOption,
    QualityOption,
    VoxelType,
    check_together,
    contrasts_of,
    end,
    ends_well,
    err,
    following,
    print_json,
    quality_of,
)
from medi2i.cli.translate import page_for, show
from medi2i.inference.engines import EngineName
from medi2i.inference.passes import Quality

if TYPE_CHECKING:
    from medi2i.jobs.study import Study, Visit
    from medi2i.jobs.work import Row

__all__ = ["Labels", "bids"]

LISTED = 20
"""People that the terminal lists; the table has all."""
LOGS = "logs"
ENDS = ("preview.png", "report.html", "sample-*", "std.*", "uncertainty.*")
IGNORED = (f"{LOGS}/", *(f"*_{end}" for end in ENDS))
"""What BIDS has no names for."""
README = """\
Every image in this folder is SYNTHETIC: computed by a neural network from a scan of another
contrast, not acquired. For research, not for diagnosis.

The JSON file beside an image names the scan and the model that it was computed with.
`logs/lacking.tsv` lists the participants who have no scan to start from, `logs/failures.tsv` what
failed; without such a file there are none."""


class Labels(TyperCommand):
    """Takes several labels behind one option, as BIDS apps do: ``--participant-label 01 02``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option before each of its labels."""
        named: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg.endswith(("-label", "_label")) else ""
            elif option and named[-1] != option:
                named.append(option)
            named.append(arg)
        return super().parse_args(ctx, named)


@ends_well
def bids(
    bids_dir: Annotated[Path, typer.Argument(help="The data set.")],
    output: Annotated[Path, typer.Argument(help="Folder of derivatives; made where missing.")],
    level: Annotated[str, typer.Argument(help="participant; there is no other.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="CONTRAST", help="Contrast wanted: t1, t2, flair, pd, t1c."),
    ],
    participant_label: Annotated[
        list[str] | None,
        typer.Option(
            "--participant-label",
            "--participant_label",
            metavar="LABEL...",
            help="Only these, with or without sub-.",
        ),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option(
            "--session-label",
            "--session_label",
            metavar="LABEL...",
            help="Only these, with or without ses-.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CONTRAST",
            help="Contrast to start from; by default the first in the model's order that is there.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="A shipped or installed model, or a model folder; found by --to.",
        ),
    ] = None,
    device: Device = DeviceName.AUTO,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows through the network at once.")
    ] = None,
    quality: QualityOption = Quality.FAST,
    fuse: FuseOption = None,
    engine: EngineOption = EngineName.AUTO,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Which volume of 4-D scans, from 0.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Draw this many from a one-to-many system.")
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Also write the error to be expected in each voxel."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Other samples for another seed.")] = 0,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a PNG: source | synthetic.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write an HTML page per scan to scroll through.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make everything anew, also what is done.")
    ] = False,
    dtype: Annotated[VoxelType, typer.Option(help="Of the output.")] = VoxelType.FLOAT32,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, which share the processor's cores.")
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", help="Only the K-th of N parts; by default as a SLURM array says."
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster that does the work."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Where the time went.")] = False,
) -> None:
    """Translate a BIDS data set, on one machine or on many.

    One synthetic scan for each session of each participant.

    OUTPUT gets sub-01/ses-1/anat/sub-01_ses-1_desc-synth_T2w.nii.gz and the like, with side-cars.
    What was made of the same scan, model and options before is skipped, so that a run that was
    stopped goes on where it was; equal input gives equal bytes. Of several scans of the contrast
    that is taken, the first by name. logs/lacking.tsv lists who has no source, which is no error,
    and logs/failures.tsv what failed.

    Exit codes: 0 done, 1 some scans failed, 2 usage, 3 bad input, 4 bad model, 130 interrupted.
    """
    from medi2i.contrasts import Contrast
    from medi2i.errors import UsageError
    from medi2i.files import clear_temporary
    from medi2i.formats.bids import describe_dataset
    from medi2i.jobs.crew import on_dask, on_processes, shard_of
    from medi2i.jobs.plan import Options, choose_model, ready_model
    from medi2i.jobs.study import find_visits, plan_study, preference
    from medi2i.jobs.tables import keep_logs, line_of
    from medi2i.jobs.work import failure, work_through

    if level != "participant":
        raise UsageError(f'analysis level "{level}"; participant was expected, the only one')
    check_together(quiet=quiet, verbose=verbose, uncertainty=uncertainty, samples=samples)
    if dask is not None and workers > 1:
        raise UsageError("--dask and --workers both say who works; give one")
    target, given = contrasts_of(to, source)
    part, parts = shard_of(shard)
    root, place = bids_dir.resolve(), output.resolve()
    if root == place:
        raise UsageError("the results would be mixed with the data set; another folder is needed")
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
        keyed=True,
    )
    visits = find_visits(root, participant_label or (), session_label or ())
    there = {contrast for visit in visits for contrast in visit.scans if given in (None, contrast)}
    likely = [c for c in Contrast if c in there - {target}]
    rest = [c for c in Contrast if c is not target and c not in likely and given in (None, c)]
    name = choose_model(model, [*likely, *rest], options)
    if Path(name).is_dir():
        name = str(Path(name).resolve())  # other machines work elsewhere
    loaded = ready_model(name, options)
    study = plan_study(visits, root, place, loaded.task, given, options)
    mine = study.jobs[part - 1 :: parts]
    jobs = [job for _, job in mine]
    broken = [visit for visit in visits if visit.problem is not None][part - 1 :: parts]
    for folder in (place, place / LOGS):
        clear_temporary(folder, below=False)  # what killed processes have left
    describe_dataset(place, "Synthetic scans", "medi2i bids", root, readme=README, ignored=IGNORED)

    silent = quiet or as_json
    if not silent:
        order = " + " if not loaded.task.on_demand else ", else "
        takes = order.join(map(str, preference(loaded.task, given, target)))
        share = f", part {part} of {parts}" if parts > 1 else ""
        err.print(
            f'{len(jobs)} sessions{share}: {target} by model "{loaded.name}", from {takes}',
            markup=False,
            soft_wrap=True,
        )
    whose = {tuple(map(str, job.inputs)): visit for visit, job in mine}
    rows: list[Row] = []
    codes: list[int] = []
    over: list[Visit] = []
    failures: list[dict[str, str]] = []

    def brief(content: Any) -> Any:
        """The same without the folders that lead to the data set: they may name somebody."""
        if isinstance(content, str):
            for folder in (root, place):
                content = content.replace(f"{folder}/", "").replace(str(folder), folder.name)
            return content
        if isinstance(content, dict):
            return {key: brief(value) for key, value in content.items()}
        return [brief(one) for one in content] if isinstance(content, list) else content

    def take(row: Row, visit: Visit | None = None) -> None:
        visit = visit or whose[tuple(row["input"])]
        over.append(visit)
        if report and row["status"] in ("done", "skipped"):
            row = _with_page(row, volume)
        row = brief(row)
        if row["status"] == "failed":
            codes.append(row.pop("code"))
            failures.append(line_of(visit, file=" ".join(row["input"]), problem=row["error"]))
        rows.append(row)
        show(row, quiet=silent, verbose=verbose)

    try:
        for visit in broken:
            if visit.problem is not None:
                take(failure([], visit.problem), visit)
        with following(len(jobs), quiet=silent) as (advance, begin):

            def tell(row: Row) -> None:
                take(row)
                advance()

            if dask is not None:
                on_dask(name, jobs, options, tell, dask)
            elif workers > 1 and len(jobs) > 1:
                on_processes(name, jobs, options, tell, workers)
            else:
                work_through(loaded, jobs, options, tell, begin)
    finally:  # what was done before an interruption is reported too
        keep_logs(place / LOGS, study, visits, over, failures)
        if as_json:
            print_json(rows)
        elif not quiet:
            _summary(rows, study)
    end(codes, len(rows))


def _with_page(row: Row, volume: int | None) -> Row:
    """The row with its page, which is made where it is not there or its scan was made anew.

    Without a page a scan is none the worse: why there is none is a warning.
    """
    from medi2i.errors import Medi2iError
    from medi2i.report import page_of

    page = page_of(Path(row["output"]))
    try:
        if row["status"] == "done" or not page.exists():
            page_for(row, volume, overwrite=True)
    except Medi2iError as error:
        said = [*row.get("warnings", ()), f"there is no report: {error}"]
        return {**row, "warnings": said}
    return {**row, "report": str(page)}


def _summary(rows: Sequence[Row], study: Study) -> None:
    counts = Counter(row["status"] for row in rows)
    words = {
        "done": "done",
        "skipped": "done before, nothing to do",
        "elsewhere": "being made by another process",
        "failed": f"failed ({LOGS}/failures.tsv)",
    }
    said = [f"{counts[status]} {text}" for status, text in words.items() if counts[status]]
    if study.lacking:
        said.append(f"{len(study.lacking)} without a source ({LOGS}/lacking.tsv)")
    err.print("; ".join(said) or "nothing to do", markup=False, soft_wrap=True)
    for visit, problem in study.lacking[:LISTED]:
        err.print(f"  {visit.name}: {problem}", markup=False, soft_wrap=True)
    if len(study.lacking) > LISTED:
        err.print(f"  and {len(study.lacking) - LISTED} more", markup=False)
