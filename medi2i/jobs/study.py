"""A BIDS data set as jobs: one synthetic scan for each session of each participant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.data.cohort import scans_in
from medi2i.errors import FormatError, MissingFileError, UsageError
from medi2i.formats.bids import uri_of
from medi2i.formats.names import is_synthetic, synthetic_name
from medi2i.jobs.plan import Job, Options, check_places
from medi2i.jobs.scans import Found
from medi2i.task import Task

__all__ = ["Study", "Visit", "find_visits", "plan_study", "preference"]

SHOWN = 20
"""Labels that a message lists."""


@dataclass(frozen=True, eq=False)
class Visit:
    """One session of one participant.

    Attributes:
        participant: "sub-01".
        session: "ses-1"; "" where there are no sessions.
        scans: files by contrast, in the order of their names.
        problem: why they cannot be read.
    """

    participant: str
    session: str
    scans: Mapping[Contrast, Sequence[Path]]
    problem: FormatError | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What stands first in tables."""
        return self.participant, self.session

    @property
    def name(self) -> str:
        """For messages."""
        return "_".join(filter(None, self.key))


@dataclass(frozen=True)
class Study:
    """What is to be done in a data set.

    Attributes:
        jobs: by the visit that they are of; in the order of names.
        lacking: visits without a source, and a sentence on what is there.
    """

    jobs: Sequence[tuple[Visit, Job]]
    lacking: Sequence[tuple[Visit, str]]


def find_visits(
    root: Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[Visit]:
    """The sessions of a BIDS folder, in the order of their names.

    Args:
        participants, sessions: labels, with or without "sub-" and "ses-"; none for all. A
            participant without a session that is asked for has a visit without scans.

    Raises:
        MissingFileError: no folder, or nobody in it. UsageError: an unknown label.
    """
    if not root.is_dir():
        raise MissingFileError(f'"{root}" is not a folder; a BIDS folder was expected')
    known = sorted(path.name for path in root.glob("sub-*") if path.is_dir())
    if not known:
        raise MissingFileError(f'"{root}" holds no participant; folders sub-* were expected')
    people = _chosen("participant", "sub-", participants, known)
    there = {
        person: sorted(path.name for path in (root / person).glob("ses-*") if path.is_dir())
        for person in people
    }
    wanted = _chosen("session", "ses-", sessions, sorted({s for ss in there.values() for s in ss}))
    visits: list[Visit] = []
    for person in people:
        own = wanted if sessions else there[person]
        if not sessions and (not own or (root / person / "anat").is_dir()):
            own = ["", *own]
        visits += (_visit(root, person, session) for session in own)
    return visits


def _visit(root: Path, participant: str, session: str) -> Visit:
    try:
        found = scans_in(root / participant / session / "anat")
    except FormatError as error:  # a side-car
        return Visit(participant, session, {}, error)
    acquired = {c: [p for p in paths if not is_synthetic(p)] for c, paths in found.items()}
    return Visit(participant, session, {c: paths for c, paths in acquired.items() if paths})


def _chosen(what: str, prefix: str, labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """The known names that labels ask for, in their own order; all where nothing is asked for."""
    asked = {prefix + label.removeprefix(prefix) for label in labels}
    if unknown := sorted(asked - set(known)):
        names = ", ".join(name.removeprefix(prefix) for name in known[:SHOWN]) or "none"
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        raise UsageError(
            f"{what} {', '.join(name.removeprefix(prefix) for name in unknown)} is not in the "
            f"data set; the labels there are {names}{more}"
        )
    return [name for name in known if name in asked or not asked]


def preference(task: Task, given: Contrast | None, target: Contrast) -> list[Contrast]:
    """The contrasts that a model takes of a head: all of them, or the first that is there.

    Raises:
        UsageError: it does not take `given`.
    """
    if given is not None and given not in task.sources:
        raise UsageError(f"--from asks for {given}; the model turns {task}")
    if not task.on_demand:
        return list(task.sources)
    return [c for c in task.sources if c is not target and given in (None, c)]


def plan_study(
    visits: Sequence[Visit],
    root: Path,
    output: Path,
    task: Task,
    given: Contrast | None,
    options: Options,
) -> Study:
    """One job for each visit that has what the model needs.

    Of several scans of one contrast the first by name is taken, and its side-car says so.

    Raises:
        UsageError: the model does not take `given`; a result would fall on an input.
    """
    order = preference(task, given, options.target)
    jobs: list[tuple[Visit, Job]] = []
    lacking: list[tuple[Visit, str]] = []
    for visit in visits:
        if visit.problem is not None:
            continue
        there = [contrast for contrast in order if contrast in visit.scans]
        if task.on_demand:
            there = there[:1]
        if len(there) < (1 if task.on_demand else len(order)):
            lacking.append((visit, _lacks(visit, order, task)))
            continue
        sources = {contrast: _first(visit, contrast, root) for contrast in there}
        first = sources[there[0]].path
        name = synthetic_name(first, options.target)
        also = {"Sources": [uri_of(scan.path, root) for scan in sources.values()]}
        place = output / first.parent.relative_to(root) / name
        jobs.append((visit, Job(sources, place, also, output / ".medi2i" / f"{name}.claim")))
    inputs = (path for visit in visits for paths in visit.scans.values() for path in paths)
    check_places([job for _, job in jobs], inputs, options)
    return Study(jobs, lacking)


def _first(visit: Visit, contrast: Contrast, root: Path) -> Found:
    first, *others = visit.scans[contrast]
    count = f"{len(others) + 1} {contrast} scans"
    said = f'"{first.name}" was taken of {count}, as the first by name' if others else ""
    return Found(first, root, contrast, False, said)


def _lacks(visit: Visit, order: Sequence[Contrast], task: Task) -> str:
    missing = [str(contrast) for contrast in order if contrast not in visit.scans]
    there = ", ".join(_counted(visit)) or "none"
    return f"no {(' or ' if task.on_demand else ' and ').join(missing)}; scans there: {there}"


def _counted(visit: Visit) -> Iterator[str]:
    for contrast, paths in visit.scans.items():
        yield f"{contrast} ({len(paths)})" if len(paths) > 1 else str(contrast)
