"""From a volume to a volume: normalise, cut, translate, stitch, un-normalise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medi2i.contrasts import Contrast, contrast_of
from medi2i.errors import ContrastError, InputError, UsageError
from medi2i.model import Model
from medi2i.normalise import Scaling, fit
from medi2i.resolution import resize, working_shape
from medi2i.systems import Translator
from medi2i.volume import Volume, load_volume
from medi2i.zoo import find_model, load_model

__all__ = ["Translation", "choose_device", "run_model", "translate"]

Scan = Volume | str | Path
Scans = Scan | Sequence[Scan] | Mapping[str, Scan] | Mapping[Contrast, Scan]
Watch = Callable[[int, int], None]

WINDOW_VOXELS = 2**19
"""Voxels that go through the network at once unless a batch size is given: eight slices of
256 x 256, which keeps a processor's cache warm and a GPU busy enough."""


@dataclass(frozen=True)
class Translation:
    """A synthetic volume and how it came about.

    Attributes:
        volume: on the source's grid and axes.
        scaling: the fitted numbers of each source contrast, by name.
        working_shape: at which the network saw the scan.
        warnings: sentences for the side-car.
        seconds: by stage: normalise, network, stitch.
    """

    volume: Volume
    scaling: Mapping[str, Scaling]
    working_shape: tuple[int, int, int]
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def translate(
    scan: Scans,
    *,
    to: str | Contrast,
    source: str | Contrast | None = None,
    model: str | Path | Model | None = None,
    device: str = "auto",
    batch_size: int | None = None,
) -> Volume:
    """Turn one contrast of a head into another.

    Args:
        scan: a volume or a path; several, for a model that needs several contrasts; or a mapping
            from contrast to scan.
        to: the contrast wanted: "t2", "T2w", "flair", ...
        source: the contrast of `scan`, where its name or side-car does not say.
        model: a shipped model's name, a model folder, or a loaded model; by default the shipped
            model that does it.
        device: "auto", "cpu" or "cuda".
        batch_size: windows that go through the network at once.

    Returns:
        The synthetic scan, on the grid of the (first) source and on its intensity scale.

    Raises:
        ContrastError: a contrast is unknown or not served. InputError: a scan cannot be used.
        ModelError: the model cannot.

    In a notebook::

        import medi2i

        t2 = medi2i.translate("sub-01_T1w.nii.gz", to="t2")
        medi2i.save_volume(t2, "sub-01_desc-synth_T2w.nii.gz")
    """
    target = Contrast.parse(to)
    scans = _by_contrast(scan, source)
    if model is None:
        model = find_model(tuple(scans), target)
    loaded = model if isinstance(model, Model) else load_model(model)
    volumes = {
        contrast: one if isinstance(one, Volume) else load_volume(one)
        for contrast, one in scans.items()
    }
    result = run_model(loaded, volumes, target, device=device, batch_size=batch_size)
    return result.volume


def run_model(
    model: Model,
    scans: Mapping[Contrast, Volume],
    target: Contrast,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    watch: Watch | None = None,
) -> Translation:
    """Translate loaded volumes with a loaded model.

    Args:
        model: moved to the device.
        scans: by contrast; brought onto the grid of the first by their world coordinates.
        target: the contrast wanted.
        device, batch_size: as in :func:`translate`.
        watch: called with (windows done, windows in all).

    Raises:
        ContrastError: the model does not turn these contrasts into that one.
    """
    sources = tuple(c for c in model.task.sources if c in scans) or tuple(scans)
    check_task(model, sources, target)
    stopwatch = _Stopwatch()
    where = choose_device(device)
    system = model.system.to(where).eval()
    if where.type == "cpu" and model.view.dims == 2:
        system = system.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    original = scans[sources[0]]
    reference = original.canonical()
    with stopwatch("normalise"):
        scaling: dict[str, Scaling] = {}
        normalised = np.empty((len(sources), *reference.shape), np.float32)
        for place, contrast in enumerate(sources):
            volume = reference if place == 0 else scans[contrast].resampled_onto(reference)
            fitted = fit(model.normaliser, volume.voxels, name=volume.name)
            scaling[str(contrast)] = fitted
            normalised[place] = fitted.apply(volume.voxels)
        tensor = torch.from_numpy(normalised).to(where)
        air = _air(tensor) if model.normaliser == "robust" else None
        shape = working_shape(
            reference.shape, reference.spacing, model.view.spacing, model.view.axes
        )
        tensor = resize(tensor, shape)

    output = _windows(model, system, tensor, target, batch_size, watch, stopwatch)

    with stopwatch("stitch"):
        output = resize(output[None], reference.shape)[0]
        if air is not None:
            output.masked_fill_(air, -1.0)
        voxels: NDArray[np.float32] = scaling[str(sources[0])].invert(output.cpu().numpy())
        if model.normaliser == "robust" and reference.voxels.min() >= 0:
            np.maximum(voxels, 0, out=voxels)  # a magnitude image stays one
        result = reference.like(voxels, name="").oriented_as(original)
    return Translation(result, scaling, shape, (), stopwatch.seconds)


def _windows(
    model: Model,
    system: Translator,
    tensor: Tensor,
    target: Contrast,
    batch_size: int | None,
    watch: Watch | None,
    stopwatch: _Stopwatch,
) -> Tensor:
    """(C, X, Y, Z) -> (X, Y, Z): every window through the network, and back in its place."""
    grid = model.view.grid(tensor.shape[1:])
    if batch_size is None:
        batch_size = max(1, WINDOW_VOXELS // int(np.prod(grid.window)))
    stitcher = grid.stitcher(channels=1, device=tensor.device)
    asked = model.task.targets.index(target)
    channel = 0 if model.task.on_demand else asked
    with torch.inference_mode():
        for first in range(0, len(grid), batch_size):
            numbers = range(first, min(first + batch_size, len(grid)))
            with stopwatch("stitch"):
                windows = grid.cut(tensor, numbers)
                if model.view.dims == 2:  # (N, C, X, Y, k) -> (N, C * k, X, Y)
                    windows = windows.permute(0, 1, 4, 2, 3).flatten(1, 2)
                    windows = windows.contiguous(memory_format=torch.channels_last)
            with stopwatch("network"):
                wanted = (
                    torch.full((len(windows),), asked, device=tensor.device)
                    if model.task.on_demand
                    else None
                )
                translated = system.translate(windows, target=wanted)[:, channel : channel + 1]
                if tensor.is_cuda:
                    torch.cuda.synchronize(tensor.device)
            with stopwatch("stitch"):
                stitcher.add(numbers, translated[..., None] if model.view.dims == 2 else translated)
            if watch is not None:
                watch(numbers[-1] + 1, len(grid))
    with stopwatch("stitch"):
        result: Tensor = stitcher.result()[0]
    return result


def check_task(model: Model, sources: tuple[Contrast, ...], target: Contrast) -> None:
    """Raise ContrastError unless the model turns these contrasts into that one."""
    if target in sources:
        raise ContrastError(f"the scan is {target} already; another target was expected")
    if not model.accepts(sources, target):
        given = " + ".join(map(str, sources))
        raise ContrastError(
            f'model "{model.name}" turns {model.task}; {given} -> {target} was asked for'
        )


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the GPU where torch sees one.

    Raises:
        UsageError: the name is unknown or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UsageError(f'device "{name}" is unknown; auto, cpu or cuda was expected')
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch sees no GPU; use auto or cpu")
    return torch.device(name)


def _by_contrast(scan: Scans, source: str | Contrast | None) -> dict[Contrast, Scan]:
    """Each scan under its contrast, as given, or as its name or side-car says."""
    if isinstance(scan, Mapping):
        given = {Contrast.parse(c): s for c, s in scan.items()}
        if len(given) < len(scan):
            raise InputError(
                f"the scans {', '.join(map(str, scan))} name a contrast twice; one of each "
                "contrast was expected"
            )
        return given
    scans = [scan] if isinstance(scan, Volume | str | Path) else list(scan)
    if not scans:
        raise UsageError("no scan was given to translate")
    if source is not None:
        if len(scans) != 1:
            raise UsageError("`source` names one contrast; give several scans as a mapping")
        return {Contrast.parse(source): scans[0]}
    named: dict[Contrast, Scan] = {}
    for one in scans:
        contrast = contrast_of(Path(one.name if isinstance(one, Volume) else one))
        if contrast is None:
            label = (one.name or "this volume") if isinstance(one, Volume) else one
            raise ContrastError(
                f'which contrast is "{label}"? Neither its name nor a side-car says: '
                "give it with --from (in Python: source=)"
            )
        if contrast in named:
            raise InputError(f"two scans are {contrast}; one of each contrast was expected")
        named[contrast] = one
    return named


def _air(normalised: Tensor) -> Tensor | None:
    """(C, X, Y, Z) -> (X, Y, Z) bool: blank background beyond a rim of one voxel, or None.

    A stripped or blanked scan has one exact value outside the head; a network's haze has no
    business there. Scans with noisy air have no such value and are left alone.
    """
    blank = (normalised == -1.0).all(0)
    if float(blank.float().mean()) < 0.05:
        return None
    head = functional.max_pool2d((~blank).float().permute(2, 0, 1)[None], 3, stride=1, padding=1)
    return head[0].permute(1, 2, 0) == 0


class _Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
