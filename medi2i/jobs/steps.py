"""The three steps of a job: is its place free, through the network, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from medi2i.contrasts import Contrast
from medi2i.formats.synthetic import Writer, check_free, writing
from medi2i.inference import samples as sampling
from medi2i.inference import translate
from medi2i.jobs.plan import Job, Options
from medi2i.model import Model
from medi2i.volume import Volume

if TYPE_CHECKING:
    from medi2i.formats.dicom.synthetic import SeriesWriter

__all__ = ["free", "staged", "translated"]


def free(job: Job, options: Options) -> bool:
    """Whether there is anything to do; raise OutputError where it cannot be done."""
    how = {"overwrite": options.overwrite, "skip_existing": options.skip_existing}
    if options.dicom:
        from medi2i.formats.dicom import check_series_free

        return check_series_free(job.output, **how)
    return check_free(options.files(job.output), **how)


def staged(
    model: Model,
    job: Job,
    volumes: Mapping[Contrast, Volume],
    options: Options,
    also: Mapping[str, Any],
) -> AbstractContextManager[Writer | SeriesWriter]:
    """Something that writes what the job makes, whole or not at all.

    Args:
        also: for the side-car; None leaves out what stands there otherwise.
    """
    if options.dicom:
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
            deidentify=options.deidentify,
            overwrite=options.overwrite,
        )
    return writing(
        options.files(job.output),
        model,
        job.sources,
        options.target,
        device=options.device,
        seed=options.seed,
        dtype=options.dtype,
        shown=dict(list(volumes.items())[:1]),
        also=also,
        overwrite=options.overwrite or options.keyed,
    )


def translated(
    model: Model,
    volumes: Mapping[Contrast, Volume],
    options: Options,
    watch: Callable[[int, int], None] | None,
    take: Callable[[int, Volume], None],
) -> translate.Translation:
    """The translation, or the mean of samples, each of which is handed over."""
    if options.samples:
        return sampling.run_samples(
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
    return translate.run_model(
        model,
        volumes,
        options.target,
        device=options.device,
        batch_size=options.batch_size,
        quality=options.quality,
        engine=options.engine,
        uncertainty=options.uncertainty,
        watch=watch,
    )
