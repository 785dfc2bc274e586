"""Folders and archives that somebody else made: listed, judged, and read file by file.

Nothing is unpacked as a whole. What an archive holds is judged by its list of contents before any
of it is read: names that lead out of it, links, devices, files that count or weigh too much.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO, cast

from medi2i.errors import FormatError, MissingFileError

__all__ = ["MAX_FILES", "Contents", "check_zip", "opened"]

MAX_FILES = 1000
"""Files and folders in an archive of one model."""
_MAX_LIST = 1 << 22
"""Bytes of a zip archive's list of contents."""
_PADDING = 1 << 22
"""Bytes of a tar archive that are not of its files."""
_GZIP = b"\x1f\x8b"
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)
"""What reading a damaged archive can raise."""


class Contents:
    """The files of a folder or an archive by their names, with / between folders.

    Args:
        where: for messages.
        sizes: bytes of each, as the list of contents has them.
        open_one: a stream of the bytes of one.
        limit: bytes of a file that are read at most.
    """

    def __init__(
        self,
        where: str,
        sizes: Mapping[str, int],
        open_one: Callable[[str], AbstractContextManager[IO[bytes]]],
        limit: int,
    ) -> None:
        self.where = where
        self.sizes = sizes
        self._open_one = open_one
        self._limit = limit

    def read(self, name: str, limit: int | None = None) -> bytes:
        """All bytes of one file.

        Raises:
            FormatError: it is damaged, or larger than it may be.
        """
        most = self._limit if limit is None else min(limit, self._limit)
        try:
            with self._open_one(name) as stream:
                content = stream.read(most + 1)
        except _DAMAGED as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f'"{name}" in "{self.where}" cannot be read: {error}') from error
        if len(content) > most:
            raise FormatError(
                f'"{name}" in "{self.where}" holds more than {most} bytes; a model was expected'
            )
        return content


@contextmanager
def opened(path: Path, file: BinaryIO | None, limit: int) -> Iterator[Contents]:
    """What lies in a folder, or in a zip or tar archive (also .tar.gz).

    Args:
        path: for messages; or the folder.
        file: the archive, open at its beginning; None for a folder.
        limit: bytes that it may hold, unpacked.

    Raises:
        FormatError: it is no archive, is damaged, or holds what no model needs.
    """
    if file is None:
        yield _folder(path, limit)
        return
    with ExitStack() as open_ones:
        try:
            contents = _archive(path, file, limit, open_ones)
        except _DAMAGED as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f'"{path}" is a damaged archive: {error}') from error
        yield contents


def _archive(path: Path, file: BinaryIO, limit: int, open_ones: ExitStack) -> Contents:
    start = file.read(262)
    file.seek(0)
    if start.startswith(b"PK"):
        check_zip(file, str(path), limit)
        return _zipped(path, open_ones.enter_context(zipfile.ZipFile(file)), limit)
    packed = start.startswith(_GZIP)
    if not packed and start[257:262] != b"ustar":
        raise FormatError(
            f'"{path}" is no archive of a kind that is read here: zip, tar or tar.gz was '
            "expected, or the folder of a model"
        )
    plain = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    capped = _Capped(plain, lambda end, _: _weigh(str(path), end - _PADDING, limit))
    tar = open_ones.enter_context(tarfile.TarFile(fileobj=cast(IO[bytes], capped)))
    return _tarred(path, tar, limit)


def check_zip(file: BinaryIO, where: str, limit: int) -> None:
    """Judge a zip archive by its list of contents; leaves `file` at its beginning.

    Raises:
        FormatError: it is none, the list is too long to be read, or what it lists is too large
            unpacked.
    """

    def judge(_: int, size: int) -> None:
        if size > _MAX_LIST:
            raise FormatError(
                f'"{where}" is a zip archive with a list of contents of {size} bytes; a model was '
                "expected: nothing was unpacked"
            )

    try:
        with zipfile.ZipFile(cast(IO[bytes], _Capped(file, judge))) as archive:
            _weigh(where, sum(entry.file_size for entry in archive.infolist()), limit)
    except _DAMAGED as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f'"{where}" is a damaged archive: {error}') from error
    file.seek(0)


class _Capped:
    """A stream whose reads are judged before they happen: what inflates has no end of its own.

    Args:
        judge: called with where a read or a jump would end, and how many bytes it would give.
    """

    def __init__(self, stream: IO[bytes], judge: Callable[[int, int], None]) -> None:
        self._stream = stream
        self._judge = judge

    def read(self, size: int = -1) -> bytes:
        if size >= 0:
            self._judge(self._stream.tell() + size, size)
            return self._stream.read(size)
        rest = self._stream.read(_MAX_LIST + 1)  # only ends of zip archives are read so
        self._judge(self._stream.tell(), len(rest))
        return rest

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._judge(place, 0)
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _folder(path: Path, limit: int) -> Contents:
    """The files at the top of a folder and one below; those of a bundle or a model lie there."""
    if not path.is_dir():
        raise MissingFileError(f'"{path}" does not exist; a file, folder or address was expected')
    files = [one for pattern in ("*", "*/*") for one in path.glob(pattern) if one.is_file()]
    sizes = {one.relative_to(path).as_posix(): one.stat().st_size for one in files}
    return Contents(str(path), sizes, lambda name: (path / name).open("rb"), limit)


def _zipped(path: Path, archive: zipfile.ZipFile, limit: int) -> Contents:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            _refuse(path, entry.filename, "is a link or a device")
        if entry.flag_bits & 1 or entry.compress_type not in (0, zipfile.ZIP_DEFLATED):
            _refuse(path, entry.filename, "is encrypted or packed in an unusual way")
        entries[_plain_name(path, entry.orig_filename, entries)] = entry
    files = {name: entry for name, entry in entries.items() if not entry.is_dir()}
    sizes = {name: entry.file_size for name, entry in files.items()}
    return Contents(str(path), sizes, lambda name: archive.open(files[name]), limit)


def _tarred(path: Path, tar: tarfile.TarFile, limit: int) -> Contents:
    members: dict[str, tarfile.TarInfo] = {}
    total = 0
    for member in tar:  # each is judged before the next is looked for behind it
        if member.issparse() or not (member.isreg() or member.isdir()):
            _refuse(path, member.name, "is a link, a device or a file with holes")
        total += member.size
        _weigh(str(path), total, limit)
        members[_plain_name(path, member.name, members)] = member
    files = {name: member for name, member in members.items() if member.isreg()}
    sizes = {name: member.size for name, member in files.items()}

    def open_one(name: str) -> IO[bytes]:
        return cast(IO[bytes], tar.extractfile(files[name]))

    return Contents(str(path), sizes, open_one, limit)


def _plain_name(path: Path, name: str, others: Mapping[str, object]) -> str:
    """`name` without a leading ./, if it stays within the archive and is there once."""
    parts = PurePosixPath(name).parts
    if (
        name.startswith("/")
        or ".." in parts
        or "\\" in name
        or PureWindowsPath(name).drive
        or any(ord(letter) < 32 for letter in name)
    ):
        _refuse(path, name, "leads out of it or is no name of a file")
    plain = "/".join(parts) or "."
    if plain.casefold() in {other.casefold() for other in others} - {"."}:
        _refuse(path, name, "is there twice")
    if len(others) >= MAX_FILES:
        raise FormatError(f'"{path}" holds more than {MAX_FILES} files; a model was expected')
    return plain


def _refuse(path: Path, name: str, why: str) -> None:
    raise FormatError(
        f'archive "{path}" holds {name!r}, which {why}; an archive of plain files below one folder '
        "was expected: nothing was unpacked"
    )


def _weigh(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise FormatError(
            f'"{where}" unpacks to more than {limit / 1e6:g} MB; --max-size allows more, if you '
            "trust it: nothing was unpacked"
        )
