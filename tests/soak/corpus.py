"""Inputs that are nearly right: a good one of each kind, made once, and spoiled by a seed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system, write_model
from medi2i.task import Task
from tests.cli.conftest import write_tiny
from tests.formats.dicoms import positions as places_of
from tests.formats.dicoms import stored_values, write_enhanced, write_series
from tests.soak.mutators import (
    Field,
    spoil_bytes,
    spoil_document,
    spoil_elements,
    spoil_fields,
    spoil_table,
)
from tests.systems.test_contract import ALONE, SETUPS, SMALL

__all__ = ["dicom", "model", "nifti", "run_file", "sidecar", "study", "table"]

SHAPE = (8, 9, 7)
FIRST: tuple[Field, ...] = (
    *((0, "i"), (70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f"), (123, "B")),
    *((40 + 2 * i, "h") for i in range(8)),
    *((76 + 4 * i, "f") for i in range(8)),
    *((252, "h"), (254, "h"), (344, "4s"), (348, "i")),
    *((256 + 4 * i, "f") for i in range(18)),
)
"""Fields of NIfTI-1 that a reader looks at."""
SECOND: tuple[Field, ...] = (
    *((0, "i"), (4, "4s"), (12, "h"), (14, "h"), (168, "q"), (176, "d"), (184, "d"), (540, "i")),
    *((16 + 8 * i, "q") for i in range(8)),
    *((104 + 8 * i, "d") for i in range(8)),
    *((344, "i"), (348, "i")),
    *((352 + 8 * i, "d") for i in range(18)),
)
"""Those of NIfTI-2."""
KINDS = ("i2", "f4", "u1", "f8", "i8")


def head(shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    """Something like a head, 0 to about 1000."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[:3]), indexing="ij"))
    inside = np.square(grid).sum(0) < 1.2
    values = np.where(inside, 600 + 300 * np.sin(4 * grid).mean(0), 0)
    return values if len(shape) == 3 else np.stack([values] * shape[3], -1)


@cache
def scan_bytes(version: int, kind: str, order: str, volumes: int) -> bytes:
    """An uncompressed scan."""
    shape = (*SHAPE, volumes) if volumes > 1 else SHAPE
    values = head(shape) / (4 if kind == "u1" else 1)
    image = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    affine = np.array([[-1.2, 0, 0.1, 9], [0, 1.1, 0, -8], [0, 0.1, 2, 5], [0, 0, 0, 1]])
    header = image.header_class(endianness=order)
    header.set_data_dtype(np.dtype(kind))
    made = image(values.astype(kind), affine, header, dtype=np.dtype(kind))  # type: ignore[no-untyped-call]
    made.header.set_qform(affine, code=1)
    content: bytes = made.to_bytes()
    return content


def nifti(folder: Path, rng: random.Random) -> Path:
    """A .nii or .nii.gz whose header, voxels or stream are spoiled."""
    version, order = rng.choice((1, 1, 2)), rng.choice("<<>")
    volumes = rng.choice((1, 1, 1, 2))
    content = scan_bytes(version, rng.choice(KINDS), order, volumes)
    way = rng.randrange(4)
    if way < 3:
        content = spoil_fields(content, FIRST if version == 1 else SECOND, rng, order)
    if way == 1:
        content = spoil_bytes(content, rng)
    if rng.random() < 0.4:
        path = folder / "head_T1w.nii"
    else:
        path = folder / "head_T1w.nii.gz"
        content = gzip.compress(content, mtime=0)
        if way == 3:
            content = spoil_bytes(content, rng)
        if rng.random() < 0.03:  # two members, which is allowed
            content += gzip.compress(b"\0" * 99, mtime=0)
    path.write_bytes(content)
    return path


SYNTAXES = (
    *((ExplicitVRLittleEndian, False), (ImplicitVRLittleEndian, False)),
    *((DeflatedExplicitVRLittleEndian, False), (ExplicitVRBigEndian, False)),
    *((RLELossless, True), (JPEG2000Lossless, True), (JPEGLSLossless, True)),
)


@cache
def series_bytes(which: int) -> tuple[bytes, ...]:
    """The files of a series of three slices; the last is one enhanced file."""
    values = stored_values((3, 34, 33) if which == 5 else (3, 9, 8))  # JPEG 2000 halves it
    with tempfile.TemporaryDirectory() as folder:
        if which == len(SYNTAXES):
            made = [write_enhanced(Path(folder, "x"), values, places_of(3), (1.0, 2.0, 0.5))]
        else:
            syntax, packed = SYNTAXES[which]
            made = write_series(Path(folder), values, syntax=syntax, packed=packed)
        return tuple(path.read_bytes() for path in made)


def dicom(folder: Path, rng: random.Random) -> Path:
    """A folder, file or archive of DICOM with one file or more spoiled."""
    plain = rng.random() < 0.5
    which = 0 if plain else rng.randrange(len(SYNTAXES) + 1)
    files = list(series_bytes(which))
    for at in rng.sample(range(len(files)), rng.choice((1, 1, len(files)))):
        whole = plain and rng.random() < 0.8
        files[at] = spoil_elements(files[at], rng) if whole else spoil_bytes(files[at], rng)
    if rng.random() < 0.1:
        files.append(files[0])
    if rng.random() < 0.15:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, content in enumerate(files):
                archive.writestr(f"series/{number}", content)
        path = folder / "series.zip"
        packed = stream.getvalue()
        path.write_bytes(spoil_bytes(packed, rng) if rng.random() < 0.5 else packed)
        return path
    path = folder / "series"
    path.mkdir()
    for number, content in enumerate(files):
        (path / f"IM{number}").write_bytes(content)
    return path / "IM0" if len(files) == 1 and rng.random() < 0.5 else path


RUN: dict[str, Any] = {
    "system": "unet",
    "task": {"sources": ["T1w", "FLAIR"], "targets": ["T2w"], "on_demand": False},
    "view": {"dims": 2, "slices": 3, "spacing": 1.0, "overlap": 0.5, "patch": 32},
    "arguments": {"features": [4, 8]},
    "data": {
        "size": 16,
        "augmentation": {"flip": 0.5, "affine": 0.1},
        "emphasis": {"T2w": 2.0},
        "allowed": ["T1w"],
    },
    "training": {
        "rounds": 3,
        "batch_size": 1,
        "optimiser": {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.99]},
        "players": {"regressor": {"lr": 1e-4}},
        "schedule": "cosine",
        "clip": 1.0,
        "precision": "float32",
    },
    "validation": {"protocol": "brain-3d", "volumes": 1},
    "guidance": {"weight": 0.0},
    "card": {"licence": "CC0"},
}
SYSTEMS = ("", "pix2pix", "stargan", "cyclegan", "munit", "vae", "pix2pix_flow", "revgan")
"""Systems whose models and runs are spoiled; "" is a U-Net."""
TRAPS = (
    *("2001-99-99", "!!timestamp x", "!!int x", "!!float x", "!!binary '*'", "!!set {a, b}"),
    *("!!python/object/apply:os.getcwd []", "&a [*a]", "&a {b: *a}", "{<<: 3}", "*nobody", "0o8"),
    *("? [a, b]\n    : c", "190:20:30", "!!omap 3", "!!bool maybe", "!unknown x", "2001-01-01"),
    *("1__0", "0x", "'\\x00'", "[" * 900, "- " * 400, "!!pairs [a]", "\t", "|9\n a", "1e999999"),
)


def run_file(folder: Path, rng: random.Random) -> Path:
    """A run's YAML file."""
    way, system = rng.randrange(4), rng.choice(SYSTEMS)
    content = RUN
    if system:
        task, view = (SETUPS | ALONE)[SMALL[system].setups[0]]
        named = {
            "sources": [str(c) for c in task.sources],
            "targets": [str(c) for c in task.targets],
        }
        content = content | {
            "system": system,
            "arguments": SMALL[system].arguments,
            "task": named | {"on_demand": task.on_demand, "domains": list(task.domains)},
            "view": {"dims": view.dims, "slices": view.slices},
            "training": {"rounds": 2},
        }
    if way < 3:
        content = spoil_document(content, rng)
    try:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=rng.random() < 0.5)
    except (yaml.YAMLError, RecursionError):
        text = json.dumps(content)
    if way == 1:  # as somebody writes it, in the place of some value
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(TRAPS)}"
        text = "\n".join(lines)
    data = text.encode("utf-8", "surrogatepass")
    path = folder / "run.yaml"
    path.write_bytes(spoil_bytes(data, rng) if way == 3 else data)
    return path


@cache
def model_files(system: str = "") -> tuple[bytes, str]:
    """The weights and the record of a tiny model, by default one that `translate` can use."""
    three = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tiny"
        if system:
            small = SMALL[system]
            task, view = (SETUPS | ALONE)[small.setups[0]]
            torch.manual_seed(0)
            made = build_system(system, small.arguments, task, view)
            write_model(Model("tiny", system, small.arguments, task, view, made.eval()), folder)
        else:
            write_tiny(folder, Task(three, three, True))
        return (folder / "weights.safetensors").read_bytes(), (folder / "model.json").read_text()


def model(folder: Path, rng: random.Random) -> Path:
    """A model folder whose record or weights are spoiled; the checksum is mostly right."""
    weights, text = model_files(rng.choice(SYSTEMS))
    record: Any = json.loads(text)
    way = rng.randrange(5)
    if way < 2:
        size = int.from_bytes(weights[:8], "little")
        if rng.random() < 0.5:
            header = spoil_document(json.loads(weights[8 : 8 + size]), rng)
            told = json.dumps(header).encode()
            length = len(told) if rng.random() < 0.8 else rng.getrandbits(rng.choice((8, 32, 64)))
            weights = length.to_bytes(8, "little") + told + weights[8 + size :]
        else:
            weights = spoil_bytes(weights, rng)
    if way > 0:
        record = spoil_document(record, rng)
    if isinstance(record, dict) and rng.random() < 0.9:
        record["sha256"] = hashlib.sha256(weights).hexdigest()
    data = json.dumps(record).encode()
    path = folder / "model"
    path.mkdir()
    (path / "weights.safetensors").write_bytes(weights)
    (path / "model.json").write_bytes(spoil_bytes(data, rng) if way == 4 else data)
    return path


def table(folder: Path, rng: random.Random) -> Path:
    """A table of scans."""
    for name in ("a_T1w.nii", "a_T2w.nii"):
        (folder / name).write_bytes(b"")
    rows = [
        ["participant_id", "session_id", "split", "T1w", "T2w", "age"],
        ["sub-1", "ses-1", "train", "a_T1w.nii", "a_T2w.nii", "33"],
        ["sub-1", "ses-2", "train", "a_T1w.nii", "", "34"],
        ["sub-2", "", "val", "a_T1w.nii", "n/a", ""],
    ]
    path = folder / rng.choice(("scans.csv", "scans.tsv"))
    path.write_bytes(spoil_table(rows, rng, "," if path.suffix == ".csv" else "\t"))
    return path


def study(folder: Path, rng: random.Random) -> Path:
    """A BIDS folder with a spoiled participants.tsv."""
    root = folder / "study"
    for person in ("sub-1", "sub-2"):
        (root / person / "anat").mkdir(parents=True)
        (root / person / "anat" / f"{person}_T1w.nii.gz").write_bytes(b"")
    rows = [["participant_id", "split"], ["sub-1", "train"], ["sub-2", "val"]]
    (root / "participants.tsv").write_bytes(spoil_table(rows, rng, "\t"))
    return root


TOLD: dict[str, Any] = {
    "EchoTime": 0.09,
    "RepetitionTime": 5.0,
    "InversionTime": 1.8,
    "ScanningSequence": ["SE", "IR"],
    "SeriesDescription": "AX T2 FLAIR",
    "ProtocolName": "head",
    "SequenceName": "x",
    "ContrastBolusAgent": "none",
    "Synthetic": True,
    "MadeOf": {"Sources": {"T1w": "0" * 64}, "Model": "1" * 64, "Target": "T2w"},
}


def sidecar(folder: Path, rng: random.Random) -> Path:
    """A scan with a spoiled side-car."""
    content = TOLD if rng.random() < 0.3 else spoil_document(TOLD, rng)
    data = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if content is TOLD:
        data = spoil_bytes(data, rng)
    if rng.random() < 0.03:
        data = rng.choice((b"[" * 5000, b'{"a":' * 5000, b"1" * 5000, zlib.compress(data)))
    path = folder / "head_x.nii.gz"
    path.write_bytes(b"")
    (folder / "head_x.json").write_bytes(data)
    return path
