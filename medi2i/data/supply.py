"""An endless, numbered supply of windows, and batches out of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medi2i.batch import Batch, Neighbour
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Subject
from medi2i.data.decoded import Decoder, Prepared
from medi2i.data.motion import Method
from medi2i.data.neighbours import GAP, Carrier, Fields, Seen
from medi2i.data.placing import Corner, Placing
from medi2i.errors import UsageError
from medi2i.task import Task, View

__all__ = ["People", "Route", "Sample", "Windows", "batches"]


class Sample(NamedTuple):
    """One window; tensors as in `Batch`, without the batch axis."""

    source: Tensor
    target: Tensor
    weight: Tensor
    source_contrast: int
    """Position among the task's sources, or its domains."""
    target_contrast: int
    """Position among the task's targets, or its domains."""
    subject: str
    every: Tensor | None = None
    known: Tensor | None = None
    target_weight: Tensor | None = None
    target_slab: Tensor | None = None
    neighbour: Neighbour | None = None
    target_neighbour: Neighbour | None = None
    other: str = ""
    """Whose the target is, where that is another person."""


@dataclass(frozen=True)
class People:
    """Whom a window can come from, and how likely each is.

    A study of n subjects is drawn from in proportion to the root of n, so that a large study does
    not drown a small one.
    """

    subjects: tuple[Subject, ...]
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, subjects: Sequence[Subject]) -> People:
        """These, in this order."""
        sizes = Counter(subject.study for subject in subjects)
        weights = np.array([sizes[subject.study] ** -0.5 for subject in subjects], np.float64)
        return cls(tuple(subjects), weights / weights.sum())

    def drawn(self, rng: np.random.Generator) -> Subject:
        """One of them."""
        return self.subjects[rng.choice(len(self.subjects), p=self.shares)]


class Route(NamedTuple):
    """One translation, and who can be drawn for either side of it."""

    inputs: tuple[Contrast, ...]
    outputs: tuple[Contrast, ...]
    sources: People
    targets: People
    """The very same where the two sides are one person."""


class Windows(Dataset[Sample], ABC):
    """An endless, numbered supply of windows.

    Sample number n depends on the seed and on n alone, whoever draws it and in whatever order:
    so a run resumes exactly, and ranks and workers share the work by number. Each translation is
    as likely as any other, unless `emphasis` changes that.

    Args:
        task, view: what goes in and out, and at which size.
        routes: who serves which translation.
        size: voxels of a window in the plane (dims 2) or along each side (dims 3).
        augmentation: random changes; `Augmentation.none()` for none.
        seed: of every random number.
        background: weight of air in the loss, in [0, 1].
        emphasis: how often a source contrast is drawn, relative to 1 for those not named.
        cache: folder that keeps decoded volumes between runs; None keeps them in memory only.
    """

    draws_neighbours: ClassVar[bool] = True

    def __init__(
        self,
        task: Task,
        view: View,
        routes: Sequence[Route],
        *,
        size: int,
        augmentation: Augmentation | None,
        seed: int,
        background: float,
        emphasis: Mapping[Contrast, float] | None,
        cache: Path | None,
    ) -> None:
        self.task = task
        self.view = view
        self.routes = list(routes)
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.background = background
        self.placing = Placing(view, size)
        self.decode = Decoder(view, cache)
        self.fields: Fields | None = None
        self.carrier = Carrier(self.placing, view.slices)
        wanted = emphasis or {}
        weights = [math.prod(wanted.get(c, 1.0) for c in route.inputs) for route in self.routes]
        self.route_shares = np.array(weights) / sum(weights)

    @property
    @abstractmethod
    def readings(self) -> list[tuple[Subject, tuple[Contrast, ...]]]:
        """What is decoded together: a person, and which contrasts; none twice."""

    @abstractmethod
    def draw(self, route: Route, rng: np.random.Generator) -> Sample:
        """A random window of one translation."""

    @property
    def subjects(self) -> list[Subject]:
        """Everybody whom a window can come from, in order, none twice."""
        return list({id(subject): subject for subject, _ in self.readings}.values())

    def follow(self, method: Method = "demons", gap: float = GAP) -> None:
        """From now on give every window its neighbour, and the field that leads there.

        Args:
            method, gap: see :class:`Fields`. Motion is sought in a side's first contrast.

        Raises:
            UsageError: these windows draw no neighbours.
        """
        if not self.draws_neighbours:
            raise UsageError(
                f"{type(self).__name__} draw no neighbouring slices, which may be of another "
                "domain; train without guidance"
            )
        self.fields = Fields(self.decode, method, gap)

    def moving(self, subject: Subject, contrasts: Sequence[Contrast]) -> list[Contrast]:
        """In which of the contrasts that are decoded together motion is sought."""
        del subject
        return list(contrasts[:1])

    def read(self, subject: Subject, contrasts: tuple[Contrast, ...]) -> None:
        """Decode all that windows of a person are cut from."""
        self.decode(subject, contrasts)

    def prepare(self, progress: Callable[[int, int, str], None] | None = None) -> None:
        """Decode everybody now, so that forked workers share the memory.

        Args:
            progress: called with (number done, number in all, subject's name).
        """
        readings = self.readings
        for number, (subject, contrasts) in enumerate(readings, start=1):
            self.read(subject, contrasts)
            if self.fields is not None:
                for contrast in self.moving(subject, contrasts):
                    self.fields.prepare((subject, contrasts, contrast))
            if progress is not None:
                progress(number, len(readings), subject.name)

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((self.seed, number))
        route = self.routes[int(rng.choice(len(self.routes), p=self.route_shares))]
        return self.draw(route, rng)

    def cut(
        self, person: Prepared, wanted: Sequence[Contrast], corner: Corner, seen: Seen
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images and tissue of a window; a slab is one slice thicker where motion is followed.

        Returns:
            Both as :meth:`Placing.cut` has them; and the field's channels, or None.
        """
        if self.fields is None:
            return *self.placing.cut(person, wanted, corner), None
        image, tissue = self.placing.cut(person, wanted, corner, further=1)
        return image, tissue, self.carrier.begin(self.fields, person, seen, corner)

    def changed(
        self,
        augmentation: Augmentation,
        source: Tensor,
        target: Tensor,
        tissue: Tensor,
        carried: Tensor | None,
        *,
        seed: int,
    ) -> tuple[Tensor, Tensor, Tensor, Neighbour | None]:
        """Source, target and tissue after augmentation, and the source's neighbour."""
        if carried is None:
            return *augmentation(source, target, tissue, seed=seed), None
        both = torch.cat([target, carried])
        source, both, tissue = augmentation(source, both, tissue, seed=seed)
        target, carried = both[: len(target)], both[len(target) :]
        field, inside = self.carrier.end(carried, tissue)
        if self.view.dims == 3:
            return source, target, tissue, Neighbour(None, field, inside)
        neighbour = Neighbour(self.channels(source[..., 1:]), field, inside)
        return source[..., :-1], target[..., :-1], tissue[..., :-1], neighbour

    def weights(self, tissue: Tensor) -> Tensor:
        """How much each voxel counts, from a mask of tissue."""
        return self.background + (1 - self.background) * tissue

    def channels(self, window: Tensor) -> Tensor:
        """As networks take it: (C, X, Y, k) -> (C * k, X, Y); a patch stays as it is."""
        if self.view.dims == 2:
            window = window.permute(0, 3, 1, 2).flatten(0, 1)
        return window.contiguous()

    def centre(self, window: Tensor) -> Tensor:
        """As networks give it: (C, X, Y, k) -> (C, X, Y); a patch stays as it is."""
        if self.view.dims == 2:
            window = window[..., self.view.slices // 2]
        return window.contiguous()

    def slab(self, window: Tensor) -> Tensor | None:
        """A target's :meth:`channels` where they are more than its :meth:`centre`."""
        return self.channels(window) if self.view.slices > 1 else None


def batches(
    windows: Windows,
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
        collate_fn=partial(_collate, asked=windows.task.conditions > 0),
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


def _collate(samples: list[Sample], *, asked: bool) -> Batch:
    def together(tensors: list[Tensor | None]) -> Tensor | None:
        there = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(there) if there else None

    return Batch(
        source=torch.stack([s.source for s in samples]),
        target=torch.stack([s.target for s in samples]),
        weight=torch.stack([s.weight for s in samples]),
        source_contrast=torch.tensor([s.source_contrast for s in samples]) if asked else None,
        target_contrast=torch.tensor([s.target_contrast for s in samples]) if asked else None,
        every=together([s.every for s in samples]),
        known=together([s.known for s in samples]),
        target_weight=together([s.target_weight for s in samples]),
        target_slab=together([s.target_slab for s in samples]),
        neighbour=_neighbours([s.neighbour for s in samples]),
        target_neighbour=_neighbours([s.target_neighbour for s in samples]),
        subjects=(*(s.subject for s in samples), *(s.other for s in samples if s.other)),
    )


def _neighbours(each: list[Neighbour | None]) -> Neighbour | None:
    there = [neighbour for neighbour in each if neighbour is not None]
    if not there:
        return None
    slabs = [n.slab for n in there if n.slab is not None]
    return Neighbour(
        slab=torch.stack(slabs) if slabs else None,
        field=torch.stack([n.field for n in there]),
        inside=torch.stack([n.inside for n in there]),
    )


def _one_thread(worker: int) -> None:
    del worker
    import SimpleITK as sitk

    torch.set_num_threads(1)  # the cores belong to the network
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
