"""One process at a time: a file that says who works on something.

The file is made in one step that fails where it exists, also over NFS. Its owner touches it every
minute. It counts for nothing once its process, on the same machine, is gone, or once nobody
touched it for ten minutes, by the clock of the file system. Whether clocks are set meanwhile makes
no difference.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from medi2i.errors import OutputError

__all__ = ["claimed", "waited_for"]

BEAT = 60.0
"""Seconds between two touches."""
SILENT = 600.0
"""Seconds without a touch after which an owner counts as dead."""
STUMP = 2.0
"""Seconds after which an empty file counts as left by a process that was killed making it."""


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Own `path` as long as the block lasts. Missing folders are made.

    Yields:
        False where another living process, or another thread of this one, owns it.

    Raises:
        OutputError: the file cannot be written.
    """
    owner = {
        "Host": socket.gethostname(),
        "Process": os.getpid(),
        "Started": _started(os.getpid()),
        "Token": secrets.token_hex(8),
    }
    mine, stop = json.dumps(owner).encode(), threading.Event()
    beat = threading.Thread(target=_touch, args=(path, stop), daemon=True)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            owned = _take(path, mine)
        except OSError as error:
            raise OutputError(f'"{path}" cannot be written: {error.strerror or error}.') from error
        if owned:
            beat.start()
        yield owned
    finally:  # also when this is interrupted before anybody knows whose it is
        stop.set()
        try:
            _leave(path, mine)
        except BaseException:  # interrupted in the middle of it
            _leave(path, mine)
            raise


@contextlib.contextmanager
def waited_for(path: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Own `path`, after waiting for whoever owns it.

    Raises:
        OutputError: it takes longer than that.
    """
    until = time.monotonic() + seconds
    while True:
        with claimed(path) as owned:
            if owned:
                yield
                return
        if time.monotonic() > until:
            raise OutputError(f'"{path}" is held by another process for more than {seconds:g} s')
        time.sleep(0.05)


def _leave(path: Path, owner: bytes) -> None:
    """Remove a file that is this owner's, and its folder if it is empty then."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == owner:
            path.unlink()
    with contextlib.suppress(OSError):  # others' claims are in there
        path.parent.rmdir()


def _take(path: Path, owner: bytes) -> bool:
    for _ in range(100):  # the folder, or a dead owner's file, can vanish at any moment
        try:
            with path.open("xb") as stream:
                stream.write(owner)
            return True
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        except FileExistsError:
            dead = _dead_owner(path)
        except BaseException:  # interrupted between making and writing it
            with contextlib.suppress(OSError):
                if not _written(path):
                    path.unlink()
            raise
        if dead is None:
            if _written(path):
                return False
            time.sleep(STUMP / 50)  # it is being written, or gone
            continue
        # Who removes a dead owner's file must be alone, lest it is a new owner's by then.
        with claimed(path.with_name(f"{path.name}.{dead}")) as alone:
            if not alone:
                return False
            if _dead_owner(path) == dead:
                path.unlink(missing_ok=True)
    return False


def _written(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _dead_owner(path: Path) -> str | None:
    """The token of an owner who is dead; None for a living one, or where the file is gone."""
    try:
        content = path.read_bytes()
        if not content:  # its owner is about to write it, or was killed just then
            return "stump" if _silent(path, STUMP) else None
        owner: dict[str, Any] = json.loads(content)
        token, here = str(owner["Token"]), owner["Host"] == socket.gethostname()
        began = _started(owner["Process"]) if here else None
        if here and (began is None or began != owner["Started"]):
            return token
        return token if not here and _silent(path, SILENT) else None
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):  # nothing that this module writes
        return "unreadable" if _silent(path, SILENT) else None


def _started(process: int) -> str | None:
    """When a process of this machine began; None where there is none."""
    try:
        if sys.platform == "linux":  # seconds of a clock would be others once it is set
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
            return f"{boot} {told.rpartition(')')[2].split()[19]}"
        return str(psutil.Process(process).create_time())
    except (psutil.Error, OSError):
        return None


def _silent(path: Path, seconds: float) -> bool:
    """Whether nobody touched a file for so long, by the clock of the file system."""
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        draft.touch()
        age = draft.stat().st_mtime - path.stat().st_mtime
        if age < 0:  # the clock was set back: the seconds count from now
            os.utime(path)
        return age > seconds
    except OSError:
        return False
    finally:
        draft.unlink(missing_ok=True)


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
