"""``medi2i info``: what a scan is, or what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    complain,
    ends_well,
    err,
    out,
    print_json,
)

__all__ = ["info"]


@ends_well
def info(
    scans: Annotated[
        list[Path] | None,
        typer.Argument(help="Scans, or DICOM folders and archives; none for the machine itself."),
    ] = None,
    volume: Annotated[int | None, typer.Option(min=0, help="Which volume of a 4-D scan.")] = None,
    benchmark: Annotated[
        bool,
        typer.Option(
            "--benchmark",
            help="Measure how fast each engine runs a model here, beside matrix products.",
        ),
    ] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="The model for --benchmark.")
    ] = "default",
    device: Device = DeviceName.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Describe scans and DICOM series, or this machine.

    Scans as medi2i sees them; the series of DICOM folders and archives.

    Without scans: the versions and the devices, or with --benchmark the speed of the engines.
    """
    from medi2i.errors import Medi2iError, UsageError
    from medi2i.jobs.dicom import holds_dicom, series_rows

    if benchmark:
        if scans:
            raise UsageError("--benchmark measures this machine; leave the scans out")
        _print_speeds(model, device.value, as_json=as_json)
        return
    rows: list[dict[str, Any]] = []
    codes: list[int] = []
    if not scans:
        rows.append(_machine())
    for path in scans or []:
        try:
            if path.is_dir() or holds_dicom(path):
                rows += series_rows(path, volume)
            else:
                rows.append(_scan(path, volume))
        except Medi2iError as error:
            complain(error)
            codes.append(error.exit_code)
    if as_json:
        print_json(rows)
    else:
        series = [row for row in rows if "series" in row]
        for row in rows:
            if "series" not in row:
                _print(row)
        if series:
            _print_series(series)
    if codes:
        raise typer.Exit(1 if rows else codes[0])


def _print(row: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for key, value in row.items():
        table.add_row(key, str(value))
    out.print(table)
    out.print()


def _print_series(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    columns = ("series", "description", "contrast", "matrix", "spacing mm", "files")
    for column in columns:
        table.add_column(column)
    for row in rows:
        said = {key: row.get(key, "") for key in columns}
        for key in ("matrix", "spacing mm"):
            said[key] = " x ".join(f"{value:g}" for value in said[key])
        if "volumes" in row:
            said["matrix"] += f" x {row['volumes']}"
        table.add_row(*(Text(str(value)) for value in said.values()))
    out.print(table)
    for row in rows:
        if "problem" in row:
            out.print(f"series {row['series']}: {row['problem']}", markup=False, soft_wrap=True)
        for problem in row.get("unreadable files", ()):
            out.print(problem, markup=False, soft_wrap=True)


def _scan(path: Path, volume: int | None) -> dict[str, Any]:
    import nibabel as nib

    from medi2i.contrasts import contrast_of
    from medi2i.normalise import fit_scaling, foreground
    from medi2i.volume import load_volume

    scan = load_volume(path, volume=volume)
    scaling = fit_scaling(scan.voxels, name=path.name)
    contrast = contrast_of(path)
    return {
        "scan": str(path),
        "contrast": "unknown: give it with --from" if contrast is None else str(contrast),
        "shape": list(scan.shape),
        "spacing mm": [round(step, 4) for step in scan.spacing],
        "orientation": "".join(nib.orientations.aff2axcodes(scan.affine)),
        "sform code, qform code": [int(scan.header["sform_code"]), int(scan.header["qform_code"])],
        "stored as": str(scan.header.get_data_dtype()),
        "range": [float(scan.voxels.min()), float(scan.voxels.max())],
        "air, bright tissue": [round(scaling.low, 4), round(scaling.high, 4)],
        "foreground": f"{foreground(scan.voxels, scaling=scaling).mean():.1%}",
    }


def _print_speeds(name: str, device: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from medi2i.inference.speed import measure
    from medi2i.zoo import load_model

    speeds = measure(
        load_model(name), device=device, tell=lambda engine: err.print(f"{engine} ...")
    )
    if as_json:
        print_json([asdict(speed) for speed in speeds])
        return
    table = Table("engine", box=None, pad_edge=False)
    for column in ("ready after s", "s per batch", "GFLOP/s", "of matmul", "largest difference"):
        table.add_column(column, justify="right")
    for speed in speeds:
        told = [f"{speed.seconds:.3f}", f"{speed.rate / 1e9:.0f}", f"{speed.share:.0%}"]
        off = "" if speed.difference is None else f"{speed.difference:.1e}"
        ready = f"{speed.ready:.1f}" if speed.ready else ""
        table.add_row(speed.name, ready, *(["-"] * 3 if speed.problem else told), off)
    out.print(table)
    for speed in speeds:
        if speed.problem:
            out.print(speed.problem, markup=False, soft_wrap=True)


def _machine() -> dict[str, Any]:
    import os
    import platform
    from importlib.metadata import version

    import torch

    from medi2i import __version__
    from medi2i.zoo import installed, shipped

    packages = ("torch", "monai", "torchio", "nibabel", "SimpleITK", "scikit-image", "numpy")
    row: dict[str, Any] = {
        "medi2i": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "models": ", ".join([*shipped(), *installed()]) or "none",
    }
    return row
