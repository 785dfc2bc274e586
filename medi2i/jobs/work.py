"""Jobs done one after the other by one process: read, translated, written.

While one scan is in the network the next is read and the last is written; no more than these
three are in memory.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from medi2i.contrasts import Contrast
from medi2i.errors import (
    DeviceMemoryError,
    InputError,
    Medi2iError,
    out_of_memory,
    unreachable,
)
from medi2i.files import clear_staging
from medi2i.formats.synthetic import Writer
from medi2i.inference.guards import beyond, guarded
from medi2i.inference.recognise import look, stripped
from medi2i.inference.translate import Translation
from medi2i.jobs.claims import claimed
from medi2i.jobs.concerns import concerns
from medi2i.jobs.keys import KEY, changes, key_of
from medi2i.jobs.plan import Job, Options
from medi2i.jobs.steps import free, staged, translated
from medi2i.model import Model
from medi2i.volume import Volume

if TYPE_CHECKING:
    from medi2i.formats.dicom.synthetic import SeriesWriter

__all__ = ["Begin", "Row", "Tell", "failure", "work_through"]

R = TypeVar("R")
Row = dict[str, Any]
"""How a job ended: status "done", "skipped", "elsewhere" or "failed"; a failure has a sentence,
"error", and an exit code."""
Tell = Callable[[Row], None]
Begin = Callable[[Job], Callable[[int, int], None]]
"""Told of a job that goes into the network; returns what is told (windows done, windows in all)."""

_NETWORK = threading.Lock()
"""One at a time, where several threads of a process work: random numbers have one generator."""


@dataclass
class _Ready:
    """A job whose scans are read.

    Attributes:
        held: what ends with the job: its claim, the folder that it is written in.
        changed: what is not the same as in the result that is there.
    """

    job: Job
    held: ExitStack
    changed: list[str]
    also: dict[str, Any] = field(default_factory=dict)
    volumes: dict[Contrast, Volume] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    again: str = ""


def work_through(
    model: Model, jobs: Iterable[Job], options: Options, tell: Tell, begin: Begin | None = None
) -> None:
    """Do jobs in their order.

    Args:
        jobs: asked for the next one while another is worked on.
        tell: told of every job, in order, by another thread.
        begin: told of progress.

    Raises:
        Exception: what nobody expected, unless the results are keyed: then only its job fails.
    """
    source = iter(jobs)

    def fetch() -> _Ready | Row | None:
        job = next(source, None)
        return None if job is None else _guarded(job, options, lambda: _read(model, job, options))

    with (
        ThreadPoolExecutor(1, "medi2i-read") as reader,
        ThreadPoolExecutor(1, "medi2i-write") as writer,
    ):
        coming: Future[_Ready | Row | None] = reader.submit(fetch)
        last: Future[None] | None = None
        try:
            while (ready := coming.result()) is not None:
                coming = reader.submit(fetch)
                finish = _through(model, ready, options, begin)
                if last is not None:
                    last.result()
                last = writer.submit(lambda finish: tell(finish()), finish)
                del ready, finish  # what is written need not be kept
            if last is not None:
                last.result()
        finally:
            coming.add_done_callback(_let_go)


def _let_go(coming: Future[_Ready | Row | None]) -> None:
    """Give up what was read and will not be worked on."""
    if not coming.cancelled() and coming.exception() is None:
        ready = coming.result()
        if isinstance(ready, _Ready):
            ready.held.close()


def _read(model: Model, job: Job, options: Options) -> _Ready | Row:
    """Find out whether there is anything to do, make sure that nobody else does it, and load."""
    files = options.files(job.output)
    with ExitStack() as stack:
        began = time.perf_counter()
        ready = _Ready(job, stack, [], dict(job.also))
        if options.keyed:
            key = ready.also[KEY] = key_of(job, model, options)
            if not options.overwrite and changes(files, key) is None:
                if job.claim is not None and job.claim.exists():  # of one killed at the last moment
                    with claimed(job.claim) as mine:
                        if mine:
                            clear_staging(job.output)
                return {**_row(job), "status": "skipped"}
            if job.claim is not None and not stack.enter_context(claimed(job.claim)):
                return {**_row(job), "status": "elsewhere"}
            clear_staging(job.output)  # what a killed process has left
            now = [] if options.overwrite else changes(files, key)
            if now is None:  # somebody was faster
                return {**_row(job), "status": "skipped"}
            ready.changed = now
        elif not free(job, options):
            return {**_row(job), "status": "skipped"}
        ready.volumes = {c: scan.load(options.volume) for c, scan in job.sources.items()}
        ready.seconds["load"] = time.perf_counter() - began
        for place, (contrast, volume) in enumerate(ready.volumes.items()):
            seen = look(volume)
            told = None if job.sources[contrast].recognised else contrast
            ready.seen += guarded(volume, seen, told)
            ready.seen += beyond(model, volume, seen)
            if place == 0 and options.keyed:  # BIDS wants to know
                ready.also = {"SkullStripped": bool(stripped(volume, seen)), **ready.also}
        ready.seconds["look"] = time.perf_counter() - began - ready.seconds["load"]
        ready.held = stack.pop_all()
    return ready


def _through(
    model: Model, ready: _Ready | Row, options: Options, begin: Begin | None
) -> Callable[[], Row]:
    """Through the network; with smaller batches if the memory does not do. Returns the rest."""
    if isinstance(ready, dict):
        row = ready
        return lambda: row
    job, watch = ready.job, begin(ready.job) if begin else None

    def once(options: Options) -> Callable[[], Row]:
        with _NETWORK, ExitStack() as stack:
            writer = stack.enter_context(staged(model, job, ready.volumes, options, ready.also))
            began = time.perf_counter()
            result = translated(model, ready.volumes, options, watch, writer.sample)
            # Samples are saved while others are still to be drawn: saving is what remains.
            rest = time.perf_counter() - began - sum(result.seconds.values())
            ready.seconds |= {**result.seconds, "save": rest}
            held = stack.pop_all()
        write = partial(_write, model, ready, options, result, writer, held)
        return lambda: _guarded(job, options, write)

    def twice() -> Callable[[], Row]:
        try:
            return once(options)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or options.batch_size == 1:
                raise
            fits, ready.again = 1, "the memory did not do; done again window by window"
            if isinstance(error, DeviceMemoryError):
                fits, ready.again = error.fits, f"{error}; done again so"
            if not fits:
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return once(replace(options, batch_size=fits))

    try:
        done = _guarded(job, options, twice)
    except BaseException:
        ready.held.close()
        raise
    if isinstance(done, dict):
        ready.held.close()
        row = done
        return lambda: row
    return done


def _write(
    model: Model,
    ready: _Ready,
    options: Options,
    result: Translation,
    writer: Writer | SeriesWriter,
    stage: ExitStack,
) -> Row:
    """Write everything, and say what was done."""
    job, began = ready.job, time.perf_counter()
    with ready.held, stage:
        warnings = [
            *(scan.doubt for scan in job.sources.values() if scan.doubt),
            *ready.seen,
            *result.warnings,
            *concerns(model, ready.volumes, result.volume, options.dtype),
        ]
        writer.finish(replace(result, warnings=tuple(warnings)))
    ready.seconds["save"] += time.perf_counter() - began
    files, row = options.files(job.output), _row(job)
    if options.samples:
        numbers = range(1, options.samples + 1)
        row["samples"] = [str(files.sample(number)) for number in numbers]
    if files.maps:
        row["maps"] = {name: str(files.map(name)) for name in files.maps}
    if files.picture:
        row["preview"] = str(files.preview)
    if ready.changed:
        row["changed"] = ready.changed
    if ready.again:
        row["again"] = ready.again
    return {
        **row,
        "status": "done",
        "seconds": {stage: round(value, 3) for stage, value in ready.seconds.items()},
        "warnings": warnings,
    }


def _row(job: Job) -> Row:
    """What the report says of a job however it ends."""
    labels = [scan.series.label for scan in job.sources.values() if scan.series]
    series = {"series": labels} if labels else {}
    return {"input": [str(p) for p in job.inputs], "output": str(job.output), **series}


def failure(inputs: Iterable[Path], error: Medi2iError) -> Row:
    """The row of what cannot be done."""
    return {
        "input": [str(path) for path in inputs],
        "status": "failed",
        "error": str(error),
        "code": error.exit_code,
    }


def _guarded(job: Job, options: Options, work: Callable[[], R]) -> R | Row:
    """What `work` returns, or the row of its failure."""
    try:
        return work()
    except DeviceMemoryError as error:
        return failure(job.inputs, InputError(f"{job.name}: {error}"))
    except Medi2iError as error:
        return failure(job.inputs, error)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            return failure(job.inputs, unreachable(error))
        if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
            problem = f"{job.name} needs more memory than device {options.device} has free"
            said = f"{problem}; a smaller --batch-size needs less"
        elif options.keyed:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            said = f"{job.name} met a defect of medi2i: {type(error).__name__} in {place}"
        else:
            raise
        return failure(job.inputs, InputError(said))
