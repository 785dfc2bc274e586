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
    made: list[Path] = []
    stage: Path | None = None
    lock: int | None = None
    try:
        _make_folder(folder, made)
        stage = Path(tempfile.mkdtemp(prefix=_stage_of(names[-1]), dir=folder))
        lock = _lock(stage)
        yield stage
        for name in names:
            _check_target(folder / name, overwrite)
        if overwrite:  # where the last one is, all are of one making, even if this is killed now
            (folder / names[-1]).unlink(missing_ok=True)
        for name in names:
            (stage / name).replace(folder / name)
        shutil.rmtree(stage, ignore_errors=True)
    except BaseException as error:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for new in reversed(made):
            with contextlib.suppress(OSError):
                new.rmdir()
        if isinstance(error, OutputError) and stage is not None:
            raise OutputError(str(error).replace(str(stage), str(folder))) from error
        if isinstance(error, OSError) and not isinstance(error, Medi2iError):
            raise OutputError(
                f'"{folder / names[0]}" cannot be written: {_reason(error)}.'
            ) from error
        raise
    finally:
        if lock is not None:
            os.close(lock)
    _sync_folder(folder)


def clear_staging(path: Path) -> None:
    """Remove what killed processes left of :func:`staging` whose last name was `path`.

    What a living process works on stays, where the system can tell.
    """
    if not path.parent.is_dir():
        return
    for left in path.parent.iterdir():
        if left.name.startswith(_stage_of(path.name)):
            lock = _lock(left)
            if lock is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)


def clear_temporary(folder: Path) -> None:
    """Remove what a killed process left of :func:`atomic_write` in a folder and the ones below.

    Only for who knows that no other process writes there.
    """
    for left in folder.rglob(".medi2i-*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()


def _lock(stage: Path) -> int | None:
    """An open file whose lock ends with this process; None where another one holds it."""
    try:
        import fcntl
    except ImportError:  # Windows, which cannot tell, and removes no file that is open
        return None
    try:
        lock = os.open(stage / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError:  # gone just now, or not ours
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _stage_of(name: str) -> str:
    """How the hidden folder begins in which a file is made."""
    return f".medi2i-{name}-"


@contextlib.contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden folder to fill, which becomes `path` at the end of the block in one step.

    When anything fails before, nothing is left, and what was at `path` stays.

    Args:
        overwrite: False refuses a `path` that exists.

    Raises:
        OutputError: `path` exists, or cannot be written.
    """
    made: list[Path] = []
    stage: Path | None = None
    try:
        if not overwrite and os.path.lexists(path):
            raise OutputError(f'"{path}" exists already; allow overwriting or choose another name.')
        _make_folder(path.parent, made)
        stage = Path(tempfile.mkdtemp(prefix=".medi2i-", dir=path.parent))
        yield stage
        stage.chmod(0o777 & ~_umask())
        if path.is_dir():
            old = stage.with_name(f"{stage.name}-old")
            path.replace(old)
            stage.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            stage.replace(path)
    except BaseException as error:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for new in reversed(made):
            with contextlib.suppress(OSError):
                new.rmdir()
        if isinstance(error, OutputError) and stage is not None:
            raise OutputError(str(error).replace(str(stage), str(path))) from error
        if isinstance(error, OSError) and not isinstance(error, Medi2iError):
            raise OutputError(f'"{path}" cannot be written: {_reason(error)}.') from error
        raise
    _sync_folder(path.parent)


def _umask() -> int:
    """The permissions that new files do not get; reading it means setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputError(f'"{path}" is a folder; the name of a file was expected.')
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
