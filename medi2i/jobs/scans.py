"""The scans among what a command was given, and the contrast that each is taken for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medi2i.contrasts import Contrast, contrast_of
from medi2i.errors import (
    ContrastError,
    FormatError,
    InputError,
    Medi2iError,
    MissingFileError,
    ModelError,
    UsageError,
)
from medi2i.formats.names import EXTENSIONS, is_synthetic
from medi2i.inference.recognise import recognise
from medi2i.jobs.dicom import choose_series, holds_dicom
from medi2i.volume import Volume, load_volume

if TYPE_CHECKING:
    from medi2i.formats.dicom import Series

__all__ = ["Failed", "Found", "find_scans"]

Failed = Callable[[Sequence[Path], Medi2iError], None]
"""Told of inputs that cannot be used, and why; the others go on."""


@dataclass(frozen=True, eq=False)
class Found:
    """A scan among the inputs.

    Attributes:
        path: the file; of DICOM the folder, archive or file that the series lies in.
        root: what results in another folder keep their place from.
        contrast: what it is taken for.
        named: named on the command line, not found in a folder that was.
        doubt: a sentence on what speaks against the contrast, or on where it comes from.
        recognised: whether the contrast was read from the image.
        series: one of DICOM.
        volume: the scan itself, where it had to be read to find it.
    """

    path: Path
    root: Path
    contrast: Contrast
    named: bool
    doubt: str = ""
    recognised: bool = False
    series: Series | None = None
    volume: Volume | None = None

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

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        try:
            with self.path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f'"{self.path}" cannot be read: {error.strerror or error}') from error

    def record(self) -> dict[str, Any]:
        """Name and checksum, for side-cars."""
        return (
            self.series.record() if self.series else {"Name": self.path.name, "SHA256": self.sha256}
        )

    def load(self, volume: int | None) -> Volume:
        """The scan itself.

        Args:
            volume: which of a 4-D scan.
        """
        if self.volume is not None:
            return self.volume
        if self.series is not None:
            return self.series.load(volume=volume)
        return load_volume(self.path, volume=volume)


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
            scans[path.resolve(), ""] = _named(path, given, target, volume, keep=len(inputs) == 1)
        except (InputError, ModelError) as error:
            failed([path], error)
    if series and not asked:
        raise UsageError("--series chooses among the series of DICOM; no input is DICOM")
    return list(scans.values())


def _named(
    path: Path, given: Contrast | None, target: Contrast, volume: int | None, *, keep: bool
) -> Found:
    """A scan that was named.

    Args:
        keep: what is read to see the contrast; a long list of scans would fill the memory.
    """
    if not path.exists():
        raise MissingFileError(f'"{path}" does not exist')
    try:
        told = contrast_of(path)
    except FormatError:  # a side-car that cannot be read, and need not be
        if given is None:
            raise
        told = None
    contrast, doubt, voxels = given or told, "", None
    recognised = contrast is None
    if contrast is None:
        voxels = load_volume(path, volume=volume)
        contrast, doubt = recognise(voxels, str(path))
    elif told not in (None, contrast):
        doubt = (
            f'"{path.name}" is taken for {given}, as --from says; its name or side-car says {told}'
        )
    if contrast is target:
        raise ContrastError(f'"{path}" is {target} already; another --to was expected')
    return Found(
        path, path.parent, contrast, True, doubt, recognised, volume=voxels if keep else None
    )


def _inside(folder: Path, target: Contrast, failed: Failed) -> list[Found]:
    """The scans of a folder that say what contrast they are, and are not the target already.

    Left out are hidden files, what medi2i has made, and the derivatives of a BIDS folder.
    """
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
