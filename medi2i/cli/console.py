"""What all commands share: where they print, how loud, and how they end."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from medi2i.contrasts import Contrast
from medi2i.errors import Medi2iError, UsageError, out_of_memory, unreachable
from medi2i.inference.engines import EngineName
from medi2i.inference.passes import Quality

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "INTERRUPTED",
    "Device",
    "DeviceName",
    "EngineOption",
    "FuseName",
    "FuseOption",
    "QualityOption",
    "VoxelType",
    "check_together",
    "complain",
    "contrasts_of",
    "end",
    "ends_well",
    "err",
    "following",
    "out",
    "out_of_memory",
    "print_json",
    "progress_bar",
    "quality_of",
    "tell",
]

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED, TERMINATED = 130, 143


class _Later:
    """A console that is made when it is used: help does without, and rich loads slowly."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    @functools.cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(highlight=False, **self._settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console, name)


_terminal = sys.stdout is not None and sys.stdout.isatty()
if TYPE_CHECKING:
    out = err = Console()
else:
    out = _Later(width=None if _terminal or "COLUMNS" in os.environ else 160)
    """For results. A file or a pipe is wide enough for whole tables."""
    err = _Later(stderr=True)
    """For progress and complaints, so that results can be piped."""


class DeviceName(StrEnum):
    """What --device takes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class VoxelType(StrEnum):
    """What --dtype takes."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    INT32 = "int32"


class FuseName(StrEnum):
    """What --fuse takes."""

    PLANES = "planes"


Device = Annotated[DeviceName, typer.Option("--device", help="auto: the GPU where there is one.")]
EngineOption = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="What runs the network; auto: OpenVINO on the CPU where it is installed (extra "
        "openvino) and the scan is large. At most 1e-4 of the range from torch, else torch does "
        "it again.",
    ),
]
QualityOption = Annotated[
    Quality,
    typer.Option(
        "--quality",
        help="One look at each scan; the mean of three, one in each plane (up to 3 times the "
        "time); of these and a mirrored one (4 times).",
    ),
]
FuseOption = Annotated[
    FuseName | None, typer.Option("--fuse", help="Another word for --quality planes.")
]


def quality_of(quality: Quality, fuse: FuseName | None) -> Quality:
    """The quality that is asked for by either option."""
    return Quality.PLANES if fuse and quality is Quality.FAST else quality


def contrasts_of(to: str, source: str | None) -> tuple[Contrast, Contrast | None]:
    """The contrasts that --to and --from name.

    Raises:
        UsageError: one is unknown, or both are the same.
    """
    try:
        target = Contrast.parse(to)
        given = None if source is None else Contrast.parse(source)
    except Medi2iError as error:
        raise UsageError(str(error)) from error
    if given is target:
        raise UsageError(f"--from and --to are both {target}; two different contrasts are needed")
    return target, given


def check_together(*, quiet: bool, verbose: bool, uncertainty: bool, samples: int | None) -> None:
    """Raise UsageError for options that contradict each other."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other; give one")
    if uncertainty and samples:
        raise UsageError("--uncertainty and --samples give two maps of one thing; give one")


def complain(error: Exception | str) -> None:
    """One sentence on stderr."""
    from rich.text import Text

    err.print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)


def printable(text: str) -> str:
    r"""Parts of file names that are no text as escapes, as JSON and Python have them: \udcff."""
    return text.encode(errors="backslashreplace").decode()


def tell(line: str) -> None:
    """A line of results, also while a progress bar is shown."""
    # On one terminal both streams must go through the console that redraws the bar.
    console = err if out.is_terminal and err.is_terminal else out
    console.print(printable(line), markup=False, soft_wrap=True)


def ends_well(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into a sentence and an exit code; no traceback for what a person can mend."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        logging.captureWarnings(True)  # of libraries; medi2i says itself what matters
        logging.getLogger("py.warnings").addHandler(logging.NullHandler())
        try:
            with _ended_by_a_scheduler():
                return command(*args, **kwargs)
        except Medi2iError as error:
            complain(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            err.print("interrupted; what was finished is kept")
            raise typer.Exit(TERMINATED if error.args else INTERRUPTED) from None
        except BrokenPipeError:  # whoever read our results has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:  # a name that is too long, a link that leads in a circle, ...
            if error.filename is None:
                raise
            complain(unreachable(error))
            raise typer.Exit(Medi2iError.exit_code) from None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            complain(Medi2iError("the memory is used up; a smaller --batch-size needs less"))
            raise typer.Exit(Medi2iError.exit_code) from None

    return run


@contextmanager
def _ended_by_a_scheduler() -> Iterator[None]:
    """Within the block SIGTERM is what Ctrl-C is: what was begun is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, before = os.getpid(), signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that was forked off ends as ever
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up has begun
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(content: Any) -> None:
    """Machine-readable results on stdout, nothing else; JSON has no Infinity or NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends


def end(codes: Sequence[int], inputs: int) -> None:
    """End a command with the exit code for `codes` of failures among so many inputs."""
    if not codes:
        return
    done = inputs > len(codes)
    if done:
        err.print(f"{len(codes)} of {inputs} inputs failed; the others are done")
    raise typer.Exit(1 if done else codes[0] if len(set(codes)) == 1 else 3)


@contextmanager
def progress_bar(*, quiet: bool, extra: Sequence[str] = ()) -> Iterator[Progress]:
    """A bar with the time that is left, on a terminal's stderr.

    Args:
        quiet: no bar.
        extra: names of fields that are shown behind it.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *(TextColumn("{task.fields[" + name + "]}", markup=False) for name in extra),
    ]
    with Progress(
        *columns, console=err, disable=quiet or not err.is_terminal, transient=True
    ) as bar:
        yield bar


@contextmanager
def following(
    count: int, *, quiet: bool
) -> Iterator[tuple[Callable[[], None], Callable[[Any], Callable[[int, int], None]]]]:
    """A bar for jobs that have a name, and below it one for the job that is worked on.

    Yields:
        What to call when a job is over, and what to call with a job that begins; the latter
        returns what to call with (windows done, windows in all).
    """
    with progress_bar(quiet=quiet) as bar:
        total = bar.add_task(f"{count} scans", total=count, visible=count > 1)
        windows = bar.add_task("", total=None, visible=False)

        def begin(job: Any) -> Callable[[int, int], None]:
            bar.reset(windows, description=job.name, visible=True)
            return lambda done, of: bar.update(windows, completed=done, total=of)

        yield lambda: bar.advance(total), begin
