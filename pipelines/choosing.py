"""Does the criterion without pairs choose as the scores with pairs would?

    python pipelines/choosing.py OUT COMPARISON [COMPARISON ...]

Takes finished folders of compare.py. Every system's translations of the held-back subjects are
judged twice: without their acquired targets, by `evaluation.without_pairs` against real target
scans of the training subjects, and with them, by the mean scores of scores.json. Within each
comparison the systems are ranked by both; Spearman's rank correlation says how well the first
stands for the second. OUT receives choosing.csv and choosing.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.errors import Medi2iError
from medi2i.evaluation.without_pairs import Look, WithoutPairs, patch_set, without_pairs
from medi2i.files import write_whole
from medi2i.volume import Volume, load_volume

PAIRED = ("psnr", "ssim")
UNPAIRED = ("criterion", "distance", "structure")
FEWEST = 4
"""Systems that make a rank correlation worth printing."""


class Judged(NamedTuple):
    """One system of one comparison."""

    comparison: str
    system: str
    alone: WithoutPairs
    paired: dict[str, float]


def main(words: Sequence[str] | None = None) -> None:
    """Judge, rank, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("comparisons", type=Path, nargs="+", metavar="COMPARISON")
    chosen = parser.parse_args(words)
    try:
        rows = [row for folder in chosen.comparisons for row in judge(folder)]
    except (Medi2iError, OSError) as error:
        sys.exit(str(error))
    write_whole(chosen.out / "choosing.csv", as_csv(rows))
    text = as_markdown(rows)
    write_whole(chosen.out / "choosing.md", text)
    print(text)


def judge(folder: Path) -> list[Judged]:
    """Every system of a comparison, by both."""
    told = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    paired = mean_scores(folder / "scores.json")
    source, target = Contrast.parse(told["source"]), Contrast.parse(told["target"])
    data = folder / "cohort" if told["data"] in (None, "None") else Path(told["data"])
    cohort = find_cohort(data)
    real = patch_set(
        look_at(load_together(subject, (target,))[target])
        for subject in cohort.split("train").having((target,))
    )
    held_back = cohort.split("val").having((source, target))
    sources = {s.name: look_at(load_together(s, (source,))[source]) for s in held_back}
    rows = []
    for system in sorted(set(paired) - {"identity", "pointwise"}):
        made = [
            look_at(load_volume(folder / system / "translated" / f"{name}_{target}.nii.gz"), own)
            for name, own in sources.items()
        ]
        alone = without_pairs(made, list(sources.values()), real)
        rows.append(Judged(folder.name, system, alone, paired[system]))
        print(f"{folder.name}: {system}", file=sys.stderr, flush=True)
    return rows


def look_at(volume: Volume, where: Look | None = None) -> Look:
    """A scan on canonical axes, in its own brain or in the one of its source."""
    canonical = volume.canonical()
    brain = canonical.voxels > 0 if where is None else where.brain
    return Look(canonical.voxels, brain, canonical.spacing)


def mean_scores(path: Path) -> dict[str, dict[str, float]]:
    """By method, the mean over cases of each score with pairs."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    methods = {row["method"] for row in rows}
    return {
        method: {
            name: float(np.mean([row[name] for row in rows if row["method"] == method]))
            for name in PAIRED
        }
        for method in methods
    }


def correlations(rows: Sequence[Judged]) -> dict[tuple[str, str], float]:
    """Spearman's over the systems, of the criterion and its two parts with each paired score."""
    found = {}
    for alone in UNPAIRED:
        sign = -1 if alone == "distance" else 1  # less is better
        own = [sign * getattr(row.alone, alone) for row in rows]
        for paired in PAIRED:
            found[alone, paired] = float(spearmanr(own, [r.paired[paired] for r in rows])[0])
    return found


def as_csv(rows: Sequence[Judged]) -> str:
    """Every number."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["comparison", "system", *UNPAIRED, *PAIRED])
    for row in rows:
        alone = [getattr(row.alone, name) for name in UNPAIRED]
        writer.writerow([row.comparison, row.system, *alone, *(row.paired[n] for n in PAIRED)])
    return stream.getvalue()


def as_markdown(rows: Sequence[Judged]) -> str:
    """A table, best criterion first, and the correlations."""
    lines = [
        f"| comparison | system | {' | '.join((*UNPAIRED, *PAIRED))} |",
        "|---|---|" + "---:|" * (len(UNPAIRED) + len(PAIRED)),
    ]
    after = []
    for comparison in dict.fromkeys(row.comparison for row in rows):
        own = [row for row in rows if row.comparison == comparison]
        for row in sorted(own, key=lambda r: -r.alone.criterion):
            alone = " | ".join(f"{getattr(row.alone, name):.3f}" for name in UNPAIRED)
            both = f"{row.paired['psnr']:.2f} | {row.paired['ssim']:.3f}"
            lines.append(f"| {comparison} | {row.system} | {alone} | {both} |")
        if len(own) >= FEWEST:
            said = [f"{a} with {p} {value:.2f}" for (a, p), value in correlations(own).items()]
            after.append(f"{comparison}, rank correlations: {', '.join(said)}.")
    return "\n".join([*lines, "", *after]) + "\n"


if __name__ == "__main__":
    main()
