"""The weights that `medi2i anomaly` uses by itself, from simulated heads and their healthy twins.

    python pipelines/train_healthy.py DATA RUN [--heads 96] [--install]

DATA holds anatomy/ (label maps at 1 mm), lesions/ (shapes), and openms/ and lgg/ with experts'
masks. The story: simulate heads with every kind of lesion, in any shape but those of the people in
openms/, and each one's healthy twin; learn by configs/healthy.yaml to turn the one into the other;
score against the twins that were held back; see what healthy tissue of real scans scores, which
gives the threshold; score on real scans, beside the baseline of intensity. RUN keeps everything,
and a run that was stopped goes on. With --install the model replaces the shipped one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

import medi2i
from medi2i.anomaly.calibration import Calibration, calibrate
from medi2i.anomaly.find import CARD, Anomalies, anomalies_in
from medi2i.anomaly.intensity import HEALTHY_FLAIR
from medi2i.anomaly.tissue import eroded, find_brain
from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject, find_cohort
from medi2i.data.masks import expert_mask
from medi2i.data.twins import twin_of
from medi2i.files import write_whole
from medi2i.model import Model, write_model
from medi2i.volume import Volume, load_volume

HERE = Path(__file__).parent
FLAIR = Contrast.FLAIR
Mask = NDArray[np.bool_]
UNUSED = HEALTHY_FLAIR
"""Nobody asks for a threshold here."""
FAR = 2.0
"""Millimetres from an expert's lesion beyond which tissue counts as healthy."""


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--heads", type=int, default=96)
    parser.add_argument("--install", action="store_true")
    chosen = parser.parse_args()
    data, run = chosen.data, chosen.run

    heads, trained, shapes = run / "heads", run / "training", run / "shapes"
    known_people = find_cohort(data / "openms").having((FLAIR,)).subjects
    of_others(data / "lesions", shapes, {subject.name for subject in known_people})
    told = ["--subjects", chosen.heads, "--contrasts", "flair", "--lesions", "mixed", "--twins"]
    places = ["--anatomy", data / "anatomy", "--shapes", shapes]
    told += ["--seed", 11, "--validation", 0.1, "--skip-existing"]
    medi2i_("simulate", heads, *told, *places)
    config = HERE.parent / "configs" / "healthy.yaml"
    more = ["--resume"] if (trained / "config.yaml").is_file() else []
    medi2i_("train", config, "--data", heads, "-o", trained, "--cache", run / "cache", *more)

    model = medi2i.load_model(trained / "last")
    known = calibration(model, known_people)
    model = replace(model, card={**model.card, CARD: known.as_dict()})
    write_model(model, run / "model")
    table = against_twins(model, find_cohort(heads).split("val").subjects)
    write_whole(run / "twins.json", json.dumps(table, indent=1) + "\n")
    print(json.dumps(table["mean"], indent=1))
    medi2i_(
        *("evaluate", "--anomaly", data / "lgg", "--model", run / "model", "--split", "val"),
        *("--tuned-on", "train", "-o", run / "scores-lgg", "--report", "--overwrite"),
    )
    if chosen.install:
        home = Path(medi2i.__file__).parent / "zoo" / "healthy"
        home.mkdir(exist_ok=True)
        for name in ("weights.safetensors", "model.json"):
            shutil.copyfile(run / "model" / name, home / name)


def of_others(masks: Path, shapes: Path, people: set[str]) -> None:
    """Copy the lesion masks that are not of these people: ms-07.nii.gz is of sub-MS07."""
    shapes.mkdir(parents=True, exist_ok=True)
    for mask in sorted(masks.glob("*.nii.gz")):
        person = "sub-" + mask.name.removesuffix(".nii.gz").replace("ms-", "MS")
        if person not in people:
            shutil.copyfile(mask, shapes / mask.name)


def calibration(model: Model, people: tuple[Subject, ...]) -> Calibration:
    """What healthy tissue of real scans scores: as far as that from where experts drew lesions."""
    maps, healthy, names = [], [], []
    for subject in people:
        scan = load_volume(subject.scans[FLAIR]).canonical()
        mask = expert_mask(subject, scan)
        if mask is None:
            continue
        found = anomalies_in({FLAIR: scan}, model=model, calibration=UNUSED)
        away = ndimage.distance_transform_edt(~mask, sampling=scan.spacing) > FAR
        maps.append(found.scores.voxels)
        healthy.append(found.brain & away)
        names.append(subject.name.removeprefix("sub-"))
    origin = f"tissue more than {FAR:g} mm from the expert's lesions, FLAIR of {', '.join(names)}"
    return calibrate(maps, healthy, origin=origin)


def against_twins(model: Model, people: tuple[Subject, ...]) -> dict[str, dict[str, float]]:
    """How near the image is to the healthy twin, which only simulation knows, by person; means.

    In lesions and in the rest of the brain the mean absolute difference, as a share of the scan's
    range, of the scan itself (`ill`) and of the image (`healed`); and SSIM in lesions.
    """
    table: dict[str, dict[str, float]] = {}
    for subject, scan, twin, lesions in twins(people):
        brain = find_brain(scan).mask
        found = anomalies_in({FLAIR: scan}, model=model, brain=brain, calibration=UNUSED)
        table[subject.name] = _scores(found, scan, twin, lesions, brain)
    ill = [row for row in table.values() if "ill_in_lesions" in row]
    columns = {key for row in table.values() for key in row}
    mean = {
        key: float(np.mean([row[key] for row in table.values() if key in row]))
        for key in sorted(columns)
    }
    return {**table, "mean": {**mean, "people": len(table), "with_lesions": len(ill)}}


def twins(people: tuple[Subject, ...]) -> Iterator[tuple[Subject, Volume, Volume, Mask]]:
    """Everybody's scan, the healthy twin's, and where the lesions are."""
    for subject in people:
        twin = twin_of(subject, (FLAIR,))
        if twin is None:
            continue
        scan = load_volume(subject.scans[FLAIR]).canonical()
        mask = expert_mask(subject, scan)
        lesions = np.zeros(scan.shape, bool) if mask is None else mask
        yield subject, scan, load_volume(twin.scans[FLAIR]).canonical(), lesions


def _scores(
    found: Anomalies, scan: Volume, twin: Volume, lesions: Mask, brain: Mask
) -> dict[str, float]:
    healed = found.healthy
    if healed is None:
        raise SystemExit("the model made no image")
    span = float(np.quantile(scan.voxels[brain], 0.995) - scan.voxels.min())
    images = {"ill": scan.voxels, "healed": healed.voxels}
    rest = eroded(brain, 1.0, scan.spacing) & ~lesions
    row = {
        f"{name}_elsewhere": float(np.abs(image - twin.voxels)[rest].mean() / span)
        for name, image in images.items()
    }
    if (inside := lesions & brain).any():
        for name, image in images.items():
            row[f"{name}_in_lesions"] = float(np.abs(image - twin.voxels)[inside].mean() / span)
            _, alike = structural_similarity(image, twin.voxels, data_range=span, full=True)
            row[f"{name}_ssim_in_lesions"] = float(alike[inside].mean())
    return row


def medi2i_(*arguments: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "medi2i", *map(str, arguments)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
