"""The series in a folder or archive of DICOM files: listed, named, and read as volumes."""

from __future__ import annotations

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medi2i.contrasts import Contrast, contrast_told
from medi2i.errors import FormatError, MissingFileError, UsageError
from medi2i.formats.dicom.frames import Frame, frames_of, told_by
from medi2i.formats.dicom.pixels import read_pixels
from medi2i.formats.dicom.stack import Stack, pile, stack
from medi2i.formats.dicom.stored import Stored, quiet, stored_in, understood
from medi2i.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Series", "check_installed", "series_in"]

ALIKE = 1e-3
"""By how much unit vectors of one orientation may differ."""
NO_HEAD = {
    *("LOCALIZER", "MOSAIC", "PROJECTION IMAGE", "MIP", "MINIP", "SUBTRACTION", "P", "PHASE MAP"),
    *("PHASE", "ADC", "FA", "TRACEW", "DIFFUSION", "T1 MAP", "T2 MAP", "T2_STAR MAP", "B0 MAP"),
}
"""Words of an image type that no contrast is read from."""


@dataclass(frozen=True)
class Series:
    """Images of one series that share orientation, matrix and echo: what makes one volume.

    Attributes:
        path: the folder, archive or file that it was found in.
        uid, study: the UIDs of the series and its study.
        number: of the series; None where there is none.
        label: the number, with a letter where several have the same: what --series takes.
        description, modality: as the scanner wrote them.
        contrast: as the tags tell it; None where they do not.
        anatomical: False for localisers, maps, projections and what is not MR.
        synthetic: whether it says of itself that it was computed.
        frames: in no order.
    """

    path: Path
    uid: str
    study: str
    number: int | None
    description: str
    modality: str
    contrast: Contrast | None
    anatomical: bool
    synthetic: bool
    frames: tuple[Frame, ...] = field(repr=False)
    label: str = ""

    @property
    def name(self) -> str:
        """For messages and records: nothing that a patient could be known by."""
        return f"DICOM series {self.label}"

    @cached_property
    def files(self) -> tuple[Stored, ...]:
        """The files that the images lie in."""
        return tuple(dict.fromkeys(frame.stored for frame in self.frames))

    @property
    def volumes(self) -> int:
        """How many volumes there are: 1, or more of a 4-D series.

        Raises:
            GeometryError: as for :meth:`stack`.
        """
        return min(map(len, pile(self.frames, self.name)))

    def stack(self, volume: int | None = None) -> Stack:
        """The images in order, and their grid. See :func:`medi2i.formats.dicom.stack.stack`."""
        return stack(self.frames, self.name, volume=volume)

    def load(self, *, volume: int | None = None, max_voxels: int = 2**30) -> Volume:
        """The series as a volume: rescaled values, voxels by column, row and slice.

        Args:
            volume: which one of a 4-D series, from 0.
            max_voxels: more are refused before reading.

        Raises:
            GeometryError: the slices make no even, upright stack.
            DimensionError: a single slice, several volumes, or too many voxels.
            FormatError: pixels are damaged, in colour, or packed in a way that cannot be undone.
            IntensityError: values that are not finite.
            UsageError: there is no such volume, or a decoder is not installed.
        """
        if self.modality != "MR":
            raise FormatError(
                f'{self.name} in "{self.path}" is of modality "{self.modality}"; MR was expected.'
            )
        ordered = self.stack(volume)
        voxels = read_pixels(ordered.frames, self.name, max_voxels=max_voxels)
        scan = Volume.of(voxels.transpose(2, 1, 0), ordered.affine, self.name)
        scan.header.set_qform(scan.affine, code=1)  # 1: the scanner's own coordinates
        scan.header.set_sform(scan.affine, code=1)
        return scan

    def record(self) -> dict[str, Any]:
        """For a side-car: its name, and a checksum over all files, in any order."""
        each = sorted(hashlib.sha256(stored.content()).digest() for stored in self.files)
        return {
            "Name": self.name,
            "Files": len(each),
            "SHA256": hashlib.sha256(b"".join(each)).hexdigest(),
        }


def check_installed() -> None:
    """Raise UsageError unless pydicom is there."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "DICOM is read and written by pydicom, which is not installed: "
            "pip install medi2i[dicom]"
        ) from error


def series_in(path: Path) -> tuple[list[Series], list[FormatError]]:
    """The series of images in a folder, an archive or a file, by study and number.

    Returns:
        The series, and an error for each file that begins like DICOM and could not be read.

    Raises:
        MissingFileError: `path` does not exist, or holds no DICOM image.
        FormatError: an archive is damaged, its names lead out of it, or no file can be read.
        UsageError: pydicom is not installed; there are too many files.
    """
    check_installed()
    groups: list[tuple[Dataset, list[Frame]]] = []
    buckets: dict[tuple[Any, ...], list[int]] = {}
    known: set[tuple[Any, ...]] = set()
    broken: list[FormatError] = []
    for stored in stored_in(path):
        try:
            dataset = stored.read(pixels=False)
            with understood(f'"{stored}" is'):
                frames = list(_images(stored, dataset))
                _series(path, dataset, frames)  # every file can be the first of its series
        except FormatError as error:
            broken.append(error)
            continue
        for frame in frames:
            same = (frame.uid, frame.index, frame.position)
            if frame.uid and same in known:  # one instance, stored twice
                continue
            known.add(same)
            spacing = tuple(round(length, 4) for length in frame.spacing)
            series = str(dataset.get("SeriesInstanceUID", ""))
            bucket = buckets.setdefault((series, frame.shape, spacing, frame.kind), [])
            for at in bucket:
                if _alike(groups[at][1][0], frame):
                    groups[at][1].append(frame)
                    break
            else:
                bucket.append(len(groups))
                groups.append((dataset, [frame]))
    if not groups:
        if len(broken) > 1:
            raise FormatError(
                f'"{path}" holds no DICOM image that can be read, in {len(broken)} files. '
                f"{broken[0]}"
            )
        raise broken[0] if broken else MissingFileError(f'"{path}" holds no DICOM image.')
    with quiet():
        return _labelled([_series(path, *group) for group in groups]), broken


def _images(stored: Stored, dataset: Dataset) -> Iterable[Frame]:
    """Its frames; none of reports, presentation states and the like.

    Raises:
        FormatError: its header promises an image, and there is none.
    """
    if "Rows" not in dataset or "Columns" not in dataset:
        header = getattr(dataset, "file_meta", {})
        promised = header.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")
        if "Image Storage" in getattr(promised, "name", ""):
            syntax = getattr(header.get("TransferSyntaxUID"), "name", "none")
            raise FormatError(
                f'"{stored}" is truncated or damaged: its header promises an image'
                f" ({promised.name}), and by the transfer syntax that it names ({syntax}) there is"
                " none."
            )
        return []
    return frames_of(stored, dataset)


def _alike(one: Frame, other: Frame) -> bool:
    if len(one.orientation) != len(other.orientation):
        return False
    return bool(np.allclose(one.orientation, other.orientation, rtol=0, atol=ALIKE))


def _series(path: Path, dataset: Dataset, frames: Sequence[Frame]) -> Series:
    """What the first data set and all frames of a volume tell of it."""
    try:
        number = int(dataset.get("SeriesNumber"))
    except (TypeError, ValueError):
        number = None
    modality = str(dataset.get("Modality") or "")
    description = str(dataset.get("SeriesDescription") or "")
    words = {word.upper() for frame in frames[:1] for word in frame.kind[0][2:]}
    anatomy = modality == "MR" and not words & NO_HEAD
    return Series(
        path,
        str(dataset.get("SeriesInstanceUID", "")),
        str(dataset.get("StudyInstanceUID", "")),
        number,
        description,
        modality,
        contrast_told(told_by(dataset)) if anatomy else None,
        anatomy,
        dataset.get("SyntheticData") == "YES" or description.startswith("SYNTH "),
        tuple(frames),
    )


def _labelled(series: Sequence[Series]) -> list[Series]:
    """By study and number; those of one number get letters."""
    ordered = sorted(
        series, key=lambda one: (one.study, one.number is None, one.number or 0, one.uid)
    )
    shared = Counter(one.number for one in ordered)
    seen: Counter[int | None] = Counter()
    labelled = []
    for one in ordered:
        number = "0" if one.number is None else str(one.number)
        letter = _letters(seen[one.number]) if shared[one.number] > 1 else ""
        seen[one.number] += 1
        labelled.append(replace(one, label=number + letter))
    return labelled


def _letters(count: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    first, last = divmod(count, 26)
    return (_letters(first - 1) if first else "") + string.ascii_lowercase[last]
