"""What was found, on disk: maps, a table, a picture, and side-cars that say how and what for.

Beside ``flair.nii.gz`` lie ``flair_desc-synth_anomaly.nii.gz`` and its companions. All of them
appear together or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medi2i import __version__
from medi2i.anomaly.find import Anomalies
from medi2i.anomaly.lesions import lesion_table
from medi2i.anomaly.standard import ToStandard
from medi2i.contrasts import Contrast
from medi2i.errors import OutputError
from medi2i.figures import Row, three_planes
from medi2i.files import atomic_write, check_writable, staging, write_whole
from medi2i.formats.names import SYNTHETIC, beside, stem_of
from medi2i.formats.sidecar import write_sidecar
from medi2i.model import Model
from medi2i.volume import Volume, save_volume

__all__ = ["NOTE", "Places", "check_places", "montage", "save_anomalies"]

NOTE = "computed, not acquired: for research, not for diagnosis"
MAPS: Mapping[str, str] = {
    "healthy": "the scan as it might be without lesions",
    "difference": "scan minus pseudo-healthy scan, in the scan's unit",
    "lesions": "lesions by their number in the table, 0 elsewhere",
    "anomaly": "share of healthy tissue that looks less conspicuous",
}
"""What each map shows; the last one is written last."""


@dataclass(frozen=True)
class Places:
    """The files of one scan.

    Attributes:
        folder: where they go.
        stem: of the scan.
        healthy: whether there is a pseudo-healthy scan.

    >>> [path.name for path in Places(Path("out"), "flair").paths][-2:]
    ['flair_desc-synth_lesions.nii.gz', 'flair_desc-synth_anomaly.nii.gz']
    """

    folder: Path
    stem: str
    healthy: bool = False

    @classmethod
    def of(cls, scan: Path, folder: Path | None = None, *, healthy: bool = False) -> Places:
        """Beside a scan, or in a folder."""
        return cls(scan.parent if folder is None else folder, stem_of(scan), healthy)

    def map(self, name: str) -> Path:
        """The place of one of `MAPS`."""
        return self.folder / f"{self.stem}_{SYNTHETIC}_{name}.nii.gz"

    @property
    def maps(self) -> dict[str, Path]:
        """The maps that are written, by name."""
        wanted = [n for n in MAPS if self.healthy or n not in ("healthy", "difference")]
        return {name: self.map(name) for name in wanted}

    @property
    def table(self) -> Path:
        """The table of lesions."""
        return beside(self.map("lesions"), ".tsv")

    @property
    def picture(self) -> Path:
        """The montage."""
        return beside(self.map("anomaly"), ".png")

    @property
    def paths(self) -> list[Path]:
        """Everything; where the last is, all is."""
        maps = list(self.maps.values())
        return [*(beside(path, ".json") for path in maps), self.table, self.picture, *maps]


def check_places(places: Places, *, overwrite: bool) -> None:
    """Find out before the work whether everything can be written.

    Raises:
        OutputError: something exists, or its folder cannot be written to.
    """
    for path in places.paths:
        if path.exists() and not overwrite:
            raise OutputError(f'"{path}" exists; give --overwrite to replace it')
        check_writable(path)


def save_anomalies(
    places: Places,
    found: Anomalies,
    sources: Mapping[Contrast, Path],
    shown: Volume,
    *,
    model: Model | None = None,
    standard: ToStandard | None = None,
    warnings: tuple[str, ...] = (),
    overwrite: bool = False,
) -> None:
    """Write the maps with their side-cars, the table and the picture: all of them, or none.

    Args:
        found: of the scans in `sources`, the first of which is `shown`.
        model: that made the pseudo-healthy scan.
        standard: brings places of the scan into MNI space, for the table.
        warnings: beside those of `found`.

    Raises:
        OutputError: something exists and `overwrite` is False, or cannot be written.
    """
    record = _record(found, sources, model, (*warnings, *found.warnings))
    table = lesion_table(found.lesions, standard)
    volumes = {
        "healthy": found.healthy,
        "difference": found.difference,
        "lesions": found.labels,
        "anomaly": found.probability,
    }
    names = [path.name for path in places.paths]
    with staging(places.folder, names, overwrite=overwrite) as stage:
        for name, place in places.maps.items():
            volume = volumes[name]
            if volume is None:
                raise OutputError(f'there is no map "{name}" to write as "{place}"')
            save_volume(
                volume,
                stage / place.name,
                dtype="int16" if name == "lesions" else "float32",
                description=f"medi2i {__version__} {found.method} {name} RESEARCH ONLY",
            )
            said = f"SYNTHETIC, {MAPS[name]}; for research, not for diagnosis"
            write_sidecar(stage / place.name, {**record, "Description": said, "Map": name})
        write_whole(stage / places.table.name, table)
        picture = montage(found, shown)
        atomic_write(stage / places.picture.name, lambda s: picture.save(s, format="PNG"))


def montage(found: Anomalies, scan: Volume) -> Image.Image:
    """Three planes through the largest lesion: the scan, its healthy twin, difference, map."""
    upright = scan.canonical()

    def row(caption: str, volume: Volume, **more: Any) -> Row:
        return Row(caption, volume.canonical().voxels, upright.spacing, **more)

    main = row("scan", scan)
    rows = [main]
    if found.healthy is not None and found.difference is not None:
        rows.append(row("SYNTHETIC: pseudo-healthy", found.healthy, window=main.limits()))
        rows.append(row("difference", found.difference, signed=True))
    few = f"{100 * found.rate:g} %"
    count = f"{len(found.lesions)} lesion{'' if len(found.lesions) == 1 else 's'}"
    kept = scan.like(np.where(found.labels.voxels > 0, found.probability.voxels, 0))
    rows.append(row("anomaly map", found.probability, window=(0.5, 1.0)))
    rows.append(row(f"{count}, at {few} of healthy tissue", kept, window=(0.0, 1.0)))
    return three_planes(rows, at=_largest(found.labels.canonical()), note=NOTE)


def _largest(labels: Volume) -> tuple[int, int, int] | None:
    """The voxel of the largest lesion that is nearest to its centre; None without lesions."""
    inside = np.argwhere(labels.voxels == 1)
    if not len(inside):
        return None
    nearest = inside[np.square(inside - inside.mean(0)).sum(1).argmin()]
    x, y, z = (int(n) for n in nearest)
    return x, y, z


def _record(
    found: Anomalies,
    sources: Mapping[Contrast, Path],
    model: Model | None,
    warnings: tuple[str, ...],
) -> dict[str, Any]:
    """All that is needed to know, and to repeat, how the maps were made. No folders."""
    made_by = (
        {"Method": "intensity: histogram-equalised FLAIR inside the brain, smoothed"}
        if model is None
        else {
            "Method": "difference to the pseudo-healthy scan",
            "Model": {
                "Name": model.name,
                "System": model.system_name,
                "Parameters": model.parameters,
                "SHA256": model.sha256,
            },
        }
    )
    return {
        "Synthetic": True,
        "Description": "",
        "ResearchOnly": True,
        **made_by,
        "SourceContrast": [str(contrast) for contrast in sources],
        "Sources": [
            {"Name": path.name, "SHA256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sources.values()
        ],
        "ImageScore": found.score,
        "Lesions": len(found.lesions),
        "LesionVolumeML": sum(one.volume_ml for one in found.lesions),
        "Threshold": found.threshold,
        "FalsePositiveRate": found.rate,
        "SmallestLesionMM3": found.smallest,
        "Calibration": found.calibration.as_dict(),
        **({"Engine": dict(found.engine)} if found.engine else {}),
        "Warnings": list(warnings),
        "GeneratedBy": [
            {"Name": "medi2i", "Version": __version__},
            {"Name": "torch", "Version": str(torch.__version__)},
        ],
    }
