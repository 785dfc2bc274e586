"""One system of a comparison: train it within a budget, translate the held-back subjects.

    python pipelines/compare_one.py pix2pix OUT/pix2pix --data BIDS --minutes 2

compare.py calls this for each system, in a process of its own, whose peak memory is its own. The
recipe is configs/<system>.yaml, but for what compare.yaml says and for the frame that all systems
share: windows, augmentation, seed, contrasts, budget. --minutes are of processor time, or of the
clock on a GPU: some rounds are timed first, and the schedule of the learning rate fits the rounds
that follow from it. OUT receives the run, translated/ and, last of all, result.json. What was
stopped goes on. SYSTEM may be a variant that compare.yaml names. With --domains it learns to tell
slices of the source alone by experts' masks, and nothing is translated; see anomaly.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medi2i.config import read_yaml
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.errors import Medi2iError
from medi2i.experiment import Config, read_config, run_experiment
from medi2i.files import write_whole
from medi2i.inference.passes import Quality
from medi2i.inference.translate import choose_device, run_model
from medi2i.model import read_model
from medi2i.systems import SYSTEMS
from medi2i.systems.guidance import Guidance
from medi2i.task import Task
from medi2i.training.budget import Meter
from medi2i.training.log import Progress
from medi2i.training.plan import Optimiser
from medi2i.volume import save_volume

HERE = Path(__file__).resolve().parent
LOOKS = Augmentation(bias=0.0, gamma=0.0, noise=0.0, anisotropy=0.0)
"""Changes of place alone: a way back must give the source as it came."""
TIMED, FEWEST = 26, 11
"""Rounds that are timed before the real ones; the fewest, where they take over a tenth of the
budget. Six do not count, and then come twenty or five, which hold whole turns of a critic that has
four rounds in five to itself."""


def main(words: Sequence[str] | None = None) -> None:
    """Train, translate, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    variants = read_yaml(HERE / "compare.yaml")["variants"]
    parser.add_argument("system", choices=[*SYSTEMS, *variants], metavar="SYSTEM")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder that keeps decoded scans")
    parser.add_argument("--from", dest="source", type=Contrast.parse, default=Contrast.T1W)
    parser.add_argument("--to", dest="target", type=Contrast.parse, default=Contrast.T2W)
    parser.add_argument("--domains", nargs="+", metavar="NAME", help="such as healthy diseased")
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--minutes", type=float, help="of training")
    limit.add_argument("--rounds", type=int, help="of training")
    parser.add_argument("--budget", choices=["small", "full"], default="small")
    parser.add_argument("--size", type=int, default=64, help="of windows")
    parser.add_argument("--spacing", type=float, default=2.0, help="mm at which the network works")
    parser.add_argument("--faster", type=float, default=1.0, help="times the rate of learning")
    parser.add_argument("--misalignment", type=float, default=0.0, help="level; pairs alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(words)
    try:
        measured = train(chosen)
        measured |= described(chosen) if chosen.domains else translate(chosen)
    except Medi2iError as error:
        sys.exit(str(error))
    write_whole(chosen.out / "result.json", json.dumps(measured, indent=2) + "\n")


def variant_of(system: str) -> dict[str, Any]:
    """What a variant changes of its system; nothing for a system."""
    known: dict[str, Any] = read_yaml(HERE / "compare.yaml")["variants"].get(system, {})
    return known


def configured(system: str, chosen: argparse.Namespace, rounds: int) -> Config:
    """The system's own recipe, or a variant of it, in the common frame."""
    told, variant = read_yaml(HERE / "compare.yaml"), variant_of(system)
    system = variant.get("system", system)
    recipe = HERE.parent / "configs" / f"{system}.yaml"
    config = read_config(recipe, rounds=rounds, seed=chosen.seed)
    changes, plan = told.get(system, {}), config.training

    def faster(optimiser: Optimiser) -> Optimiser:
        return dataclasses.replace(optimiser, lr=optimiser.lr * chosen.faster)

    words = {"side": chosen.size, "halvings": chosen.size.bit_length() - 1, "rounds": rounds}
    arguments = dict(config.arguments)
    if chosen.budget == "small":
        arguments |= changes.get("small", {})
    for name, value in changes.get("frame", {}).items():
        word, _, divisor = value.partition(" / ")
        arguments[name] = round(words[word] / int(divisor or 1))
    arguments |= variant.get("arguments", {})
    if chosen.domains:  # who reconstructs knows the first one alone
        arguments |= changes.get("domains", {})
        count = 1 if SYSTEMS[system].reconstructs else len(chosen.domains)
        task = Task(*2 * ((chosen.source,),), domains=tuple(chosen.domains[:count]))
    elif config.task.on_demand:  # systems of domains learn both directions
        task = Task(*2 * ((chosen.source, chosen.target),), on_demand=True)
    else:
        task = Task((chosen.source,), (chosen.target,))
    return dataclasses.replace(
        config,
        task=task,
        arguments=arguments,
        view=dataclasses.replace(config.view, spacing=chosen.spacing, **variant.get("view", {})),
        guidance=Guidance(**variant["guidance"]) if "guidance" in variant else config.guidance,
        data=dataclasses.replace(
            config.data,
            augmentation=LOOKS,
            emphasis={},
            misalignment=chosen.misalignment,
            **{"size": chosen.size, **variant.get("data", {})},
        ),
        training=dataclasses.replace(
            plan,
            optimiser=faster(plan.optimiser),
            players={name: faster(own) for name, own in plan.players.items()},
            warmup=min(plan.warmup, rounds // 10),
            average=min(plan.average, max(0.0, 1 - 10 / rounds)),  # over a tenth of the run
            validate_every=0,
            checkpoint_every=max(1, rounds // 10),
            workers=0 if chosen.budget == "small" else plan.workers,
        ),
    )


def train(chosen: argparse.Namespace) -> dict[str, Any]:
    """Find out how many rounds the budget holds, and play them.

    Returns:
        What was measured; of a run that was stopped, since it went on.
    """
    device = choose_device(chosen.device)
    if device.type == "cpu":
        torch.set_num_threads(chosen.threads)
    whole = Meter(device)

    def run(rounds: int, folder: Path, watch: Callable[[Progress], None]) -> None:
        run_experiment(
            configured(chosen.system, chosen, rounds),
            [chosen.data],
            folder,
            device=chosen.device,
            cache=chosen.cache,
            watch=watch,
        )

    def timed() -> Meter:
        meter = Meter(device)

        def watch(progress: Progress) -> None:
            meter.tick(progress)
            if len(meter.ticks) >= FEWEST and np.ptp(meter.ticks) > 6 * chosen.minutes:
                raise TimeoutError  # a round of this one takes long

        with tempfile.TemporaryDirectory() as scratch, suppress(TimeoutError):
            run(TIMED, Path(scratch), watch)
        return meter

    fixed, trained = chosen.out / "rounds.json", chosen.out / "trained.json"
    if trained.is_file():
        known: dict[str, Any] = json.loads(trained.read_text(encoding="utf-8"))
        return known
    rounds = chosen.rounds
    if rounds is None and fixed.is_file():  # a run that goes on keeps its schedule
        rounds = json.loads(fixed.read_text(encoding="utf-8"))
    elif rounds is None:
        rounds = timed().rounds_in(60 * chosen.minutes)
        write_whole(fixed, json.dumps(rounds))
    meter = Meter(device)
    run(rounds, chosen.out, meter.tick)
    each = meter.per_round()
    measured = {
        "rounds": rounds,
        "minutes": None if each is None else rounds * each / 60,
        "s / round": each,
        "peak MiB": whole.peak(),
    }
    write_whole(trained, json.dumps(measured, indent=2) + "\n")
    return measured


def translate(chosen: argparse.Namespace) -> dict[str, Any]:
    """Translate the subjects of the split "val" into translated/."""
    model = read_model(chosen.out / "last")
    meter = Meter(choose_device(chosen.device))
    quality = Quality(variant_of(chosen.system).get("quality", "fast"))
    for subject in find_cohort(chosen.data).split("val").having((chosen.source, chosen.target)):
        source = load_together(subject, (chosen.source,))
        meter.tick()
        made = run_model(model, source, chosen.target, device=chosen.device, quality=quality)
        meter.tick()
        path = chosen.out / "translated" / f"{subject.name}_{chosen.target}.nii.gz"
        save_volume(made.volume, path, overwrite=True)
    return {"s / volume": float(np.median(np.diff(meter.ticks)[::2])), **described(chosen)}


def described(chosen: argparse.Namespace) -> dict[str, Any]:
    """What there is to say of the network itself."""
    model = read_model(chosen.out / "last")
    return {"parameters": model.parameters, "pairing": model.system.pairing.value}


if __name__ == "__main__":
    main()
