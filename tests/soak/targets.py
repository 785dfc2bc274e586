"""What is done with each kind of input: all that medi2i does with it before a network runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from typer.testing import CliRunner

from medi2i.cli import app
from medi2i.contrasts import Contrast, contrast_of
from medi2i.data.cohort import find_cohort
from medi2i.data.labelled import table_labels
from medi2i.errors import CohortError, DimensionError, MissingFileError, UsageError
from medi2i.evaluation.protocols import protocol
from medi2i.experiment import read_config, remember
from medi2i.formats.bids import describe_dataset
from medi2i.formats.dicom import series_in
from medi2i.formats.synthetic import Files
from medi2i.jobs.dicom import holds_dicom, series_rows
from medi2i.jobs.keys import changes
from medi2i.jobs.study import find_visits
from medi2i.model import build_system, read_model
from medi2i.normalise import fit_scaling
from medi2i.training.trainer import Trainer
from medi2i.volume import load_volume, save_volume
from tests.soak import corpus

__all__ = ["KINDS", "Kind"]

Make = Callable[[Path, Random], Path]
Use = Callable[[Path], None]


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        make: puts one of a seed into a folder.
        use: reads it.
        share: of all inputs.
    """

    make: Make
    use: Use
    share: float


def use_nifti(path: Path) -> None:
    """Read, described as `info` does, turned, written and read again."""
    try:
        scan = load_volume(path)
    except DimensionError:
        scan = load_volume(path, volume=1)
    contrast_of(path)
    fit_scaling(scan.voxels, name=path.name)
    turned = scan.canonical().oriented_as(scan)
    assert np.array_equal(turned.voxels, scan.voxels)
    place = path.with_name("again.nii.gz")
    save_volume(scan, place)
    again = load_volume(place)
    place.unlink()
    assert np.array_equal(again.voxels, scan.voxels)
    assert np.allclose(again.affine, scan.affine, rtol=1e-5, atol=1e-30)


def use_dicom(path: Path) -> None:
    """Listed, stacked, read."""
    if not holds_dicom(path):
        raise MissingFileError(f'"{path}" holds no DICOM, which the command line would say.')
    json.dumps(series_rows(path, 0))
    found, broken = series_in(path)
    for error in broken:
        assert str(error)
    for series in found:
        series.load(volume=0)
        series.record()


def use_run_file(path: Path) -> None:
    """All that happens before the first scan of a run is read."""
    config = read_config(path)
    protocol(config.validation.protocol)
    with torch.device("meta"):
        system = build_system(config.system, config.arguments, config.task, config.view)
        Trainer(system, iter, config.training, path.parent, device="meta")  # type: ignore[arg-type]
    folder = path.with_name("run")
    try:
        remember(config, folder)
        assert repr(read_config(folder / "config.yaml")) == repr(config)  # NaN is not NaN
    finally:
        (folder / "config.yaml").unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()


def use_model(path: Path) -> None:
    """Read, and looked through once."""
    model = read_model(path)
    json.dumps(model.card)
    assert model.parameters == sum(p.numel() for p in model.system.parameters())


def use_table(path: Path) -> None:
    """Read as a cohort, and as labels."""
    try:
        table_labels(path, ("healthy", "diseased"))
    except CohortError:
        pass
    find_cohort(path).having([Contrast.T1W])


def use_study(path: Path) -> None:
    """Read as a cohort and as visits."""
    find_visits(path)
    find_cohort(path).split("train")


def use_sidecar(path: Path) -> None:
    """Asked for a contrast, and for what a result was made of."""
    contrast_of(path)
    changes(Files(path), {"Model": "1" * 64})
    (path.parent / "dataset_description.json").write_bytes(
        path.with_name("head_x.json").read_bytes()
    )
    try:
        describe_dataset(path.parent, "x", "y")
    except UsageError:
        pass
    finally:
        (path.parent / "dataset_description.json").unlink()


def use_whole(path: Path) -> None:
    """Translated by the command line, with a tiny model that wants 1 mm."""
    model = path.parent / "tiny"
    if not model.exists():
        weights, text = corpus.model_files()
        record = json.loads(text)
        record["view"]["spacing"] = 1.0
        model.mkdir()
        (model / "weights.safetensors").write_bytes(weights)
        (model / "model.json").write_text(json.dumps(record))
    output = path.parent / "out"
    command = ["translate", str(path), "--to", "t2", "--model", str(model), "-o", str(output)]
    result = CliRunner().invoke(app, [*command, "-q", "--preview", "--volume", "0"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert (result.exit_code == 0) == (result.stderr == ""), result.stderr
    names = sorted(p.name for p in output.iterdir()) if output.exists() else []
    assert len(names) == (0 if result.exit_code else 3), names
    for name in names:
        (output / name).unlink()
    if names:
        output.rmdir()
    for name in ("weights.safetensors", "model.json"):
        (model / name).unlink()
    model.rmdir()
    if result.exit_code:
        raise MissingFileError(result.stderr)


KINDS: dict[str, Kind] = {
    "nifti": Kind(corpus.nifti, use_nifti, 0.28),
    "dicom": Kind(corpus.dicom, use_dicom, 0.2),
    "run file": Kind(corpus.run_file, use_run_file, 0.14),
    "model": Kind(corpus.model, use_model, 0.14),
    "table": Kind(corpus.table, use_table, 0.08),
    "study": Kind(corpus.study, use_study, 0.06),
    "side-car": Kind(corpus.sidecar, use_sidecar, 0.08),
    "whole": Kind(corpus.nifti, use_whole, 0.02),
}
