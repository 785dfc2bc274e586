"""DICOM files where they lie, in folders or zip archives; nothing is ever unpacked to disk."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

from medi2i.errors import FormatError, InputError, Medi2iError, MissingFileError, UsageError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Stored", "is_dicom", "quiet", "stored_in", "understood"]

MALFORMED = (
    *(AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, OverflowError),
    *(RecursionError, RuntimeError, TypeError, ValueError, struct.error, zlib.error),
)
"""What reading a damaged data set can raise."""

MAX_BYTES = 1 << 31
"""Of one file, unpacked: more is refused before it fills the memory."""
MAX_TOTAL = 1 << 36
"""Of all files of an archive, unpacked."""
MAX_FILES = 200_000
_CHUNK = 1 << 20
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NO_PREAMBLE = (b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


@dataclass(frozen=True, slots=True)
class Stored:
    """One DICOM file: `path`, or the member `member` of the archive `path`."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    def content(self) -> bytes:
        """All bytes of the file.

        Raises:
            InputError: it cannot be read, or is larger than is reasonable.
        """
        content = bytearray()
        with self._open() as stream:
            while part := stream.read(_CHUNK):  # asked for all, it would reserve MAX_BYTES
                content += part
                if len(content) > MAX_BYTES:
                    raise FormatError(
                        f'"{self}" holds more than {MAX_BYTES} bytes; none of that size is read.'
                    )
        return bytes(content)

    def head(self) -> bytes:
        """The first 132 bytes."""
        with self._open() as stream:
            return stream.read(132)

    def read(self, *, pixels: bool) -> Dataset:
        """The data set, with or without its voxels.

        Raises:
            FormatError: it is damaged, or inflates beyond all reason.
        """
        from pydicom import dcmread

        with understood(f'"{self}" is'), self._seekable() as stream:
            start = stream.read(132)
            stream.seek(0)
            force = start[128:] != b"DICM"
            if not force:
                self._check_inflation(stream)
            return dcmread(stream, stop_before_pixels=not pixels, force=force)

    @contextmanager
    def _seekable(self) -> Iterator[BinaryIO]:
        if self.member:
            yield io.BytesIO(self.content())
        else:
            with self._open() as stream:
                yield stream

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            if not self.member:
                with self.path.open("rb", buffering=0) as file:
                    yield _Sober(file)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as packed:
                    yield packed  # type: ignore[misc]
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            EOFError,
            zlib.error,
        ) as error:
            if isinstance(error, InputError):
                raise
            raise FormatError(f'"{self}" cannot be unpacked: {error}.') from error
        except OSError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f'"{self}" cannot be read: {error.strerror or error}.') from error

    def _check_inflation(self, stream: BinaryIO) -> None:
        """A data set in the deflated transfer syntax can hold a thousand times its bytes."""
        start = stream.read(1 << 16)
        if _DEFLATED in start:
            # preamble and prefix, the element that holds the length of the rest, and that rest
            stream.seek(144 + int.from_bytes(start[140:144], "little"))
            inflater, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
            while not inflater.eof and (rest := rest or stream.read(_CHUNK)):
                size += len(inflater.decompress(rest, _CHUNK))
                rest = inflater.unconsumed_tail
                if size > MAX_BYTES:
                    raise FormatError(
                        f'"{self}" inflates to more than {MAX_BYTES} bytes; none so large is read.'
                    )
        stream.seek(0)


class _Sober(io.BufferedReader):
    """Reserves no more memory than the file can fill, whatever length an element claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any stream."""
        if size is not None and size > _CHUNK:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: pydicom has one for every unusual value, and the errors say what matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turn whatever a damaged data set raises into one sentence; pydicom reads values when asked.

    Args:
        what: begins the sentence: '"a.dcm" is'.

    Raises:
        FormatError: a value cannot be read.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with quiet():
            yield
    except (BytesLengthException, InvalidDicomError, *MALFORMED) as error:
        if isinstance(error, Medi2iError):
            raise
        raise FormatError(f"{what} truncated or damaged: {error}.") from error


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM."""
    try:
        return path.is_file() and _begins(Stored(path).head())
    except InputError:
        return False


def stored_in(path: Path) -> list[Stored]:
    """Every DICOM file in a folder and below, in a zip archive, or `path` itself.

    Links to folders are not followed, so that none leads in a circle; hidden files and the index
    DICOMDIR are left out.

    Raises:
        MissingFileError: there is no such file or folder.
        FormatError: an archive is damaged, or unpacks beyond reason or out of its folder.
    """
    if path.is_dir():
        candidates = _walk(path)
    elif not path.exists():
        raise MissingFileError(f'"{path}" does not exist.')
    elif zipfile.is_zipfile(path):
        candidates = _members(path)
    else:
        candidates = [Stored(path)]
    if len(candidates) > MAX_FILES:
        raise UsageError(f'"{path}" holds {len(candidates)} files; at most {MAX_FILES} are read.')
    return [stored for stored in candidates if _begins(stored.head())]


def _walk(folder: Path) -> list[Stored]:
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(where, name)
            # is_file: neither a pipe, which never ends, nor a link that leads nowhere
            if not name.startswith(".") and name.upper() != "DICOMDIR" and path.is_file():
                found.append(Stored(path))
    return found


def _members(path: Path) -> list[Stored]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise FormatError(f'"{path}" is a damaged archive: {error}.') from error
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if ".." in name.parts or name.is_absolute() or PureWindowsPath(entry.filename).drive:
            raise FormatError(
                f'archive "{path}" holds "{entry.filename}", which leads out of it; an archive of '
                "files below one folder was expected."
            )
    total = sum(entry.file_size for entry in entries)
    if total > MAX_TOTAL:
        raise FormatError(
            f'archive "{path}" unpacks to {total} bytes; at most {MAX_TOTAL} are read.'
        )
    return [
        Stored(path, entry.filename)
        for entry in sorted(entries, key=lambda entry: entry.filename)
        if not entry.is_dir()
        and not stat.S_ISLNK(entry.external_attr >> 16)
        and not any(part.startswith(".") for part in PurePosixPath(entry.filename).parts)
        and PurePosixPath(entry.filename).name.upper() != "DICOMDIR"
    ]


def _begins(head: bytes) -> bool:
    """With preamble and prefix; or without them, as older scanners wrote."""
    return head[128:132] == b"DICM" or head[:4] in _NO_PREAMBLE
