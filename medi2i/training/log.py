"""What is told of a run while it goes: to whoever watches, to log.csv and to TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medi2i.files import atomic_write

__all__ = ["Clock", "Log", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What a watcher is told after a round."""

    played: int
    rounds: int
    losses: Mapping[str, float]
    """Means since the last row of the log; empty between rows."""
    scores: Mapping[str, float]
    """Of the last validation."""
    rounds_per_second: float
    waiting: float
    """Share of the time spent waiting for windows."""


class Clock:
    """Seconds, and the rounds that passed in them."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.idle = 0.0
        self.rounds = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens within as waiting."""
        began = time.perf_counter()
        yield
        self.idle += time.perf_counter() - began

    @property
    def speed(self) -> float:
        """Rounds per second."""
        return self.rounds / max(time.perf_counter() - self.began, 1e-9)

    @property
    def waited(self) -> float:
        """Share of the time spent waiting."""
        return self.idle / max(time.perf_counter() - self.began, 1e-9)


class Log:
    """log.csv (one value a row: round, name, value) and TensorBoard, cut back to a round."""

    def __init__(self, folder: Path, played: int) -> None:
        path = folder / "log.csv"
        rows: list[list[str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                # a run that was killed may have written beyond its checkpoint, or half a row
                rows = [
                    row
                    for row in csv.reader(stream)
                    if len(row) == 3 and row[0].isdigit() and int(row[0]) <= played
                ]

        def write(stream: BinaryIO) -> None:
            text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
            csv.writer(text).writerows([["round", "name", "value"], *rows])
            text.detach()

        atomic_write(path, write)  # in one step: killed in between, the past would be lost
        self.stream = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.writer(self.stream)
        from torch.utils.tensorboard import SummaryWriter  # seconds to import

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=played + 1)

    def write(self, played: int, values: Mapping[str, float]) -> None:
        """Rows of a round."""
        for name, value in values.items():
            self.writer.writerow([played, name, repr(value)])
            self.board.add_scalar(name, value, played)
        self.stream.flush()

    def scores(self, played: int, values: Mapping[str, float]) -> None:
        """Rows of a validation."""
        self.write(played, {f"val/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close both files."""
        self.stream.close()
        self.board.close()
