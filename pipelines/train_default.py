"""The weights that `medi2i translate` uses by itself, from nothing but the data folder.

    python pipelines/train_default.py DATA RUN [--install]

DATA holds openms/, volumes/ and lgg/ (BIDS, the column "split" in each participants.tsv) and
anatomy/ (label maps at 1 mm). The story: simulate heads from the label maps; train on them and on
the real training subjects by configs/default.yaml; fit the pointwise baselines to the real
training subjects; score on the real validation subjects. RUN keeps everything, and a run that was
stopped goes on. With --install the model replaces the shipped one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import medi2i
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import find_cohort
from medi2i.data.pairs import PairedWindows
from medi2i.evaluation import PointwiseMap
from medi2i.files import write_whole
from medi2i.model import write_model
from medi2i.systems.unet import UNetRegression

WINDOWS = 600
HERE = Path(__file__).parent
SIMULATED = 128


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--install", action="store_true")
    chosen = parser.parse_args()
    data, run = chosen.data, chosen.run

    heads = run / "simulated"
    told = ["--subjects", SIMULATED, "--contrasts", "t1 t2 flair pd ce-gad_T1w", "--seed", 1]
    places = ["--anatomy", data / "anatomy", "--shapes", data / "lesions"]
    medi2i_("simulate", heads, *told, *places, "--lesions", "mixed", "--skip-existing")
    roots = [data / "openms", data / "volumes", data / "lgg", heads]
    command = [arg for root in roots for arg in ("--data", root)]
    more = ["--resume"] if (run / "training" / "config.yaml").is_file() else []
    config = HERE.parent / "configs" / "default.yaml"
    medi2i_("train", config, *command, "-o", run / "training", "--cache", run / "cache", *more)

    model = run / "model"
    calibrate(run / "training" / "last", roots, run / "cache", model)
    maps = fit_pointwise(roots[:2], medi2i.load_model(model).task.pairs())
    text = json.dumps({task: found.as_dict() for task, found in maps.items()}) + "\n"
    write_whole(model / "pointwise.json", text)
    for study in ("volumes", "lgg"):
        scored = ["--split", "val", "-o", run / f"scores-{study}", "--overwrite"]
        medi2i_("evaluate", data / study, "--model", model, *scored)
    if chosen.install:
        home = Path(medi2i.__file__).parent / "zoo" / "default"
        for name in ("weights.safetensors", "model.json", "pointwise.json"):
            shutil.copyfile(model / name, home / name)


def calibrate(trained: Path, roots: list[Path], cache: Path, calibrated: Path) -> None:
    """Give each target the brightness it has in the training scans, on the whole.

    The loss asks for structures and leaves gain and offset nearly free; here both are fitted, by
    least squares over the tissue of WINDOWS training windows, and folded into the head. So is one
    factor for the spread, so that it is the absolute error on the average.
    """
    model = medi2i.load_model(trained)
    system = model.system
    if not isinstance(system, UNetRegression):
        raise SystemExit(f"{trained} holds {model.system_name}; a unet with heads was expected")
    windows = PairedWindows(
        find_cohort(roots).split("train"),
        model.task,
        model.view,
        size=128,
        augmentation=Augmentation.none(),
        seed=2,
        cache=cache,
    )
    targets = len(model.task.targets)
    sums = torch.zeros(targets, 5, dtype=torch.float64)
    seen = []
    with torch.no_grad():
        for number in range(WINDOWS):
            window = windows[number]
            every, known = window.every, window.known
            if every is None or known is None:
                raise SystemExit(f"{trained} has a fixed task; one on demand was expected")
            tissue = window.weight[0] > 0.5
            images, spread = system.all_images(window.source[None], None)
            predicted = images[0].double()
            for head in torch.nonzero(known).flatten():
                p, t = predicted[head][tissue], every[head][tissue].double()
                sums[head] += torch.stack([torch.ones_like(p), p, t, p * p, p * t]).sum(1)
                if spread is not None:
                    seen.append((int(head), p, t, spread[0][head][tissue].exp().sum()))
    mean_p, mean_t, square, product = (sums[:, 1:] / sums[:, :1]).unbind(1)
    gain = (product - mean_p * mean_t) / (square - mean_p**2)
    offset = mean_t - gain * mean_p
    if seen:
        off, expected = torch.zeros(2, targets, dtype=torch.float64)
        for head, p, t, spreads in seen:
            off[head] += (gain[head] * p + offset[head] - t).abs().sum()
            expected[head] += spreads
        gain = torch.cat([gain, torch.ones(targets, dtype=torch.float64)])
        offset = torch.cat([offset, (off / expected).log()])
    system.network.rescale(gain.float(), offset.float())
    write_model(model, calibrated)


def fit_pointwise(
    roots: list[Path], pairs: list[tuple[tuple[Contrast, ...], tuple[Contrast, ...]]]
) -> dict[str, PointwiseMap]:
    """For each translation, the best map of intensities alone.

    Fitted to the training subjects whose contrasts came on one grid: no resampling, no skull.
    """
    cohort = find_cohort(roots).split("train")
    maps: dict[str, PointwiseMap] = {}
    for (source,), (target,) in pairs:
        for subject in cohort:
            if not {source, target} <= set(subject.scans):
                continue
            one, other = (medi2i.load_volume(subject.scans[c]) for c in (source, target))
            if one.shape != other.shape:
                continue
            fitted = PointwiseMap.of(one.voxels, other.voxels)
            task = f"{source}->{target}"
            maps[task] = maps[task] + fitted if task in maps else fitted
    return maps


def medi2i_(*arguments: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "medi2i", *map(str, arguments)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
