"""What a side-car says a scan was made from, and where these files lie now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medi2i.contrasts import contrast_of
from medi2i.errors import FormatError, InputError, MissingFileError, UsageError
from medi2i.formats.names import EXTENSIONS, beside, is_synthetic, subject_prefix

__all__ = ["ANOMALY", "Origin", "find_origin", "find_reference", "origins", "read_sidecar"]

ANOMALY = "anomaly"
"""The map that stands for all files of one look for what is not normal."""


@dataclass(frozen=True)
class Origin:
    """One scan that a synthetic scan was made from.

    Attributes:
        contrast: as the side-car spells it.
        name: of the file, without folders.
        checksum: SHA-256 of the file; None where the side-car has none, or one of a series.
    """

    contrast: str
    name: str
    checksum: str | None


def origins(record: Mapping[str, Any]) -> list[Origin]:
    """The sources of a side-car, whether it has names and checksums or BIDS URIs.

    >>> origins({"SourceContrast": ["T1w"], "Sources": ["bids:raw:sub-1/anat/sub-1_T1w.nii"]})
    [Origin(contrast='T1w', name='sub-1_T1w.nii', checksum=None)]
    """
    made_of = record.get("MadeOf")
    keyed = made_of.get("Sources") if isinstance(made_of, Mapping) else None
    contrasts, sources = record.get("SourceContrast"), record.get("Sources")
    if not isinstance(contrasts, list) or not isinstance(sources, list):
        return []
    found = []
    for contrast, source in zip(map(str, contrasts), sources, strict=False):
        if isinstance(source, Mapping):
            checksum = None if "Files" in source else source.get("SHA256")
            name = str(source.get("Name", ""))
        else:
            checksum = keyed.get(contrast) if isinstance(keyed, Mapping) else None
            name = str(source).rsplit(":", 1)[-1].rsplit("/", 1)[-1]
        found.append(Origin(contrast, name, None if checksum is None else str(checksum)))
    return found


def read_sidecar(scan: Path) -> dict[str, Any]:
    """What the side-car of a synthetic scan, or of a map of anomalies, says.

    Raises:
        MissingFileError: the scan or its side-car does not exist.
        FormatError: the side-car is not one of medi2i.
        UsageError: the scan is a map or a sample that belongs to another one.
    """
    path = beside(scan, ".json")
    if not scan.is_file():
        raise MissingFileError(f'"{scan}" does not exist')
    if not path.is_file():
        raise MissingFileError(
            f'"{scan}" has no side-car "{path.name}" beside it, which says how it was made; give '
            "a scan that medi2i has written"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f'side-car "{path}" is not valid JSON: {error}') from error
    if not isinstance(record, dict) or record.get("Synthetic") is not True:
        raise FormatError(f'side-car "{path}" does not say that its scan is synthetic, of medi2i')
    if record.get("Map", ANOMALY) != ANOMALY or "Sample" in record:
        raise UsageError(f'"{scan}" belongs to another result; give the scan that it belongs to')
    return record


def find_origin(scan: Path, origin: Origin, given: Path | None) -> Path | None:
    """Where a source lies; None where it is not found.

    Args:
        scan: what was made from it.
        given: the source, or a folder to look for it in by its name, at any depth; None looks
            beside the scan. A file found by its name that has another checksum is passed over.

    Raises:
        InputError: the file given is not the one that the scan was made from.
    """
    if given is not None and given.is_file():
        if origin.checksum not in (None, _sha256(given)):
            raise InputError(
                f'"{given}" is not the file that "{scan.name}" was made from: its checksum is '
                "another one than the side-car has"
            )
        return given
    name = origin.name
    if not name.lower().endswith(EXTENSIONS) or Path(name).name != name:
        return None
    folder = scan.parent if given is None else given
    # Never a pattern: a name may hold the signs of one.
    within = [folder / name] if given is None else sorted(folder.rglob("*.nii*"))
    for path in within:
        if path.name == name and path.is_file() and origin.checksum in (None, _sha256(path)):
            return path
    return None


def find_reference(scan: Path, record: Mapping[str, Any], given: Path | None) -> Path | None:
    """The acquired scan: the file given, or the one in a folder of that person and contrast.

    Raises:
        MissingFileError: `given` does not exist. UsageError: two scans fit.
    """
    if given is None or given.is_file():
        return given
    if not given.is_dir():
        raise MissingFileError(f'--reference "{given}" does not exist')
    sources = origins(record)
    person = subject_prefix(Path(sources[0].name)) if sources else ""
    fitting = [
        path
        for path in sorted(given.rglob("*.nii*"))
        if path.name.lower().endswith(EXTENSIONS)
        and not is_synthetic(path)
        and subject_prefix(path) == person
        and str(contrast_of(path)) == record.get("TargetContrast")
    ]
    if len(fitting) > 1:
        raise UsageError(
            f'"{fitting[0]}" and "{fitting[1]}" could both be the reference of "{scan.name}"; give '
            "--reference a file"
        )
    return fitting[0] if fitting else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
