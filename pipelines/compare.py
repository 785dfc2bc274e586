"""Every system on one cohort with one budget, beside what needs no anatomy: one table.

    python pipelines/compare.py OUT [--data BIDS] [--systems unet pix2pix] [--minutes 2]

Without --data it simulates a cohort: stripped heads at 2 mm, half of them held back, most with
lesions. Each system trains by its own recipe on the same windows with the same augmentation, seed
and budget, and translates the held-back subjects (split "val"); see compare_one.py. --budget small
makes the networks narrow (compare.yaml), for minutes on two cores; full leaves them as published.
Beside systems, --systems takes the variants that compare.yaml names, such as cyclegan+guidance.
OUT keeps everything: table.csv, table.md, scores.json, picture.png, and each system's run. What is
finished is not done again, what was stopped goes on, what failed is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.batch import Pairing
from medi2i.config import read_yaml
from medi2i.contrasts import Contrast
from medi2i.data.cohort import Cohort, find_cohort
from medi2i.data.motion import slice_fields
from medi2i.data.neighbours import GAP
from medi2i.data.registration import load_together
from medi2i.errors import ConfigError, IntensityError, Medi2iError, UsageError
from medi2i.evaluation import (
    Case,
    Overview,
    PointwiseMap,
    ScoreTable,
    compare,
    expert_mask,
    lesion_scores,
    motion_residual,
    through_plane_ratio,
)
from medi2i.evaluation.evaluate import on_one_grid
from medi2i.evaluation.scoring import unit_range
from medi2i.evaluation.structure import structure_scores
from medi2i.experiment import begun_alike
from medi2i.figures import sheet
from medi2i.files import atomic_write, write_whole
from medi2i.systems import SYSTEMS
from medi2i.volume import Volume

HERE = Path(__file__).resolve().parent
METRICS = (
    *("psnr", "ssim", "mae", "lesion MAE", "through-plane", "motion residual"),
    *("orientation", "displacement 95"),
)
COSTS = ("pairing", "parameters", "rounds", "minutes", "s / round", "peak MiB", "s / volume")
SHARED = ("source", "target", "budget", "size", "spacing", "seed", "device", "threads")
"""What all systems are told alike."""
LATER = {"misalignment": "0.0"}
"""What all are told too, and what folders from before mean that do not say it."""

Array = NDArray[Any]
Mask = NDArray[np.bool_]


def main(words: Sequence[str] | None = None) -> None:
    """Simulate, train, score, write."""
    chosen = read_arguments(words)
    try:
        if chosen.data is None:
            chosen.data = simulated_cohort(chosen)
        for split in ("train", "val"):
            cohort(chosen, split)  # what is missing shall not show after hours
        for system in chosen.systems:
            if not (chosen.out / system / "result.json").is_file():
                print(f"training {system}", file=sys.stderr, flush=True)
                train(system, chosen)
        finished = [s for s in chosen.systems if (chosen.out / s / "result.json").is_file()]
        print(report(finished, chosen))
    except Medi2iError as error:
        sys.exit(str(error))
    if failed := [system for system in chosen.systems if system not in finished]:
        sys.exit(f"not in the table, because they failed: {', '.join(failed)}")


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; OUT remembers what makes runs comparable."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="BIDS folder with the splits train and val")
    parser.add_argument("--anatomy", type=Path, help="label maps for the simulated cohort")
    groups = [pairing.value for pairing in Pairing]
    narrow = read_yaml(HERE / "compare.yaml")
    variants = narrow.pop("variants")
    known = [*groups, *(name for name, system in SYSTEMS.items() if not system.reconstructs)]
    known += variants
    parser.add_argument("--systems", nargs="+", default=groups, choices=known, metavar="NAME")
    parser.add_argument("--from", dest="source", type=Contrast.parse, default=Contrast.T1W)
    parser.add_argument("--to", dest="target", type=Contrast.parse, default=Contrast.T2W)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=1.0, help="of processor time, for each")
    limit.add_argument("--rounds", type=int, help="of training, for each system")
    parser.add_argument("--budget", choices=["small", "full"], default="small")
    parser.add_argument("--size", type=int, help="of windows: 64; 128 with --data; 256 if full")
    parser.add_argument(
        "--spacing", type=float, help="mm of the networks: 2; 1 with --data or full"
    )
    parser.add_argument("--misalignment", type=float, default=0.0, help="level, of all pairs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="of each; their time adds up")
    chosen = parser.parse_args(words)
    coarse = chosen.budget == "small" and chosen.data is None
    chosen.size = chosen.size or (256 if chosen.budget == "full" else 64 if coarse else 128)
    chosen.spacing = chosen.spacing or (2.0 if coarse else 1.0)
    if chosen.size < 32 or chosen.size & (chosen.size - 1):
        parser.error("--size must be a power of two (starganv2 takes no other), at least 32")
    if not chosen.minutes > 0 or (chosen.rounds is not None and chosen.rounds < 1):
        parser.error("--minutes and --rounds must be above 0")
    if chosen.threads < 1:
        parser.error("--threads must be at least 1")
    chosen.systems = [
        *(s for pairing in groups for s in SYSTEMS if s in of_pairing(pairing, chosen.systems)),
        *(name for name in variants if name in chosen.systems),
    ]
    needed = {variants[s]["system"] if s in variants else s for s in chosen.systems}
    if chosen.budget == "small" and (wide := sorted(needed - set(narrow))):
        parser.error(
            f'compare.yaml has no "small" for {", ".join(wide)}: add it, or leave them out'
        )
    names = (*SHARED, *LATER, "data", "anatomy", "minutes", "rounds")
    mine = {key: vars(chosen)[key] for key in names}
    try:
        begun_alike(chosen.out / "settings.json", mine, later=LATER)
    except ConfigError as error:
        parser.error(str(error))
    return chosen


def of_pairing(pairing: str, wanted: Sequence[str]) -> set[str]:
    """The wanted systems of one kind; the kind itself stands for all that translate."""
    own = {
        name
        for name, system in SYSTEMS.items()
        if system.pairing.value == pairing and not system.reconstructs
    }
    return own if pairing in wanted else own & set(wanted)


def simulated_cohort(chosen: argparse.Namespace) -> Path:
    """Six people to train on and six held back: a healthy one and five diseases in each half."""
    folder: Path = chosen.out / "cohort"
    told = "--subjects 12 --validation 0.5 --lesions mixed --style volumetric --head stripped"
    told += f" --spacing 2 2 2 --seed {chosen.seed} --skip-existing"
    command = [sys.executable, "-m", "medi2i", "simulate", str(folder), *told.split()]
    command += ["--contrasts", f"{chosen.source} {chosen.target}"]
    command += ["--anatomy", str(chosen.anatomy)] if chosen.anatomy else []
    if subprocess.run(command, check=False).returncode:  # noqa: S603
        sys.exit("the cohort could not be simulated")  # it has said why
    return folder


def cohort(chosen: argparse.Namespace, split: str) -> Cohort:
    """Subjects of a split with both contrasts."""
    return find_cohort(chosen.data).split(split).having((chosen.source, chosen.target))


def train(system: str, chosen: argparse.Namespace) -> None:
    """Run compare_one.py; when it fails, it has said why, and the others go on."""
    command = [sys.executable, str(HERE / "compare_one.py"), system, str(chosen.out / system)]
    limit = "minutes" if chosen.rounds is None else "rounds"
    for key in ("data", *SHARED, *LATER, limit):
        option = {"source": "from", "target": "to"}.get(key, key)
        command += [f"--{option}", str(vars(chosen)[key])]
    command += ["--cache", str(chosen.out / "decoded")]
    subprocess.run(command, check=False)  # noqa: S603


def report(systems: Sequence[str], chosen: argparse.Namespace) -> str:
    """Score everything, write tables and picture.

    Returns:
        The table as Markdown.
    """
    both, task = (chosen.source, chosen.target), f"{chosen.source}->{chosen.target}"
    scans = (load_together(subject, both) for subject in cohort(chosen, "train"))
    maps = [PointwiseMap.of(s[chosen.source].voxels, s[chosen.target].voxels) for s in scans]
    floor = sum(maps[1:], start=maps[0])
    cases: dict[str, Case] = {}
    lesions: dict[str, Mask] = {}
    motion: dict[str, Array | None] = {}
    for subject in cohort(chosen, "val"):
        source, target = load_together(subject, both).values()
        file = f"{subject.name}_{chosen.target}.nii.gz"
        made = {system: chosen.out / system / "translated" / file for system in systems}
        cases[subject.name] = Case(subject.name, task, made, target, source)
        mask = expert_mask(subject, source)
        lesions[subject.name] = np.zeros(source.shape, bool) if mask is None else mask

    def further(
        case: Case, predicted: Array, target: Volume, source: Volume | None
    ) -> dict[str, float]:
        brain = (target if source is None else source).voxels > 0
        scores = beyond_similarity(predicted, target, brain, lesions[case.name])
        moving = target if source is None else source
        if case.name not in motion:
            motion[case.name] = None
            if moving.spacing[2] <= GAP:
                motion[case.name] = slice_fields(unit_range(moving.voxels, brain), brain)
        fields = motion[case.name]
        if fields is not None and "through-plane" in scores:
            scores["motion residual"] = motion_residual(unit_range(predicted, brain), fields, brain)
        if source is not None and "through-plane" in scores:
            kept = structure_scores(source.voxels, predicted, brain, spacing=source.spacing)
            scores["orientation"] = kept.orientation
            scores["displacement 95"] = kept.displacement_95
        return scores

    table = compare(cases.values(), maps={task: floor}, further=further, seed=chosen.seed)
    costs = {}
    for system in systems:
        result = json.loads((chosen.out / system / "result.json").read_text(encoding="utf-8"))
        costs[system] = {column: result[column] for column in COSTS}
    overview = Overview(table, METRICS, costs)
    table.to_json(chosen.out / "scores.json", overwrite=True)
    write_whole(chosen.out / "table.csv", overview.as_csv())
    text = overview.as_markdown() + "\n" + READING
    write_whole(chosen.out / "table.md", text)
    ill = max(cases, key=lambda name: int(lesions[name].sum()))
    draw(cases[ill], lesions[ill], floor, table, chosen.out / "picture.png")
    return text


READING = (
    "lesion MAE: inside the expert's mask, on the scale of MAE. through-plane: mean absolute "
    "difference between neighbouring slices, each scan on its own range; 1 is like the acquired "
    "scan. motion residual: what is left of that difference, each scan on its own range, when the "
    "source's motion from slice to slice is followed; no slices more than 3 mm apart. Blur lowers "
    "both. orientation: do edges run as in the source, 1/3 is chance; displacement 95: how far, in "
    "mm, a registration finds them from where they were; neither needs a target. Seconds and "
    "minutes are of processor time, of all threads together, or of the clock on a GPU; "
    "memory is what training needs beyond the libraries.\n"
)


def beyond_similarity(
    predicted: Array, target: Volume, brain: Mask, lesions: Mask
) -> dict[str, float]:
    """Error inside lesions, and whether slices fit together; what cannot be measured is absent."""
    acquired = unit_range(target.voxels, brain)
    scores: dict[str, float] = {}
    try:
        scores["through-plane"] = through_plane_ratio(unit_range(predicted, brain), acquired, brain)
    except IntensityError:  # a constant image has no range
        pass
    x, y = predicted[brain].astype(np.float64), acquired[brain]
    gain = np.mean((x - x.mean()) * (y - y.mean())) / max(x.var(), 1e-12)
    fitted = np.clip(gain * (predicted - x.mean()) + y.mean(), 0, 1)  # as brain-3d has it
    try:
        found = lesion_scores(fitted, acquired, lesions, brain, spacing=target.spacing)
        scores["lesion MAE"] = found.mae
    except UsageError:  # no lesion in the brain, or nothing around it
        pass
    return scores


def draw(case: Case, lesions: Mask, floor: PointwiseMap, table: ScoreTable, path: Path) -> None:
    """The axial slice of one subject with most of the lesions, else of the brain, of everything."""
    known = {"acquired": case.target, "identity": case.source, **case.predictions}
    volumes = on_one_grid(known)
    source = volumes["identity"]
    brain = source.voxels > 0
    level = int(np.argmax(((lesions & brain) if (lesions & brain).any() else brain).sum((0, 1))))
    images: dict[str, Array] = {name: volume.voxels for name, volume in volumes.items()}
    images["pointwise"] = floor.predict(source.voxels)
    ssim = {row.method: row.scores.ssim for row in table.rows if row.case == case.name}
    tiles: dict[str, Array] = {}
    for name in ("acquired", "identity", "pointwise", *case.predictions):
        image = images[name]
        shown = unit_range(image, brain) if np.ptp(image[brain]) > 0 else np.zeros(image.shape)
        title = f"{name} {ssim[name]:.3f}" if name in ssim else name
        tiles[title] = np.where(brain, shown, 0)[:, :, level]
    note = f"{case.task}, {case.name}; behind each name: SSIM of the whole scan"
    page = sheet(tiles, spacing=source.spacing[:2], note=note)
    atomic_write(path, lambda stream: page.save(stream, format="PNG"))


if __name__ == "__main__":
    main()
