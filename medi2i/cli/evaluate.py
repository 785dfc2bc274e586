"""``medi2i evaluate``: scores under a named protocol, never without their baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    QualityOption,
    ends_well,
    err,
    out,
    print_json,
)
from medi2i.inference.passes import Quality

if TYPE_CHECKING:
    from medi2i.evaluation import ScoreTable

__all__ = ["evaluate"]

SCORES = ("scores.csv", "scores.json")
PAGE = "report.html"


@ends_well
def evaluate(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="A synthetic and an acquired scan; or BIDS folders and tables to translate."
        ),
    ],
    source: Annotated[
        Path | None, typer.Option(help="The scan that was translated, for mask and baselines.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Where to score; source > 0 without it.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="CONTRAST", help="Cohort: source; all by default."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="CONTRAST", help="Cohort: target; all by default."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Cohort: a shipped model or a model folder; several with --anomaly.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Cohort: which split; all subjects by default.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="A protocol's name.")] = "brain-3d",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for scores and translations.")
    ] = None,
    device: Device = DeviceName.AUTO,
    quality: QualityOption = Quality.FAST,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
    per_case: Annotated[bool, typer.Option(help="Show every case, not only the means.")] = True,
    structure: Annotated[
        bool | None,
        typer.Option(
            "--structure/--no-structure",
            help="Whether anatomy stayed in place, against the source; by default for models that "
            "learned without pairs.",
        ),
    ] = None,
    anomaly: Annotated[
        bool,
        typer.Option(
            "--anomaly",
            help="Cohort: how well what is not normal is found, against experts' lesion masks.",
        ),
    ] = False,
    tuned_on: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Anomaly: where each method's threshold for Dice is chosen."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Anomaly: the score from which a voxel counts.")
    ] = None,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="Anomaly: who has no lesion mask is healthy.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Also write an HTML page of scores and pictures; needs -o."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Score translations against acquired scans.

    Two files: how well the first one agrees with the second. Folders or tables: every subject is
    translated by the model, and scored where the target was acquired.

    Beside every method stand two baselines: the source as it is, and the source through a map of
    its intensities alone. With -o the scores are written as scores.csv and scores.json, and with
    --report as report.html: the worst case first, with pictures of it and of the median one.

    Anomaly: every FLAIR with an expert's lesion mask beside it (derivatives/*/sub-*/.../*_label-
    lesion_mask.nii.gz) is looked at as by "medi2i anomaly", by intensity alone and by each --model:
    slices told apart, voxels, lesions found at one false alarm per slice, healthy tissue.

    Structure: the agreement of edges with the source (1/3 is chance), mutual information, and how
    far tissue moved, in mm; with -o a picture of the displacement where it is large.

    Exit codes: 0 done, 1 some subjects failed, 2 usage, 3 bad input, 4 bad model.
    """
    from medi2i.cli.evaluate_anomaly import score_anomalies
    from medi2i.cli.evaluate_cohort import pointwise_maps, score_cohort, structure_of, write_page
    from medi2i.contrasts import contrast_of
    from medi2i.errors import MissingFileError, OutputError, UsageError
    from medi2i.evaluation import Case, compare
    from medi2i.evaluation import protocol as protocol_called
    from medi2i.files import check_writable
    from medi2i.formats.names import EXTENSIONS, stem_of
    from medi2i.zoo import shipped

    chosen = protocol_called(protocol)
    for path in (*scans, *(p for p in (source, mask) if p is not None)):
        if not path.exists():
            raise MissingFileError(f'"{path}" does not exist')
    if report and output is None:
        raise UsageError("--report is written beside the scores; give their folder with -o")
    files = (*SCORES, PAGE) if report else SCORES
    page = output / PAGE if report and output is not None else None
    for path in () if output is None else (output / name for name in files):
        if path.exists() and not overwrite:
            raise OutputError(f'"{path}" exists; give --overwrite to replace it')
        check_writable(path)
    if anomaly:
        if start or to or source or mask or structure:
            raise UsageError(
                "--from, --to, --source, --mask and --structure belong to translations, not to "
                "--anomaly"
            )
        found = score_anomalies(
            scans,
            model or [],
            split,
            tuned_on=tuned_on,
            threshold=threshold,
            healthy=healthy,
            output=output,
            page=page,
            device=device,
            quiet=quiet or as_json,
        )
        if as_json:
            print_json(found.as_dict())
        else:
            out.print(found.to_rich(per_case=per_case))
        return
    if tuned_on is not None or threshold is not None or healthy:
        raise UsageError("--tuned-on, --threshold and --healthy belong to --anomaly")
    if model is not None and len(model) > 1:
        raise UsageError("several models were given; several are compared with --anomaly alone")
    (chosen_model,) = model or ["default"]

    two = [path for path in scans if path.name.lower().endswith(EXTENSIONS)]
    if two:
        if len(scans) != 2 or len(two) != 2:
            raise UsageError("two scans were expected, the synthetic one and the acquired one")
        if start or to or split:
            raise UsageError("--from, --to and --split belong to a cohort, not to two scans")
        prediction, target = two
        ends = [None if path is None else contrast_of(path) for path in (source, target)]
        task = "->".join(map(str, ends)) if all(ends) else "two scans"
        case = Case(stem_of(prediction), task, {"synthetic": prediction}, target, source, mask)
        table = compare(
            [case],
            protocol=chosen,
            maps=pointwise_maps(shipped().get(chosen_model)),
            further=structure_of(output) if structure else None,
        )
        if page is not None:
            write_page(page, table, [case])
        _show(table, output, per_case=True, as_json=as_json)
        return
    if source is not None or mask is not None:
        raise UsageError("--source and --mask belong to two scans, not to a cohort")
    table, failed = score_cohort(
        scans,
        start,
        to,
        split,
        chosen_model,
        output,
        device,
        chosen,
        quality=quality,
        structure=structure,
        page=page,
        quiet=quiet or as_json,
    )
    _show(table, output, per_case=per_case, as_json=as_json)
    if failed:
        err.print(f"{failed} translations failed; the scores are of the others")
        raise typer.Exit(1)


def _show(table: ScoreTable, output: Path | None, *, per_case: bool, as_json: bool) -> None:
    from medi2i.files import staging

    if output is not None:
        with staging(output, SCORES) as stage:
            table.to_csv(stage / SCORES[0])
            table.to_json(stage / SCORES[1])
    if as_json:
        print_json(table.as_dict())
    else:
        out.print(table.to_rich(per_case=per_case))
