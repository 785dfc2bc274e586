"""Seconds and memory to translate a scan, beside a plain MONAI script with the same network.

    python pipelines/benchmark.py --model default --size 240 240 155 --repeats 3

Every run is a process of its own, so that its peak memory is its own; the two methods take turns.
Seconds are medians over the repeats, ratios the median of each turn's ratio. Imports and loading
the model are not counted: a folder of scans pays for them once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from medi2i import Contrast, Model

STAGES = ("load", "normalise", "network", "stitch", "save")
METHODS = ("medi2i", "MONAI")


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="default", help="name or folder of a model")
    parser.add_argument("--size", type=int, nargs=3, default=(240, 240, 155), metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="keep the scan and both translations here")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--child", choices=["scan", *METHODS, "agreement"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.repeats < 1:
        parser.error("--repeats must be at least 1")
    if chosen.child:
        children: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
            "scan": make_scan,
            "medi2i": translate_with_medi2i,
            "MONAI": translate_with_monai,
            "agreement": agreement,
        }
        try:
            print(json.dumps(children[chosen.child](chosen)))
        except ValueError as error:  # what medi2i refuses is a ValueError
            sys.exit(str(error))
        return
    with tempfile.TemporaryDirectory() as scratch:
        chosen.out = chosen.out or Path(scratch)
        record = measure(chosen)
    print(as_markdown(record))
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All runs, and what follows from them."""
    # This process stays small: on Linux a child's peak memory starts with that of its parent.
    about = {**in_child("scan", chosen), "repeats": chosen.repeats}
    runs: list[dict[str, dict[str, Any]]] = []
    for turn in range(chosen.repeats):
        order = METHODS if turn % 2 == 0 else METHODS[::-1]
        runs.append({method: in_child(method, chosen) for method in order})
        print(f"turn {turn + 1} of {chosen.repeats} done", file=sys.stderr)
    about |= in_child("agreement", chosen)
    medians = {
        method: {key: statistics.median(run[method][key] for run in runs) for key in measured}
        for method, measured in runs[0].items()
    }
    ratios = {
        key: statistics.median(run[METHODS[0]][key] / run[METHODS[1]][key] for run in runs)
        for key in medians[METHODS[0]]
        if all(run[METHODS[1]][key] for run in runs)
    }
    return {"about": about, "medians": medians, "ratios": ratios, "runs": runs}


def in_child(task: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run one task in a process of its own; the last line that it prints is its result."""
    command = [sys.executable, __file__, "--child", task, "--model", chosen.model]
    command += ["--size", *map(str, chosen.size), "--device", chosen.device]
    command += ["--out", str(chosen.out)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if run.returncode:  # it has said why
        sys.exit(run.returncode)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def as_markdown(record: dict[str, Any]) -> str:
    """A table of medians and ratios."""
    lines = [
        ", ".join(f"{key} {value}" for key, value in record["about"].items()),
        "",
        f"| | {' | '.join(METHODS)} | {METHODS[0]} / {METHODS[1]} |",
        "|---|---:|---:|---:|",
    ]
    for key in record["medians"][METHODS[0]]:
        pattern = "{:.0%}" if "share" in key else "{:.0f}" if "MiB" in key else "{:.2f}"
        cells = [pattern.format(record["medians"][method][key]) for method in METHODS]
        ratio = f"{record['ratios'][key]:.2f}" if key in record["ratios"] else ""
        lines.append(f"| {key} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.at_start = peak_memory()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens within the block."""
        began = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - began

    def result(self) -> dict[str, Any]:
        """What a child reports."""
        total, peak = sum(self.seconds.values()), peak_memory()
        return {
            **{f"{stage}, s": seconds for stage, seconds in self.seconds.items()},
            "in all, s": total,
            "network's share": self.seconds["network"] / total,
            "peak memory, MiB": peak,
            "of it above imports and model, MiB": peak - self.at_start,
        }


def peak_memory() -> float:
    """MiB that this process has held at most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def source_and_target(model: Model) -> tuple[Contrast, Contrast]:
    """The first translation of the model, which must need one scan alone."""
    sources, targets = model.task.pairs()[0]
    if len(sources) != 1:
        sys.exit(f'model "{model.name}" needs {len(sources)} scans; one of a single source is due')
    return sources[0], targets[0]


def make_scan(chosen: argparse.Namespace) -> dict[str, Any]:
    """A simulated head of the wanted size, at 1 mm."""
    import os
    import platform

    import torch

    from medi2i import load_model, save_volume
    from medi2i.simulate import phantom

    model = load_model(chosen.model)
    source, target = source_and_target(model)
    volume = phantom(0, contrasts=[source], shape=tuple(chosen.size))[source]
    save_volume(volume, chosen.out / "scan.nii.gz", dtype="int16", overwrite=True)
    return {
        "scan": " x ".join(map(str, chosen.size)),
        "translation": f"{source}->{target}",
        "model": model.name,
        "parameters": model.parameters,
        "torch": str(torch.__version__),
        "device": "cuda" if chosen.device != "cpu" and torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} with {os.cpu_count()} cores",
    }


def translate_with_medi2i(chosen: argparse.Namespace) -> dict[str, Any]:
    """What ``medi2i translate`` does, without the side-car."""
    from medi2i import load_model, load_volume, save_volume
    from medi2i.inference.translate import run_model

    model = load_model(chosen.model)
    source, target = source_and_target(model)
    clock = Clock()
    with clock("load"):
        volume = load_volume(chosen.out / "scan.nii.gz")
    translation = run_model(model, {source: volume}, target, device=chosen.device)
    clock.seconds |= translation.seconds
    with clock("save"):
        save_volume(translation.volume, chosen.out / "scan_medi2i.nii.gz", overwrite=True)
    return clock.result()


def translate_with_monai(chosen: argparse.Namespace) -> dict[str, Any]:
    """The same network in the transforms and the inferer that a MONAI user would reach for."""
    import numpy as np
    import torch
    from monai.data import MetaTensor  # type: ignore[attr-defined]
    from monai.inferers import SlidingWindowInferer  # type: ignore[attr-defined]
    from monai.transforms import (  # type: ignore[attr-defined]
        EnsureChannelFirst,
        LoadImage,
        SaveImage,
        ScaleIntensityRange,
    )

    from medi2i import load_model

    model = load_model(chosen.model)
    _, target = source_and_target(model)
    wanted = model.task.targets.index(target)
    device = "cuda" if chosen.device != "cpu" and torch.cuda.is_available() else "cpu"
    network = model.system.to(device).eval()
    flat = model.view.dims == 2
    clock = Clock()

    def predict(windows: Tensor) -> Tensor:
        with clock("network"):
            which = torch.full((len(windows),), wanted, device=windows.device)
            condition = which if model.task.on_demand else None
            output = network.translate(windows[..., 0] if flat else windows, target=condition)
            if windows.is_cuda:
                torch.cuda.synchronize()
        channel = 0 if model.task.on_demand else wanted
        output = output[:, channel : channel + 1]
        return output[..., None] if flat else output

    with torch.inference_mode():
        with clock("load"):
            image: Any = LoadImage(image_only=True)(chosen.out / "scan.nii.gz")
            image = EnsureChannelFirst()(image)
        with clock("normalise"):
            low, high = np.percentile(image.numpy(), (0.5, 99.5))
            scale = ScaleIntensityRange(low, high, -1, 1)
            scaled: Any = scale(image)
            volume = scaled.as_tensor()[None].to(device)
        began = time.perf_counter()
        if flat:
            volume = with_neighbours(volume, model.view.slices)
            roi: Sequence[int] = (*volume.shape[2:4], 1)
            batch = max(1, 2**19 // (roi[0] * roi[1]))  # as many slices at once as medi2i takes
            inferer = SlidingWindowInferer(roi, sw_batch_size=batch, overlap=0)
        else:
            roi = (model.view.patch,) * 3
            inferer = SlidingWindowInferer(
                roi, sw_batch_size=1, overlap=model.view.overlap, mode="gaussian"
            )
        output = inferer(volume, predict)
        clock.seconds["stitch"] = time.perf_counter() - began - clock.seconds["network"]
        with clock("normalise"):
            voxels = ScaleIntensityRange(-1, 1, low, high)(output[0].cpu())
        with clock("save"):
            save = SaveImage(
                chosen.out,
                output_postfix="monai",
                output_dtype=np.float32,
                separate_folder=False,
                resample=False,
                print_log=False,
            )
            save(MetaTensor(voxels, meta=image.meta))
    return clock.result()


def agreement(chosen: argparse.Namespace) -> dict[str, Any]:
    """Whether both did the same work: they differ in how they scale intensities alone."""
    import numpy as np

    from medi2i import load_volume

    one, other = (
        load_volume(chosen.out / f"scan_{method.lower()}.nii.gz").voxels for method in METHODS
    )
    correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    return {"correlation of both translations": round(float(correlation), 5)}


def with_neighbours(volume: Tensor, slices: int) -> Tensor:
    """(1, 1, X, Y, Z) -> (1, slices, X, Y, Z): each slice's neighbours as channels."""
    import torch

    last = volume.shape[-1] - 1
    steps = range(-(slices // 2), slices // 2 + 1)
    places = [(torch.arange(last + 1) + step).clamp(0, last) for step in steps]
    return torch.cat([volume[..., place.to(volume.device)] for place in places], dim=1)


if __name__ == "__main__":
    main()
