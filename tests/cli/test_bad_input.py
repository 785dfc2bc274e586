"""Every bad input has its own sentence, its exit code, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from medi2i import nifti
from medi2i.formats import sidecar, synthetic
from tests.cli.conftest import SHAPE, Call, head, seen, write_scan

Make = Callable[[Path], Path]


def patched(offset: int, layout: str, *values: Any) -> Make:
    """An uncompressed scan with some header fields replaced."""

    def make(folder: Path) -> Path:
        path = write_scan(folder / "t1.nii")
        content = bytearray(path.read_bytes())
        struct.pack_into("<" + layout, content, offset, *values)
        path.write_bytes(content)
        return path

    return make


def good(folder: Path) -> Path:
    return write_scan(folder / "t1.nii")


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def filled(value: float, where: slice = slice(None)) -> Make:
    def make(folder: Path) -> Path:
        path = write_scan(folder / "t1.nii", voxels=head())
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        content[352:].view(np.float32)[where] = value
        path.write_bytes(content.tobytes())
        return path

    return make


def truncated(folder: Path) -> Path:
    path = write_scan(folder / "t1.nii.gz")
    path.write_bytes(path.read_bytes()[:-200])
    return path


def four_dimensional(folder: Path) -> Path:
    path = write_scan(folder / "t1.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<8h", content, 40, 4, *SHAPE, 3, 1, 1, 1)
    voxels = bytes(content[352:])
    path.write_bytes(bytes(content) + voxels[::-1] + voxels)
    return path


def single_slice(folder: Path) -> Path:
    path = patched(40, "8h", 3, *SHAPE[:2], 1, 1, 1, 1, 1)(folder)
    path.write_bytes(path.read_bytes()[: 352 + 2 * SHAPE[0] * SHAPE[1]])
    return path


def folder_without_scans(folder: Path) -> Path:
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no scan")
    return folder / "notes"


def silent_folder(folder: Path) -> Path:
    (folder / "scans").mkdir()
    write_scan(folder / "scans" / "series7.nii")
    return folder / "scans"


def broken_sidecar(folder: Path) -> Path:
    (folder / "series7.json").write_text("{")
    return write_scan(folder / "series7.nii")


def wrongly_packed(folder: Path) -> Path:
    return write_scan(folder / "t1.nii").rename(folder / "t1.nii.gz")


class Bad(NamedTuple):
    make: Make
    says: str
    code: int = 3
    options: tuple[str, ...] = ("--to", "t2")


SROW = 280
BAD: dict[str, Bad] = {
    "missing file": Bad(lambda folder: folder / "t1.nii.gz", "does not exist"),
    "folder without scans": Bad(folder_without_scans, "holds no scan"),
    "folder of unknown contrasts": Bad(silent_folder, "do not say, by name or side-car"),
    "truncated gzip": Bad(truncated, "truncated or damaged"),
    "gzip by name only": Bad(wrongly_packed, "is not gzip-compressed"),
    "empty file": Bad(written("t1.nii", b""), "ends after 0 bytes"),
    "text": Bad(written("t1.nii", b"no scan at all " * 99), "is not NIfTI"),
    "another format": Bad(written("t1.mgz", b"x"), "only NIfTI is read"),
    "wrong magic": Bad(patched(344, "4s", b"xx1\0"), "is not NIfTI"),
    "more voxels than bytes": Bad(patched(46, "h", 99), "is truncated: its header promises"),
    "more voxels than the cap": Bad(patched(42, "3h", 30000, 30000, 30000), "are read"),
    "fewer voxels than bytes": Bad(patched(46, "h", 5), "is longer than"),
    "4-D": Bad(four_dimensional, "choose one with --volume"),
    "4-D, no such volume": Bad(
        four_dimensional, "has no volume 3; it holds 3", 2, ("--to", "t2", "--volume", "3")
    ),
    "RGB": Bad(patched(70, "2h", 128, 24), "holds RGB colours"),
    "complex": Bad(patched(70, "2h", 32, 64), "holds complex numbers"),
    "NaN": Bad(filled(np.nan, slice(7, 10)), "3 of the 1872 voxels"),
    "infinite": Bad(filled(np.inf, slice(7, 8)), "1 of the 1872 voxels"),
    "constant": Bad(filled(7.0), "are constant (7)"),
    "only zeros": Bad(filled(0.0), "are constant (0)"),
    "no voxels": Bad(patched(42, "h", 0), "is empty"),
    "one slice": Bad(single_slice, "holds a single slice"),
    "zero zoom": Bad(patched(80, "f", 0), "voxel size"),
    "negative zoom": Bad(patched(84, "f", -1), "voxel size"),
    "NaN zoom": Bad(patched(88, "f", np.nan), "voxel size"),
    "singular affine": Bad(patched(SROW, "4f", 0, 0, 0, 0), "is singular"),
    "NaN affine": Bad(patched(SROW, "f", np.nan), "4 x 4 matrix of finite numbers"),
    "unknown target": Bad(good, "(nearest: T2w)", 2, ("--to", "t22")),
    "unknown source": Bad(
        good, "is not a contrast that is known", 2, ("--to", "t2", "--from", "ct")
    ),
    "equal contrasts": Bad(good, "are both T2w", 2, ("--to", "t2", "--from", "T2w")),
    "the target already": Bad(good, "is T1w already", 3, ("--to", "t1")),
    "silent name": Bad(lambda folder: write_scan(folder / "series7.nii"), "give it with --from"),
    "broken side-car": Bad(broken_sidecar, "is not valid JSON"),
    "target that the model does not know": Bad(good, "PDw was asked for", 3, ("--to", "pd")),
    "source that the model does not know": Bad(good, "(PDw)", 3, ("--to", "t2", "--from", "pd")),
    "contradicting options": Bad(
        good, "give one", 2, ("--to", "t2", "--overwrite", "--skip-existing")
    ),
    "unknown dtype": Bad(good, "'int99' is not one of", 2, ("--to", "t2", "--dtype", "int99")),
    "unknown device": Bad(good, "'tpu' is not one of", 2, ("--to", "t2", "--device", "tpu")),
    "batch of nothing": Bad(
        good, "greater than or equal to 1", 2, ("--to", "t2", "--batch-size", "0")
    ),
    "output of another format": Bad(
        good, ".nii, .nii.gz or a folder was expected", 2, ("--to", "t2", "-o", "t2.mgz")
    ),
    "dtype that values do not fit": Bad(
        good, "choose a wider dtype", 2, ("--to", "t2", "--dtype", "int8")
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_scan(case: Bad, call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = case.make(tmp_path)
    before = seen(tmp_path)
    answer = call("translate", scan, *case.options, "--model", tiny, "-q")
    assert " ".join(answer.err.replace("│", " ").split()).count(case.says) == 1
    assert answer.code == case.code
    assert answer.out == ""
    assert seen(tmp_path) == before


@pytest.mark.parametrize("command", ["info", "evaluate"])
def test_other_commands_say_the_same(call: Call, tmp_path: Path, command: str) -> None:
    scan = truncated(tmp_path)
    answer = call(command, *([scan] if command == "info" else [scan, scan]))
    assert "truncated or damaged" in answer.err
    assert answer.code == 3


def test_a_volume_of_a_4d_scan(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = four_dimensional(tmp_path)
    for number in (0, 1):
        place = tmp_path / f"volume{number}.nii"
        answer = call(
            "translate", scan, "--to", "t2", "--model", tiny, "--volume", number, "-o", place
        )
        assert answer.code == 0, answer.err
    first, second = (tmp_path / f"volume{number}.nii" for number in (0, 1))
    assert first.read_bytes() != second.read_bytes()


# Output


def test_existing_output_is_kept(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    for ending in (".nii.gz", ".json", "_preview.png"):
        there = tmp_path / f"t1_desc-synth_T2w{ending}"
        there.write_text("mine")
        before = seen(tmp_path)
        answer = call("translate", scan, "--to", "t2", "--model", tiny, "--preview")
        assert f'"{there}" exists; give --overwrite' in answer.err
        assert answer.code == 3
        assert seen(tmp_path) == before
        there.unlink()


def test_output_is_an_input(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    before = seen(tmp_path)
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", scan, "--overwrite")
    assert "is an input" in answer.err
    assert answer.code == 2
    assert seen(tmp_path) == before


def test_output_below_a_file(call: Call, tiny: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    (tmp_path / "out").write_text("a file")
    before = seen(tmp_path)
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", tmp_path / "out")
    assert "a part of the path is a file, not a folder" in answer.err
    assert answer.code == 3
    assert seen(tmp_path) == before


def test_read_only_folder_shows_before_the_work(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    before = seen(tmp_path)

    def refuse(**where: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("medi2i.inference.translate.run_model", None)
    answer = call("translate", scan, "--to", "t2", "--model", tiny)
    assert "read-only" in answer.err
    assert answer.code == 3
    assert seen(tmp_path) == before


@pytest.mark.parametrize(
    "part", [(nifti, "write"), (sidecar, "beside"), (synthetic, "three_planes")]
)
def test_full_disk(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: tuple[Any, str]
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    before = seen(tmp_path)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*part, refuse)
    place = tmp_path / "new" / "deep"
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", place, "--preview")
    assert "cannot be written: the disk is full" in answer.err
    assert str(place) in answer.err
    assert ".medi2i-" not in answer.err
    assert answer.code == 3
    assert seen(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64k", "medi2i-test", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_truly_full_disk(call: Call, tiny: Path, tmp_path: Path, small_disk: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(56 * 1024))
    answer = call("translate", scan, "--to", "t2", "--model", tiny, "-o", small_disk / "t2.nii")
    assert "cannot be written: the disk is full" in answer.err
    assert answer.code == 3
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_memory_that_is_used_up(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    before = seen(tmp_path)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("medi2i.inference.translate.run_model", refuse)
    answer = call("translate", scan, "--to", "t2", "--model", tiny)
    assert "needs more memory" in answer.err
    assert "--batch-size" in answer.err
    assert answer.code == 3
    assert seen(tmp_path) == before


# Models


def rewritten(**changes: object) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return alter


def altered(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "wrong sha256": (altered, "the file was altered or cut short"),
    "weights cut short": (cut, "the file was altered or cut short"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "lacks weights"),
    "no record": (lambda folder: (folder / "model.json").unlink(), "has no model.json"),
    "no folder": (shutil.rmtree, "neither a shipped model"),
    "broken record": (lambda folder: (folder / "model.json").write_text("{"), "not valid JSON"),
    "record of nothing": (lambda folder: (folder / "model.json").write_text("{}"), "lacks"),
    "unknown format": (rewritten(format=99), "has format 99"),
    "unknown system": (rewritten(system="unett"), 'did you mean "unet"?'),
    "unknown argument": (rewritten(arguments={"depht": 3}), "depht"),
    "other arguments": (rewritten(arguments={"features": [4, 16]}), "do not fit"),
    "no task": (rewritten(task={}), "task"),
    "unknown contrast": (
        rewritten(task={"sources": ["CT"], "targets": ["T2w"], "on_demand": False}),
        "'CT'",
    ),
    "unknown normaliser": (rewritten(normaliser="magic"), "magic"),
}


@pytest.mark.parametrize(("alter", "says"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_bad_model(
    alter: Callable[[Path], object],
    says: str,
    call: Call,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    shutil.copytree(tiny, tmp_path / "model")
    alter(tmp_path / "model")
    before = seen(tmp_path)
    monkeypatch.chdir(tmp_path)
    answer = call("translate", scan, "--to", "t2", "--model", "model")
    assert says in answer.err
    assert answer.code == 4
    assert answer.out == ""
    assert call("models", "verify", "model").code == 4
    assert seen(tmp_path) == before


@pytest.mark.usefixtures("shipped")
def test_unknown_model_names_the_nearest(call: Call, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    answer = call("translate", scan, "--to", "t2", "--model", "defalt")
    assert 'did you mean "default"?' in answer.err
    assert answer.code == 4


@pytest.mark.usefixtures("shipped")
def test_no_shipped_model_for_it(call: Call, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "t1.nii.gz")
    answer = call("translate", scan, "--to", "pd")
    assert "no shipped model turns T1w into PDw; there is default:" in answer.err
    assert answer.code == 3
