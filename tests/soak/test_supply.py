"""Nothing is fetched, nothing that is read runs code, and what is installed is written down."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.sbom import components, sbom
from tests.cli.conftest import Call, write_scan
from tests.conftest import MakeStudy

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for top in ("medi2i", "pipelines") for p in (ROOT / top).rglob("*.py"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every use of a socket raises, and is noted, as some code would swallow the error."""
    used: list[str] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        used.append(repr(arguments))
        raise OSError("the network is forbidden here")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse, raising=False)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return used


def test_the_refusal_works(no_network: list[str]) -> None:
    with pytest.raises(OSError, match="forbidden"):
        socket.create_connection(("localhost", 9), timeout=0.1)
    with socket.socket() as end, pytest.raises(OSError, match="forbidden"):
        end.connect(("127.0.0.1", 9))
    assert len(no_network) == 2


RUN = {
    "system": "unet",
    "task": {"sources": ["T1w"], "targets": ["T2w"]},
    "arguments": {"features": [4, 8]},
    "data": {"size": 16},
    "training": {"rounds": 1, "batch_size": 1, "workers": 0},
}


@pytest.mark.usefixtures("shipped")
def test_commands_without_a_network(
    call: Call, no_network: list[str], make_study: MakeStudy, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    made = tmp_path / "t1_desc-synth_T2w.nii.gz"
    study = make_study(tmp_path / "study", {"sub-1": "train", "sub-2": "val"})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    for command in (
        ("translate", scan, "--to", "t2", "--preview", "--report"),
        ("translate", scan, "--to", "t2", "--engine", "openvino", "-o", tmp_path / "t2.nii"),
        ("report", made, "--overwrite"),
        ("evaluate", made, scan, "--source", scan, "--json"),
        ("evaluate", study, "--from", "t1", "--to", "t2", "--json"),
        ("info", scan),
        ("info",),
        ("models", "list"),
        ("models", "verify", "default"),
        ("systems",),
        ("train", tmp_path / "run.yaml", "--data", study, "-o", tmp_path / "run", "-q"),
    ):
        answer = call(*command)
        assert answer.code == 0, (command, answer.err)
    assert no_network == []


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def _name(function: ast.expr) -> str:
    """`a.b.c` as it stands; what is not a name in it is a question mark."""
    if isinstance(function, ast.Attribute):
        return f"{_name(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else "?"


def _calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in _nodes(path):
        if isinstance(node, ast.Call):
            yield node, _name(node.func)


def _given(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def dangers(path: Path) -> list[str]:
    """Calls that could run what a file says."""
    found = []
    for call, name in _calls(path):
        last = name.rsplit(".", 1)[-1]
        wrong = (
            name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
            or name.startswith(("pickle.load", "dill.", "joblib.load", "marshal.", "shelve."))
            or (last == "Unpickler")
            or (name == "torch.load" and _given(call, "weights_only") != "True")
            or (
                name in ("np.load", "numpy.load")
                and _given(call, "allow_pickle") not in (None, "False")
            )
            or (name == "torch.hub.load")
            or (
                name == "yaml.load"
                and ast.unparse(call.args[1]) not in ("_Loader", "yaml.SafeLoader")
            )
            or (name in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all"))
            or (_given(call, "shell") not in (None, "False"))
            or (last in ("extractall", "unpack_archive"))
        )
        if wrong:
            found.append(f"{path.name}, line {call.lineno}: {ast.unparse(call)[:80]}")
    return found


def test_nothing_that_is_read_runs_code() -> None:
    assert len(SOURCES) > 200
    assert [line for path in SOURCES for line in dangers(path)] == []


NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "urllib", "urllib3"}
ASKED = {"fetch.py"}
"""What a person starts to get a model; nothing else knows how to reach the network."""


def test_nothing_else_knows_the_network() -> None:
    for path in SOURCES:
        for node in _nodes(path):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            reached = {name for name in named if name.split(".")[0] in NETWORK} - {"urllib.parse"}
            assert not reached or path.name in ASKED, f"{path}, line {node.lineno}: {reached}"


def test_yaml_is_read_by_a_safe_loader() -> None:
    from medi2i import config

    assert issubclass(config._Loader, yaml.SafeLoader)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "pickle.loads(data)",
        "archive.extractall(folder)",
    ],
)
def test_dangers_are_seen(line: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"def f():\n    return {line}\n")
    assert len(dangers(path)) == 1


def test_the_bill_of_materials_names_what_is_installed() -> None:
    """CycloneDX 1.6 (ECMA-424), made by `python pipelines/sbom.py`."""
    pinned = [
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    kept = json.loads((ROOT / "sbom.json").read_text())
    assert kept == sbom(ROOT), "run python pipelines/sbom.py"
    assert [(c["name"], c["version"]) for c in components(ROOT)] == [tuple(p) for p in pinned]
    assert kept["bomFormat"] == "CycloneDX"
    assert {c["purl"] for c in kept["components"]} >= {"pkg:pypi/numpy@" + dict(pinned)["numpy"]}
    assert len({c["bom-ref"] for c in kept["components"]}) == len(pinned)


def test_the_bill_is_written(tmp_path: Path) -> None:
    place = tmp_path / "sbom.json"
    command = [sys.executable, str(ROOT / "pipelines" / "sbom.py"), str(place)]
    subprocess.run(command, check=True, capture_output=True)
    assert place.read_bytes() == (ROOT / "sbom.json").read_bytes()
