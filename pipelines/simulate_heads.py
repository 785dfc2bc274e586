"""Write a BIDS data set of simulated heads from label maps: T1w, T2w and FLAIR of each.

    python pipelines/simulate_heads.py LABEL_MAPS OUT --subjects 60 --seed 1

LABEL_MAPS is a folder of 1 mm RAS label maps (values: see medi2i.simulate.physics.LABELS). Every
third simulated head keeps its skull, the rest are stripped. What exists already is kept.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np

from medi2i import Volume, load_volume, save_volume
from medi2i.contrasts import Contrast
from medi2i.files import write_whole
from medi2i.simulate.label_maps import simulate_scans

CONTRASTS = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    maps = sorted(chosen.label_maps.glob("*.nii.gz"))
    if not maps:
        parser.error(f"{chosen.label_maps} holds no label maps (*.nii.gz)")

    names = [f"sub-SIM{number:03d}" for number in range(chosen.subjects)]
    for number, name in enumerate(names):
        folder = chosen.out / name / "anat"
        if (folder / f"{name}_{CONTRASTS[-1]}.nii.gz").is_file():
            continue
        head = load_volume(maps[number % len(maps)]).canonical()
        scans = simulate_scans(
            head.voxels.astype(np.int16),
            CONTRASTS,
            seed=chosen.seed * 100_003 + number,
            skull=number % 3 == 2,
        )
        for contrast, voxels in scans.items():
            scan = Volume.of(voxels)
            save_volume(scan, folder / f"{name}_{contrast}.nii.gz", dtype="int16", overwrite=True)
        print(f"{number + 1}/{len(names)} {name} from {maps[number % len(maps)].name}", flush=True)

    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["participant_id", "split"])
    writer.writerows([name, "train"] for name in names)
    write_whole(chosen.out / "participants.tsv", table.getvalue())


if __name__ == "__main__":
    main()
