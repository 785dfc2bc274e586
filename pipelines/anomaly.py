"""What is not normal, found by systems that never saw a mask: one cohort, one budget, one table.

    python pipelines/anomaly.py OUT --data BIDS [--systems fixed_point_gan vae] [--minutes 8]

Trains on FLAIR slices of the split "train", of which only one bit is told: whether an expert drew a
lesion there. Systems of domains see both kinds, those that reconstruct healthy slices alone. Every
one gets the same minutes of processor time, windows and seed, and networks narrow enough for one
core (compare.yaml); see compare_one.py. Scored on the split "val" beside the baseline of intensity,
with thresholds for Dice chosen on some people of "train". OUT keeps everything: table.md,
scores.csv, scores.json, good.png and bad.png, and each system's run. What is finished is not done
again, what was stopped goes on, what failed is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medi2i.anomaly import evaluate_anomalies
from medi2i.anomaly.beside import worst_and_best
from medi2i.contrasts import Contrast
from medi2i.data.cohort import Cohort, find_cohort
from medi2i.errors import ConfigError, Medi2iError
from medi2i.experiment import begun_alike
from medi2i.files import atomic_write, write_whole
from medi2i.model import read_model

HERE = Path(__file__).resolve().parent
FLAIR = Contrast.FLAIR
SYSTEMS = ("fixed_point_gan", "stargan", "denoising_autoencoder", "vae")
COSTS = ("parameters", "rounds", "minutes")
SHARED = ("data", "size", "spacing", "faster", "seed", "device", "threads")
"""What all systems are told alike."""


def main(words: Sequence[str] | None = None) -> None:
    """Train, score, write."""
    chosen = read_arguments(words)
    try:
        for split in ("train", "val"):
            people(chosen, split)  # what is missing shall not show after hours
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
    parser.add_argument("--data", type=Path, required=True, help="BIDS folder with experts' masks")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS, metavar="NAME")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=8.0, help="of processor time, for each")
    limit.add_argument("--rounds", type=int, help="of training, for each system")
    parser.add_argument("--size", type=int, default=64, help="of windows")
    parser.add_argument("--spacing", type=float, default=2.0, help="mm of the networks")
    parser.add_argument(
        "--faster", type=float, default=5.0, help="times the published rate of learning"
    )
    parser.add_argument("--tuning", type=int, default=12, help="people to choose thresholds on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="of each; their time adds up")
    chosen = parser.parse_args(words)
    try:
        mine = {key: vars(chosen)[key] for key in (*SHARED, "minutes", "rounds")}
        begun_alike(chosen.out / "settings.json", mine)
    except ConfigError as error:
        parser.error(str(error))
    return chosen


def people(chosen: argparse.Namespace, split: str) -> Cohort:
    """Subjects of a split with FLAIR."""
    return find_cohort(chosen.data).split(split).having((FLAIR,))


def train(system: str, chosen: argparse.Namespace) -> None:
    """Run compare_one.py; when it fails, it has said why, and the others go on."""
    command = [sys.executable, str(HERE / "compare_one.py"), system, str(chosen.out / system)]
    command += ["--from", str(FLAIR), "--to", str(FLAIR), "--domains", "healthy", "diseased"]
    for key in (*SHARED, "minutes" if chosen.rounds is None else "rounds"):
        command += [f"--{key}", str(vars(chosen)[key])]
    command += ["--cache", str(chosen.out / "decoded")]
    subprocess.run(command, check=False)  # noqa: S603


def report(systems: Sequence[str], chosen: argparse.Namespace) -> str:
    """Score everything, write table and pictures.

    Returns:
        The table as Markdown.
    """
    models = {system: read_model(chosen.out / system / "last") for system in systems}
    held_back = people(chosen, "val").subjects
    table = evaluate_anomalies(
        held_back,
        models,
        tuning=people(chosen, "train").subjects[: chosen.tuning],
        device=chosen.device,
        seed=chosen.seed,
    )
    costs: dict[str, dict[str, Any]] = {}
    for system in systems:
        result = json.loads((chosen.out / system / "result.json").read_text(encoding="utf-8"))
        costs[system] = {column: result[column] for column in COSTS}
    table.save(chosen.out)
    text = table.as_markdown(costs)
    write_whole(chosen.out / "table.md", text)
    pictures = worst_and_best(held_back, models, table, device=chosen.device)
    for name, page in pictures.items():
        atomic_write(chosen.out / f"{name}.png", partial(page.save, format="PNG"))
    return text


if __name__ == "__main__":
    main()
