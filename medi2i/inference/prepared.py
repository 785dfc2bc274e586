"""A scan made ready for a network, the way through the network, and the way back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.inference.blank import AIR, MARGIN, Box, blank_air, worth_a_look
from medi2i.inference.engines import Engine, EngineName
from medi2i.inference.passes import AXIAL, Pass, Quality, passes_of
from medi2i.inference.windowed import through_windows
from medi2i.model import Model
from medi2i.normalise import Scaling, fit
from medi2i.resolution import resize, working_shape
from medi2i.volume import Volume
from medi2i.windows import Grid

__all__ = ["Forward", "Prepared", "Watch", "check_domain", "check_task", "choose_device"]

Forward = Callable[[Tensor, Tensor | None], Tensor]
"""From windows (B, inputs * slices, *spatial) and the targets asked for, (B,) or None, to images
(B, kinds * outputs, *spatial): of each kind, such as a mean and its scale, every output."""

Watch = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


class Prepared:
    """Scans on one grid, normalised, at the resolution that a model knows.

    One preparation serves any number of passes through the network.

    Args:
        model: moved to the device.
        scans: by contrast; brought onto the grid of the first by their world coordinates.
        target: the contrast wanted.
        device: "auto", "cpu" or "cuda".
        domain: what the scan shall look like, for a model of domains; `target` is then the
            contrast of one of the scans.
        quality: how many looks at the scan are averaged.
        engine: what runs the network.

    Attributes:
        system: the model's networks, in evaluation mode on the device.
        engine: what runs them, and how far it is from torch.
        gpus: the numbers of the GPUs that take part; none on the CPU.
        scaling: the fitted numbers of each source contrast, by name.
        working_shape: at which the network sees the scan.
        passes: its looks at the scan.
        seconds: spent so far, by stage: normalise, network, stitch; and engine, where another than
            torch was made ready.

    Raises:
        ContrastError: the model does not turn these contrasts into that one.
        UsageError: there is no such device or engine.
    """

    def __init__(
        self,
        model: Model,
        scans: Mapping[Contrast, Volume],
        target: Contrast,
        *,
        device: str = "auto",
        domain: str | None = None,
        quality: Quality = Quality.FAST,
        engine: EngineName = EngineName.TORCH,
    ) -> None:
        sources = tuple(c for c in model.task.sources if c in scans) or tuple(scans)
        if domain is None:
            check_task(model, sources, target)
        else:
            check_domain(model, sources, domain)
        self.model = model
        self.seconds: dict[str, float] = {}
        where = choose_device(device)
        self.system = model.system.to(where).eval()
        if where.type == "cpu" and model.view.dims == 2:
            self.system.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.engine = Engine(engine, where.type, self.system)
        self.gpus = [torch.cuda.current_device()] if where.type == "cuda" else []
        self._output = 0 if model.task.on_demand else model.task.targets.index(target)
        known = model.task.domains or tuple(map(str, model.task.targets))
        self._asked = known.index(str(target) if domain is None else domain)

        self._original = scans[sources[0]]
        self._reference = reference = self._original.canonical()
        with self.timed("normalise"):
            self.scaling: dict[str, Scaling] = {}
            normalised = torch.empty((len(sources), *reference.shape))
            for place, contrast in enumerate(sources):
                volume = reference if place == 0 else scans[contrast].resampled_onto(reference)
                fitted = fit(model.normaliser, volume.voxels, name=volume.name)
                self.scaling[str(contrast)] = fitted
                normalised[place] = torch.from_numpy(fitted.apply(volume.voxels))
            tensor = normalised.to(where)
            robust = model.normaliser == "robust"
            self._air = blank_air(tensor) if robust else None
            self._magnitude = robust and reference.voxels.min() >= 0
            self.working_shape = working_shape(
                reference.shape, reference.spacing, model.view.spacing, model.view.axes
            )
            self._tensor = resize(tensor, self.working_shape)
            self.passes = passes_of(quality, reference.spacing, model.view.dims)
            self._box: Box = (slice(None), slice(None), slice(None))
            if self._air is not None:
                self._box = worth_a_look(self._air, self.working_shape, self._margins())
            self._seen = self._tensor[:, *self._box]

    def through(
        self,
        forward: Forward,
        *,
        kinds: int = 1,
        what: str = "",
        batch_size: int | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Every window through the network, and back in its place.

        Args:
            forward: what a window goes through.
            kinds: of images that come out of it.
            what: a name for `forward`, which then must depend on the networks alone. Without one
                torch runs it, whatever the engine is.
            batch_size: windows that go through at once.
            watch: told of progress.

        Returns:
            (kinds, X, Y, Z) of the target, at the working resolution and in the network's values;
            air where the scan is blank far and wide.
        """
        conditions, target, output = self.model.task.conditions, self._asked, self._output

        # An engine may keep this longer than the scan, of which it therefore knows nothing.
        def made(windows: Tensor) -> Tensor:
            asked = torch.full((len(windows),), target, device=windows.device)
            images: Tensor = forward(windows, asked if conditions else None)
            picked: Tensor = images.unflatten(1, (kinds, -1))[:, :, output]
            return picked

        grids = [self.model.view.grid(self._shape_of(look)) for look in self.passes]
        if what:
            self.engine.choose(sum(len(grid) * math.prod(grid.window) for grid in grids))
            what = f"{what} {self.model.system_name} {dict(self.model.arguments)} {target} {output}"
        engine = self.engine if what and self.engine.name is not EngineName.TORCH else None
        mean = self._looks(made, grids, kinds, engine, what, batch_size, watch)
        if engine is not None and engine.failed:
            mean = self._looks(made, grids, kinds, None, what, batch_size, watch)
        if self._seen.shape == self._tensor.shape:
            return mean
        whole = mean.new_full((kinds, *self.working_shape), AIR)
        whole[:, *self._box] = mean
        return whole

    def _margins(self) -> list[int]:
        """Voxels of blank air that are kept along each axis for the networks to see."""
        if self.model.view.dims == 3:
            return [MARGIN] * 3
        beside = [look.across for look in self.passes]
        return [
            MARGIN if any(axis != across for across in beside) else self.model.view.slices // 2
            for axis in range(3)
        ]

    def _looks(
        self,
        made: Callable[[Tensor], Tensor],
        grids: Sequence[Grid],
        kinds: int,
        engine: Engine | None,
        what: str,
        batch_size: int | None,
        watch: Watch | None,
    ) -> Tensor:
        """The mean of all looks; not of all when the engine fails."""
        total, done = sum(map(len, grids)), 0
        shape = self._seen.shape[1:]
        mean = self._seen.new_zeros((kinds, *shape))
        for number, (look, grid) in enumerate(zip(self.passes, grids, strict=True), start=1):
            with self.timed("stitch"):
                shown = resize(look.shown(self._seen), grid.shape)
            image = through_windows(
                shown,
                grid,
                made,
                channels=kinds,
                timed=self.timed,
                engine=engine,
                what=what,
                batch_size=batch_size,
                watch=watch and (lambda count, before=done: watch(before + count, total)),
            )
            if engine is not None and engine.failed:
                break
            done += len(grid)
            with self.timed("stitch"):
                image = look.back(resize(image, [shape[axis] for axis in look.order]))
                mean += (image - mean) / number
        return mean

    def _shape_of(self, look: Pass) -> tuple[int, int, int]:
        """The shape at which the network sees the scan in this look."""
        x, y, z = (self._seen.shape[1 + axis] for axis in look.order)
        if look.across == AXIAL.across:
            return x, y, z
        reference, view = self._reference, self.model.view
        spacing = [
            reference.spacing[axis] * reference.shape[axis] / self.working_shape[axis]
            for axis in look.order
        ]
        return working_shape((x, y, z), spacing, view.spacing, view.axes)

    def scan(self, values: Tensor) -> Volume:
        """What the network made of the scan, as a scan: on the source's grid and intensity scale.

        Args:
            values: (X, Y, Z) of :meth:`through`; may be overwritten.
        """
        reference = self._reference
        with self.timed("stitch"):
            output = resize(values[None], reference.shape)[0]
            if self._air is not None:
                output.masked_fill_(self._air, AIR)
            scaling = next(iter(self.scaling.values()))
            voxels: NDArray[np.float32] = scaling.invert(output.cpu().numpy())
            if self._magnitude:
                np.maximum(voxels, 0, out=voxels)  # a magnitude image stays one
            return reference.like(voxels, name="").oriented_as(self._original)

    def change(self, values: Tensor) -> list[Volume]:
        """What the network changed of each source, on the grid of the first.

        Taken at the working resolution and only then brought onto the grid: where the network
        changes nothing, this is exactly 0, whatever the scan's own resolution.

        Args:
            values: (C, X, Y, Z) of :meth:`through`, an image of each source.

        Returns:
            Image minus source, in the network's values (a scan spans 2); 0 in blank air.
        """
        reference = self._reference
        with self.timed("stitch"):
            change = resize(values - self._tensor, reference.shape)
            if self._air is not None:
                change.masked_fill_(self._air, 0.0)
            return [reference.like(c).oriented_as(self._original) for c in change.cpu().numpy()]

    def spread(self, values: Tensor) -> Volume:
        """What the network says about how far off it may be, on the source's grid and scale.

        Args:
            values: (X, Y, Z) of :meth:`through`, in the network's values, positive.

        Returns:
            Expected absolute error, 0 in blank air.
        """
        reference = self._reference
        with self.timed("stitch"):
            output = resize(values[None], reference.shape)[0]
            if self._air is not None:
                output.masked_fill_(self._air, 0.0)
            scaling = next(iter(self.scaling.values()))
            voxels = output.cpu().numpy() * np.float32((scaling.high - scaling.low) / 2)
            return reference.like(voxels, name="").oriented_as(self._original)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to a stage's seconds."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


def check_task(model: Model, sources: tuple[Contrast, ...], target: Contrast) -> None:
    """Raise ContrastError unless the model turns these contrasts into that one."""
    if target in sources:
        raise ContrastError(f"the scan is {target} already; another target was expected")
    if not model.accepts(sources, target):
        given = " + ".join(map(str, sources))
        raise ContrastError(
            f'model "{model.name}" turns {model.task}; {given} -> {target} was asked for'
        )


def check_domain(model: Model, sources: tuple[Contrast, ...], domain: str) -> None:
    """Raise ContrastError or UsageError unless the model makes these contrasts look like that."""
    if domain not in model.task.domains:
        raise UsageError(
            f'model "{model.name}" turns {model.task}, not into "{domain}"; a model of domains was '
            "expected, one of which has that name"
        )
    if sources != model.task.sources:
        given = " + ".join(map(str, sources))
        raise ContrastError(f'model "{model.name}" turns {model.task}; {given} came')


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
