"""Whose scans are prepared: one person's files, or everybody in a BIDS folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.errors import InputError, Medi2iError, MissingFileError, UsageError
from medi2i.formats.names import is_synthetic
from medi2i.preparation.outputs import Places, check_places, write_person
from medi2i.preparation.prepare import Steps, identify, prepare_person, reference_of
from medi2i.volume import Volume, load_volume

__all__ = ["Person", "everybody", "one_person", "prepare_files"]

Failed = Callable[[Path | str, Medi2iError], None]
"""Told of a scan or a person that cannot be prepared, and why; the others go on."""


@dataclass(frozen=True)
class Person:
    """One person's scans, and where what is made of them goes.

    Attributes:
        name: for messages.
        places: of the files.
        reference: the contrast whose grid the others are brought to.
    """

    name: str
    places: Places
    reference: Contrast


def everybody(
    study: Path,
    root: Path,
    steps: Steps,
    onto: Contrast | None,
    failed: Failed,
    *,
    pictures: bool = False,
) -> list[Person]:
    """The people in a BIDS folder, who keep their places in it under `root`.

    The reference is the first of T1w, T2w, FLAIR, PDw, ce-gad_T1w that a person has, or `onto`.

    Raises:
        MissingFileError: nobody is there.
    """
    people = []
    for subject in find_cohort(study):
        sources = {c: subject.scans[c] for c in Contrast if c in subject.scans}
        try:
            _acquired(sources)
            reference = reference_of(list(sources), onto)
        except Medi2iError as error:
            failed(subject.name, _about(subject.name, error))
            continue
        folder = root / next(iter(sources.values())).parent.relative_to(study)
        places = Places.of(folder, sources, steps, reference, pictures=pictures)
        people.append(Person(subject.name, places, reference))
    return people


def one_person(
    scans: Sequence[Path],
    output: Path | None,
    steps: Steps,
    onto: Contrast | None = None,
    contrast: Contrast | None = None,
    *,
    volume: int | None = None,
    pictures: bool = False,
) -> Person:
    """The person whose scans these are.

    Args:
        output: a folder; by default that of the first scan.
        contrast: of a single scan that does not tell it.
        volume: which one of 4-D scans.

    Raises:
        UsageError: a folder among the scans, a file as the output, `onto` not among the contrasts.
        ContrastError: nothing tells a contrast. InputError: a scan is missing or synthetic.
    """
    for path in scans:
        if path.is_dir():
            raise UsageError(
                f'"{path}" is a folder among {len(scans)} inputs; scans of one person, or one '
                "BIDS folder, were expected"
            )
        if not path.exists():
            raise MissingFileError(f'"{path}" does not exist')
    if output is not None and output.is_file():
        raise UsageError(f'-o "{output}" is a file; a folder was expected')
    named = identify(scans, contrast, volume=volume)
    sources = {c: scan for c, scan in named.items() if isinstance(scan, Path)}
    _acquired(sources)
    reference = reference_of(list(sources), onto)
    folder = scans[0].parent if output is None else output
    places = Places.of(folder, sources, steps, reference, pictures=pictures)
    return Person(" + ".join(path.name for path in scans), places, reference)


def prepare_files(
    person: Person,
    steps: Steps,
    failed: Failed,
    *,
    volume: int | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> list[dict[str, Any]]:
    """Load a person's scans, prepare and write them.

    Args:
        failed: told of scans other than the reference.
        volume: which one of 4-D scans.

    Returns:
        A row for each scan that ended well.

    Raises:
        InputError: the reference cannot be used. OutputError: something exists or cannot be
            written. ModelError: the network that finds brains is missing.
    """
    places = person.places
    rows = {
        contrast: {"input": str(path), "output": str(places.scan(contrast))}
        for contrast, path in places.sources.items()
    }
    if not check_places(places, overwrite=overwrite, skip_existing=skip_existing):
        return [{**row, "status": "skipped"} for row in rows.values()]
    began = time.perf_counter()
    volumes: dict[Contrast, Volume] = {}
    wrong: dict[Contrast, Medi2iError] = {}
    for contrast, path in places.sources.items():
        try:
            volumes[contrast] = load_volume(path, volume=volume)
        except InputError as error:
            if contrast is places.reference:
                raise
            wrong[contrast] = error
    if volumes:
        onto = person.reference if person.reference in volumes else None
        ready = prepare_person(volumes, steps, onto, wrong.__setitem__)
        if ready:
            write_person(places, volumes, ready, overwrite=overwrite)
    else:
        ready = {}
    for contrast, problem in wrong.items():
        failed(places.sources[contrast], problem)
    seconds = round(time.perf_counter() - began, 3)
    return [
        {
            **rows[contrast],
            "status": "done",
            "space": str(one.space),
            "seconds": seconds,
            "warnings": list(one.warnings),
        }
        for contrast, one in ready.items()
    ]


def _acquired(sources: Mapping[Contrast, Path]) -> None:
    """Refuse what medi2i computed: prepared, it would no longer say so."""
    for path in sources.values():
        if is_synthetic(path):
            raise InputError(f'"{path}" is a synthetic scan; an acquired one was expected')


def _about(name: str, error: Medi2iError) -> Medi2iError:
    return type(error)(f"{name}: {error}")
