"""Simulated people as a BIDS data set: scans, side-cars, masks, healthy twins."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medi2i import __version__
from medi2i.contrasts import Contrast
from medi2i.figures import three_planes
from medi2i.files import clear_staging, whole_folder, write_whole
from medi2i.simulate.examination import Shown
from medi2i.simulate.lesions import Pathology
from medi2i.simulate.physics import Sequence as MrSequence
from medi2i.simulate.simulator import Simulated
from medi2i.volume import Volume, save_volume

__all__ = ["Origin", "finished", "write_dataset", "write_subject"]

DERIVED = Path("derivatives") / "medi2i-simulate"
"""Where masks and twins lie."""
SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class Origin:
    """How one subject came about.

    Attributes:
        name: "sub-001".
        seed: of `simulate`.
        anatomy: the label map's file name, or "procedural".
        pathology: of `simulate`.
        split: "train" or "val".
    """

    name: str
    seed: int
    anatomy: str
    pathology: Pathology | None
    split: str


def write_subject(
    root: Path, origin: Origin, person: Simulated, *, overwrite: bool = False
) -> None:
    """Write all of a subject's files; when anything fails, none is left.

    Raises:
        OutputError: the subject exists and must not be overwritten, or the disk is full.
    """
    name = origin.name
    with whole_folder(root / DERIVED / name, overwrite=overwrite) as stage:
        save_volume(person.brain, stage / "anat" / f"{name}_desc-brain_mask.nii.gz", dtype="uint8")
        if person.lesions is not None:
            path = stage / "anat" / f"{name}_label-lesion_mask.nii.gz"
            save_volume(person.lesions, path, dtype="uint8")
        for contrast, scan in person.healthy.items():
            _save(stage, f"{name}_desc-healthy", contrast, scan, origin, person)
        rows = {f"simulated {c}": scan for c, scan in person.scans.items()}
        rows |= {f"{c} without lesions": scan for c, scan in person.healthy.items()}
        picture = three_planes([(title, v.voxels, v.spacing) for title, v in rows.items()])
        picture.save(stage / f"{name}.png")
    try:
        with whole_folder(root / name, overwrite=overwrite) as stage:
            for contrast, scan in person.scans.items():
                _save(stage, name, contrast, scan, origin, person)
    except BaseException:
        shutil.rmtree(root / DERIVED / name, ignore_errors=True)
        raise


def write_dataset(root: Path, origins: Sequence[Origin], command: str) -> None:
    """Write what BIDS wants at the top: description, participants, and a README."""
    described = {
        "Name": "Simulated heads",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "GeneratedBy": [{"Name": "medi2i simulate", "Version": __version__, "Command": command}],
    }
    derived = {**described, "Name": "Masks and healthy twins", "DatasetType": "derivative"}
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["participant_id", "split", "pathology", "anatomy", "seed"])
    for origin in origins:
        facts = (origin.split, origin.pathology or "none", origin.anatomy, origin.seed)
        writer.writerow([origin.name, *facts])
    write_whole(root / "dataset_description.json", _json(described))
    write_whole(root / DERIVED / "dataset_description.json", _json(derived))
    write_whole(root / "participants.tsv", table.getvalue())
    write_whole(
        root / "README",
        "Simulated MRI of heads that do not exist, computed from anatomy and signal equations by\n"
        f"medi2i {__version__}. For research and tests; side-cars say SYNTHETIC.\n"
        f"Made by: {command}\n",
    )


def finished(root: Path, name: str) -> bool:
    """Whether a subject was written to its end."""
    folders = (root / name, root / DERIVED / name)
    for folder in folders:
        clear_staging(folder)  # what a killed process has left
    return all(folder.is_dir() for folder in folders)


def _save(
    stage: Path, prefix: str, contrast: Contrast, scan: Volume, origin: Origin, person: Simulated
) -> None:
    """One scan and its side-car."""
    path = save_volume(
        scan,
        stage / "anat" / f"{prefix}_{contrast}.nii.gz",
        dtype="int16",
        description=f"medi2i {__version__} simulated {contrast}",
    )
    healthy = prefix != origin.name
    content = _sidecar(contrast, origin, person, healthy=healthy)
    write_whole(path.with_name(f"{prefix}_{contrast}.json"), _json(content))


def _sidecar(
    contrast: Contrast, origin: Origin, person: Simulated, *, healthy: bool
) -> dict[str, Any]:
    """BIDS' own words where it has them, in its units; the rest under "Simulation"."""
    examination = person.examination
    geometry = examination.geometry
    pathology = None if healthy else person.pathology
    return {
        "Synthetic": True,
        "Description": f"SYNTHETIC {contrast} of a head that does not exist, from signal equations",
        "MagneticFieldStrength": examination.field,
        "SkullStripped": examination.head is Shown.STRIPPED,
        "SliceThickness": round(geometry.thickness, 4),
        "SpacingBetweenSlices": round(geometry.thickness + geometry.gap, 4),
        **_parameters(examination.sequences[contrast]),
        **({"ContrastBolusAgent": "simulated gadolinium"} if contrast is Contrast.T1CE else {}),
        "Simulation": {
            "Seed": origin.seed,
            "Anatomy": origin.anatomy,
            "Pathology": str(pathology) if pathology else None,
            "Style": str(examination.style),
            "Head": str(examination.head),
            "Flaws": asdict(examination.flaws[contrast]),
        },
        "GeneratedBy": [{"Name": "medi2i", "Version": __version__}],
    }


def _parameters(sequence: MrSequence) -> dict[str, Any]:
    """A sequence in the words of BIDS: seconds and degrees."""
    named = {"tr": "RepetitionTime", "te": "EchoTime", "ti": "InversionTime"}
    values = {field: getattr(sequence, field) for field in sequence.__slots__}  # type: ignore[attr-defined]
    times = {word: round(values[key] * SECONDS, 6) for key, word in named.items() if key in values}
    flip = {"FlipAngle": round(values["flip"], 3)} if "flip" in values else {}
    return {"PulseSequenceType": type(sequence).__name__, **times, **flip}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
