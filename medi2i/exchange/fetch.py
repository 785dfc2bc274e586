"""Archives of models from addresses: fetched when asked for, checked, kept for the next time."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, BinaryIO
from urllib import error as failures
from urllib import request
from urllib.parse import SplitResult, urlsplit

from medi2i.errors import FormatError, InputError, MissingFileError, UsageError
from medi2i.files import write_whole
from medi2i.zoo import models_folder

__all__ = ["archives_folder", "check_sha256", "digest_of", "fetch", "is_address"]

_CHUNK = 1 << 20
_PATIENCE = 60.0
"""Seconds without a byte."""
_HERE = ("localhost", "127.0.0.1", "::1")


def archives_folder() -> Path:
    """Where fetched archives are kept, each under its sha256."""
    return models_folder() / ".archives"


def is_address(text: str) -> bool:
    """Whether this is a URL and no path.

    >>> is_address("https://example.org/model.zip"), is_address("C:/model.zip")
    (True, False)
    """
    return "://" in text


def digest_of(file: BinaryIO) -> str:
    """The sha256 of a file; leaves it at its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(_CHUNK):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()


def check_sha256(where: str, found: str, wanted: str | None) -> None:
    """Raise FormatError unless an archive is the one that was asked for."""
    if wanted is not None and found != wanted:
        raise FormatError(
            f'"{where}" has sha256 {found}, but {wanted} was asked for: it is another file, '
            "altered or cut short; nothing was unpacked"
        )


def fetch(
    address: str,
    *,
    sha256: str | None,
    max_bytes: int,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """The archive at an address, from the network or, where it was fetched before, from the disk.

    Args:
        address: https; or http of this machine.
        sha256: of the archive; one that is kept needs no network then.
        max_bytes: more are not fetched.
        tell: called with a line where an archive that was kept takes the place of the network.

    Returns:
        Its place among the archives.

    Raises:
        UsageError: an address of another kind. FormatError: another sha256, or too large.
        MissingFileError: nothing is there. InputError: it cannot be fetched.
    """
    shown = _checked(address)
    kept = archives_folder()
    if sha256 is not None and (kept / sha256).is_file() and _digest(kept / sha256) == sha256:
        return kept / sha256
    temporary = kept / f"{secrets.token_hex(8)}.part"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        found = _fetched(address, shown, temporary, max_bytes)
        check_sha256(shown, found, sha256)
        temporary.replace(kept / found)
        note = {"from": shown, "address": _secretly(address)}
        write_whole(kept / f"{found}.json", json.dumps(note) + "\n")
        return kept / found
    except (failures.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(error, failures.HTTPError):
            error.close()
            if error.code in (404, 410):
                raise MissingFileError(f'"{shown}" is not there ({error.code})') from error
        earlier = _kept_from(address) if sha256 is None else None
        reason = getattr(error, "reason", None) or error
        if earlier is None:
            raise InputError(
                f'"{shown}" cannot be fetched: {reason}. Try again, or fetch it in another way and '
                "install the file"
            ) from error
        tell(f"{shown} cannot be reached ({reason}); taken as it was fetched before")
        return earlier
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'"{shown}" cannot be kept in "{kept}": {error.strerror}') from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fetched(address: str, shown: str, place: Path, max_bytes: int) -> str:
    """Write what is at an address to `place`; the sha256 of it."""
    digest, size = hashlib.sha256(), 0
    with (
        closing(_opener(address).open(address, timeout=_PATIENCE)) as answer,
        place.open("xb") as file,
    ):
        promised = answer.headers.get("Content-Length")
        _check_size(shown, int(promised) if promised and promised.isdigit() else 0, max_bytes)
        while part := answer.read(_CHUNK):
            size += len(part)
            _check_size(shown, size, max_bytes)
            digest.update(part)
            file.write(part)
    if promised and promised.isdigit() and size != int(promised):
        raise http.client.IncompleteRead(b"", int(promised) - size)
    return digest.hexdigest()


def _check_size(shown: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FormatError(
            f'"{shown}" is larger than {max_bytes / 1e6:g} MB; --max-size allows more: nothing was '
            "kept"
        )


class _Redirects(request.HTTPRedirectHandler):
    """Follows to addresses that could have been asked for themselves."""

    def redirect_request(
        self,
        req: request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> request.Request | None:
        try:
            _checked(newurl)
            if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
                raise UsageError(f'"{_shown(urlsplit(req.full_url))}" leads from https to http')
        except UsageError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(address: str) -> request.OpenerDirector:
    """Speaks http and https, and knows neither files nor ftp."""
    opener = request.OpenerDirector()
    here = urlsplit(address).hostname in _HERE
    for handler in (
        request.ProxyHandler({} if here else None),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "medi2i")]
    return opener


def _checked(address: str) -> str:
    """The address without what it may hold in secrets, if it may be fetched from."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise UsageError(f'"{address}" is no address: {error}') from error
    local = parts.scheme == "http" and host in _HERE
    if not host or "@" in parts.netloc or not (parts.scheme == "https" or local):
        raise UsageError(
            f'"{_shown(parts)}" is not fetched: an address with https, and without a user or '
            "password, was expected"
        )
    return _shown(parts)


def _shown(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(file)


def _secretly(address: str) -> str:
    """To know an address again without writing down what it may hold in secrets."""
    return hashlib.sha256(address.encode()).hexdigest()


def _kept_from(address: str) -> Path | None:
    """The archive that was last fetched from an address, whole as it was; None without one."""
    notes = sorted(archives_folder().glob("*.json"), key=lambda note: note.stat().st_mtime)
    for note in reversed(notes):
        with suppress(OSError, ValueError, TypeError, KeyError):
            place = note.with_suffix("")
            said = json.loads(note.read_text("utf-8"))["address"]
            if said == _secretly(address) and _digest(place) == place.name:
                return place
    return None
