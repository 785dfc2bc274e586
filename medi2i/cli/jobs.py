"""What ``medi2i translate`` was asked to do: scans found, grouped by head, given a place to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.formats.dicom import Series
    from medi2i.model import Model
    from medi2i.volume import Volume

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
    """A sentence on what speaks against the contrast, or on where it comes from."""
    recognised: bool = False
    """Whether the contrast was read from the image."""
    series: Series | None = None
    """One of DICOM; then `path` is the folder, archive or file that it lies in."""

    @property
    def source(self) -> Path | Series:
        """For side-cars."""
        return self.series or self.path

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.path.name} series {self.series.label}" if self.series else self.path.name

    @property
    def place(self) -> Path:
        """What the names of results are made from."""
        if self.series is None:
            return self.path
        folder = self.path.resolve()
        stem = folder.stem if folder.is_file() else folder.name
        return folder.with_name(f"{stem}_series-{self.series.label}.nii.gz")

    def load(self, volume: int | None) -> Volume:
        """The scan itself."""
        from medi2i.volume import load_volume

        return (
            self.series.load(volume=volume)
            if self.series
            else load_volume(self.path, volume=volume)
        )


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
        return " + ".join(scan.label for scan in self.sources.values())


def find_scans(
    inputs: Sequence[Path],
    given: Contrast | None,
    target: Contrast,
    failed: Failed,
    volume: int | None = None,
    series: Sequence[str] = (),
) -> list[Found]:
    """Every scan that was named, or lies in a folder that was, and can be a source.

    Args:
        volume: which of a 4-D scan to look at, where nothing but the image tells the contrast.
        series: which series of DICOM folders and archives.

    Raises:
        UsageError: `series` are asked for and there is no DICOM.
    """
    from medi2i.cli.dicom import choose_series, holds_dicom
    from medi2i.contrasts import contrast_of
    from medi2i.errors import (
        ContrastError,
        FormatError,
        InputError,
        MissingFileError,
        ModelError,
        UsageError,
    )

    scans: dict[tuple[Path, str], Found] = {}
    asked = False
    for path in inputs:
        try:
            if holds_dicom(path) or (series and path.is_dir()):
                asked = True
                root = path.resolve().parent
                for one in choose_series(path, given, target, series, volume):
                    scans[path.resolve(), one.series.label] = Found(
                        path, root, one.contrast, one.named, one.doubt, one.recognised, one.series
                    )
                continue
            if path.is_dir():
                for found in _inside(path, target, failed):
                    scans.setdefault((found.path.resolve(), ""), found)
                continue
            if not path.exists():
                raise MissingFileError(f'"{path}" does not exist')
            try:
                told = contrast_of(path)
            except FormatError:  # a side-car that cannot be read, and need not be
                if given is None:
                    raise
                told = None
            contrast, seen = given or told, ""
            if contrast is None:
                contrast, seen = _recognised(path, volume)
            if contrast is target:
                raise ContrastError(f'"{path}" is {target} already; another --to was expected')
            doubt = (
                f'"{path.name}" is taken for {given}, as --from says; its name or side-car says '
                f"{told}"
                if told not in (None, contrast)
                else seen
            )
            scans[path.resolve(), ""] = Found(path, path.parent, contrast, True, doubt, bool(seen))
        except (InputError, ModelError) as error:
            failed([path], error)
    if series and not asked:
        raise UsageError("--series chooses among the series of DICOM; no input is DICOM")
    return list(scans.values())


def _recognised(path: Path, volume: int | None) -> tuple[Contrast, str]:
    """What the image of a scan says of its contrast, and a sentence on it."""
    from medi2i.inference.recognise import recognise
    from medi2i.volume import load_volume

    return recognise(load_volume(path, volume=volume), str(path))


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
    *,
    as_dicom: bool = False,
) -> list[Job]:
    """One job per synthetic scan: its sources, and where the result goes.

    Args:
        as_dicom: the results are series, each in a folder.
    """
    from medi2i.errors import ContrastError, UsageError
    from medi2i.formats.names import EXTENSIONS, stem_of, synthetic_name

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
        place = first.place.parent / synthetic_name(first.place, target)
        if one_file and output is not None:
            place = output
        elif output is not None:
            place = output / place.relative_to(first.root)
        if as_dicom:
            _check_dicom(sources.values())
            place = place.with_name(f"{stem_of(place)}_dicom")
        jobs.append(Job(sources, place))

    inputs = {scan.path.resolve() for scan in scans}
    places = [job.output.resolve() for job in jobs]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f'two inputs would both become "{place}"; translate them separately')
        if place in inputs:
            raise UsageError(f'"{place}" is an input; another name was expected with -o')
    return jobs


def _check_dicom(sources: Iterable[Found]) -> None:
    """Raise UsageError unless patient and study are known."""
    from medi2i.errors import UsageError

    for scan in sources:
        if scan.series is None:
            raise UsageError(
                f'"{scan.path}" is not DICOM; --format dicom takes patient, study and slices from '
                "DICOM sources"
            )


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
            key = (scan.path, scan.series.label if scan.series else "")
        elif scan.series is not None and not named:
            key = (scan.path, scan.series.study)
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
    from medi2i.cli.dicom import choice
    from medi2i.errors import ContrastError

    task = model.task
    there = {scan.contrast for scan in head}
    usable = [contrast for contrast in task.sources if contrast in there]
    if task.on_demand and given is not None:
        usable = [contrast for contrast in usable if contrast is given]
    found = ", ".join(f'"{scan.path.parent / scan.label}" ({scan.contrast})' for scan in head)
    if len(usable) < task.inputs:
        asked = f" and --from asks for {given}" if given not in (None, *there) else ""
        raise ContrastError(f'model "{model.name}" turns {task}{asked}; found {found}')
    fit = [scan.series for scan in head if scan.series and scan.contrast in usable]
    if len(fit) > 1 and (task.on_demand or len(head) > len(there)):
        raise ContrastError(choice(fit, head[0].path))
    if task.on_demand:
        return [{scan.contrast: scan} for scan in head if scan.contrast is usable[0]]
    if len(head) > len(there):
        raise ContrastError(f"one scan of each contrast was expected; found {found}")
    return [{contrast: scan for contrast in usable for scan in head if scan.contrast is contrast}]
