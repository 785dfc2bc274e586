from __future__ import annotations

import errno
import gzip
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from medi2i import files
from medi2i.errors import InputError, MissingFileError, OutputError
from medi2i.files import GZIP_ERRORS, atomic_write, gunzip, gzipped, staging, write_whole


@pytest.fixture(params=["isal", "standard library"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(files, "_GzipFile", gzip.GzipFile)
        monkeypatch.setattr(files, "_LEVEL", 4)


def pack(content: bytes) -> bytes:
    stream = io.BytesIO()
    with gzipped(stream) as packed:
        packed.write(content)
    return stream.getvalue()


@pytest.mark.usefixtures("library")
def test_gzip_round_trip_is_deterministic() -> None:
    content = bytes(range(256)) * 500
    packed = pack(content)
    assert packed == pack(content)
    assert len(packed) < len(content)
    assert packed[3] == 0  # no flags: no file name
    assert packed[4:8] == b"\0\0\0\0"  # no time
    assert gunzip(io.BytesIO(packed)).read() == content
    assert gzip.decompress(packed) == content


@pytest.mark.usefixtures("library")
def test_gzip_damage_raises_what_is_promised() -> None:
    packed = pack(os.urandom(1000))
    for stump in (packed[:-1], packed[:-8], packed[:500], packed[:5]):
        with pytest.raises(GZIP_ERRORS):
            gunzip(io.BytesIO(stump)).read()
    for place in (-1, -6, 0):  # length, checksum, magic
        wrong = bytearray(packed)
        wrong[place] ^= 0xFF
        with pytest.raises(GZIP_ERRORS):
            gunzip(io.BytesIO(bytes(wrong))).read()


def say(text: bytes) -> Any:
    return lambda stream: stream.write(text)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "neu ü" / "a b.txt"
    assert atomic_write(path, say(b"one")) == path
    assert atomic_write(str(path), say(b"two")) == path
    assert path.read_bytes() == b"two"
    assert everything(tmp_path) == ["neu ü", "neu ü/a b.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    written = atomic_write(tmp_path / "written", say(b""))
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(stream: BinaryIO) -> None:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"

    atomic_write(path, write)
    assert path.read_bytes() == b"new"


def test_existing_is_refused_when_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        atomic_write(path, say(b"new"), overwrite=False)
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == ["a"]


def test_one_that_appears_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write(stream: BinaryIO) -> None:
        path.write_bytes(b"other")

    with pytest.raises(OutputError, match="exists already"):
        atomic_write(path, write, overwrite=False)
    assert path.read_bytes() == b"other"
    assert everything(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("error", "expected", "match"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), OutputError, "read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError, "read-only"),
        (OSError("odd"), OutputError, "odd"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (ValueError("mine"), ValueError, "mine"),
        (MissingFileError("not there"), MissingFileError, "not there"),
    ],
)
def test_failure_leaves_nothing_behind(
    tmp_path: Path, error: BaseException, expected: type[BaseException], match: str
) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise error

    with pytest.raises(expected, match=match):
        atomic_write(tmp_path / "new" / "folder" / "a", write)
    assert everything(tmp_path) == []


def test_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def replace(*_: object) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OutputError):
        atomic_write(path, say(b"new"))
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == ["a"]


def test_a_folder_or_a_file_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        atomic_write(tmp_path, say(b""))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file, not a folder"):
        atomic_write(tmp_path / "file" / "a", say(b""))
    with pytest.raises(InputError):
        atomic_write(tmp_path / ("x" * 300), say(b""))
    assert everything(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *mode: opened("/dev/full", os.O_WRONLY))
    with pytest.raises(OutputError, match="disk is full"):
        atomic_write(tmp_path / "a", say(b"x" * 100_000))
    assert everything(tmp_path) == []


def test_staged_files_appear_together(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deep"
    with staging(folder, ["a", "b"]) as stage:
        for name in ("a", "b", "forgotten"):
            (stage / name).write_text(name)
        assert [path for path in folder.iterdir() if path != stage] == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "a", "b": "b"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_staging_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staging(tmp_path / "new", ["a"]) as stage:
            (stage / "a").write_text("a")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_staging_keeps_what_exists(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")

    def write() -> None:
        with staging(tmp_path, ["a", "b"], overwrite=False) as stage:
            for name in ("a", "b"):
                (stage / name).write_text("new")

    with pytest.raises(OutputError, match="exists already"):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "old"}


def test_staging_names_the_place_and_not_itself(tmp_path: Path) -> None:
    def write() -> None:
        with staging(tmp_path, ["a"]) as stage:
            (stage / "a").mkdir()
            atomic_write(stage / "a", lambda stream: None)

    with pytest.raises(OutputError, match="is a folder") as caught:
        write()
    assert f'"{tmp_path / "a"}"' in str(caught.value)
    with pytest.raises(OutputError, match="cannot be written"), staging(tmp_path, ["a"]):
        pass  # nobody made it
    assert list(tmp_path.iterdir()) == []


def test_whole_text_and_bytes(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a" / "x.txt", "ü\n").read_bytes() == b"\xc3\xbc\n"
    assert write_whole(tmp_path / "x.bin", b"\0\1").read_bytes() == b"\0\1"
    with pytest.raises(OutputError, match="exists"):
        write_whole(tmp_path / "x.bin", b"", overwrite=False)
    assert (tmp_path / "x.bin").read_bytes() == b"\0\1"
