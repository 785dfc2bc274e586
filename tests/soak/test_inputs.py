"""Whatever comes in ends in success or in one of our errors, within time and memory.

``make test`` tries about 500 spoiled inputs, ``make soak`` 20,000. One that does harm is kept with
its seed in soak-failures/ and is tried again by ``pytest tests/soak --input 'dicom 1234'``.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medi2i.config import read_yaml
from medi2i.contrasts import contrast_of
from medi2i.errors import Medi2iError
from medi2i.experiment import read_config
from medi2i.model import read_model
from medi2i.volume import load_volume
from tests.soak import corpus
from tests.soak.caps import Late, capped
from tests.soak.inputs import tried
from tests.soak.mutators import spoil_fields
from tests.soak.targets import KINDS

CHUNK = 250
"""Inputs of one test, so that several processes share a soak."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chunk" not in metafunc.fixturenames:
        return
    one = metafunc.config.getoption("--input")
    if one:
        kind, seed = one.rsplit(" ", 1)
        chunks = [(kind, int(seed), int(seed) + 1)]
    else:
        count = metafunc.config.getoption("--soak") or 500
        start = metafunc.config.getoption("--first")
        chunks = [
            (kind, first, min(first + CHUNK, start + round(count * what.share)))
            for kind, what in KINDS.items()
            for first in range(start, start + round(count * what.share), CHUNK)
        ]
    metafunc.parametrize("chunk", chunks, ids=lambda c: f"{c[0]} {c[1]}-{c[2] - 1}")


def test_spoiled_inputs(
    chunk: tuple[str, int, int],
    tmp_path: Path,
    repository: Path,
    record_property: Any,
) -> None:
    kind, first, last = chunk
    ends: Counter[str] = Counter()
    harm: list[str] = []
    for seed in range(first, last):
        folder = tmp_path / str(seed)
        folder.mkdir()
        end, what = tried(kind, seed, folder)
        ends[end if end == "done" else what if end == "refused" else "harm"] += 1
        if end == "harm":
            kept = repository / "soak-failures" / f"{kind} {seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            harm.append(f"--input '{kind} {seed}': {what}")
        else:
            folder.rmdir()
    record_property("inputs", dict(ends))
    assert not harm, "\n\n".join(harm[:5])
    assert last - first < 20 or {"done"} < set(ends), f"all ended alike: {dict(ends)}"


def test_the_same_seed_makes_the_same_input(tmp_path: Path) -> None:
    for kind, what in KINDS.items():
        contents = []
        for name in ("one", "two"):
            (tmp_path / kind / name).mkdir(parents=True)
            what.make(tmp_path / kind / name, random.Random(3))  # noqa: S311
            files = sorted(p for p in (tmp_path / kind / name).rglob("*") if p.is_file())
            contents.append([path.read_bytes() for path in files])
        assert contents[0] == contents[1], kind


def spin() -> None:
    while True:
        pass


def test_a_hang_and_a_hoard_are_caught() -> None:
    with pytest.raises(Late), capped(seconds=0.05):
        spin()
    with pytest.raises(MemoryError), capped(memory=64 << 20):
        bytearray(1 << 30)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_a_header_promises_takes_no_memory(ending: str, tmp_path: Path) -> None:
    content = bytearray(corpus.scan_bytes(2, "f4", "<", 1))
    content[16 : 16 + 32] = b"".join(n.to_bytes(8, "little") for n in (3, 10**4, 10**4, 10**4))
    path = tmp_path / f"head_T1w{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    for most in (2**30, 2**50):  # refused as too many, then as more than there can be
        tracemalloc.start()
        with pytest.raises(Medi2iError, match="promises"):
            load_volume(path, max_voxels=most)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_fields_are_where_they_are_said_to_be() -> None:
    rng = random.Random(0)  # noqa: S311
    for version, fields in ((1, corpus.FIRST), (2, corpus.SECOND)):
        good = corpus.scan_bytes(version, "i2", "<", 1)
        for field in fields:
            spoiled = {spoil_fields(good, [field], rng) for _ in range(20)}
            assert len(spoiled) > 1
            for content in spoiled:
                unlike = [at for at in range(len(good)) if content[at] != good[at]]
                assert all(field[0] <= at < field[0] + 8 for at in unlike)


DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*corpus.RUN, *corpus.TOLD]) | st.text(), inner)
    ),
    max_leaves=12,
)
ONCE = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ONCE
@given(document=DOCUMENT)
def test_any_document(document: Any, tmp_path: Path) -> None:
    text = json.dumps(document)
    (tmp_path / "x.json").write_text(text)
    (tmp_path / "run.yaml").write_text(text)
    (tmp_path / "model.json").write_text(text)
    for read, path in (
        (contrast_of, tmp_path / "x.nii"),
        (read_yaml, tmp_path / "run.yaml"),
        (read_config, tmp_path / "run.yaml"),
        (read_model, tmp_path),
    ):
        said = ""
        try:
            read(path)
        except Medi2iError as error:
            said = str(error)
        assert not said or str(path.parent) in said


BOMB = "card:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("place", ["name: *i", "data: {size: *i}", "view: {dims: *i}", "x: *i"])
@pytest.mark.parametrize("bomb", [BOMB, "card: &i\n  a: *i\n"])
def test_a_file_that_grows_when_it_is_looked_at(bomb: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"system: unet\ntask: {{sources: [T1w], targets: [T2w]}}\n{bomb}{place}\n")
    with capped(), pytest.raises(Medi2iError, match="its aliases"):
        read_config(path)
