"""What is to be done: scans grouped by head, with a model for them and a place to go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medi2i import zoo
from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.formats.names import EXTENSIONS, stem_of, subject_prefix, synthetic_name
from medi2i.formats.synthetic import Files
from medi2i.inference.engines import EngineName, check_engine
from medi2i.inference.passes import Quality
from medi2i.inference.samples import STD, check_samples
from medi2i.inference.translate import UNCERTAINTY, check_uncertainty, choose_device
from medi2i.jobs.dicom import choice
from medi2i.jobs.scans import Failed, Found
from medi2i.model import Model

__all__ = ["Job", "Options", "check_places", "choose_model", "plan_jobs", "ready_model"]


@dataclass(frozen=True)
class Options:
    """What is the same for all jobs.

    Attributes:
        target: the contrast wanted.
        volume: which one of 4-D scans.
        samples: how many to draw; 0 for one translation.
        uncertainty: also the map of expected errors.
        quality: how many looks at a scan are averaged, see `inference.passes`.
        engine: what runs the network, see `inference.engines`; samples are drawn by torch.
        preview: also a picture.
        overwrite, skip_existing: what to do with results that exist; neither refuses.
        keyed: results say what they were made of; those of the same are left as they are.
        dicom: write a series, not NIfTI.
        burn_in: write SYNTHETIC into the pixels of a series.
        deidentify: take the patient out of a series.
    """

    target: Contrast
    device: str = "auto"
    batch_size: int | None = None
    volume: int | None = None
    dtype: str = "float32"
    seed: int = 0
    samples: int = 0
    uncertainty: bool = False
    quality: Quality = Quality.FAST
    engine: EngineName = EngineName.TORCH
    preview: bool = False
    overwrite: bool = False
    skip_existing: bool = False
    keyed: bool = False
    dicom: bool = False
    burn_in: bool = False
    deidentify: bool = False

    def files(self, output: Path) -> Files:
        """What is written of one job."""
        maps = (STD,) if self.samples else (UNCERTAINTY,) if self.uncertainty else ()
        return Files(output, self.samples, maps, self.preview)


@dataclass(frozen=True, eq=False)
class Job:
    """One synthetic scan to make.

    Attributes:
        sources: in the order of the model's task.
        output: the file, or the folder of a series.
        also: for the side-car; None leaves out what stands there otherwise.
        claim: a file that is there while a process works on this; None where nobody else will.
    """

    sources: Mapping[Contrast, Found]
    output: Path
    also: Mapping[str, Any] = field(default_factory=dict)
    claim: Path | None = None

    @property
    def inputs(self) -> list[Path]:
        """The files of the sources."""
        return [scan.path for scan in self.sources.values()]

    @property
    def name(self) -> str:
        """For messages."""
        return " + ".join(scan.label for scan in self.sources.values())


def choose_model(name: str | None, contrasts: Iterable[Contrast], options: Options) -> str:
    """The name or folder that was given, or the first shipped model that serves a contrast.

    Raises:
        ContrastError: none serves. UsageError: there is no such device or engine.
    """
    check_engine(options.engine, choose_device(options.device).type)  # refuse what is not there
    if name is not None:
        return name
    there = list(dict.fromkeys(contrasts))
    refusals: list[ContrastError] = []
    for sources in [there, *([contrast] for contrast in there)]:
        try:
            return zoo.find_model(sources, options.target)
        except ContrastError as error:
            refusals.append(error)
    raise refusals[-1]


def ready_model(name: str, options: Options) -> Model:
    """A model that can do what is asked for.

    Raises:
        ContrastError: it does not give the target. ModelError: it cannot be read.
        UsageError: it cannot draw samples or tell uncertainty; samples are to be averaged, or to
            be drawn by another engine than torch.
    """
    model = zoo.load_model(name)
    if options.target not in model.task.targets:
        asked = f"{options.target} was asked for"
        raise ContrastError(f'model "{model.name}" turns {model.task}; {asked}')
    if options.samples:
        check_samples(model, options.samples)
        if options.quality is not Quality.FAST:
            raise UsageError(
                f"--quality {options.quality} averages, and samples are there to differ: give "
                "either it or --samples"
            )
        if options.engine in (EngineName.COMPILE, EngineName.OPENVINO):
            raise UsageError(
                f"--engine {options.engine} gives one image per scan, and samples are drawn by "
                "torch: give either it or --samples"
            )
    if options.uncertainty:
        check_uncertainty(model)
    return model


def plan_jobs(
    scans: Sequence[Found],
    model: Model,
    given: Contrast | None,
    output: Path | None,
    failed: Failed,
    options: Options,
) -> list[Job]:
    """One job per synthetic scan: its sources, and where the result goes.

    Raises:
        UsageError: two results have one place, or a result would fall on an input.
    """
    chosen: list[dict[Contrast, Found]] = []
    for head in _heads(scans, one_by_one=model.task.on_demand):
        try:
            chosen += _sources(head, model, given)
        except ContrastError as error:
            failed([scan.path for scan in head], error)

    one_file = output is not None and output.name.lower().endswith(EXTENSIONS)
    if one_file and len(chosen) > 1:
        raise UsageError(
            f'-o "{output}" names one file, but {len(chosen)} scans are to be translated; '
            "name a folder"
        )
    jobs: list[Job] = []
    for sources in chosen:
        first = next(iter(sources.values()))
        place = first.place.parent / synthetic_name(first.place, options.target)
        if one_file and output is not None:
            place = output
        elif output is not None:
            place = output / place.relative_to(first.root)
        if options.dicom:
            _check_dicom(sources.values())
            place = place.with_name(f"{stem_of(place)}_dicom")
        jobs.append(Job(sources, place))
    check_places(jobs, [scan.path for scan in scans], options)
    return jobs


def check_places(jobs: Sequence[Job], inputs: Iterable[Path], options: Options) -> None:
    """Raise UsageError where two results have one place, or one would fall on an input."""
    for place, count in Counter(job.output.resolve() for job in jobs).items():
        if count > 1:
            raise UsageError(f'two inputs would both become "{place}"; translate them separately')
    taken = {path.resolve() for path in inputs}
    for job in jobs:
        for place in options.files(job.output).scans:
            if place.resolve() in taken:
                raise UsageError(f'"{place}" is an input; another name was expected with -o')


def _check_dicom(sources: Iterable[Found]) -> None:
    """Raise UsageError unless patient and study are known."""
    for scan in sources:
        if scan.series is None:
            raise UsageError(
                f'"{scan.path}" is not DICOM; --format dicom takes patient, study and slices from '
                "DICOM sources"
            )


def _heads(scans: Sequence[Found], *, one_by_one: bool) -> list[list[Found]]:
    """Scans that belong together: they share a folder and a prefix, or were simply all named.

    Args:
        one_by_one: a scan that was named stands alone.
    """
    named = all(scan.named for scan in scans) and len({s.contrast for s in scans}) == len(scans)
    heads: dict[tuple[Path, str], list[Found]] = {}
    for scan in scans:
        if one_by_one and scan.named:
            key = (scan.path, scan.series.label if scan.series else "")
        elif scan.series is not None and not named:
            key = (scan.path, scan.series.study)
        else:
            key = (Path(), "") if named else (scan.path.parent, subject_prefix(scan.path))
        heads.setdefault(key, []).append(scan)
    return list(heads.values())


def _sources(
    head: Sequence[Found], model: Model, given: Contrast | None
) -> list[dict[Contrast, Found]]:
    """What the model takes of one head.

    One that takes any contrast gets the scans of `given`, or of the first contrast that it knows.

    Raises:
        ContrastError: what it needs is not there, or twice.
    """
    task = model.task
    there = {scan.contrast for scan in head}
    usable = [contrast for contrast in task.sources if contrast in there]
    if task.on_demand and given is not None:
        usable = [contrast for contrast in usable if contrast is given]
    found = ", ".join(f'"{scan.path.parent / scan.label}" ({scan.contrast})' for scan in head)
    if len(usable) < task.inputs:
        asked = f" and --from asks for {given}" if given not in (None, *there) else ""
        raise ContrastError(f'model "{model.name}" turns {task}{asked}; found {found}')
    fit = [scan.series for scan in head if scan.series and scan.contrast in usable]
    if len(fit) > 1 and (task.on_demand or len(head) > len(there)):
        raise ContrastError(choice(fit, head[0].path))
    if task.on_demand:
        return [{scan.contrast: scan} for scan in head if scan.contrast is usable[0]]
    if len(head) > len(there):
        raise ContrastError(f"one scan of each contrast was expected; found {found}")
    return [{contrast: scan for contrast in usable for scan in head if scan.contrast is contrast}]
