"""Paired windows: the same person, the same voxel, two contrasts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


class Sample(NamedTuple):
    """One window of one person; tensors as in `Batch`, without the batch axis."""

    source: Tensor
    target: Tensor
    weight: Tensor
    source_contrast: int
    target_contrast: int
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
    """First and last but one voxel of tissue along each axis."""

    def stack(self, wanted: Sequence[Contrast], box: tuple[slice, ...]) -> Tensor:
        """(C, *box) float32 of the wanted contrasts."""
        picked = [self.voxels[self.contrasts.index(contrast)][box] for contrast in wanted]
        return torch.from_numpy(np.stack(picked).astype(np.float32))


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
    root of n, so that a large study does not drown a small one.

    Args:
        cohort: subjects; those that lack what the task needs are left out.
        task, view: what goes in and out, and at which size.
        size: voxels of a window in the plane (dims 2) or along each side (dims 3).
        augmentation: random changes; `Augmentation.none()` for none.
        seed: of every random number.
        background: weight of air in the loss, in [0, 1].
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
        self._prepared: dict[Subject | str, Prepared] = {}

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
        inputs, outputs, able, shares = self.routes[rng.integers(len(self.routes))]
        person = self._load(able[rng.choice(len(able), p=shares)])
        box, pads = self._place(person, rng)
        source = _padded(person.stack(inputs, box), pads, AIR)
        target = _padded(person.stack(outputs, box), pads, AIR)
        tissue = _padded(torch.from_numpy(person.tissue[box].astype(np.float32))[None], pads, 0.0)
        source, target, tissue = self.augmentation(
            source, target, tissue, seed=int(rng.integers(2**62))
        )
        weight = self.background + (1 - self.background) * tissue
        if self.view.dims == 2:  # neighbours become channels, the centre slice is the target
            centre = self.view.slices // 2
            source = source.permute(0, 3, 1, 2).flatten(0, 1)
            target, weight = target[..., centre], weight[..., centre]
        chosen = self.task.targets.index(outputs[0]) if self.task.on_demand else 0
        return Sample(
            source.contiguous(),
            target.contiguous(),
            weight.contiguous(),
            self.task.sources.index(inputs[0]),
            chosen,
            person.name,
        )

    def _place(
        self, person: Prepared, rng: np.random.Generator
    ) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
        """A random window around tissue: the part inside the volume, and what to pad it with."""
        if self.view.dims == 2:
            z = int(rng.choice(person.heights))
            half = self.view.slices // 2
            wanted = [(None, self.size), (None, self.size), (z - half, 2 * half + 1)]
        else:
            wanted = [(None, self.size)] * 3
        box, pads = [], []
        for axis, (start, size) in enumerate(wanted):
            length = person.tissue.shape[axis]
            if start is None:
                low, high = person.bounds[axis]
                slack = high - low - size  # negative where the window is larger than the head
                start = low + int(rng.integers(min(0, slack), max(0, slack) + 1))
            box.append(slice(max(0, start), min(length, start + size)))
            pads.append((max(0, -start), max(0, start + size - length)))
        return tuple(box), pads

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
        bounds = []
        for axis in range(3):
            inside = np.flatnonzero(tissue.any(tuple(a for a in range(3) if a != axis)))
            bounds.append((int(inside[0]), int(inside[-1]) + 1))
        if not len(heights):  # a sliver of tissue: any slice will do
            heights = np.arange(*bounds[2])
        return Prepared(subject.name, contrasts, voxels, tissue, heights, tuple(bounds))

    def _normalised(
        self, subject: Subject, contrasts: tuple[Contrast, ...]
    ) -> NDArray[np.float16]:
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
        collate_fn=_collate(windows.task.on_demand),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
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
    weights = np.array([sizes[subject.study] ** -0.5 for subject in able])
    return weights / weights.sum()


def _collate(on_demand: bool) -> Callable[[list[Sample]], Batch]:
    def collate(samples: list[Sample]) -> Batch:
        return Batch(
            source=torch.stack([s.source for s in samples]),
            target=torch.stack([s.target for s in samples]),
            weight=torch.stack([s.weight for s in samples]),
            source_contrast=torch.tensor([s.source_contrast for s in samples]),
            target_contrast=(
                torch.tensor([s.target_contrast for s in samples]) if on_demand else None
            ),
            subjects=tuple(s.subject for s in samples),
        )

    return collate


def _one_thread(worker: int) -> None:
    del worker
    import SimpleITK as sitk

    torch.set_num_threads(1)  # the cores belong to the network
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _padded(window: Tensor, pads: list[tuple[int, int]], value: float) -> Tensor:
    flat = [n for pair in reversed(pads) for n in pair]
    return torch.nn.functional.pad(window, flat, value=value) if any(flat) else window
