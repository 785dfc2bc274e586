"""One way to translate a scan, measured in a process of its own; see benchmark.py.

python pipelines/benchmark_translate.py METHOD FOLDER [--model default] [--size X Y Z | --scan FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from medi2i import Contrast, Model

STAGES = ("load", "normalise", "engine", "network", "stitch", "save")
OURS = "medi2i"


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.at_start = peak_memory()
        self.cpu = time.process_time()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens within the block."""
        began = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - began

    def result(self) -> dict[str, float]:
        """What a child reports."""
        total, peak = sum(self.seconds.values()), peak_memory()
        return {
            **{f"{stage}, s": seconds for stage, seconds in self.seconds.items()},
            "in all, s": total,
            "processor, s": time.process_time() - self.cpu,
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


class Network:
    """The model's network as a script of one's own would call it.

    Attributes:
        slices: neighbouring slices that it sees; 0 where it takes patches.
    """

    def __init__(self, model: Model, device: str, clock: Clock) -> None:
        import torch

        self.where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self.model, self.clock = model, clock
        self.slices = model.view.slices if model.view.dims == 2 else 0
        self._system = model.system.to(self.where).eval()
        _, target = source_and_target(model)
        self._wanted = model.task.targets.index(target)

    def __call__(self, windows: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, 1, *spatial); the last axis is 1 for slices, and may be."""
        import torch

        with self.clock("network"):
            which = torch.full((len(windows),), self._wanted, device=windows.device)
            condition = which if self.model.task.on_demand else None
            flat = windows[..., 0] if self.slices else windows
            output = self._system.translate(flat, target=condition)
            if windows.is_cuda:
                torch.cuda.synchronize()
        channel = 0 if self.model.task.on_demand else self._wanted
        output = output[:, channel : channel + 1]
        return output[..., None] if self.slices else output

    def window(self, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
        """Its windows in a volume of this shape, and as many at once as medi2i takes."""
        if not self.slices:
            patch = self.model.view.patch
            return (patch, patch, patch), 1
        return (shape[0], shape[1], 1), max(1, 2**19 // (shape[0] * shape[1]))


def source_and_target(model: Model) -> tuple[Contrast, Contrast]:
    """The first translation of the model, which must need one scan alone."""
    sources, targets = model.task.pairs()[0]
    if len(sources) != 1:
        sys.exit(f'model "{model.name}" needs {len(sources)} scans; one of a single source is due')
    return sources[0], targets[0]


def make_scan(folder: Path, model: Model, what: tuple[int, int, int] | Path) -> dict[str, Any]:
    """A simulated head of the wanted size, at 1 mm, skull on and with noise in its air; or a scan.

    Args:
        what: the size, or the file of a scan of the model's first source.
    """
    import os
    import platform

    import torch

    from medi2i import load_volume, save_volume
    from medi2i.simulate import phantom

    source, target = source_and_target(model)
    if isinstance(what, Path):
        volume, dtype = load_volume(what), "float32"
    else:
        volume, dtype = phantom(0, contrasts=[source], shape=what)[source], "int16"
    save_volume(volume, folder / "scan.nii.gz", dtype=dtype, overwrite=True)
    return {
        "translation": f"{source}->{target}",
        "model": model.name,
        "parameters": model.parameters,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} with {os.cpu_count()} cores",
    }


def with_medi2i(folder: Path, model: Model, device: str, engine: str) -> dict[str, float]:
    """What ``medi2i translate`` does, without the side-car."""
    from medi2i import load_volume, save_volume
    from medi2i.inference.engines import EngineName
    from medi2i.inference.translate import run_model

    source, target = source_and_target(model)
    clock = Clock()
    with clock("load"):
        volume = load_volume(folder / "scan.nii.gz")
    result = run_model(model, {source: volume}, target, device=device, engine=EngineName(engine))
    clock.seconds |= result.seconds
    with clock("save"):
        place = folder / f"scan_{OURS}-{engine}.nii.gz"
        save_volume(result.volume, place, overwrite=True)
    return clock.result()


def with_monai(folder: Path, model: Model, device: str) -> dict[str, float]:
    """The same network in the transforms and the inferer that a MONAI user would reach for."""
    import numpy as np
    from monai.data import MetaTensor  # type: ignore[attr-defined]
    from monai.inferers import SlidingWindowInferer  # type: ignore[attr-defined]
    from monai.transforms import (  # type: ignore[attr-defined]
        EnsureChannelFirst,
        LoadImage,
        SaveImage,
        ScaleIntensityRange,
    )

    clock = Clock()
    network = Network(model, device, clock)
    with clock("load"):
        image: Any = LoadImage(image_only=True)(folder / "scan.nii.gz")
        image = EnsureChannelFirst()(image)
    with clock("normalise"):
        low, high = np.percentile(image.numpy(), (0.5, 99.5))
        scaled: Any = ScaleIntensityRange(low, high, -1, 1)(image)
        volume = scaled.as_tensor()[None].to(network.where)
    began = time.perf_counter()
    roi, batch = network.window(tuple(volume.shape[2:]))
    if network.slices:
        volume = with_neighbours(volume, network.slices)
        inferer = SlidingWindowInferer(roi, sw_batch_size=batch, overlap=0)
    else:
        overlap = model.view.overlap
        inferer = SlidingWindowInferer(roi, sw_batch_size=1, overlap=overlap, mode="gaussian")
    output = inferer(volume, network)
    clock.seconds["stitch"] = time.perf_counter() - began - clock.seconds["network"]
    with clock("normalise"):
        voxels = ScaleIntensityRange(-1, 1, low, high)(output[0].cpu())
    with clock("save"):
        save = SaveImage(
            folder,
            output_postfix="MONAI",
            output_dtype=np.float32,
            separate_folder=False,
            resample=False,
            print_log=False,
        )
        save(MetaTensor(voxels, meta=image.meta))
    return clock.result()


def with_torchio(folder: Path, model: Model, device: str) -> dict[str, float]:
    """The same network between torchio's sampler of a grid and its aggregator."""
    import torchio as tio
    from torch.utils.data import DataLoader

    clock = Clock()
    network = Network(model, device, clock)
    with clock("load"):
        image = tio.ScalarImage(folder / "scan.nii.gz")
        image.load()
    with clock("normalise"):
        scaled, low, high = scaled_like_others(image.data[0].numpy())
        volume = with_neighbours(scaled[None, None], max(1, network.slices))[0]
        subject = tio.Subject(scan=tio.ScalarImage(tensor=volume, affine=image.affine))
    began = time.perf_counter()
    roi, batch = network.window(tuple(volume.shape[1:]))
    overlap = 0 if network.slices else 2 * int(model.view.patch * model.view.overlap / 2)
    sampler: Any = tio.GridSampler(subject, roi, overlap)
    aggregator = tio.GridAggregator(sampler, overlap_mode="hann" if overlap else "crop")
    for windows in DataLoader(sampler, batch_size=batch):
        seen = windows["scan"][tio.DATA].to(network.where)
        aggregator.add_batch(network(seen).cpu(), windows[tio.LOCATION])
    output = aggregator.get_output_tensor()
    clock.seconds["stitch"] = time.perf_counter() - began - clock.seconds["network"]
    with clock("normalise"):
        voxels = (output + 1) / 2 * (high - low) + low
    with clock("save"):
        result = tio.ScalarImage(tensor=voxels.float(), affine=image.affine)
        result.save(folder / "scan_torchio.nii.gz")
    return clock.result()


def by_slices(folder: Path, model: Model, device: str) -> dict[str, float]:
    """One slice after the other, as test scripts of published systems have it."""
    import nibabel as nib
    import numpy as np

    clock = Clock()
    network = Network(model, device, clock)
    if not network.slices:
        sys.exit(f'model "{model.name}" takes patches; "slices" is for one of slices')
    with clock("load"):
        image: Any = nib.load(folder / "scan.nii.gz")
        data = image.get_fdata()
    with clock("normalise"):
        scaled, low, high = scaled_like_others(data)
        volume = with_neighbours(scaled[None, None], network.slices).to(network.where)
    began, slices = time.perf_counter(), []
    for z in range(volume.shape[-1]):
        slices.append(network(volume[..., z : z + 1])[0, 0, :, :, 0].cpu().numpy())
    output = np.stack(slices, axis=-1)
    clock.seconds["stitch"] = time.perf_counter() - began - clock.seconds["network"]
    with clock("normalise"):
        voxels = (output + 1) / 2 * (high - low) + low
    with clock("save"):
        nib.save(nib.Nifti1Image(voxels, image.affine), folder / "scan_slices.nii.gz")
    return clock.result()


OTHERS: dict[str, Callable[[Path, Model, str], dict[str, float]]] = {
    "MONAI": with_monai,
    "torchio": with_torchio,
    "slices": by_slices,
}
"""Methods that are not ours; ours are "medi2i-" and the name of an engine."""


def scaled_like_others(voxels: NDArray[Any]) -> tuple[Tensor, float, float]:
    """Intensities from two percentiles to [-1, 1]."""
    import numpy as np
    import torch

    low, high = (float(value) for value in np.percentile(voxels, (0.5, 99.5)))
    scaled = (voxels.astype(np.float32) - low) / (high - low) * 2 - 1
    return torch.from_numpy(scaled), low, high


def with_neighbours(volume: Tensor, slices: int) -> Tensor:
    """(1, 1, X, Y, Z) -> (1, slices, X, Y, Z): each slice's neighbours as channels."""
    import torch

    last = volume.shape[-1] - 1
    steps = range(-(slices // 2), slices // 2 + 1)
    places = [(torch.arange(last + 1) + step).clamp(0, last) for step in steps]
    return torch.cat([volume[..., place.to(volume.device)] for place in places], dim=1)


def agreement(folder: Path) -> dict[str, float]:
    """Correlation of every method's scan with the first one's: they differ in scaling alone."""
    import numpy as np

    from medi2i import load_volume

    made = {path.name[5:-7]: load_volume(path).voxels for path in folder.glob("scan_*.nii.gz")}
    first = made[min(made, key=lambda name: (not name.startswith(OURS), name))].ravel()
    return {
        name: round(float(np.corrcoef(first, one.ravel())[0, 1]), 5) for name, one in made.items()
    }


def main() -> None:
    """Do one thing, print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("method", help='"scan", "agreement", a method')
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--size", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--scan", type=Path, help="instead of a simulated one")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    if chosen.method == "agreement":
        print(json.dumps(agreement(chosen.folder)))
        return
    import torch

    from medi2i import load_model

    try:
        model, method = load_model(chosen.model), chosen.method
        if method == "scan":
            what = chosen.scan or tuple(chosen.size)
            print(json.dumps(make_scan(chosen.folder, model, what)))
        elif method.startswith(f"{OURS}-"):
            engine = method.removeprefix(f"{OURS}-")
            print(json.dumps(with_medi2i(chosen.folder, model, chosen.device, engine)))
        else:
            with torch.inference_mode():
                print(json.dumps(OTHERS[method](chosen.folder, model, chosen.device)))
    except ValueError as error:  # what medi2i refuses is a ValueError
        sys.exit(str(error))


if __name__ == "__main__":
    main()
