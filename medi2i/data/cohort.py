"""Finding the people in a study: their scans by contrast, and who may be trained on."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medi2i.contrasts import Contrast, contrast_of
from medi2i.errors import CohortError, ContrastError, MissingFileError

__all__ = ["Cohort", "Subject", "find_cohort", "read_rows", "scans_in"]

TRANSFORM = re.compile(
    r"_from-(?P<moving>[\w-]+?)_to-(?P<fixed>[\w-]+?)(_mode-image)?_xfm\.(txt|tfm|mat)$"
)


@dataclass(frozen=True)
class Subject:
    """One person (or one session of one person).

    Attributes:
        name: unique within its folder, e.g. "sub-01" or "sub-01_ses-2".
        person: what must never stand in two splits, e.g. "sub-01".
        scans: file by contrast.
        split: "train", "val", ... or None where nobody said.
        study: the folder or table it was found in.
        transforms: ITK transform by (moving, fixed): resamples `moving` onto the grid of `fixed`.
    """

    name: str
    person: str
    scans: Mapping[Contrast, Path]
    split: str | None = None
    study: str = ""
    transforms: Mapping[tuple[Contrast, Contrast], Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """Subjects, in a fixed order."""

    subjects: tuple[Subject, ...]

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects)

    def __len__(self) -> int:
        return len(self.subjects)

    def split(self, name: str) -> Cohort:
        """Those of one split.

        Raises:
            CohortError: nobody is in it; the message names the splits that there are.
        """
        chosen = tuple(subject for subject in self.subjects if subject.split == name)
        if not chosen:
            there = sorted({str(s.split) for s in self.subjects})
            raise CohortError(
                f'no subject is in split "{name}"; the splits found are {", ".join(there)}: '
                'name them in the column "split" of participants.tsv'
            )
        return Cohort(chosen)

    def having(self, contrasts: Iterable[Contrast]) -> Cohort:
        """Those who have all of these contrasts.

        Raises:
            CohortError: nobody has; the message counts what there is.
        """
        wanted = tuple(contrasts)
        chosen = tuple(s for s in self.subjects if all(c in s.scans for c in wanted))
        if not chosen:
            counts = {c: sum(c in s.scans for s in self.subjects) for c in Contrast}
            found = ", ".join(f"{c} {n}" for c, n in counts.items() if n) or "no scan"
            raise CohortError(
                f"none of {len(self.subjects)} subjects has {' and '.join(map(str, wanted))}; "
                f"found: {found}"
            )
        return Cohort(chosen)


def find_cohort(roots: Path | Sequence[Path]) -> Cohort:
    """Subjects of one or several BIDS folders or tables.

    A folder is read as BIDS: ``sub-*/[ses-*/]anat/*.nii[.gz]``, split by the column "split" of
    ``participants.tsv``. A file (.tsv or .csv) is a table with the columns "participant_id",
    optionally "split", and one column per contrast that holds paths, relative to the table.

    Raises:
        MissingFileError: a root does not exist or holds no subject.
        CohortError: a person stands in two splits, or a table cannot be read.
    """
    subjects: list[Subject] = []
    for root in [roots] if isinstance(roots, Path) else roots:
        if not root.exists():
            raise MissingFileError(
                f'"{root}" does not exist; a BIDS folder or a table was expected'
            )
        subjects += _from_table(root) if root.is_file() else _from_bids(root)
    first: dict[str, Subject] = {}
    for subject in subjects:
        if subject.split is None:
            continue
        known = first.setdefault(subject.person, subject)
        if known.split != subject.split:
            raise CohortError(
                f'"{subject.person}" is in two splits, "{known.split}" in "{known.study}" and '
                f'"{subject.split}" in "{subject.study}": scores on one would be scores on '
                "training data"
            )
    return Cohort(tuple(subjects))


def _from_bids(root: Path) -> list[Subject]:
    table = root / "participants.tsv"
    splits: dict[str, str | None] = {}
    for row in read_rows(table, optional=True):
        split = row.get("split") or None
        known = splits.setdefault(row["participant_id"], split)
        if known != split:
            raise CohortError(
                f'"{row["participant_id"]}" is in two splits, "{known}" and "{split}", in "{table}"'
            )
    subjects = []
    for folder in sorted(root.glob("sub-*/**/anat")):
        parts = folder.relative_to(root).parts[:-1]
        scans = {contrast: paths[0] for contrast, paths in scans_in(folder).items()}
        if scans:
            person = parts[0]
            subjects.append(
                Subject(
                    "_".join(parts),
                    person,
                    scans,
                    splits.get(person),
                    str(root),
                    _transforms(folder),
                )
            )
    if not subjects:
        raise MissingFileError(
            f'"{root}" holds no scan of a known contrast; '
            "sub-*/[ses-*/]anat/sub-*_T1w.nii.gz and the like were expected"
        )
    return subjects


def scans_in(folder: Path) -> dict[Contrast, list[Path]]:
    """The scans of one folder whose contrast is told, in the order of their names.

    Raises:
        FormatError: a side-car cannot be read.
    """
    scans: dict[Contrast, list[Path]] = {}
    for path in sorted(folder.glob("[!.]*.nii*")):
        contrast = contrast_of(path)
        if contrast is not None:
            scans.setdefault(contrast, []).append(path)
    return scans


def _transforms(folder: Path) -> dict[tuple[Contrast, Contrast], Path]:
    found: dict[tuple[Contrast, Contrast], Path] = {}
    for path in sorted(folder.glob("*_xfm.*")):
        match = TRANSFORM.search(path.name)
        if match is None:
            continue
        try:
            ends = Contrast.parse(match["moving"]), Contrast.parse(match["fixed"])
        except ContrastError:
            continue  # to a template, say
        found[ends] = path
    return found


def _from_table(path: Path) -> list[Subject]:
    subjects = []
    for number, row in enumerate(read_rows(path), start=2):
        name = row.get("participant_id")
        if not name:
            raise CohortError(f'line {number} of "{path}" has no participant_id')
        scans: dict[Contrast, Path] = {}
        for column, value in row.items():
            if column in ("participant_id", "split", "session_id") or not value:
                continue
            try:
                contrast = Contrast.parse(column)
            except ContrastError:
                continue  # age, site, ...
            if contrast in scans:
                raise CohortError(f'line {number} of "{path}" names two scans as {contrast}')
            scan = path.parent / value
            if not _is_file(scan):
                raise MissingFileError(
                    f'line {number} of "{path}" names {column} "{value}", which does not exist'
                )
            scans[contrast] = scan
        if not scans:
            raise CohortError(
                f'line {number} of "{path}" ({name}) names no scan; a column per contrast '
                "(T1w, T2w, FLAIR, ...) was expected"
            )
        session = row.get("session_id")
        label = f"{name}_{session}" if session else name
        subjects.append(Subject(label, name, scans, row.get("split") or None, str(path)))
    if not subjects:
        raise CohortError(f'table "{path}" has no rows')
    return subjects


def _is_file(path: Path) -> bool:
    """Whether a cell names a file; a name that no file can have does not."""
    try:
        return path.is_file()
    except OSError:  # too long, say
        return False


def _said(value: str | None) -> str:
    """What a cell says; "" for BIDS's n/a."""
    text = (value or "").strip()
    return "" if text.lower() == "n/a" else text


def read_rows(path: Path, *, optional: bool = False) -> list[dict[str, str]]:
    """The rows of a .tsv or .csv table of participants; n/a becomes "".

    Args:
        optional: a table that is not there has no rows.

    Raises:
        CohortError: it cannot be read, or has no column "participant_id".
    """
    if optional and not path.is_file():
        return []
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            columns = reader.fieldnames or []
            rows = [{k: _said(v) for k, v in row.items() if k} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f'"{path}" is not a readable table: {error}') from error
    if "participant_id" not in columns:
        raise CohortError(
            f'"{path}" has the columns {", ".join(columns) or "none"}; '
            '"participant_id" was expected among them'
        )
    return rows
