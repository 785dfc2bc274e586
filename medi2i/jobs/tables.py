"""Tables of a cohort that several processes keep: each replaces the lines of its own people."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from medi2i.data.cohort import read_rows
from medi2i.files import write_whole
from medi2i.jobs.claims import waited_for
from medi2i.jobs.study import Study, Visit

__all__ = ["keep_logs", "keep_table", "line_of"]

WHO = ("participant_id", "session_id")


def keep_table(
    path: Path,
    columns: Sequence[str],
    mine: Collection[tuple[str, str]],
    lines: Sequence[Mapping[str, str]],
) -> bool:
    """Bring a table up to date; without lines there is none.

    Args:
        path: .tsv.
        columns: participant_id and session_id first.
        mine: (participant, session) of those whose lines are replaced.
        lines: the new ones.

    Returns:
        Whether there is a table.

    Raises:
        OutputError: it cannot be written, or another process does not let go of it.
        CohortError: what is there is no such table.
    """
    with waited_for(path.with_name(f".{path.name}.claim")):
        kept = [
            row
            for row in read_rows(path, optional=True)
            if (row["participant_id"], row.get("session_id", "")) not in mine
        ]
        rows = sorted([*kept, *lines], key=lambda row: [row.get(name) or "" for name in columns])
        if not rows:
            path.unlink(missing_ok=True)
            return False
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row.get(name) or "n/a" for name in columns] for row in rows)
        write_whole(path, text.getvalue())
        return True


def line_of(visit: Visit, **cells: str) -> dict[str, str]:
    """A line about somebody; what a cell says stands on one line."""
    said = {name: " ".join(cell.split()) for name, cell in cells.items()}
    return {**dict(zip(WHO, visit.key, strict=True)), **said}


def keep_logs(
    folder: Path,
    study: Study,
    visits: Sequence[Visit],
    over: Sequence[Visit],
    failures: Sequence[Mapping[str, str]],
) -> None:
    """Write down who lacks a source (lacking.tsv) and what failed (failures.tsv).

    Args:
        visits: all that were asked for, of whichever shard.
        over: those whose job has ended.
        failures: their lines, with the columns "file" and "problem".

    Raises:
        OutputError, CohortError: as :func:`keep_table`.
    """
    lacking = [line_of(visit, problem=problem) for visit, problem in study.lacking]
    everybody = {visit.key for visit in visits}
    keep_table(folder / "lacking.tsv", [*WHO, "problem"], everybody, lacking)
    settled = {visit.key for visit in [*over, *(visit for visit, _ in study.lacking)]}
    keep_table(folder / "failures.tsv", [*WHO, "file", "problem"], settled, failures)
