"""Simulated beside real: contrast ratios measured in the same way on both, and a picture.

    python pipelines/reality.py DATA [--heads 6] [-o docs/simulated.png]

DATA holds openms/, volumes/ (stripped 1 mm scans of the split "train") and anatomy/. Tissue classes
come from thresholds on T1w and T2w (three-class Otsu), kept away from edges; the median of each
class relative to white matter is the ratio. Real scans differ in protocol and disease, so the range
over them is wide; the last column says how many simulated heads lie in it, widened by a fifth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.figures import three_planes
from medi2i.files import atomic_write
from medi2i.simulate import Style, simulate
from medi2i.simulate.body import read_labels
from medi2i.simulate.examination import Shown
from medi2i.volume import Volume

THREE = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)
Scans = dict[Contrast, Volume]


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    chosen = parser.parse_args()
    cohort = find_cohort([chosen.data / "openms", chosen.data / "volumes"]).split("train")
    real = [
        load_together(subject, THREE)
        for subject in cohort
        if set(THREE) <= set(subject.scans) and not subject.transforms
    ]
    maps = sorted((chosen.data / "anatomy").glob("*.nii.gz"))
    made = [
        dict(
            simulate(
                chosen.seed + number,
                contrasts=THREE,
                labels=read_labels(maps[number % len(maps)]),
                style=Style.VOLUMETRIC,
                head=Shown.STRIPPED,
                spacing=(1.0, 1.0, 1.0),
            ).scans
        )
        for number in range(chosen.heads)
    ]
    measured = [ratios(scans) for scans in real]
    simulated = [ratios(scans) for scans in made]
    print(f"{'ratio':22} {'real':>13} {'simulated':>13}  inside")
    for name in measured[0]:
        low, high = (pick(row[name] for row in measured) for pick in (min, max))
        own = sorted(row[name] for row in simulated)
        inside = sum(low / 1.2 <= value <= high * 1.2 for value in own)
        print(f"{name:22} {low:6.2f}-{high:5.2f} {own[0]:7.2f}-{own[-1]:5.2f}  {inside}/{len(own)}")
    if chosen.output:
        parts = [
            three_planes([(f"{word} {c}", v.voxels, v.spacing) for c, v in scans.items()])
            for word, scans in (("simulated", made[0]), ("acquired", real[0]))
        ]
        size = (max(part.width for part in parts), sum(part.height for part in parts))
        picture = Image.new("RGB", size)
        for place, part in enumerate(parts):
            picture.paste(part, (0, place * parts[0].height))
        atomic_write(chosen.output, lambda stream: picture.save(stream, format="PNG"))


def ratios(scans: Scans) -> dict[str, float]:
    """Grey over white and fluid over white, by contrast."""
    from skimage.filters import threshold_multiotsu

    voxels = {contrast: volume.voxels for contrast, volume in scans.items()}
    inside = ndimage.binary_erosion(np.all([v > 0 for v in voxels.values()], 0), iterations=3)
    t1w, t2w = voxels[Contrast.T1W], voxels[Contrast.T2W]
    dark, bright = threshold_multiotsu(t2w[inside], 3)
    fluid = ndimage.binary_erosion(inside & (t2w > bright))
    tissue = inside & (t2w < 1.3 * dark)
    low, high = threshold_multiotsu(t1w[tissue], 3)
    slope = ndimage.gaussian_gradient_magnitude(t1w, 1.0)

    def flat(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        chosen: NDArray[np.bool_] = mask & (slope < np.percentile(slope[mask], 35))
        return chosen

    white, grey = flat(tissue & (t1w > high)), flat(tissue & (t1w > low) & (t1w <= high))
    found = {}
    for contrast, image in voxels.items():
        base = float(np.median(image[white]))
        found[f"{contrast} grey/white"] = float(np.median(image[grey])) / base
        found[f"{contrast} fluid/white"] = float(np.median(image[fluid])) / base
    return found


if __name__ == "__main__":
    main()
