"""Doing what ``medi2i translate`` has planned: load, translate, save, one scan after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from medi2i.cli.console import DeviceName, out_of_memory, progress_bar
from medi2i.cli.jobs import Failed, Job

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.formats.dicom.synthetic import SeriesWriter
    from medi2i.formats.synthetic import Files, Writer
    from medi2i.inference.translate import Translation
    from medi2i.model import Model
    from medi2i.volume import Volume

__all__ = ["FileFormat", "Options", "VoxelType", "check_places", "do_jobs"]

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


class FileFormat(StrEnum):
    """What --format takes."""

    NIFTI = "nifti"
    DICOM = "dicom"


@dataclass(frozen=True)
class Options:
    """What is the same for all jobs."""

    target: Contrast
    device: DeviceName
    batch_size: int | None
    volume: int | None
    dtype: VoxelType
    seed: int
    samples: int
    """How many to draw; 0 for one translation."""
    uncertainty: bool
    preview: bool
    overwrite: bool
    skip_existing: bool
    format: FileFormat = FileFormat.NIFTI
    burn_in: bool = False
    """Write SYNTHETIC into the pixels of a DICOM series."""

    def files(self, job: Job) -> Files:
        """What a job writes."""
        from medi2i.formats.synthetic import Files
        from medi2i.inference.samples import STD
        from medi2i.inference.translate import UNCERTAINTY

        maps = (STD,) if self.samples else (UNCERTAINTY,) if self.uncertainty else ()
        return Files(job.output, self.samples, maps, self.preview)


def check_places(jobs: Sequence[Job], options: Options) -> None:
    """Raise UsageError where something beside an output would fall on an input."""
    from medi2i.errors import UsageError

    inputs = {path.resolve() for job in jobs for path in job.inputs}
    for job in jobs:
        for place in options.files(job).scans:
            if place.resolve() in inputs:
                raise UsageError(f'"{place}" is an input; another name was expected with -o')


def do_jobs(
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
    files = options.files(job)
    row: dict[str, Any] = {
        "input": [str(path) for path in job.inputs],
        "output": str(job.output),
    }
    labels = [scan.series.label for scan in job.sources.values() if scan.series]
    if labels:
        row["series"] = labels
    if not _free(files, options):
        return {**row, "status": "skipped"}

    began = time.perf_counter()
    volumes = {contrast: scan.load(options.volume) for contrast, scan in job.sources.items()}
    loaded = time.perf_counter()
    seen = _seen(job, volumes)
    looked = time.perf_counter()
    with _writing(model, job, options, volumes) as writer:
        result = _translated(model, volumes, options, watch, writer.sample)
        doubts = (scan.doubt for scan in job.sources.values() if scan.doubt)
        warnings = (
            *doubts,
            *seen,
            *result.warnings,
            *_moved(volumes),
            *_displaced(model, volumes, result.volume),
            *_coarse(result.volume, options.dtype),
        )
        writer.finish(replace(result, warnings=warnings))
    seconds = {"load": loaded - began, "look": looked - loaded, **result.seconds}
    # Samples are saved while others are still to be drawn: saving is what remains.
    seconds["save"] = time.perf_counter() - began - sum(seconds.values())

    if options.samples:
        numbers = range(1, options.samples + 1)
        row["samples"] = [str(files.sample(number)) for number in numbers]
    if files.maps:
        row["maps"] = {name: str(files.map(name)) for name in files.maps}
    if files.picture:
        row["preview"] = str(files.preview)
    return {
        **row,
        "status": "done",
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "warnings": list(warnings),
    }


def _free(files: Files, options: Options) -> bool:
    """Whether there is anything to do; raise OutputError where it cannot be done."""
    from medi2i.formats.synthetic import check_free

    how = {"overwrite": options.overwrite, "skip_existing": options.skip_existing}
    if options.format is FileFormat.DICOM:
        from medi2i.formats.dicom import check_series_free

        return check_series_free(files.output, **how)
    return check_free(files, **how)


def _writing(
    model: Model, job: Job, options: Options, volumes: Mapping[Contrast, Volume]
) -> AbstractContextManager[Writer | SeriesWriter]:
    """Something that writes what the job makes, whole or not at all."""
    if options.format is FileFormat.DICOM:
        from medi2i.formats.dicom import writing_series

        return writing_series(
            job.output,
            model,
            {contrast: scan.series for contrast, scan in job.sources.items() if scan.series},
            options.target,
            device=options.device,
            seed=options.seed,
            volume=options.volume,
            burn_in=options.burn_in,
            overwrite=options.overwrite,
        )
    from medi2i.formats.synthetic import writing

    return writing(
        options.files(job),
        model,
        {contrast: scan.source for contrast, scan in job.sources.items()},
        options.target,
        device=options.device,
        seed=options.seed,
        dtype=options.dtype,
        shown=dict(list(volumes.items())[:1]),
        overwrite=options.overwrite,
    )


def _translated(
    model: Model,
    volumes: Mapping[Contrast, Volume],
    options: Options,
    watch: Callable[[int, int], None],
    take: Callable[[int, Volume], None],
) -> Translation:
    """The translation, or the mean of samples, each of which is handed over."""
    import torch

    from medi2i.inference.samples import run_samples
    from medi2i.inference.translate import run_model

    if options.samples:
        return run_samples(
            model,
            volumes,
            options.target,
            samples=options.samples,
            seed=options.seed,
            device=options.device,
            batch_size=options.batch_size,
            watch=watch,
            take=take,
        )
    torch.manual_seed(options.seed)
    return run_model(
        model,
        volumes,
        options.target,
        device=options.device,
        batch_size=options.batch_size,
        uncertainty=options.uncertainty,
        watch=watch,
    )


def _seen(job: Job, volumes: Mapping[Contrast, Volume]) -> list[str]:
    """What the images have against being heads in the contrasts they are taken for."""
    from medi2i.inference.recognise import doubts

    named = [contrast for contrast, scan in job.sources.items() if not scan.recognised]
    return [doubt for contrast in named for doubt in doubts(volumes[contrast], contrast)]


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


def _displaced(model: Model, volumes: Mapping[Contrast, Volume], result: Volume) -> list[str]:
    """A warning where a network that learned without pairs has moved tissue."""
    from medi2i.batch import Pairing
    from medi2i.errors import UsageError
    from medi2i.evaluation.structure import MOVED, structure_scores

    if model.system.pairing is not Pairing.UNPAIRED:
        return []
    source, synthetic = next(iter(volumes.values())).canonical(), result.canonical()
    try:
        found = structure_scores(source.voxels, synthetic.voxels, spacing=source.spacing)
    except UsageError as error:
        return [f"whether tissue moved is not known: {error}"]
    if not found.moved:
        return []
    far = f"{found.displacement_95:.1f} mm at the 95th percentile of edges, over {MOVED:g} mm"
    return [f"tissue may have moved: {far}, by a registration between source and translation"]


def _coarse(volume: Volume, dtype: VoxelType) -> list[str]:
    """A warning where rounding to whole numbers takes the detail away."""
    span = float(volume.voxels.max()) - float(volume.voxels.min())
    if dtype.startswith("float") or span >= FINE:
        return []
    loss = f"intensities span {span:.3g} and were rounded to whole numbers ({dtype})"
    return [f"{loss}: much detail is lost; float32 keeps it"]
