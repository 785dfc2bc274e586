"""DICOM among the inputs: series listed, and chosen."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.formats.dicom import Series

__all__ = ["Chosen", "choice", "choose_series", "holds_dicom", "series_rows"]


@dataclass(frozen=True)
class Chosen:
    """A series that can be a source.

    Attributes:
        named: whether --series names it.
        doubt: what speaks against the contrast, or where it comes from.
        recognised: whether the contrast was read from the image.
    """

    series: Series
    contrast: Contrast
    named: bool
    doubt: str
    recognised: bool


def holds_dicom(path: Path) -> bool:
    """Whether a file or archive is DICOM, or a folder holds DICOM and no NIfTI."""
    from medi2i.formats.dicom import is_dicom
    from medi2i.formats.names import EXTENSIONS

    if path.is_file():
        return not path.name.lower().endswith(EXTENSIONS) and (
            zipfile.is_zipfile(path) or is_dicom(path)
        )
    if not path.is_dir():
        return False
    there = False
    for file in path.rglob("*"):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        if file.name.lower().endswith(EXTENSIONS):
            return False
        there = there or is_dicom(file)
    return there


def series_rows(path: Path, volume: int | None) -> list[dict[str, Any]]:
    """A row for each series: what `medi2i info` shows; nothing that names the patient."""
    from medi2i.errors import Medi2iError
    from medi2i.formats.dicom import series_in

    found, broken = series_in(path)
    rows: list[dict[str, Any]] = []
    for series in found:
        row: dict[str, Any] = {
            "scan": str(path),
            "series": series.label,
            "description": series.description,
            "modality": series.modality,
            "contrast": "unknown" if series.contrast is None else str(series.contrast),
            "files": len(series.files),
        }
        try:
            if (count := series.volumes) > 1:
                row["volumes"] = count
            ordered = series.stack(volume or 0)
            row["matrix"] = list(ordered.shape)
            row["spacing mm"] = [round(step, 4) for step in ordered.spacing]
        except Medi2iError as error:
            row["matrix"] = [*series.frames[0].shape, len(series.frames)]
            row["problem"] = str(error)
        if series.synthetic:
            row["problem"] = "computed, not acquired"
        rows.append(row)
    if broken:
        rows[-1]["unreadable files"] = [str(error) for error in broken]
    return rows


def choose_series(
    path: Path,
    given: Contrast | None,
    target: Contrast,
    wanted: Sequence[str],
    volume: int | None,
) -> list[Chosen]:
    """The series that --series names; without it, those whose tags say a contrast that can serve.

    Args:
        given: the contrast that --from says.
        wanted: labels or numbers of series.
        volume: which of a 4-D series to look at, where only the image tells the contrast.

    Raises:
        ContrastError: none can be a source, or it cannot be told which.
        UsageError: there is no such series.
        InputError: nothing can be read.
    """
    from medi2i.errors import ContrastError
    from medi2i.formats.dicom import series_in

    found, broken = series_in(path)
    unread = (
        f"{len(broken)} DICOM file(s) could not be read and were left out; the first: {broken[0]}"
        if broken
        else ""
    )
    if wanted:
        series = list(_named(found, wanted, path))
    else:
        acquired = [one for one in found if one.modality == "MR" and not one.synthetic]
        told = [one for one in acquired if one.contrast not in (None, target)]
        silent = [one for one in acquired if one.contrast is None and one.anatomical]
        series = [one for one in told if given in (None, one.contrast)]
        if not series and len(silent) == 1:
            series = silent
        if not series:
            asked = f"{given}" if given else f"known to be anything but {target}"
            raise ContrastError(
                f'no series in "{path}" is {asked}: {listed(found)}; name one with --series, and'
                " its contrast with --from"
            )
    chosen = []
    for one in series:
        contrast, doubt, seen = _contrast(one, given, volume)
        if contrast is target:
            raise ContrastError(
                f'{one.name} in "{path}" is {target} already; another --to or --series was expected'
            )
        said = "; ".join(filter(None, (doubt, unread)))
        chosen.append(Chosen(one, contrast, bool(wanted), said, seen))
    return chosen


def choice(series: Sequence[Series], path: Path) -> str:
    """The sentence for several series of which one is needed."""
    return f'several series in "{path}" fit: {listed(series)}; choose one with --series'


def listed(series: Sequence[Series]) -> str:
    """Series in a sentence: 3 "t1_mprage" (T1w), ..."""
    return ", ".join(
        f'{one.label} "{one.description}" ({one.contrast or "contrast unknown"})' for one in series
    )


def _named(found: Sequence[Series], wanted: Sequence[str], path: Path) -> Iterator[Series]:
    from medi2i.errors import UsageError

    for label in dict.fromkeys(wanted):
        exact = [one for one in found if one.label == label]
        fit = exact or [one for one in found if str(one.number) == label]
        if not fit:
            raise UsageError(f'there is no series {label} in "{path}": {listed(found)}')
        if len(fit) > 1:
            raise UsageError(choice(fit, path))
        yield fit[0]


def _contrast(
    series: Series, given: Contrast | None, volume: int | None
) -> tuple[Contrast, str, bool]:
    """The contrast to take a series for, a sentence on it, and whether the image told."""
    from medi2i.inference.recognise import recognise

    if given is not None:
        against = f"{series.name} is taken for {given}, as --from says; its tags say"
        told = series.contrast
        return given, f"{against} {told}" if told not in (None, given) else "", False
    if series.contrast is not None:
        return series.contrast, "", False
    contrast, seen = recognise(series.load(volume=volume), series.name)
    return contrast, seen, True
