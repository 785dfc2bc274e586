"""Jobs shared out: among processes of this machine, the workers of a Dask cluster, shards."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import FrameType
from typing import Any

import torch

from medi2i import zoo
from medi2i.errors import InputError, UsageError
from medi2i.jobs.plan import Job, Options
from medi2i.jobs.work import Row, Tell, failure, work_through
from medi2i.model import Model

__all__ = ["on_dask", "on_processes", "shard_of"]

TRIES = 2
"""How often a job may be worked on when a worker ends."""
SHARD = re.compile(r"(\d+)/(\d+)")


def shard_of(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which part of how many: "2/10", or what a SLURM job array says, else 1 of 1.

    Raises:
        UsageError: there is no such part; an array whose numbers are not evenly spaced.

    >>> shard_of("2/10", {})
    (2, 10)
    >>> shard_of(
    ...     None,
    ...     {
    ...         "SLURM_ARRAY_TASK_ID": "7",
    ...         "SLURM_ARRAY_TASK_MIN": "5",
    ...         "SLURM_ARRAY_TASK_COUNT": "4",
    ...     },
    ... )
    (3, 4)
    """
    if text is not None:
        match = SHARD.fullmatch(text.strip())
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f'--shard "{text}": 1/N to N/N was expected, such as 2/10')
        return number, count
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 1, 1
    try:
        task, count = (int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "COUNT"))
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
        last = int(environment.get("SLURM_ARRAY_TASK_MAX", first + (count - 1) * step))
    except (KeyError, ValueError):
        raise UsageError(
            "this is a task of a SLURM array, whose variables do not say how many tasks there are; "
            "give --shard k/N"
        ) from None
    place, over = divmod(task - first, max(1, step))
    if over or not 0 <= place < count or last - first != (count - 1) * step:
        raise UsageError(
            f"task {task} of a SLURM array of {count} from {first} to {last}: evenly spaced tasks "
            "were expected; give --shard k/N"
        )
    return place + 1, count


# Processes


@dataclass
class _Worker:
    """A process, the end of its pipe, and the jobs that it has and has not reported."""

    process: SpawnProcess
    pipe: Connection
    jobs: deque[Job] = field(default_factory=deque)


def on_processes(
    model: str, jobs: Sequence[Job], options: Options, tell: Tell, workers: int
) -> None:
    """Do jobs by so many processes, which load the model once each and share the processor's cores.

    A process that ends, out of memory perhaps, is replaced, and its jobs are done again, once.

    Args:
        model: name or folder.
        tell: told of every job, as they end.
    """
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(jobs))
    threads = max(1, torch.get_num_threads() // max(1, count))
    waiting, crew = deque(jobs), list[_Worker]()
    ended: Counter[Job] = Counter()
    started = 0
    try:
        while waiting or any(worker.jobs for worker in crew):
            while len(crew) < count and waiting:
                crew.append(_start(context, (model, options, threads, started)))
                started += 1
                _hand(crew[-1], waiting)
            for worker in crew:  # one to read while another is in the network
                if len(worker.jobs) < 2 and len(waiting) >= count:
                    _hand(worker, waiting)
            for pipe in wait([worker.pipe for worker in crew]):
                worker = next(worker for worker in crew if worker.pipe is pipe)
                try:
                    row: Row = worker.pipe.recv()
                except (EOFError, OSError):
                    crew.remove(worker)
                    for row in _lost(worker, ended, waiting):
                        tell(row)
                    continue
                worker.jobs.popleft()
                if not worker.jobs:
                    _hand(worker, waiting)
                tell(row)
        for worker in crew:
            worker.pipe.close()  # no more to do
            worker.process.join()
    finally:
        for worker in crew:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join(10)
            worker.process.kill()


def _start(context: SpawnContext, arguments: tuple[str, Options, int, int]) -> _Worker:
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _hand(worker: _Worker, waiting: deque[Job]) -> None:
    if waiting:
        worker.jobs.append(waiting.popleft())
        try:
            worker.pipe.send(worker.jobs[-1])
        except OSError:  # it has ended, which reading from it will tell
            pass


def _lost(worker: _Worker, ended: Counter[Job], waiting: deque[Job]) -> Iterator[Row]:
    """Put the jobs of a worker that ended back, and give up those that were put back before."""
    worker.pipe.close()
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    for job in reversed(worker.jobs):
        ended[job] += 1
        if ended[job] < TRIES:
            waiting.appendleft(job)
            continue
        yield failure(
            job.inputs,
            InputError(
                f"{job.name}: the process that worked on it ended ({how}), {TRIES} times; the "
                "memory may not do: fewer --workers or a smaller --batch-size need less"
            ),
        )


def _serve(pipe: Connection, model: str, options: Options, threads: int, number: int) -> None:
    """What a worker process does, until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it decides
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(threads)
    if options.device != "cpu" and torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())

    def orders() -> Iterator[Job]:
        while True:
            try:
                yield pipe.recv()
            except (EOFError, OSError):
                return

    def tell(row: Row) -> None:
        try:
            pipe.send(row)
        except OSError:  # nobody listens any more; orders end too
            pass

    work_through(zoo.load_model(model), orders(), options, tell)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


# Dask


def on_dask(model: str, jobs: Sequence[Job], options: Options, tell: Tell, address: str) -> None:
    """Do jobs by the workers of a Dask cluster, which see the same folders as this process.

    Where workers have a resource called GPU, each job takes one. A worker's threads read and
    write side by side; the network serves one at a time, with as many threads as the worker has.

    Args:
        model: name or folder.
        tell: told of every job, as they end.
        address: of the scheduler.

    Raises:
        UsageError: `distributed` is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise UsageError("--dask needs the package distributed: pip install medi2i[dask]") from None
    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f'no Dask scheduler answers at "{address}"') from error
    with client:
        workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
        gpu = any("GPU" in worker["resources"] for worker in workers.values())
        futures = {
            client.submit(
                _one,
                model,
                job,
                options,
                key=f"medi2i-{os.getpid()}-{number}",
                pure=False,
                retries=TRIES - 1,
                resources={"GPU": 1} if gpu else None,
            ): job
            for number, job in enumerate(jobs)
        }
        try:
            for future in as_completed(futures, loop=client.loop):
                job, problem = futures[future], future.exception()
                if problem is None:
                    tell(future.result())
                    continue
                said = f"{job.name}: the Dask worker could not do it ({type(problem).__name__})"
                tell(failure(job.inputs, InputError(said)))
        finally:
            client.cancel(list(futures))


def _one(model: str, job: Job, options: Options) -> Row:
    """What a Dask worker does for one job."""
    rows: list[Row] = []
    work_through(_loaded(model), [job], options, rows.append)
    return rows[0]


@cache
def _loaded(model: str) -> Model:
    from distributed import get_worker

    torch.set_num_threads(max(1, get_worker().state.nthreads))
    return zoo.load_model(model)
