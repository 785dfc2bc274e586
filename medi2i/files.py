"""Files that are either whole or absent, and gzip whose bytes depend on the content alone."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from medi2i.errors import Medi2iError, OutputError

__all__ = [
    "GZIP_ERRORS",
    "atomic_write",
    "check_writable",
    "clear_staging",
    "clear_temporary",
    "gunzip",
    "gzipped",
    "staging",
    "whole_folder",
    "write_whole",
]

GZIP_ERRORS: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading from `gunzip` raises on truncated or damaged data."""

_GzipFile: Any = gzip.GzipFile
_LEVEL = 4
try:  # several times faster at the same size
    from isal import igzip, igzip_lib
except ImportError:
    pass
else:
    _GzipFile, _LEVEL = igzip.GzipFile, 2
    GZIP_ERRORS = (*GZIP_ERRORS, cast(type[Exception], igzip_lib.IsalError))


def gunzip(stream: BinaryIO) -> BinaryIO:
    """A reader of the inflated bytes of `stream`. Length and checksum are verified at its end."""
    return cast(BinaryIO, _GzipFile(fileobj=stream, mode="rb"))


@contextlib.contextmanager
def gzipped(stream: BinaryIO) -> Iterator[BinaryIO]:
    """A writer that deflates into `stream`: no time, no file name, so equal input, equal bytes.

    The bytes also depend on the library: with and without `isal` they differ, and both inflate
    to the same content.

    >>> import io
    >>> stream = io.BytesIO()
    >>> with gzipped(stream) as packed:
    ...     _ = packed.write(b"voxels")
    >>> gunzip(io.BytesIO(stream.getvalue())).read()
    b'voxels'
    """
    with _GzipFile("", "wb", compresslevel=_LEVEL, fileobj=stream, mtime=0) as packed:
        yield cast(BinaryIO, packed)


def atomic_write(
    path: str | Path, write: Callable[[BinaryIO], None], *, overwrite: bool = True
) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    A reader sees the old file or the whole new one, also after a crash. Missing folders are
    made. When anything fails, nothing is left behind: no temporary file, no new folder.

    Args:
        write: called once with the open temporary file; what it raises, except OSError, passes.
        overwrite: False refuses a `path` that exists.

    Returns:
        `path` as a Path.

    Raises:
        OutputError: `path` exists, is a folder, or cannot be written (read-only, disk full).
    """
    path = Path(path)
    made: list[Path] = []
    temporary: Path | None = None
    try:
        _check_target(path, overwrite)
        _make_folder(path.parent, made)
        candidate = path.parent / f".medi2i-{secrets.token_hex(8)}.tmp"
        # O_EXCL and 0o666: never somebody else's file, and the permissions of any new file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(candidate, flags, 0o666)
        temporary = candidate
        _held(descriptor)
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        _check_target(path, overwrite)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, Medi2iError):
            raise OutputError(f'"{path}" cannot be written: {_reason(error)}.') from error
        raise
    _sync_folder(path.parent)
    return path


def write_whole(path: str | Path, content: str | bytes, *, overwrite: bool = True) -> Path:
    """Put bytes, or text as UTF-8, at `path` in one step. See :func:`atomic_write`.

    What UTF-8 cannot say, such as a part of a file name that is no text, becomes a JSON escape.
    """
    whole = content.encode(errors="backslashreplace") if isinstance(content, str) else content

    def write(stream: BinaryIO) -> None:
        stream.write(whole)

    return atomic_write(path, write, overwrite=overwrite)


def check_writable(path: Path) -> None:
    """Find out before hours of work whether a file can be put at `path`.

    Raises:
        OutputError: `path` is a folder, or its folder cannot be made or written to.
    """
    _check_target(path, overwrite=True)
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f'"{path}" cannot be written: {_reason(error)}.') from error


@contextlib.contextmanager
def staging(folder: Path, names: Sequence[str], *, overwrite: bool = True) -> Iterator[Path]:
    """A hidden folder in `folder` to make files in that belong together: all appear, or none.

    At the end of the block the named files move up into `folder`, in the order given. When
    anything fails before, `folder` is as it was, and gone if it was new.

    Args:
        overwrite: False refuses a name that exists.

    Raises:
        OutputError: a name exists, is a folder, or cannot be written.
    """
    with _stage(folder, names[-1], says=folder / names[0]) as stage, _named(stage, folder):
        yield stage
        for name in names:
            _check_target(folder / name, overwrite)
        if overwrite:  # where the last one is, all are of one making, even if this is killed now
            (folder / names[-1]).unlink(missing_ok=True)
        for name in names:
            (stage / name).replace(folder / name)
    _sync_folder(folder)


@contextlib.contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden folder to fill, which becomes `path` at the end of the block in one step.

    When anything fails before, nothing is left, and what was at `path` stays. A process that is
    killed while one folder takes the place of another leaves the old one in its stage, from where
    :func:`clear_staging` puts it back.

    Args:
        overwrite: False refuses a `path` that exists.

    Raises:
        OutputError: `path` exists, or cannot be written.
    """
    clear_staging(path)
    _check_absent(path, overwrite)
    with _stage(path.parent, path.name, says=path) as stage:
        new = stage / "new"
        new.mkdir()
        with _named(new, path):
            yield new
        _check_absent(path, overwrite)
        if path.is_dir():
            path.replace(stage / _REPLACED)
        new.replace(path)
    _sync_folder(path.parent)


def clear_staging(path: Path) -> None:
    """Remove what killed processes left of `path`, the last name of :func:`staging`, or a folder.

    A folder that was about to be replaced is put back. What a living process works on stays, where
    the system can tell.
    """
    if not path.parent.is_dir():
        return
    begins = _stage_of(path.name)
    for left in path.parent.iterdir():
        # "a" must not tidy up after "a-b"
        if left.name.startswith(begins) and "-" not in left.name.removeprefix(begins):
            lock = _lock(left)
            if lock is not None:
                _discard(left, path)
                os.close(lock)


def clear_temporary(folder: Path, *, below: bool = True) -> None:
    """Remove what killed processes left of :func:`atomic_write` in a folder.

    What a living process writes stays.

    Args:
        below: also in the folders below.
    """
    for left in folder.rglob(_TEMPORARY) if below else folder.glob(_TEMPORARY):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_WRONLY)
            dead = _held(descriptor)
            os.close(descriptor)
            if dead:
                left.unlink()


_TEMPORARY = ".medi2i-*.tmp"


def _lock(stage: Path) -> int | None:
    """An open file whose lock ends with this process; None where another one holds it."""
    try:
        lock = os.open(stage / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError:  # gone just now, or not ours
        return None
    if not _held(lock):
        os.close(lock)
        return None
    return lock


def _held(descriptor: int) -> bool:
    """Whether this process holds the lock of an open file from now on; nobody does on Windows."""
    try:
        import fcntl
    except ImportError:  # it cannot tell, and removes no file that is open
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_REPLACED = "replaced"
"""What a stage calls the folder that was there before."""


def _stage_of(name: str) -> str:
    """How the hidden folder begins in which a file is made."""
    return f".medi2i-{name}-"


@contextlib.contextmanager
def _stage(folder: Path, name: str, *, says: Path) -> Iterator[Path]:
    """A hidden folder in `folder` for what is called `name`; it goes with the block.

    When the block fails, so do folders that were made for it.

    Args:
        says: what an error calls it.
    """
    made: list[Path] = []
    stage: Path | None = None
    lock: int | None = None
    try:
        _make_folder(folder, made)
        stage = Path(tempfile.mkdtemp(prefix=_stage_of(name), dir=folder))
        lock = _lock(stage)
        yield stage
        made.clear()
    except OSError as error:
        if isinstance(error, Medi2iError):
            raise
        raise OutputError(f'"{says}" cannot be written: {_reason(error)}.') from error
    finally:
        if stage is not None:
            _discard(stage, folder / name)
        if lock is not None:
            os.close(lock)
        for new in reversed(made):
            with contextlib.suppress(OSError):
                new.rmdir()


@contextlib.contextmanager
def _named(stage: Path, place: Path) -> Iterator[None]:
    """Errors about what is in a stage speak of where it will be."""
    try:
        yield
    except OutputError as error:
        raise OutputError(str(error).replace(str(stage), str(place))) from error


def _discard(stage: Path, path: Path) -> None:
    """Remove a stage; a folder that was taken away from `path` for nothing goes back there."""
    replaced = stage / _REPLACED
    if replaced.is_dir() and not os.path.lexists(path):
        try:
            replaced.replace(path)
        except OSError:  # then this is the only place where it is
            return
    shutil.rmtree(stage, ignore_errors=True)


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputError(f'"{path}" is a folder; the name of a file was expected.')
    _check_absent(path, overwrite)


def _check_absent(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise OutputError(f'"{path}" exists already; allow overwriting or choose another name.')


def _make_folder(folder: Path, made: list[Path]) -> None:
    """`mkdir -p` that notes in `made` which folders are new."""
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir()
        except FileExistsError:  # another process was faster
            continue
        made.append(new)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"the folder or file is read-only or not yours ({error.strerror})"
    if error.errno == errno.ENOTDIR:
        return "a part of the path is a file, not a folder"
    return error.strerror or str(error)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
