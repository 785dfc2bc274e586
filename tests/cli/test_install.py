"""`medi2i models install` and `remove`: folders, archives, addresses, and what means harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medi2i import zoo
from medi2i.exchange import archives, fetch
from tests.cli.conftest import THREE, Call, seen, write_scan, write_tiny

Make = Callable[[Path, Path], Path]
"""From a model folder and a place to a file or folder there."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models are installed."""
    monkeypatch.setenv(zoo.PLACE, str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A model folder with a card."""
    from medi2i.model import read_model, write_model

    folder = write_model(read_model(tiny), tmp_path / "own" / "tiny")
    (folder / "README.md").write_text("# The card\n", encoding="utf-8")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder.parent).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def zipped(folder: Path, place: Path) -> Path:
    with zipfile.ZipFile(place / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files_of(folder).items():
            archive.writestr(name, content)
    return place / "x.zip"


def tarred(folder: Path, place: Path, *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(place / "x.tar.gz", "w:gz") as archive:
        for name, content in files_of(folder).items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return place / "x.tar.gz"


def exported(kind: str) -> Make:
    def make(folder: Path, place: Path) -> Path:
        from medi2i.exchange.export import BundleFormat, export_model

        export_model(folder, place / "out", BundleFormat(kind))
        return place / "out"

    return make


# ---- ways in


@pytest.mark.parametrize(
    "make",
    [
        lambda folder, place: folder,
        zipped,
        tarred,
        exported("huggingface"),
        exported("monai-bundle"),
        lambda folder, place: zipped(exported("monai-bundle")(folder, place), place),
    ],
    ids=["folder", "zip", "tar.gz", "huggingface", "monai-bundle", "zipped monai-bundle"],
)
def test_ways_in(call: Call, model: Path, place: Path, tmp_path: Path, make: Make) -> None:
    answer = call("models", "install", make(model, tmp_path))
    assert answer.code == 0, answer.err
    assert str(place / "tiny") in answer.out
    for name in ("weights.safetensors", "model.json"):
        assert (place / "tiny" / name).read_bytes() == (model / name).read_bytes(), name
    assert (place / "tiny" / "README.md").read_text().startswith("# The card\n")
    assert [path.name for path in place.iterdir()] == ["tiny"]
    assert zoo.load_model("tiny").name == "tiny"


def test_its_whole_life(call: Call, model: Path, place: Path, tmp_path: Path) -> None:
    assert call("models", "install", model, "--name", "mine").code == 0
    assert call("models", "install", model, "--name", "mine").code == 0  # the same one: fine
    rows = {row["name"]: row for row in json.loads(call("models", "list", "--json").out)}
    assert rows["mine"]["installed"] is True
    assert rows["default"]["installed"] is False
    assert "The card" in call("models", "show", "mine").out
    assert "mine: ok" in call("models", "verify", "mine").out
    scan = write_scan(tmp_path / "sub-1_T1w.nii.gz")
    answer = call("translate", scan, "--to", "t2", "--model", "mine", "-o", tmp_path / "t2.nii.gz")
    assert answer.code == 0, answer.err
    assert "mine" in call("translate", scan, "--to", "t2", "--model", "mien").err
    assert call("models", "remove", "mine").code == 0
    assert seen(place) == {}
    answer = call("models", "remove", "mine")
    assert (answer.code, "is not installed; there is none" in answer.err) == (2, True)
    assert "comes with medi2i and stays" in call("models", "remove", "default").err


def test_another_one_of_that_name(call: Call, model: Path, place: Path, tmp_path: Path) -> None:
    assert call("models", "install", model).code == 0
    before = seen(place)
    from medi2i.task import Task

    other = write_tiny(tmp_path / "b" / "tiny", Task(THREE[:2], THREE[2:]))
    answer = call("models", "install", other)
    assert answer.code == 2
    assert 'another model "tiny" is installed; choose another name with --name' in answer.err
    assert seen(place) == before


@pytest.mark.parametrize("name", ["default", "glance", "..", "a/b", ".hidden", "nul.x", "a b", ""])
def test_names_that_are_none(call: Call, model: Path, place: Path, name: str) -> None:
    answer = call("models", "install", model, "--name", name)
    assert answer.code == 2
    assert "--name" in answer.err
    assert not place.exists()


def test_where_models_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("the rules of other systems")
    monkeypatch.setenv(zoo.PLACE, "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert zoo.models_folder() == tmp_path / "medi2i" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.models_folder() == tmp_path / ".local" / "share" / "medi2i" / "models"
    monkeypatch.setenv(zoo.PLACE, "~/here")
    assert zoo.models_folder() == tmp_path / "here"


# ---- archives that mean harm


def with_member(name: str) -> Make:
    def make(folder: Path, place: Path) -> Path:
        path = zipped(folder, place)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"harm")
        return path

    return make


def with_tar_member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> Make:
    def make(folder: Path, place: Path) -> Path:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "/etc/passwd", size
        return tarred(folder, place, info)

    return make


def with_zip_link(folder: Path, place: Path) -> Path:
    path = zipped(folder, place)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("tiny/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return path


def with_many_files(folder: Path, place: Path) -> Path:
    path = zipped(folder, place)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(archives.MAX_FILES):
            archive.writestr(f"tiny/{number}", b"")
    return path


def with_a_long_list(folder: Path, place: Path) -> Path:
    """A list of contents that says it takes 16 MB to read."""
    path = zipped(folder, place)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = (1 << 24).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def with_a_long_name(folder: Path, place: Path) -> Path:
    """A header that asks for a gigabyte of memory for a name, in a few bytes."""
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path = place / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return path


def cut_short(folder: Path, place: Path) -> Path:
    path = tarred(folder, place)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def damaged(folder: Path, place: Path) -> Path:
    path = zipped(folder, place)
    content = bytearray(path.read_bytes())
    content[300:3000] = bytes(2700)
    path.write_bytes(content)
    return path


def two_models(folder: Path, place: Path) -> Path:
    path = zipped(folder, place)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/model.json", "{}")
    return path


def altered(folder: Path, place: Path) -> Path:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    return zipped(folder, place)


def changed(**changes: Any) -> Make:
    def make(folder: Path, place: Path) -> Path:
        record = json.loads((folder / "model.json").read_text()) | changes
        (folder / "model.json").write_text(json.dumps(record))
        return zipped(folder, place)

    return make


def deep(folder: Path, place: Path) -> Path:
    (folder / "model.json").write_text("[" * 200_000)
    return zipped(folder, place)


class Harm:
    """Unpickling it would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(Path(os.environ[zoo.PLACE]).parent / "harm"),)


def with_code(folder: Path, place: Path) -> Path:
    out = exported("monai-bundle")(folder, place)
    torch.save({"system.x": Harm()}, out / "models" / "model.pt")
    return out


def with_plain_pickle(folder: Path, place: Path) -> Path:
    out = exported("monai-bundle")(folder, place)
    (out / "models" / "model.pt").write_bytes(pickle.dumps(Harm()))
    return out


def with_large_views(folder: Path, place: Path) -> Path:
    """Four bytes that look like a terabyte."""
    out = exported("monai-bundle")(folder, place)
    torch.save({"system.x": torch.zeros(1).expand(1 << 38)}, out / "models" / "model.pt")
    return out


def bomb(folder: Path, place: Path) -> Path:
    (folder / "README.md").write_bytes(bytes(3_000_000))
    return zipped(folder, place)


def tar_bomb(folder: Path, place: Path) -> Path:
    return with_tar_member("tiny/zeros", size=3_000_000)(folder, place)


HOSTILE: dict[str, tuple[Make, int, str]] = {
    "zip, up": (with_member("tiny/../../harm"), 3, "leads out of it"),
    "zip, absolute": (with_member("/harm"), 3, "leads out of it"),
    "zip, drive": (with_member("C:/harm"), 3, "leads out of it"),
    "zip, backslash": (with_member("..\\harm"), 3, "leads out of it"),
    "zip, link": (with_zip_link, 3, "is a link or a device"),
    "zip, twice": (with_member("TINY/model.json"), 3, "is there twice"),
    "zip, many": (with_many_files, 3, "more than 1000 files"),
    "zip, list": (with_a_long_list, 3, "a list of contents of 16777216 bytes|damaged"),
    "zip, bomb": (bomb, 3, "unpacks to more than 1 MB; --max-size allows more"),
    "zip, damaged": (damaged, 3, "damaged|cannot be read"),
    "tar, up": (with_tar_member("tiny/../../harm"), 3, "leads out of it"),
    "tar, absolute": (with_tar_member("/harm"), 3, "leads out of it"),
    "tar, link": (with_tar_member("tiny/x", tarfile.SYMTYPE), 3, "is a link, a device"),
    "tar, hard link": (with_tar_member("tiny/x", tarfile.LNKTYPE), 3, "is a link, a device"),
    "tar, pipe": (with_tar_member("tiny/x", tarfile.FIFOTYPE), 3, "is a link, a device"),
    "tar, device": (with_tar_member("tiny/x", tarfile.CHRTYPE), 3, "is a link, a device"),
    "tar, bomb": (tar_bomb, 3, "unpacks to more than 1 MB"),
    "tar, name": (with_a_long_name, 3, "unpacks to more than"),
    "tar, cut short": (cut_short, 3, "damaged|cannot be read"),
    "two models": (two_models, 3, "holds 2 models"),
    "altered weights": (altered, 4, "model.json promises"),
    "no such system": (changed(system="unett"), 4, 'did you mean "unet"'),
    "a huge network": (changed(arguments={"features": [4, 50_000]}), 4, "do not fit system"),
    "no record": (changed(name=None), 4, "has no name"),
    "deep record": (deep, 4, "is not valid, or has no name"),
    "code": (with_code, 4, "only tensors are read here"),
    "plain pickle": (with_plain_pickle, 3, "is a damaged archive"),
    "large views": (with_large_views, 4, "tensors larger than itself"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_means_harm_or_is_no_model(
    call: Call, model: Path, place: Path, tmp_path: Path, case: str
) -> None:
    make, code, says = HOSTILE[case]
    given = make(model, tmp_path)
    before = seen(tmp_path)
    name = () if "record" in case else ("--name", "x")
    answer = call("models", "install", given, "--max-size", 1, *name)
    assert (answer.code, answer.out) == (code, ""), answer.err
    said = " ".join(answer.err.split())
    assert any(one in said for one in says.split("|")), said
    after = seen(tmp_path)
    after.pop("models", None)
    assert after == before  # nothing was left, neither in its place nor anywhere else


def test_what_is_no_archive(call: Call, place: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("no archive")
    assert "is no archive of a kind" in call("models", "install", tmp_path / "x.zip").err
    assert "does not exist" in call("models", "install", tmp_path / "y.zip").err
    (tmp_path / "empty").mkdir()
    assert "holds 0 models" in call("models", "install", tmp_path / "empty").err
    assert not place.exists()


def test_the_sha256_is_checked_first(call: Call, place: Path, tmp_path: Path, model: Path) -> None:
    path = damaged(model, tmp_path)
    answer = call("models", "install", path, "--sha256", "0" * 64)
    assert (answer.code, "it is another file, altered or cut short" in answer.err) == (3, True)
    assert "64 digits" in call("models", "install", path, "--sha256", "12").err
    assert "is a folder" in call("models", "install", model, "--sha256", "0" * 64).err
    path = zipped(model, tmp_path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert call("models", "install", path, "--sha256", right.upper()).code == 0


# ---- addresses


class Site:
    """A server on this machine: path -> (status, headers, body), and what was asked of it."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                status, headers, body = site.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                del args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    here = Site()
    yield here
    here.close()


def test_an_address_is_fetched_once(
    call: Call, model: Path, place: Path, tmp_path: Path, site: Site
) -> None:
    body = zipped(model, tmp_path).read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    site.pages["/x.zip?token=secret"] = (200, {"Content-Length": str(len(body))}, body)
    address = site.address("/x.zip?token=secret")
    assert call("models", "install", address).code == 0
    assert (place / ".archives" / digest).read_bytes() == body
    assert "secret" not in (place / ".archives" / f"{digest}.json").read_text()
    assert call("models", "install", address, "--sha256", digest, "--name", "b").code == 0
    assert len(site.asked) == 1
    site.close()  # from here on there is no network
    answer = call("models", "install", address, "--name", "c")
    assert answer.code == 0
    assert "taken as it was fetched before" in answer.err
    assert call("models", "install", address, "--sha256", digest, "--name", "d").code == 0
    assert set(zoo.installed()) == {"tiny", "b", "c", "d"}
    (place / ".archives" / digest).write_bytes(b"damaged since")
    answer = call("models", "install", address, "--sha256", digest, "--name", "e")
    assert (answer.code, "cannot be fetched" in answer.err) == (3, True)


def test_what_is_not_fetched(
    call: Call, place: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = bytes(1_500_000)
    site.pages |= {
        "/big": (200, {"Content-Length": str(len(big))}, big),
        "/endless": (200, {}, big),
        "/short": (200, {"Content-Length": "5000"}, b"PK"),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/plain": (302, {"Location": "http://example.org/x.zip"}, b""),
        "/other": (200, {}, b"another"),
    }
    monkeypatch.setattr(fetch, "_PATIENCE", 5.0)
    for path, code, says in (
        ("/nowhere", 3, "is not there (404)"),
        ("/big", 3, "is larger than 1 MB; --max-size allows more"),
        ("/endless", 3, "is larger than 1 MB"),
        ("/short", 3, "cannot be fetched"),
        ("/file", 3, "is not allowed"),
        ("/plain", 2, "an address with https"),
        ("/other", 3, "it is another file"),
    ):
        options = ("--sha256", "0" * 64) if path == "/other" else ()
        answer = call("models", "install", site.address(path), "--max-size", 1, *options)
        said = " ".join(answer.err.split())
        assert (answer.code, says in said) == (code, True), said
    assert seen(place) in ({}, {".archives": "folder"})


@pytest.mark.parametrize(
    "address",
    [
        *("http://example.org/x.zip", "file:///etc/passwd", "ftp://example.org/x.zip", "https://"),
        *("http://localhost.example.org/x.zip", "https://user:word@example.org/x.zip"),
        "http://[::1/x.zip",
    ],
)
def test_addresses_that_are_none(call: Call, place: Path, address: str) -> None:
    answer = call("models", "install", address)
    assert answer.code == 2
    assert "word" not in answer.err.replace("password", "")
    assert not place.exists()


def test_weights_are_those_of_the_checkpoint(model: Path, tmp_path: Path) -> None:
    """What `_unbundled` relies on: equal tensors, equal bytes."""
    weights = (model / "weights.safetensors").read_bytes()
    state = safetensors.torch.load(weights)
    assert safetensors.torch.save(dict(reversed(state.items()))) == weights
