"""Whether a model can be trusted where it matters: in lesions, and where it says it is unsure.

    python pipelines/faithfulness.py DATA [--model default] [--to FLAIR] [-o FOLDER]

DATA is a BIDS folder with expert masks under derivatives/*/sub-*/anat/*_label-lesion_mask.nii.gz.
For every subject that has the target and another contrast: the error inside the lesions beside the
brain's, the contrast of the lesions to their surroundings in the synthetic and in the acquired
scan, bright spots where no lesion is (ml of brain more than 5 robust standard deviations above its
median: invented lesions), and whether the errors are where the uncertainty map says (part of the
ideal sparsification gain; mean uncertainty over mean error). Prints a table, writes it as CSV.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import medi2i
from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.evaluation import expert_mask, lesion_scores, sparsification
from medi2i.files import write_whole
from medi2i.inference.translate import UNCERTAINTY, run_model
from medi2i.volume import Volume

COLUMNS = (
    "subject", "task", "lesion ml", "lesion error", "brain error", "lesion contrast",
    "acquired", "carried", "bright ml", "acquired bright ml", "gain", "ratio", "rising",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--to", default="FLAIR")
    parser.add_argument("--split", default=None)
    parser.add_argument("-o", "--output", type=Path)
    chosen = parser.parse_args()
    model, target = medi2i.load_model(chosen.model), Contrast.parse(chosen.to)
    cohort = find_cohort([chosen.data])
    if chosen.split:
        cohort = cohort.split(chosen.split)
    rows = []
    for subject in cohort:
        for source in model.task.sources:
            if source is target or not {source, target} <= set(subject.scans):
                continue
            scans = load_together(subject, (source, target))
            acquired = scans.pop(target)
            result = run_model(model, scans, target, uncertainty=model.system.uncertain)
            mask = expert_mask(subject, acquired)
            unsure = result.maps.get(UNCERTAINTY)
            row = [subject.name, f"{source}->{target}"]
            row += scores(result.volume, acquired, scans[source], mask, unsure)
            rows.append(row)
            print("  ".join(f"{name} {value}" for name, value in zip(COLUMNS, row, strict=True)))
    if chosen.output:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
        write_whole(chosen.output / "faithfulness.csv", table.getvalue())


def scores(
    synthetic: Volume,
    acquired: Volume,
    source: Volume,
    mask: NDArray[np.bool_] | None,
    unsure: Volume | None,
) -> list[str]:
    """The columns behind subject and task; "-" where there is nothing to measure."""
    brain = (source.voxels > 0) & (acquired.voxels > 0)
    ml = float(np.prod(acquired.spacing)) / 1000
    aligned = on_scale(synthetic.voxels, acquired.voxels, brain)
    found = ["-"] * 6
    if mask is not None and (mask & brain).any():
        lesion = lesion_scores(aligned, acquired.voxels, mask, brain, spacing=acquired.spacing)
        numbers = (lesion.mae, lesion.brain_mae, lesion.contrast, lesion.acquired_contrast)
        found = [f"{ml * mask.sum():.1f}", *(f"{n:.3f}" for n in numbers), f"{lesion.carried:.2f}"]
    healthy = brain if mask is None else brain & ~mask
    found += [f"{ml * bright(v, brain, healthy):.2f}" for v in (aligned, acquired.voxels)]
    if unsure is None:
        return [*found, "-", "-", "-"]
    gain = np.polyfit(synthetic.voxels[brain], acquired.voxels[brain], 1)[0]
    error = np.abs(aligned - acquired.voxels)[brain]
    curve = sparsification(error, abs(gain) * unsure.voxels[brain])
    return [*found, f"{curve.gain:.2f}", f"{curve.ratio:.2f}", "yes" if curve.rising else "no"]


def on_scale(
    synthetic: NDArray[np.float32], acquired: NDArray[np.float32], brain: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The synthetic scan under the gain and offset that bring it closest to the acquired one."""
    gain, offset = np.polyfit(synthetic[brain].astype(float), acquired[brain].astype(float), 1)
    scaled: NDArray[np.float64] = gain * synthetic.astype(np.float64) + offset
    return scaled


def bright(
    image: NDArray[np.floating], brain: NDArray[np.bool_], healthy: NDArray[np.bool_]
) -> int:
    """Voxels of healthy brain that are brighter than its tissue can be."""
    median = np.median(image[brain])
    deviation = 1.4826 * np.median(np.abs(image[brain] - median))
    return int((image[healthy] > median + 5 * deviation).sum())


if __name__ == "__main__":
    main()
