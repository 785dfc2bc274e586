"""What trained flows know, whether they find the way back, and what a pass of them costs.

    python pipelines/flows.py OUT COMPARISON [--windows 64] [--repeats 5]

Takes a finished folder of compare.py with any of alignflow, flow_deformation, pix2pix_flow and
flow_disentangle, and prints two tables. The first, over whole windows of the people that were
trained on and of those held back: bits per dimension (256 bins of [-1, 1], background included: not
to be compared across cohorts), the largest error of the way there and back in [-1, 1], and whether
translating a scan twice gives the same bytes. The second, for one window: seconds of processor time
of a translation and of a training step beside those of the U-Net's recipe, and what the step keeps
for its gradients. OUT receives flows.md and samples.png: slices drawn from the flows' latents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour, Pairing
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.data.settings import Data
from medi2i.data.supply import batches
from medi2i.errors import Medi2iError, UsageError
from medi2i.experiment import read_config
from medi2i.figures import sheet
from medi2i.files import atomic_write, write_whole
from medi2i.inference.translate import run_model
from medi2i.model import Model, build_system, read_model
from medi2i.networks.invertible import Flow, standard_normal
from medi2i.systems import Translator
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.flow_disentangle import FlowDisentangle
from medi2i.systems.pix2pix_flow import Pix2pixFlow
from medi2i.task import Task

HERE = Path(__file__).resolve().parent
FLOWS = ("alignflow", "flow_deformation", "pix2pix_flow", "flow_disentangle")
TOGETHER = 8
"""Windows of a batch."""
TEMPERATURES = (0.0, 0.5, 0.7, 1.0)
MIB = 2**20


class Dense(Protocol):
    """What all flows here can be asked."""

    def bits(self, batch: Batch) -> dict[str, Tensor]:
        """Bits per dimension, (B,) by side."""

    def there_and_back(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What went in, and what came back."""


class Known(NamedTuple):
    """One row of the first table."""

    system: str
    bits: dict[str, tuple[float, float]]
    """By side: of people trained on, and held back."""
    back: float
    same: bool


class Cost(NamedTuple):
    """One row of the second: seconds and MiB."""

    name: str
    parameters: int
    translation: float
    step: float
    kept: float


def main(words: Sequence[str] | None = None) -> None:
    """Ask, time, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("comparison", type=Path, metavar="COMPARISON")
    parser.add_argument("--windows", type=int, default=64, help="of each split")
    parser.add_argument("--repeats", type=int, default=5, help="of each timing")
    parser.add_argument("--side", type=int, default=192, help="of the window that is timed, voxels")
    chosen = parser.parse_args(words)
    if min(chosen.windows, chosen.repeats) < 1 or chosen.side < 32 or chosen.side % 16:
        parser.error("--windows and --repeats must be at least 1, --side a multiple of 16")
    try:
        told = json.loads((chosen.comparison / "settings.json").read_text(encoding="utf-8"))
        models = {
            name: read_model(chosen.comparison / name / "last")
            for name in FLOWS
            if (chosen.comparison / name / "result.json").is_file()
        }
        if not models:
            raise UsageError(
                f'"{chosen.comparison}" holds no finished run of {", ".join(FLOWS)}: train one '
                "with pipelines/compare.py --systems"
            )
        rows = [ask(model, chosen, told) for model in models.values()]
        costs = measure(chosen.side, chosen.repeats)
        draw(models, int(told["size"]), chosen.out / "samples.png")
    except (Medi2iError, OSError) as error:
        sys.exit(str(error))
    text = f"{known_table(rows)}\n{cost_table(costs, chosen.side)}"
    write_whole(chosen.out / "flows.md", text)
    print(text)


def cohort_of(comparison: Path, told: dict[str, str]) -> Path:
    """The BIDS folder that a comparison learned from."""
    return comparison / "cohort" if told["data"] == "None" else Path(told["data"])


def ask(model: Model, chosen: argparse.Namespace, told: dict[str, str]) -> Known:
    """Bits and the way back, over windows; the bytes, of one scan held back."""
    cohort = find_cohort(cohort_of(chosen.comparison, told))
    system: Any = model.system
    flow: Dense = system
    data = Data(size=int(told["size"]), augmentation=Augmentation.none())
    bits: dict[str, list[float]] = {}
    back = 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        for split in ("train", "val"):
            here = cohort.split(split)
            windows = data.windows(here, model.task, model.view, Pairing.PAIRED)
            sums: dict[str, list[Tensor]] = {}
            for number, batch in enumerate(batches(windows, TOGETHER)):
                for side, found in flow.bits(batch).items():
                    sums.setdefault(side, []).append(found)
                one, other = flow.there_and_back(batch)
                back = max(back, float((one - other).abs().max()))
                if (number + 1) * TOGETHER >= chosen.windows:
                    break
            for side, each in sums.items():
                bits.setdefault(side, []).append(float(torch.cat(each).mean()))
    (source,), (target,) = model.task.pairs()[0]
    subject = next(iter(cohort.split("val").having((source, target))))
    same = translated_alike(model, load_together(subject, (source,)), target)
    return Known(model.system_name, {s: (b[0], b[1]) for s, b in bits.items()}, back, same)


def translated_alike(model: Model, scans: Any, target: Contrast) -> bool:
    """Whether two translations of a scan are the same bytes."""
    first, second = (
        run_model(model, scans, target, device="cpu").volume.voxels.tobytes() for _ in range(2)
    )
    return first == second


def measure(side: int, repeats: int) -> list[Cost]:
    """One window through the networks of the recipes, in turns; medians."""
    names = ("unet", *FLOWS)
    systems = {name: fresh(name) for name in names}
    told: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name in names if turn % 2 else names[::-1]:
            system = systems[name]
            batch = example(system, side)
            seconds = clocked(lambda s=system, b=batch: translate(s, b))  # type: ignore[misc]
            kept = Kept()
            step = clocked(lambda s=system, b=batch, k=kept: learn(s, b, k))  # type: ignore[misc]
            if turn:  # the first finds memory and the flows' beginnings
                told[name].append((seconds, step, kept.bytes / MIB))
    return [
        Cost(
            name,
            sum(p.numel() for p in systems[name].parameters()),
            *(statistics.median(each) for each in zip(*told[name], strict=True)),
        )
        for name in names
    ]


def fresh(name: str) -> Translator:
    """A system by its own recipe, from T1w to T2w."""
    config = read_config(HERE.parent / "configs" / f"{name}.yaml")
    task = Task((Contrast.T1W,), (Contrast.T2W,))
    return build_system(name, config.arguments, task, config.view)


def example(system: Translator, side: int) -> Batch:
    """One window of noise, with a neighbour that lies where it does."""
    slab = torch.rand(1, system.channels, side, side) * 2 - 1
    still = Neighbour(slab.clone(), torch.zeros(1, 2, side, side), torch.ones(1, 1, side, side))
    image = torch.rand(1, system.outputs, side, side) * 2 - 1
    many = image.repeat_interleave(system.slices, 1)
    beside = still if system.motion else None
    return Batch(
        slab,
        image,
        torch.ones(1, 1, side, side),
        target_slab=many,
        neighbour=beside,
        target_neighbour=beside,
    )


def translate(system: Translator, batch: Batch) -> None:
    """One translation, as inference does it."""
    system.eval()
    with torch.inference_mode():
        system.translate(batch.source)


class Kept:
    """Bytes that a step keeps for its gradients, parameters left out, each counted once."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Notice a tensor that is kept; hold it, so that its place is not used again."""
        if not isinstance(tensor, torch.nn.Parameter):
            self.seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    @property
    def bytes(self) -> int:
        """Of all that was noticed."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.seen.values())


def learn(system: Translator, batch: Batch, kept: Kept) -> None:
    """The first turn of a round: forwards and backwards, without the optimiser."""
    system.train()
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        turn = next(system.play(batch))
        turn.objective.backward()
    system.zero_grad(set_to_none=True)


def clocked(work: Callable[[], None]) -> float:
    """Seconds of processor time, of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def draw(models: dict[str, Model], size: int, path: Path) -> None:
    """Slices from latents drawn at several temperatures; the same random numbers for each."""
    tiles = {}
    with torch.inference_mode():
        for name, model in models.items():
            flow = flow_of(model.system)
            if flow is None:  # its latents mean nothing without a source
                continue
            shapes = [
                z.shape for z in flow(torch.zeros(1, flow_channels(model.system), size, size))[0]
            ]
            for temperature in TEMPERATURES:
                torch.manual_seed(1)
                image, _ = flow.inverse(standard_normal(shapes, temperature=temperature))
                tiles[f"{name} {temperature:g}"] = image[0, 0].clamp(-1, 1).numpy()
    if not tiles:
        return
    scaled = {title: (np.asarray(tile) + 1) / 2 for title, tile in tiles.items()}
    page = sheet(scaled, spacing=(1.0, 1.0), note="drawn from the target's flow, by temperature")
    atomic_write(path, lambda stream: page.save(stream, format="PNG"), overwrite=True)


def flow_of(system: Translator) -> Flow | None:
    """The flow of the target, where it needs no condition."""
    if isinstance(system, AlignFlow | Pix2pixFlow):
        flow: Flow = system.flow_b
        return flow
    if not isinstance(system, FlowDisentangle):
        raise UsageError(f"{type(system).__name__} is no flow")
    return None


def flow_channels(system: Translator) -> int:
    """Channels of an image that the flow of the target takes."""
    return system.channels if isinstance(system, AlignFlow) else system.outputs


def known_table(rows: Sequence[Known]) -> str:
    """Bits, the way back, the bytes."""
    lines = [
        "| | bits per dimension: trained on | held back | there and back | twice the same |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        seen, unseen = (
            ", ".join(f"{side} {both[place]:.2f}" for side, both in row.bits.items())
            for place in (0, 1)
        )
        same = "yes" if row.same else "no"
        lines.append(f"| {row.system} | {seen} | {unseen} | {row.back:.1e} | {same} |")
    return "\n".join(lines) + "\n"


def cost_table(costs: Sequence[Cost], side: int) -> str:
    """Seconds and memory, and as multiples of the first row."""
    first = costs[0]
    lines = [
        f"One window of {side} x {side}, networks of the recipes, processor time:",
        "",
        "| | parameters | translation, s | step, s | kept for gradients, MiB | x U-Net |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for cost in costs:
        ratios = (
            cost.translation / first.translation,
            cost.step / first.step,
            cost.kept / first.kept,
        )
        count = f"{cost.parameters:,}".replace(",", " ")
        lines.append(
            f"| {cost.name} | {count} | {cost.translation:.3f} | {cost.step:.3f} | "
            f"{cost.kept:.0f} | {' / '.join(f'{ratio:.1f}' for ratio in ratios)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
