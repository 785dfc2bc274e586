"""What ``medi2i evaluate`` does with a cohort: translate everybody, then score."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medi2i.cli.console import DeviceName, complain, progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medi2i.contrasts import Contrast
    from medi2i.data.cohort import Subject
    from medi2i.evaluation import Case, PointwiseMap, Protocol, ScoreTable
    from medi2i.evaluation.compare import Further
    from medi2i.inference.passes import Quality
    from medi2i.model import Model
    from medi2i.volume import Volume

__all__ = ["Job", "pointwise_maps", "score_cohort", "structure_of", "write_page"]


SMALL = 3_000_000
"""Bytes of the volumes in the report of a scan, of which an evaluation makes many."""


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


def score_cohort(
    roots: Sequence[Path],
    start: str | None,
    to: str | None,
    split: str | None,
    model: str,
    output: Path | None,
    device: DeviceName,
    protocol: Protocol,
    *,
    quality: Quality,
    structure: bool | None,
    page: Path | None,
    quiet: bool,
) -> tuple[ScoreTable, int]:
    """Translate and score; returns the table, and how many translations failed.

    Args:
        page: where a report goes, beside the translations.
    """
    from medi2i.batch import Pairing
    from medi2i.errors import InputError
    from medi2i.evaluation import compare
    from medi2i.formats.names import without_folders
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
                    _translated(
                        job, loaded, own if output is None else output, own, device, quality
                    )
                )
            except InputError as error:
                complain(f"{job.name}, {job.task}: {without_folders(str(error))}")
                problems.append(error)
            bar.advance(working)
        if not cases:
            raise problems[0]
        scoring = bar.add_task("scoring", total=None)
        table = compare(
            cases,
            protocol=protocol,
            maps=pointwise_maps(folder_of(model)),
            further=structure_of(output) if wanted else None,
            watch=lambda row: bar.update(scoring, description=f"scoring {row.case} {row.task}"),
        )
        if page is not None:
            write_page(page, table, cases, made=True)
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


def _translated(
    job: Job, model: Model, folder: Path, scratch: Path, device: DeviceName, quality: Quality
) -> Case:
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
    result = run_model(model, scans, job.target, device=device, quality=quality)
    name = synthetic_name(Path(f"{job.name}.nii.gz"), job.target)
    synthetic = folder / job.task.replace("->", "-to-") / name
    paths = {contrast: job.subject.scans[contrast] for contrast in job.sources}
    save_synthetic(synthetic, model, paths, job.target, result, device=device, overwrite=True)
    target = job.subject.scans[job.target]
    if acquired.header is source.header:  # resampled: now it has the source's grid
        target = save_volume(acquired, scratch / "target.nii")
    return Case(job.name, job.task, {model.name: synthetic}, target, paths[job.sources[0]])


def write_page(page: Path, table: ScoreTable, cases: Sequence[Case], *, made: bool = False) -> None:
    """Write the report of an evaluation, with links to the reports of its scans.

    Args:
        made: whether the scans were made here: then the reports of those that are pictured are
            made, too. One that is older than its scan is not linked.
    """
    from medi2i.report.cohort import chosen_rows, picture_of, write_cohort
    from medi2i.report.finished import page_of, report_on
    from medi2i.volume import load_volume

    named = {(case.task, case.name): case for case in cases}
    pictures = []
    for what, row in chosen_rows(table):
        case = named[row.task, row.case]
        pictures.append(picture_of(what, row, case))
        if made and isinstance(case.source, Path):
            first = row.task.partition("->")[0].partition("+")[0]
            own = tuple(r for r in table.rows if (r.task, r.case) == (row.task, row.case))
            report_on(
                Path(str(case.predictions[row.method])),
                shown={first: load_volume(case.source)},
                reference=Path(str(case.target)),
                scores=replace(table, rows=own, notes=()),
                budget=SMALL,
                overwrite=True,
            )
    pages: dict[tuple[str, str], Path] = {}
    for key, case in named.items():
        for scan in case.predictions.values():
            one = page_of(scan) if isinstance(scan, Path) else None
            if one is not None and one.is_file() and _newer(one, scan):
                pages[key] = one
    write_cohort(page, table, pictures=pictures, pages=pages, overwrite=True)


def _newer(page: Path, scan: Any) -> bool:
    return page.stat().st_mtime_ns >= Path(scan).stat().st_mtime_ns


def structure_of(output: Path | None) -> Further:
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


def pointwise_maps(model: Path | None) -> dict[str, PointwiseMap]:
    """The pointwise maps that were fitted to a model's training scans, where it has them."""
    import json

    from medi2i.evaluation import PointwiseMap

    path = None if model is None else model / "pointwise.json"
    if path is None or not path.is_file():
        return {}
    records = json.loads(path.read_text(encoding="utf-8"))
    return {task: PointwiseMap.from_dict(record) for task, record in records.items()}
