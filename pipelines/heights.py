"""What it costs an unpaired system to be shown slices of random heights.

    python pipelines/heights.py RUN [--data BIDS] [--system cyclegan] [--rounds 3000] [--seeds 1 2]

Where a source and a target are slices of any height, they show different anatomy, and a generator
may learn to please the discriminator with tissue that is not there. So targets can be drawn at the
heights of their sources (`data.heights`). The story: simulate people at 2 mm in T1w and T2w; train
the same system without pairs under either setting, for each seed on the same people, sources and
rounds; translate the held-back people and score them against their true T2w. A table of PSNR and
SSIM, and the identity (the source as it came). RUN keeps everything, what is finished is not done
again. Networks are narrow, so that two cores do it: the difference counts, not the scores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medi2i
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.errors import Medi2iError
from medi2i.experiment import Config, Data, Validation, run_experiment
from medi2i.files import write_whole
from medi2i.systems import SYSTEMS
from medi2i.task import Task, View
from medi2i.training.plan import Optimiser, Plan

TASK = Task((Contrast.T1W,), (Contrast.T2W,))
HEIGHTS = ("matching", "random")
SCORES = ("psnr", "ssim")
NARROW: dict[str, dict[str, Any]] = {
    "cyclegan": {"features": 16, "patch_features": 16, "blocks": 4},
    "revgan": {"objective": "unpaired", "features": 16, "patch_features": 16, "depth": 4},
}
"""Arguments by system; what is not here is as published."""


def main(words: Sequence[str] | None = None) -> None:
    """Simulate, train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="BIDS folder with T1w and T2w, train and val")
    parser.add_argument("--people", type=int, default=30, help="simulated, a fifth held back")
    parser.add_argument("--system", default="cyclegan", choices=SYSTEMS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", type=int, default=96, help="of windows, voxels")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    chosen = parser.parse_args(words)
    data = chosen.data or simulated(chosen.run / "people", chosen.people)
    rows: dict[str, list[dict[str, float]]] = {heights: [] for heights in HEIGHTS}
    try:
        for seed in chosen.seeds:
            for heights, scores in rows.items():
                scores.append(trained(chosen, data, heights, seed))
        print(table(rows, chosen.seeds, identity(data)))
    except Medi2iError as error:
        sys.exit(str(error))


def simulated(folder: Path, people: int) -> Path:
    """Stripped heads at 2 mm, of their own anatomy each."""
    told = f"--subjects {people} --validation 0.2 --style volumetric --head stripped"
    told += " --spacing 2 2 2 --seed 1 --skip-existing"
    command = [sys.executable, "-m", "medi2i", "simulate", str(folder), *told.split()]
    subprocess.run([*command, "--contrasts", "t1 t2"], check=True)  # noqa: S603
    return folder


def trained(chosen: argparse.Namespace, data: Path, heights: str, seed: int) -> dict[str, float]:
    """Scores of the held-back people after one run."""
    folder: Path = chosen.run / f"{chosen.system}-{heights}-{seed}"
    print(f"training {folder.name}", file=sys.stderr, flush=True)
    config, cache = settings(chosen, heights, seed), chosen.run / "cache"
    found = run_experiment(config, [data], folder, device=chosen.device, cache=cache)
    if found:  # else it was finished before
        write_whole(folder / "scores.json", json.dumps({name: found[name] for name in SCORES}))
    scores: dict[str, float] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return scores


def settings(chosen: argparse.Namespace, heights: Any, seed: int) -> Config:
    """One run; nothing but heights and seed differs from run to run."""
    return Config(
        system=chosen.system,
        task=TASK,
        arguments=NARROW.get(chosen.system, {}),
        view=View(spacing=2.0),
        data=Data(
            size=chosen.size,
            # the way back must give the source as it came: its looks are left alone
            augmentation=Augmentation(bias=0, gamma=0, noise=0, anisotropy=0),
            background=1.0,
            heights=heights,
        ),
        training=Plan(
            rounds=chosen.rounds,
            batch_size=1,
            optimiser=Optimiser("adam", lr=2e-4, betas=(0.5, 0.999)),
            schedule="linear",
            average=0.0,
            seed=seed,
            validate_every=chosen.rounds,
        ),
        validation=Validation(volumes=sys.maxsize),
    )


def identity(data: Path) -> dict[str, float]:
    """Mean scores of the sources as they came: the floor that costs nothing."""
    scored = []
    for subject in find_cohort([data]).split("val").having(TASK.contrasts):
        scans = load_together(subject, TASK.contrasts)
        source, target = (scans[contrast] for contrast in TASK.contrasts)
        scored.append(medi2i.evaluate(source, target, source=source))
    return {name: statistics.mean(getattr(s, name) for s in scored) for name in SCORES}


def table(
    rows: dict[str, list[dict[str, float]]], seeds: Sequence[int], floor: dict[str, float]
) -> str:
    """By seed and in the mean; the last line is what matching heights gain, with its spread."""
    lines = ["| | PSNR | SSIM |", "|---|---:|---:|"]
    for heights, scores in rows.items():
        for seed, score in zip(seeds, scores, strict=True):
            lines.append(f"| {heights}, seed {seed} | {score['psnr']:.2f} | {score['ssim']:.4f} |")
        psnr, ssim = (statistics.mean(score[name] for score in scores) for name in SCORES)
        lines.append(f"| {heights}, mean | {psnr:.2f} | {ssim:.4f} |")
    lines.append(f"| identity | {floor['psnr']:.2f} | {floor['ssim']:.4f} |")
    cells = []
    for name, digits in zip(SCORES, (2, 4), strict=True):
        gains = [one[name] - other[name] for one, other in zip(*rows.values(), strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
        cells.append(f"{statistics.mean(gains):+.{digits}f} ± {spread:.{digits}f}")
    return "\n".join([*lines, f"| matching - random | {' | '.join(cells)} |"])


if __name__ == "__main__":
    main()
