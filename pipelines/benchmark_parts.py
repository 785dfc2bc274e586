"""Training, scores and files beside other ways to do the same; see benchmark.py.

python pipelines/benchmark_parts.py train|scores|files|limit [--repeats 3]

Prints the turns as JSON: in each, every way is measured once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medi2i.batch import Batch
    from medi2i.training.plan import Plan

Turn = dict[str, dict[str, float]]
SIDE = 128
"""Voxels along a slice that is trained on."""
STEPS = 3
"""In a turn; the first is not counted."""
NARROW: dict[str, dict[str, int]] = {
    "pix2pix": {"depth": 7},
    "cyclegan": {"features": 32, "patch_features": 32},
}
"""What else the systems are built with; pix2pix is as wide as published, CycleGAN half."""


class Watch:
    """Seconds since it was made, by the clock and of the processor."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self, shared_by: int = 1) -> dict[str, float]:
        """So far, of each of those that shared them."""
        now, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return {"s": now / shared_by, "processor, s": cpu / shared_by}


def train(repeats: int) -> Iterator[Turn]:
    """A round of our trainer, with its average of weights, and of a loop as scripts have it."""
    import torch

    from medi2i.batch import Batch
    from medi2i.systems import SYSTEMS
    from medi2i.training.plan import Plan

    source, target = torch.rand((2, 1, 1, SIDE, SIDE)) * 2 - 1
    batch = Batch(source, target, target_slab=target)
    plan = Plan(rounds=STEPS, log_every=0, validate_every=0, checkpoint_every=0, batch_size=1)
    for _ in range(repeats):
        turn: Turn = {}
        for name, loop in (("pix2pix", plain_pix2pix), ("cyclegan", plain_cyclegan)):
            turn[f"medi2i, {name}"] = by_trainer(SYSTEMS[name](**NARROW[name]), batch, plan)
            step = loop(SYSTEMS[name](**NARROW[name]).train(), source, target)
            step()
            watch = Watch()
            for _ in range(STEPS - 1):
                step()
            turn[f"plain loop, {name}"] = watch.seconds(STEPS - 1)
        yield turn


def by_trainer(system: Any, batch: Batch, plan: Plan) -> dict[str, float]:
    """Seconds of a round of the trainer, the first one left out."""
    from medi2i.training.trainer import Trainer

    watches: list[Watch] = []
    measured: dict[str, float] = {}

    def told(_: object) -> None:
        if watches:
            measured.update(watches[0].seconds(STEPS - 1))
        else:
            watches.append(Watch())

    with tempfile.TemporaryDirectory() as folder:
        Trainer(system, lambda _: repeat(batch), plan, Path(folder), watch=told).run()
    return measured


def plain_pix2pix(system: Any, a: Any, b: Any) -> Callable[[], None]:
    """A step of pix2pix as it is usually written, with the same networks."""
    import torch
    from torch.nn import functional

    draw, judge = system.generator, system.discriminator
    for_draw, for_judge = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (draw, judge)
    )
    entropy = functional.binary_cross_entropy_with_logits

    def step() -> None:
        fake = draw(a)
        judge.requires_grad_(True)
        for_judge.zero_grad()
        no, yes = judge(torch.cat((a, fake.detach()), 1)), judge(torch.cat((a, b), 1))
        loss = (entropy(no, torch.zeros_like(no)) + entropy(yes, torch.ones_like(yes))) / 2
        loss.backward()
        for_judge.step()
        judge.requires_grad_(False)
        for_draw.zero_grad()
        said = judge(torch.cat((a, fake), 1))
        loss = entropy(said, torch.ones_like(said)) + 100 * functional.l1_loss(fake, b)
        loss.backward()
        for_draw.step()

    return step


def plain_cyclegan(system: Any, a: Any, b: Any) -> Callable[[], None]:
    """A step of CycleGAN as it is usually written, with the same networks and histories."""
    import itertools

    import torch
    from torch.nn import functional

    draws, judges = (system.a_to_b, system.b_to_a), (system.judge_a, system.judge_b)
    for_draws, for_judges = (
        torch.optim.Adam(
            itertools.chain(*(network.parameters() for network in pair)), 2e-4, (0.5, 0.999)
        )
        for pair in (draws, judges)
    )

    def square(said: Any, value: float) -> Any:
        return functional.mse_loss(said, torch.full_like(said, value))

    def step() -> None:
        (to_b, to_a), (judge_a, judge_b) = draws, judges
        fake_b, fake_a = to_b(a), to_a(b)
        back_a, back_b = to_a(fake_b), to_b(fake_a)
        for judge in judges:
            judge.requires_grad_(False)
        for_draws.zero_grad()
        same = functional.l1_loss(to_b(b), b) + functional.l1_loss(to_a(a), a)
        cycle = functional.l1_loss(back_a, a) + functional.l1_loss(back_b, b)
        loss = square(judge_b(fake_b), 1) + square(judge_a(fake_a), 1) + 10 * cycle + 5 * same
        loss.backward()
        for_draws.step()
        for judge in judges:
            judge.requires_grad_(True)
        for_judges.zero_grad()
        for judge, real, pool, fake in (
            (judge_a, a, system.pool_a, fake_a),
            (judge_b, b, system.pool_b, fake_b),
        ):
            old = pool(fake.detach())
            ((square(judge(real), 1) + square(judge(old), 0)) / 2).backward()
        for_judges.step()

    return step


def scores(repeats: int) -> Iterator[Turn]:
    """SSIM of 160 x 192 x 160 voxels: Gaussian window of 11 taps; value beside the time."""
    import importlib.util

    import numpy as np
    import torch
    from scipy.ndimage import gaussian_filter
    from skimage.metrics import structural_similarity

    from medi2i.metrics import ssim

    random = np.random.default_rng(0)
    one = gaussian_filter(random.random((160, 192, 160), np.float32), 2)
    one = (one - one.min()) / np.ptp(one)
    other = (one + 0.02 * random.standard_normal(one.shape, np.float32)).clip(0, 1)
    x, y = (torch.from_numpy(image)[None, None] for image in (one, other))
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}

    def by_skimage(kind: type) -> float:
        pair = (image.astype(kind) for image in (one, other))
        return float(structural_similarity(*pair, data_range=1.0, **how)[1].mean(dtype=float))

    def by_monai() -> Any:
        from monai.metrics import SSIMMetric  # type: ignore[attr-defined]

        return SSIMMetric(spatial_dims=3, data_range=1.0)(x, y)

    def by_torchmetrics() -> Any:
        from torchmetrics.functional.image import structural_similarity_index_measure

        return structural_similarity_index_measure(x, y, data_range=1.0)

    ways: dict[str, Callable[[], Any]] = {
        "medi2i": lambda: ssim(one, other, data_range=1.0),
        "scikit-image, float32": lambda: by_skimage(np.float32),
        "scikit-image, float64": lambda: by_skimage(np.float64),
        "MONAI": by_monai,
    }
    if importlib.util.find_spec("torchmetrics") is not None:
        ways["torchmetrics"] = by_torchmetrics
    yield from in_turns(ways, repeats, "SSIM")


def files(repeats: int) -> Iterator[Turn]:
    """Reading and writing 240 x 240 x 155 voxels as .nii.gz: int16, and float32 as results are."""
    import numpy as np

    from medi2i import load_volume, save_volume
    from medi2i.contrasts import Contrast
    from medi2i.simulate import phantom

    volume = phantom(0, contrasts=[Contrast.T1W], shape=(240, 240, 155))[Contrast.T1W]
    noise = np.random.default_rng(0).random(volume.shape, np.float32)
    result = volume.like(np.where(volume.voxels > 0, volume.voxels + noise, 0))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "scan.nii.gz"
        save_volume(volume, place, dtype="int16")
        yield from in_turns(
            {
                "medi2i, read": lambda: load_volume(place).voxels.max(),
                "nibabel, read": lambda: read_by_nibabel(place).max(),
                "medi2i, write": lambda: size_of(
                    save_volume(result, Path(name) / "ours.nii.gz", overwrite=True)
                ),
                "nibabel, write": lambda: size_of(
                    write_by_nibabel(result, Path(name) / "theirs.nii.gz")
                ),
            },
            repeats,
            "value",
        )


def read_by_nibabel(place: Path) -> Any:
    """Voxels in float32."""
    import nibabel as nib

    image: Any = nib.load(place)
    return image.get_fdata(dtype="float32")


def write_by_nibabel(volume: Any, place: Path) -> Path:
    """As nibabel writes by default."""
    import nibabel as nib

    nib.save(nib.Nifti1Image(volume.voxels, volume.affine), place)
    return place


def size_of(place: Path) -> float:
    """MiB of a file."""
    return place.stat().st_size / 2**20


def limit(repeats: int, model: str = "default", device: str = "auto") -> Iterator[Turn]:
    """Each engine's share of the rate of matrix products: `medi2i info --benchmark`."""
    from medi2i import load_model
    from medi2i.inference.speed import measure

    speeds = measure(load_model(model), device=device, turns=repeats)
    yield {
        one.name: {"s": one.seconds, "GFLOP/s": one.rate / 1e9, "of matmul": one.share}
        for one in speeds
        if not one.problem
    }


def in_turns(ways: dict[str, Callable[[], Any]], repeats: int, value: str) -> Iterator[Turn]:
    """Every way once in each turn, and before that once to warm up; what it gives is told too."""
    for number in range(repeats + 1):
        turn: Turn = {}
        for name, way in ways.items():
            watch = Watch()
            given = float(way())
            turn[name] = {**watch.seconds(), value: given}
        if number:
            yield turn


PARTS: dict[str, Callable[[int], Iterator[Turn]]] = {
    "train": train,
    "scores": scores,
    "files": files,
    "limit": limit,
}


def main() -> None:
    """Do one part, print its turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    more = (chosen.model, chosen.device) if chosen.part == "limit" else ()
    print(json.dumps(list(PARTS[chosen.part](chosen.repeats, *more))))


if __name__ == "__main__":
    main()
