"""Unpaired windows: what is seen on one side says nothing about what is seen on the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort, Subject
from medi2i.data.division import divided
from medi2i.data.supply import People, Route, Sample, Windows
from medi2i.errors import CohortError
from medi2i.task import Task, View

__all__ = ["Heights", "UnpairedWindows"]

Heights = Literal["matching", "random"]
"""Whether a target lies where its source lies, in terms of its own head, or anywhere."""


class UnpairedWindows(Windows):
    """An endless, numbered supply of windows of two people who have nothing to do with each other.

    Nobody is on both sides: see `division` for who stands where. On demand nobody shows two
    contrasts. Each side is decoded by itself, on its own grid, and changed by itself: both in
    place, the source also in its looks, the target never.

    Args:
        cohort: subjects; those that suit neither side are left out.
        heights: "matching" draws the target's slice at the relative height of the source's (the
            share of the head's extent along the body's axis, give or take three percent), a patch
            likewise along all three axes; "random" draws it anywhere. The people and the sources
            are the same either way.
        implicit: share of the people with both sides who stand on both, in [0, 1]; the two sides
            are drawn independently all the same.
        allowed: names that different studies have for different people.
        size, augmentation, seed, background, emphasis, cache: see :class:`Windows`.

    Raises:
        CohortError: a side is empty, or the same name stands on both.
        UsageError: `implicit` is no share.
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
        heights: Heights = "matching",
        implicit: float = 0.0,
        allowed: Collection[str] = (),
        cache: Path | None = None,
    ) -> None:
        sides = [(c,) for c in task.contrasts] if task.on_demand else [task.sources, task.targets]
        there = divided(cohort, sides, seed=seed, implicit=implicit, allowed=allowed)
        for side, subjects in zip(sides, there, strict=True):
            if not subjects:
                raise _empty(side, cohort, task)
        people = {side: People.of(s) for side, s in zip(sides, there, strict=True)}
        super().__init__(
            task,
            view,
            [Route(i, o, people[i], people[o]) for i, o in task.pairs()],
            size=size,
            augmentation=augmentation,
            seed=seed,
            background=background,
            emphasis=emphasis,
            cache=cache,
        )
        self.heights = heights
        self.moves = replace(self.augmentation, bias=0, gamma=0, noise=0, anisotropy=0)

    @property
    def readings(self) -> list[tuple[Subject, tuple[Contrast, ...]]]:
        """Everybody, with the contrasts of their side."""
        found = {
            (id(subject), side): (subject, side)
            for inputs, outputs, sources, targets in self.routes
            for side, people in ((inputs, sources), (outputs, targets))
            for subject in people.subjects
        }
        return list(found.values())

    def draw(self, route: Route, rng: np.random.Generator) -> Sample:
        """A random window of somebody, and one of somebody else."""
        here, there = route.sources.drawn(rng), route.targets.drawn(rng)
        one, other = self.decode(here, route.inputs), self.decode(there, route.outputs)
        corner = self.placing.anywhere(one, rng)
        seed, other_seed = (int(rng.integers(2**62)) for _ in range(2))
        image, tissue, carried = self.cut(
            one, route.inputs, corner, (here, route.inputs, route.inputs[0])
        )
        source, _, tissue, neighbour = self.changed(
            self.augmentation, image, tissue, tissue, carried, seed=seed
        )
        weight = self.weights(tissue)
        if self.heights == "matching":
            corner = self.placing.matching(other, rng, one, corner)
        else:
            corner = self.placing.anywhere(other, rng)
        image, tissue, carried = self.cut(
            other, route.outputs, corner, (there, route.outputs, route.outputs[0])
        )
        target, _, tissue, target_neighbour = self.changed(
            self.moves, image, tissue, tissue, carried, seed=other_seed
        )
        return Sample(
            source=self.channels(source),
            target=self.centre(target),
            weight=self.centre(weight),
            source_contrast=self.task.sources.index(route.inputs[0]),
            target_contrast=self.task.targets.index(route.outputs[0]),
            subject=one.name,
            target_weight=self.centre(self.weights(tissue)),
            target_slab=self.slab(target),
            neighbour=neighbour,
            target_neighbour=target_neighbour,
            other=other.name,
        )


def _empty(side: tuple[Contrast, ...], cohort: Cohort, task: Task) -> CohortError:
    """Who is missing, and what to do."""
    names = " and ".join(map(str, side))
    remedy = f"add people who have {names}"
    try:
        able = sorted({subject.person for subject in cohort.having(side)})
    except CohortError as error:
        return CohortError(f"{error}. Unpaired training ({task}) needs some: {remedy}")
    who = f'"{able[0]}" has' if len(able) == 1 else f"{len(able)} people have"
    return CohortError(
        f"{who} {names}, but nobody is left to show it: unpaired training ({task}) takes everybody "
        f"for one side only, and they are needed on another: {remedy}, or take a system that "
        "learns from pairs"
    )
