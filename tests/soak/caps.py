"""A limit on the seconds of a processor and on the memory that a piece of code may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["SECONDS", "Late", "capped"]

SECONDS = 5.0
"""Of a processor, for one input of a few kilobytes."""
MEMORY = 768 << 20
"""Bytes beyond what the process holds."""


class Late(BaseException):
    """The time is up; no `except Exception` keeps it."""


@contextmanager
def capped(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Raise :class:`Late` or MemoryError where the block takes more; only where POSIX is.

    Time is that of the processor, so that a busy machine makes no difference; a wait of a minute
    for nothing ends too.
    """
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    import resource

    def late(number: int, frame: FrameType | None) -> None:
        raise Late(f"more than {seconds:g} s of a processor, or a minute's wait")

    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if status.exists():
        held = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + memory, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)
