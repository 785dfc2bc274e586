"""The network that glances at a scan (contrast, head or not, brain), from the data folder alone.

    python pipelines/train_glance.py DATA RUN [--steps 420] [--glances 2400] [--install]

DATA holds anatomy/ (label maps at 1 mm) and openms/, volumes/ and lgg/ (BIDS; only subjects whose
split is "train" are learned from). The story: make a sample (simulated by the signal equations;
simulated with arbitrary signals; real; no head at all); learn the brain's mask from many; describe
many others by the mask that was learned, and learn from the descriptions what they show; score on
the real validation scans, on simulated heads that were kept out and on what is no head. RUN keeps
a checkpoint: a run that was stopped goes on. With --install the network replaces the shipped one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

import medi2i
from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.files import write_whole
from medi2i.inference.glance import (
    CLASSES,
    Glance,
    coarse,
    glance,
    intensities,
    read_glance_net,
    write_glance_net,
)
from medi2i.networks.glance import GlanceNet, described
from medi2i.simulate import procedural_head
from medi2i.simulate.coarse import CoarseHead, bend, coarse_scan, coarsen, degrade
from medi2i.simulate.foreign import FOREIGN, foreign
from medi2i.volume import Volume

Field = NDArray[np.float32]
Shape = tuple[int, int, int]
T = TypeVar("T")

ARGUMENTS: dict[str, Any] = {
    "classes": len(CLASSES) + 1,
    "features": [12, 24, 48, 64],
    "encoder_blocks": [1, 2, 2, 2],
}
NONE, UNKNOWN = len(CLASSES), -100
REAL = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.T1CE)
KEPT_OUT = 2  # label maps, the last ones
BATCH, RATE, AGAIN = 6, 3e-3, 2  # every batch is learned from once, and AGAIN times later on
SHAPES: tuple[Shape, Shape] = ((80, 96, 96), (96, 112, 96))
EMPTY = {"noise", "ramp", "waves", "bodies", "letters", "textured", "mask"}
"""Foreign things that hold no brain; of the others nobody says where it is."""
STUDIES = ("openms", "volumes", "lgg")


@dataclass(frozen=True)
class RealScan:
    """A training scan at 2 mm; no brain where nobody has drawn one."""

    contrast: Contrast
    voxels: Field
    brain: Field | None


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=420, help="batches for the mask")
    parser.add_argument("--glances", type=int, default=2400, help="samples for the classifier")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--score", action="store_true", help="the network that is shipped, alone")
    chosen = parser.parse_args()
    maps = sorted((chosen.data / "anatomy").glob("*.nii.gz"))
    if chosen.score:
        shipped = read_glance_net(Path(medi2i.__file__).parent / "zoo" / "glance")
        scores = score(shipped, chosen.data, maps[-KEPT_OUT:])
        write_whole(chosen.run / "scores.json", json.dumps(scores, indent=2) + "\n")
        print(json.dumps(scores["all"], indent=2))
        return
    samples = Samples(load_heads(maps[:-KEPT_OUT]), load_scans(chosen.data))
    print(f"{len(samples.heads)} anatomies, {len(samples.scans)} real scans", flush=True)
    net = train(samples, chosen.run / "last.pt", chosen.steps)
    classify(net, *described_samples(net, samples, chosen.run / "described.pt", chosen.glances))
    scores = score(net, chosen.data, maps[-KEPT_OUT:])
    write_whole(chosen.run / "scores.json", json.dumps(scores, indent=2) + "\n")
    trained = write_glance_net(net, chosen.run / "glance", ARGUMENTS, {"scores": scores["all"]})
    if chosen.install:
        home = Path(medi2i.__file__).parent / "zoo" / "glance"
        shutil.copytree(trained, home, dirs_exist_ok=True)


def load_heads(maps: Sequence[Path], *, drawn: int = 3) -> list[CoarseHead]:
    """Label maps at 2 mm, and a few heads of simple shapes."""
    labels = (medi2i.load_volume(path).canonical().voxels.astype(np.int16) for path in maps)
    heads = [coarsen(one) for one in labels]
    for seed in range(101, 101 + drawn):
        heads.append(coarsen(procedural_head(seed, shape=(176, 208, 184)).labels))
    return heads


def load_scans(data: Path) -> list[RealScan]:
    """The real training scans at 2 mm."""
    scans = []
    for subject in find_cohort([data / study for study in STUDIES]).split("train"):
        for contrast, path in subject.scans.items():
            volume = medi2i.load_volume(path)
            stripped = "lgg" not in path.parts and "RAW" not in path.name
            brain = coarse(volume.like(volume.voxels != 0)) if stripped else None
            scans.append(RealScan(contrast, np.maximum(coarse(volume), 0), brain))
    return scans


class Samples(IterableDataset[dict[str, Tensor]]):
    """Batches without end, the same from the same first number on."""

    def __init__(self, heads: list[CoarseHead], scans: list[RealScan]) -> None:
        self.heads, self.scans, self.first = heads, scans, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches of image, brain, whether the brain is known, contrast, head."""
        number = self.first
        while True:
            rng = np.random.default_rng((1, number))
            shape = SHAPES[int(rng.random() < 0.3)]
            items = [self.sample(rng, shape) for _ in range(BATCH)]
            yield {key: torch.stack([item[key] for item in items]) for key in items[0]}
            number += 1

    def sample(
        self, rng: np.random.Generator, shape: Shape, real: float = 0.32
    ) -> dict[str, Tensor]:
        """One item of a batch; `real` is the share of acquired scans."""
        simulated = 1 - real
        kind = rng.choice(
            ("physics", "arbitrary", "real"), p=(0.74 * simulated, 0.26 * simulated, real)
        )
        known, is_head = True, True
        if kind == "real":
            contrast = CLASSES.index(pick(REAL, rng))
            fit = [scan for scan in self.scans if scan.contrast is CLASSES[contrast]]
            bare = [scan for scan in fit if scan.brain is not None]
            scan = pick(bare if rng.random() < 0.5 else fit, rng)
            known = scan.brain is not None
            brain = scan.brain if scan.brain is not None else np.zeros_like(scan.voxels)
            moved, brain = bend((scan.voxels, brain), rng, shape=shape)
            thick = known and rng.random() < 0.4
            image, brain = degrade(moved, brain, rng, stripped=known, thick=thick, strength=0.4)
        else:
            contrast = int(rng.integers(len(CLASSES))) if kind == "physics" else NONE
            named = CLASSES[contrast] if kind == "physics" else None
            bare_brain = bool(rng.random() < 0.45)
            head = pick(self.heads, rng)
            image, brain = coarse_scan(head, named, rng, stripped=bare_brain, shape=shape)
        if rng.random() < 0.24:
            what = pick(tuple(FOREIGN), rng)
            image, brain = foreign(image, rng, what), np.zeros(shape, np.float32)
            known, contrast, is_head = what in EMPTY, UNKNOWN, False
        return {
            "image": torch.from_numpy(intensities(image))[None],
            "brain": torch.from_numpy(brain > 0.5)[None],
            "known": torch.tensor(known),
            "contrast": torch.tensor(contrast),
            "head": torch.tensor(float(is_head)),
        }


def train(samples: Samples, checkpoint: Path, steps: int) -> GlanceNet:
    """Learn the mask from `steps` batches, from the checkpoint on if there is one."""
    torch.manual_seed(0)
    net = GlanceNet(**ARGUMENTS)
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-4)
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        samples.first = state["step"]
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
    seen: list[dict[str, Tensor]] = []
    began, running, rng = time.perf_counter(), torch.zeros(2), np.random.default_rng(samples.first)
    loader = DataLoader(samples, batch_size=None, num_workers=1)
    for step, batch in enumerate(loader, samples.first):
        if step >= steps:
            break
        seen = [*seen[-30:], batch]
        rate = RATE * min(1.0, (step + 1) / 20, 2.5 * (1 - step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        for chosen in (batch, *(mirrored(pick(seen, rng)) for _ in range(AGAIN))):
            parts = mask_losses(net.train(), chosen)
            optimiser.zero_grad()
            parts.sum().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            if chosen is batch:
                running = torch.lerp(running, parts.detach(), 0.05 if step > samples.first else 1)
        if step % 10 == 9:
            told = " ".join(f"{value:.3f}" for value in running.tolist())
            seconds = time.perf_counter() - began
            print(f"{step + 1} {seconds:.0f} s: dice, cross-entropy {told}", flush=True)
        if step % 25 == 24 or step == steps - 1:
            state = {
                "step": step + 1,
                "net": net.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    return net.eval()


def mask_losses(net: GlanceNet, batch: dict[str, Tensor]) -> Tensor:
    """(2,): Dice and cross-entropy of the brain, over the samples whose brain is known."""
    logits = net.network(batch["image"])
    brain, known = batch["brain"].float(), batch["known"].float()
    p, volume = torch.sigmoid(logits), (1, 2, 3, 4)
    dice = 1 - (2 * (p * brain).sum(volume) + 100) / ((p + brain).sum(volume) + 100)
    entropy = functional.binary_cross_entropy_with_logits(logits, brain, reduction="none")
    both = torch.stack([dice, entropy.mean(volume)])
    return (both * known).sum(1) / known.sum().clamp(min=1)


def described_samples(
    net: GlanceNet, samples: Samples, kept: Path, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What `count` fresh samples look like by the mask, their contrasts, whether they are heads.

    `kept` keeps them: a run that was stopped goes on behind the last hundred.
    """
    rows: list[Tensor] = []
    contrasts: list[int] = []
    heads: list[float] = []
    if kept.is_file():
        there, contrasts, heads = torch.load(kept, weights_only=True)
        rows = list(there)
    for number in range(len(rows), count):
        rng = np.random.default_rng((2, number))
        item = samples.sample(rng, SHAPES[int(rng.random() < 0.3)], real=0.5)
        image = item["image"][None]
        with torch.inference_mode():
            brain = net.network(image)
            if not item["known"] and item["head"] and rng.random() < 0.6:
                image = torch.where(brain > 0, image, -1.0)  # as others strip it
                brain = net.network(image)
            rows.append(described(image, brain)[0])
        contrasts.append(int(item["contrast"]))
        heads.append(float(item["head"]))
        if number % 100 == 99 or number == count - 1:
            print(f"{number + 1} described", flush=True)
            torch.save((torch.stack(rows), contrasts, heads), kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
    return torch.stack(rows), torch.tensor(contrasts), torch.tensor(heads)


def classify(
    net: GlanceNet, descriptions: Tensor, contrasts: Tensor, heads: Tensor, rounds: int = 500
) -> None:
    """Learn contrast and head from descriptions, all of them in every round."""
    torch.manual_seed(0)
    layers = (net.trunk, net.contrast, net.head)
    optimiser = torch.optim.AdamW(
        [p for layer in layers for p in layer.parameters()], lr=3e-3, weight_decay=0.03
    )
    net.train()
    for turn in range(rounds):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - turn / rounds)
        contrast, head = net.classified(descriptions + 0.02 * torch.randn_like(descriptions))
        loss = functional.cross_entropy(contrast, contrasts, ignore_index=UNKNOWN)
        loss = loss + functional.binary_cross_entropy_with_logits(head, heads)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"classifier: loss {float(loss):.3f}", flush=True)
    net.eval()


def mirrored(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Left for right."""
    turned = {key: batch[key].flip(2) for key in ("image", "brain")}
    return {**batch, **turned}


def score(net: GlanceNet, data: Path, kept_out: Sequence[Path]) -> dict[str, Any]:
    """What it says of real validation scans, of heads kept out of training, of what is no head."""
    rows: list[dict[str, Any]] = []

    def note(name: str, contrast: Contrast | None, volume: Volume, brain: Any = None) -> None:
        found: Glance = glance(volume, net=net)
        row: dict[str, Any] = {"scan": name, "is": str(contrast), "looks": str(found.contrast)}
        row |= {"confidence": round(found.confidence, 4), "head": round(found.head, 4)}
        if brain is not None:
            mask = found.brain_mask
            row["dice"] = round(
                2 * float((mask & brain).sum()) / float(mask.sum() + brain.sum()), 4
            )
        rows.append(row)

    for subject in find_cohort([data / study for study in STUDIES]).split("val"):
        for contrast, path in subject.scans.items():
            volume = medi2i.load_volume(path)
            stripped = "volumes" in path.parts
            note(f"real {path.name}", contrast, volume, volume.voxels != 0 if stripped else None)
    rng = np.random.default_rng(77)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    for head in load_heads(kept_out, drawn=0):
        for stripped in (False, True):
            for contrast in CLASSES * 3:
                image, brain = coarse_scan(head, contrast, rng, stripped=stripped)
                name = f"simulated {'stripped' if stripped else 'skull'}"
                note(name, contrast, Volume.of(image, affine), brain > 0.5)
                if not stripped:
                    what = pick(tuple(FOREIGN), rng)
                    thing = foreign(image, rng, what)
                    note(f"foreign {what}", None, Volume.of(thing, affine))
    groups = ("real", "real sub-TCGA0", "simulated skull", "simulated stripped", "foreign")
    summary = {}
    for group in groups:
        own = [row for row in rows if row["scan"].startswith(group)]
        dice = [row["dice"] for row in own if "dice" in row]
        summary[group] = {
            "scans": len(own),
            "contrast right": sum(row["is"] == row["looks"] for row in own),
            "taken for a head": sum(row["head"] >= 0.5 for row in own),
            **({"dice": round(sum(dice) / len(dice), 4), "worst": min(dice)} if dice else {}),
        }
    return {"all": summary, "scans": rows}


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of several."""
    return items[int(rng.integers(len(items)))]


if __name__ == "__main__":
    main()
