"""SimpleITK on one thread: its sums then do not depend on which thread is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let SimpleITK use one thread, as long as the block lasts.

    Mutual information and N4 add up what the threads found, in the order in which they end: with
    several, equal input gives results that differ in the last digits.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
