"""Paired windows: the same person, the same voxel, two contrasts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medi2i.batch import Batch
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort, Subject
from medi2i.data.registration import load_together
from medi2i.errors import CohortError
from medi2i.files import atomic_write
from medi2i.normalise import fit_scaling
from medi2i.resolution import resize, working_shape
from medi2i.task import Task, View

__all__ = ["PairedWindows", "Sample", "batches"]

AIR = -1.0

Box = tuple[slice, slice, slice | NDArray[np.intp]]
"""An index into (X, Y, Z); a slab names its slices, because the outermost may be seen twice."""


class Sample(NamedTuple):
    """One window of one person; tensors as in `Batch`, without the batch axis."""

    source: Tensor
    target: Tensor
    weight: Tensor
    source_contrast: int
    target_contrast: int
    every: Tensor
    known: Tensor
    subject: str


@dataclass(frozen=True)
class Prepared:
    """One person, decoded: every contrast on one canonical grid, normalised to [-1, 1]."""

    name: str
    contrasts: tuple[Contrast, ...]
    voxels: NDArray[np.float16]
    """(C, X, Y, Z), in the order of `contrasts`."""
    tissue: NDArray[np.bool_]
    """(X, Y, Z): where there is anything but air."""
    heights: NDArray[np.intp]
    """Axial slices that are worth a window."""
    bounds: tuple[tuple[int, int], ...]
    """First voxel of tissue along each axis, and the one behind the last."""

    def stack(self, wanted: Sequence[Contrast], box: Box) -> Tensor:
        """(C, *box) float32 of the wanted contrasts; air for those that were not acquired."""
        stacked = np.full((len(wanted), *self.tissue[box].shape), AIR, np.float32)
        for place, contrast in enumerate(wanted):
            if contrast in self.contrasts:
                stacked[place] = self.voxels[self.contrasts.index(contrast)][box]
        return torch.from_numpy(stacked)


class Route(NamedTuple):
    """One translation, and who can be drawn for it."""

    inputs: tuple[Contrast, ...]
    outputs: tuple[Contrast, ...]
    able: list[Subject]
    shares: NDArray[np.float64]


class PairedWindows(Dataset[Sample]):
    """An endless, numbered supply of paired windows.

    Sample number n depends on the seed and on n alone, whoever draws it and in whatever order:
    so a run resumes exactly, and ranks and workers share the work by number. Each translation is
    as likely as any other; within one, a study of n subjects is drawn from in proportion to the
    root of n, so that a large study does not drown a small one. `emphasis` changes the former.

    Args:
        cohort: subjects; those that lack what the task needs are left out.
        task, view: what goes in and out, and at which size.
        size: voxels of a window in the plane (dims 2) or along each side (dims 3).
        augmentation: random changes; `Augmentation.none()` for none.
        seed: of every random number.
        background: weight of air in the loss, in [0, 1].
        emphasis: how often a source contrast is drawn, relative to 1 for those not named.
        cache: folder that keeps decoded volumes between runs; None keeps them in memory only.

    Raises:
        CohortError: no subject has what the task needs.
    """

    def __init__(
        self,
        cohort: Cohort,
        task: Task,
        view: View,
        *,
        size: int = 192,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        background: float = 0.1,
        emphasis: Mapping[Contrast, float] | None = None,
        cache: Path | None = None,
    ) -> None:
        self.task = task
        self.view = view
        self.size = size
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.background = background
        self.cache = cache
        self.routes = [
            Route(inputs, outputs, able, _shares(able))
            for inputs, outputs in task.pairs()
            if (able := [s for s in cohort if all(c in s.scans for c in (*inputs, *outputs))])
        ]
        if not self.routes:
            cohort.having(task.contrasts if not task.on_demand else task.pairs()[0][0])
            raise CohortError(f"no subject has both ends of any translation of {task}")
        wanted = emphasis or {}
        weights = [math.prod(wanted.get(c, 1.0) for c in route.inputs) for route in self.routes]
        self.route_shares = np.array(weights) / sum(weights)
        taught = {c for route in self.routes for c in (*route.inputs, *route.outputs)}
        if untaught := [c for c in task.contrasts if c not in taught]:
            raise CohortError(
                f"no subject has {' or '.join(map(str, untaught))} beside another contrast of the "
                f"task ({task}): take it out of the task"
            )
        self._prepared: dict[str, Prepared] = {}

    @property
    def subjects(self) -> list[Subject]:
        """Everybody whom a window can come from, in order, none twice."""
        return list({id(s): s for route in self.routes for s in route.able}.values())

    def prepare(self, progress: Callable[[int, int, str], None] | None = None) -> None:
        """Decode everybody now, so that forked workers share the memory.

        Args:
            progress: called with (number done, number in all, subject's name).
        """
        people = self.subjects
        for number, subject in enumerate(people, start=1):
            self._load(subject)
            if progress is not None:
                progress(number, len(people), subject.name)

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((self.seed, number))
        route = int(rng.choice(len(self.routes), p=self.route_shares))
        inputs, outputs, able, shares = self.routes[route]
        person = self._load(able[rng.choice(len(able), p=shares)])
        box, pads = self._place(person, rng)
        source = _padded(person.stack(inputs, box), pads, AIR)
        asked = self.task.targets if self.task.on_demand else outputs
        every = _padded(person.stack(asked, box), pads, AIR)
        tissue = _padded(torch.from_numpy(person.tissue[box].astype(np.float32))[None], pads, 0.0)
        source, every, tissue = self.augmentation(
            source, every, tissue, seed=int(rng.integers(2**62))
        )
        weight = self.background + (1 - self.background) * tissue
        if self.view.dims == 2:  # neighbours become channels, the centre slice is the target
            centre = self.view.slices // 2
            source = source.permute(0, 3, 1, 2).flatten(0, 1)
            every, weight = every[..., centre], weight[..., centre]
        every = every.contiguous()
        chosen = asked.index(outputs[0]) if self.task.on_demand else 0
        return Sample(
            source.contiguous(),
            every[chosen : chosen + 1] if self.task.on_demand else every,
            weight.contiguous(),
            self.task.sources.index(inputs[0]),
            chosen,
            every,
            torch.tensor([c in person.contrasts and c not in inputs for c in asked]),
            person.name,
        )

    def _place(
        self, person: Prepared, rng: np.random.Generator
    ) -> tuple[Box, list[tuple[int, int]]]:
        """A random window around tissue: the part inside the volume, and how much air to add."""

        def along(axis: int) -> tuple[slice, tuple[int, int]]:
            length, size = person.tissue.shape[axis], self.size
            low, high = person.bounds[axis]
            slack = high - low - size  # negative where the window is larger than the head
            start = low + int(rng.integers(min(0, slack), max(0, slack) + 1))
            inside = slice(max(0, start), min(length, start + size))
            return inside, (max(0, -start), max(0, start + size - length))

        if self.view.dims == 3:
            (x, pad_x), (y, pad_y), (z, pad_z) = (along(axis) for axis in range(3))
            return (x, y, z), [pad_x, pad_y, pad_z]
        centre, half = int(rng.choice(person.heights)), self.view.slices // 2
        slab = np.arange(centre - half, centre + half + 1).clip(0, person.tissue.shape[2] - 1)
        (x, pad_x), (y, pad_y) = along(0), along(1)
        return (x, y, slab), [pad_x, pad_y, (0, 0)]

    def _load(self, subject: Subject) -> Prepared:
        key = "\n".join(str(path) for path in subject.scans.values())
        if key not in self._prepared:
            self._prepared[key] = self._decode(subject)
        return self._prepared[key]

    def _decode(self, subject: Subject) -> Prepared:
        contrasts = tuple(c for c in self.task.contrasts if c in subject.scans)
        kept = self._kept_at(subject, contrasts)
        if kept is not None and kept.is_file():
            voxels = np.load(kept, mmap_mode="r")
        else:
            voxels = self._normalised(subject, contrasts)
            if kept is not None:
                atomic_write(kept, lambda stream: np.save(stream, voxels))
        tissue = (voxels > AIR + 0.1).any(0)
        heights = np.flatnonzero(tissue.mean((0, 1)) > 0.02)
        filled = [np.flatnonzero(tissue.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
        bounds = tuple((int(inside[0]), int(inside[-1]) + 1) for inside in filled)
        if not len(heights):  # a sliver of tissue: any slice of it will do
            heights = filled[2]
        return Prepared(subject.name, contrasts, voxels, tissue, heights, bounds)

    def _normalised(self, subject: Subject, contrasts: tuple[Contrast, ...]) -> NDArray[np.float16]:
        """(C, X, Y, Z): every contrast on the first one's grid, at the working resolution."""
        volumes = load_together(subject, contrasts)
        reference = volumes[contrasts[0]]
        shape = working_shape(reference.shape, reference.spacing, self.view.spacing, self.view.axes)
        result = np.empty((len(contrasts), *shape), np.float16)
        for place, volume in enumerate(volumes.values()):
            scaled = fit_scaling(volume.voxels, name=volume.name).apply(volume.voxels)
            tensor = torch.from_numpy(np.ascontiguousarray(scaled))[None]
            result[place] = resize(tensor, shape)[0].numpy()
        return result

    def _kept_at(self, subject: Subject, contrasts: tuple[Contrast, ...]) -> Path | None:
        """The cache file: its name changes with the scans, their dates and the resolution."""
        if self.cache is None:
            return None
        words = [str(self.view.spacing), str(self.view.axes), "1"]
        for path in (*(subject.scans[c] for c in contrasts), *subject.transforms.values()):
            stat = path.stat()
            words += [str(path.resolve()), str(stat.st_mtime_ns), str(stat.st_size)]
        return self.cache / f"{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:24]}.npy"


def batches(
    windows: PairedWindows,
    batch_size: int,
    *,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches without end, beginning with round `start`.

    The ranks of one round draw disjoint samples that together are the batch that a single rank
    with `ranks` times the size would draw.
    """

    def numbers() -> Iterator[list[int]]:
        turn = start
        while True:
            first = turn * batch_size * ranks + rank
            yield [first + ranks * place for place in range(batch_size)]
            turn += 1

    loader = DataLoader(
        windows,
        batch_sampler=_Endless(numbers),
        collate_fn=partial(_collate, on_demand=windows.task.on_demand),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else each start draws from the global random numbers
    )
    yield from loader


class _Endless:
    """A batch sampler out of a generator function."""

    def __init__(self, numbers: Callable[[], Iterator[list[int]]]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[list[int]]:
        return self.numbers()


def _shares(able: Sequence[Subject]) -> NDArray[np.float64]:
    """The probability of each subject."""
    sizes = Counter(subject.study for subject in able)
    weights = np.array([sizes[subject.study] ** -0.5 for subject in able], np.float64)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _collate(samples: list[Sample], *, on_demand: bool) -> Batch:
    return Batch(
        source=torch.stack([s.source for s in samples]),
        target=torch.stack([s.target for s in samples]),
        weight=torch.stack([s.weight for s in samples]),
        source_contrast=torch.tensor([s.source_contrast for s in samples]) if on_demand else None,
        target_contrast=torch.tensor([s.target_contrast for s in samples]) if on_demand else None,
        every=torch.stack([s.every for s in samples]) if on_demand else None,
        known=torch.stack([s.known for s in samples]) if on_demand else None,
        subjects=tuple(s.subject for s in samples),
    )


def _one_thread(worker: int) -> None:
    del worker
    import SimpleITK as sitk

    torch.set_num_threads(1)  # the cores belong to the network
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _padded(window: Tensor, pads: list[tuple[int, int]], value: float) -> Tensor:
    flat = [n for pair in reversed(pads) for n in pair]
    return torch.nn.functional.pad(window, flat, value=value) if any(flat) else window
