"""What ``medi2i translate`` was asked to do: scans found, grouped by head, given a place to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.model import Model

__all__ = ["Failed", "Found", "Job", "find_scans", "plan_jobs"]

Failed = Callable[[Sequence[Path], Any], None]
"""Told of inputs that cannot be used, and why; the others go on."""


@dataclass(frozen=True)
class Found:
    """A scan among the inputs: named on the command line, or found in a folder that was."""

    path: Path
    root: Path
    contrast: Contrast
    named: bool
    doubt: str = ""
    """A sentence on what speaks against the contrast."""


@dataclass(frozen=True)
class Job:
    """One synthetic scan to make."""

    sources: Mapping[Contrast, Found]
    output: Path

    @property
    def inputs(self) -> list[Path]:
        """The files of the sources."""
        return [scan.path for scan in self.sources.values()]

    @property
    def name(self) -> str:
        """For messages."""
        return " + ".join(path.name for path in self.inputs)


def find_scans(
    inputs: Sequence[Path], given: Contrast | None, target: Contrast, failed: Failed
) -> list[Found]:
    """Every scan that was named, or lies in a folder that was, and can be a source."""
    from medi2i.contrasts import contrast_of
    from medi2i.errors import ContrastError, FormatError, InputError, MissingFileError

    scans: dict[Path, Found] = {}
    for path in inputs:
        try:
            if path.is_dir():
                for found in _inside(path, target, failed):
                    scans.setdefault(found.path.resolve(), found)
                continue
            if not path.exists():
                raise MissingFileError(f'"{path}" does not exist')
            try:
                told = contrast_of(path)
            except FormatError:  # a side-car that cannot be read, and need not be
                if given is None:
                    raise
                told = None
            contrast = given or told
            if contrast is None:
                raise ContrastError(
                    f'which contrast is "{path}"? '
                    "Neither its name nor a side-car says: give it with --from"
                )
            if contrast is target:
                raise ContrastError(f'"{path}" is {target} already; another --to was expected')
            doubt = (
                f'"{path.name}" is taken for {given}, as --from says; its name or side-car says '
                f"{told}"
                if told not in (None, contrast)
                else ""
            )
            scans[path.resolve()] = Found(path, path.parent, contrast, True, doubt)
        except InputError as error:
            failed([path], error)
    return list(scans.values())


def _inside(folder: Path, target: Contrast, failed: Failed) -> list[Found]:
    """The scans of a folder that say what contrast they are, and are not the target already.

    Left out are hidden files, what medi2i has made, and the derivatives of a BIDS folder.
    """
    from medi2i.contrasts import contrast_of
    from medi2i.errors import ContrastError, FormatError, MissingFileError
    from medi2i.formats.names import EXTENSIONS, is_synthetic

    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(EXTENSIONS)
        and path.is_file()
        and not is_synthetic(path)
        and not any(
            part.startswith(".") or part == "derivatives" for part in path.relative_to(folder).parts
        )
    ]
    if not paths:
        raise MissingFileError(f'folder "{folder}" holds no scan (.nii or .nii.gz)')
    contrasts: dict[Path, Contrast | None] = {}
    for path in paths:
        try:
            contrasts[path] = contrast_of(path)
        except FormatError as error:  # a side-car that cannot be read
            failed([path], error)
    found = [
        Found(path, folder, contrast, False)
        for path, contrast in contrasts.items()
        if contrast is not None and contrast is not target
    ]
    if not found and contrasts:
        what = (
            f"are all {target} already"
            if all(contrasts.values())
            else f"do not say that they are anything but {target}"
            if any(contrasts.values())
            else "do not say, by name or side-car, which contrast they are"
        )
        raise ContrastError(
            f'the scans in folder "{folder}" {what}; name the files, and their contrast with --from'
        )
    return found


def plan_jobs(
    scans: Sequence[Found],
    model: Model,
    given: Contrast | None,
    target: Contrast,
    output: Path | None,
    failed: Failed,
) -> list[Job]:
    """One job per synthetic scan: its sources, and where the result goes."""
    from medi2i.errors import ContrastError, UsageError
    from medi2i.formats.names import EXTENSIONS, synthetic_name

    chosen: list[dict[Contrast, Found]] = []
    for head in _heads(scans, one_by_one=model.task.on_demand):
        try:
            chosen += _sources(head, model, given)
        except ContrastError as error:
            failed([scan.path for scan in head], error)

    one_file = output is not None and output.name.lower().endswith(EXTENSIONS)
    if one_file and len(chosen) > 1:
        raise UsageError(
            f'-o "{output}" names one file, but {len(chosen)} scans are to be translated; '
            "name a folder"
        )
    jobs: list[Job] = []
    for sources in chosen:
        first = next(iter(sources.values()))
        place = first.path.parent / synthetic_name(first.path, target)
        if one_file and output is not None:
            place = output
        elif output is not None:
            place = output / place.relative_to(first.root)
        jobs.append(Job(sources, place))

    inputs = {scan.path.resolve() for scan in scans}
    places = [job.output.resolve() for job in jobs]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f'two inputs would both become "{place}"; translate them separately')
        if place in inputs:
            raise UsageError(f'"{place}" is an input; another name was expected with -o')
    return jobs


def _heads(scans: Sequence[Found], *, one_by_one: bool) -> list[list[Found]]:
    """Scans that belong together: they share a folder and a prefix, or were simply all named.

    Args:
        one_by_one: a scan that was named stands alone.
    """
    from medi2i.formats.names import subject_prefix

    named = all(scan.named for scan in scans) and len({s.contrast for s in scans}) == len(scans)
    heads: dict[tuple[Path, str], list[Found]] = {}
    for scan in scans:
        if one_by_one and scan.named:
            key = (scan.path, "")
        else:
            key = (Path(), "") if named else (scan.path.parent, subject_prefix(scan.path))
        heads.setdefault(key, []).append(scan)
    return list(heads.values())


def _sources(
    head: Sequence[Found], model: Model, given: Contrast | None
) -> list[dict[Contrast, Found]]:
    """What the model takes of one head.

    One that takes any contrast gets the scans of `given`, or of the first contrast that it knows.

    Raises:
        ContrastError: what it needs is not there, or twice.
    """
    from medi2i.errors import ContrastError

    task = model.task
    there = {scan.contrast for scan in head}
    usable = [contrast for contrast in task.sources if contrast in there]
    if task.on_demand and given is not None:
        usable = [contrast for contrast in usable if contrast is given]
    found = ", ".join(f'"{scan.path}" ({scan.contrast})' for scan in head)
    if len(usable) < task.inputs:
        asked = f" and --from asks for {given}" if given not in (None, *there) else ""
        raise ContrastError(f'model "{model.name}" turns {task}{asked}; found {found}')
    if task.on_demand:
        return [{scan.contrast: scan} for scan in head if scan.contrast is usable[0]]
    if len(head) > len(there):
        raise ContrastError(f"one scan of each contrast was expected; found {found}")
    return [{contrast: scan for contrast in usable for scan in head if scan.contrast is contrast}]
