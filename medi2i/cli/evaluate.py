"""``medi2i evaluate``: scores under a named protocol, never without their baselines."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    complain,
    ends_well,
    err,
    out,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medi2i.contrasts import Contrast
    from medi2i.data.cohort import Subject
    from medi2i.evaluation import Case, PointwiseMap, Protocol, ScoreTable
    from medi2i.evaluation.compare import Further
    from medi2i.model import Model
    from medi2i.volume import Volume

__all__ = ["evaluate"]

SCORES = ("scores.csv", "scores.json")


@dataclass(frozen=True)
class Job:
    """One translation of one subject, to be scored."""

    name: str
    subject: Subject
    sources: tuple[Contrast, ...]
    target: Contrast

    @property
    def task(self) -> str:
        """Such as "T1w->T2w"."""
        return f"{'+'.join(map(str, self.sources))}->{self.target}"


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
        str, typer.Option(metavar="NAME|FOLDER", help="Cohort: a shipped model or a model folder.")
    ] = "default",
    split: Annotated[
        str | None, typer.Option(help="Cohort: which split; all subjects by default.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="A protocol's name.")] = "brain-3d",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for scores and translations.")
    ] = None,
    device: Device = DeviceName.AUTO,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Score translations against acquired scans.

    Two files: how well the first one agrees with the second. Folders or tables: every subject is
    translated by the model, and scored where the target was acquired.

    Beside every method stand two baselines: the source as it is, and the source through a map of
    its intensities alone. With -o the scores are written as scores.csv and scores.json.

    Structure: the agreement of edges with the source (1/3 is chance), mutual information, and how
    far tissue moved, in mm; with -o a picture of the displacement where it is large.

    Exit codes: 0 done, 1 some subjects failed, 2 usage, 3 bad input, 4 bad model.
    """
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
    for path in () if output is None else (output / name for name in SCORES):
        if path.exists() and not overwrite:
            raise OutputError(f'"{path}" exists; give --overwrite to replace it')
        check_writable(path)

    files = [path for path in scans if path.name.lower().endswith(EXTENSIONS)]
    if files:
        if len(scans) != 2 or len(files) != 2:
            raise UsageError("two scans were expected, the synthetic one and the acquired one")
        if start or to or split:
            raise UsageError("--from, --to and --split belong to a cohort, not to two scans")
        prediction, target = files
        ends = [None if path is None else contrast_of(path) for path in (source, target)]
        task = "->".join(map(str, ends)) if all(ends) else "two scans"
        case = Case(stem_of(prediction), task, {"synthetic": prediction}, target, source, mask)
        table = compare(
            [case],
            protocol=chosen,
            maps=_maps(shipped().get(model)),
            further=_structure(output) if structure else None,
        )
        _show(table, output, per_case=True, as_json=as_json)
        return
    if source is not None or mask is not None:
        raise UsageError("--source and --mask belong to two scans, not to a cohort")
    table, failed = _cohort(
        scans,
        start,
        to,
        split,
        model,
        output,
        device,
        chosen,
        structure=structure,
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


def _cohort(
    roots: Sequence[Path],
    start: str | None,
    to: str | None,
    split: str | None,
    model: str,
    output: Path | None,
    device: DeviceName,
    protocol: Protocol,
    *,
    structure: bool | None,
    quiet: bool,
) -> tuple[ScoreTable, int]:
    """Translate and score; returns the table, and how many translations failed."""
    from medi2i.batch import Pairing
    from medi2i.errors import InputError
    from medi2i.evaluation import compare
    from medi2i.inference.translate import choose_device
    from medi2i.zoo import folder_of, load_model

    choose_device(device)  # refuses one that is not there
    loaded = load_model(model)
    jobs = _jobs(roots, loaded, start, to, split)
    wanted = loaded.system.pairing is Pairing.UNPAIRED if structure is None else structure
    problems: list[InputError] = []
    with tempfile.TemporaryDirectory(prefix="medi2i-") as scratch, progress_bar(quiet=quiet) as bar:
        working = bar.add_task("translating", total=len(jobs))
        cases: list[Case] = []
        for number, job in enumerate(jobs):
            bar.update(working, description=f"{job.name} {job.task}")
            own = Path(scratch) / str(number)
            try:
                cases.append(
                    _translated(job, loaded, own if output is None else output, own, device)
                )
            except InputError as error:
                complain(error)
                problems.append(error)
            bar.advance(working)
        if not cases:
            raise problems[0]
        scoring = bar.add_task("scoring", total=None)
        table = compare(
            cases,
            protocol=protocol,
            maps=_maps(folder_of(model)),
            further=_structure(output) if wanted else None,
            watch=lambda row: bar.update(scoring, description=f"scoring {row.case} {row.task}"),
        )
    return table, len(problems)


def _jobs(
    roots: Sequence[Path], model: Model, start: str | None, to: str | None, split: str | None
) -> list[Job]:
    """Every translation of the model that a subject has both ends of."""
    from medi2i.contrasts import Contrast
    from medi2i.data.cohort import find_cohort
    from medi2i.errors import CohortError, ContrastError, UsageError

    try:
        first = None if start is None else Contrast.parse(start)
        last = None if to is None else Contrast.parse(to)
    except ContrastError as error:
        raise UsageError(str(error)) from error
    cohort = find_cohort(list(roots))
    if split is not None:
        cohort = cohort.split(split)
    names = Counter(subject.name for subject in cohort)
    jobs = [
        Job(
            subject.name
            if names[subject.name] == 1
            else f"{subject.name}_{Path(subject.study).stem}",
            subject,
            inputs,
            target,
        )
        for inputs, outputs in model.task.pairs()
        for target in outputs
        if first in (None, *inputs) and last in (None, target)
        for subject in cohort
        if all(contrast in subject.scans for contrast in (*inputs, target))
    ]
    if not jobs:
        raise CohortError(
            f"no subject has both ends of a translation of {model.task}"
            + (f" from {first}" if first else "")
            + (f" to {last}" if last else "")
        )
    twice = [key for key, n in Counter((job.name, job.task) for job in jobs).items() if n > 1]
    if twice:
        raise CohortError(f'two subjects are called "{twice[0][0]}"; evaluate them separately')
    return jobs


def _translated(job: Job, model: Model, folder: Path, scratch: Path, device: DeviceName) -> Case:
    """Translate one subject; the case holds paths, so that a cohort need not fit in memory."""
    from medi2i.data.registration import load_together
    from medi2i.evaluation import Case
    from medi2i.formats.names import synthetic_name
    from medi2i.formats.synthetic import save_synthetic
    from medi2i.inference.translate import run_model
    from medi2i.volume import save_volume

    scans = load_together(job.subject, (*job.sources, job.target))
    acquired = scans.pop(job.target)
    source = scans[job.sources[0]]
    result = run_model(model, scans, job.target, device=device)
    name = synthetic_name(Path(f"{job.name}.nii.gz"), job.target)
    synthetic = folder / job.task.replace("->", "-to-") / name
    paths = {contrast: job.subject.scans[contrast] for contrast in job.sources}
    save_synthetic(synthetic, model, paths, job.target, result, device=device, overwrite=True)
    target = job.subject.scans[job.target]
    if acquired.header is source.header:  # resampled: now it has the source's grid
        target = save_volume(acquired, scratch / "target.nii")
    return Case(job.name, job.task, {model.name: synthetic}, target, paths[job.sources[0]])


def _structure(output: Path | None) -> Further:
    """Scores of anatomy in place, and a picture of where it moved, if there is a folder for it."""
    from medi2i.evaluation.structure import draw_displacement, structure_scores

    drawn: set[tuple[str, str]] = set()

    def further(
        case: Case, predicted: NDArray[Any], target: Volume, source: Volume | None
    ) -> Mapping[str, float]:
        del target
        if source is None or predicted is source.voxels:
            return {}
        found = structure_scores(source.voxels, predicted, spacing=source.spacing)
        if output is not None and found.moved and (case.name, case.task) not in drawn:
            drawn.add((case.name, case.task))  # the prediction's; the baselines come after it
            path = output / case.task.replace("->", "-to-") / f"{case.name}_displacement.png"
            draw_displacement(path, source, predicted, found)
        return found.as_dict()

    return further


def _maps(model: Path | None) -> dict[str, PointwiseMap]:
    """The pointwise maps that were fitted to a model's training scans, where it has them."""
    import json

    from medi2i.evaluation import PointwiseMap

    path = None if model is None else model / "pointwise.json"
    if path is None or not path.is_file():
        return {}
    records = json.loads(path.read_text(encoding="utf-8"))
    return {task: PointwiseMap.from_dict(record) for task, record in records.items()}
