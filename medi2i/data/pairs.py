"""Paired windows: the same person, the same voxel, two contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort, Subject
from medi2i.data.misalignment import Misalignment
from medi2i.data.supply import People, Route, Sample, Windows
from medi2i.errors import CohortError
from medi2i.task import Task, View

__all__ = ["PairedWindows"]


class PairedWindows(Windows):
    """An endless, numbered supply of windows that show one person in both contrasts.

    Args:
        cohort: subjects; those that lack what the task needs are left out.
        misalignment: how far pairs are thrown off each other; see :class:`Misalignment`.
        complete: whether somebody must have each contrast of the task; not where networks that
            know them already are trained further.
        size, augmentation, seed, background, emphasis, cache: see :class:`Windows`.

    Raises:
        CohortError: no subject has what the task needs.
        UsageError: no such level of misalignment.
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
        misalignment: float = 0.0,
        complete: bool = True,
        cache: Path | None = None,
    ) -> None:
        self.misalignment = Misalignment(misalignment, view.dims)
        routes = []
        for inputs, outputs in task.pairs():
            if able := [s for s in cohort if all(c in s.scans for c in (*inputs, *outputs))]:
                people = People.of(able)
                routes.append(Route(inputs, outputs, people, people))
        if not routes:
            cohort.having(task.contrasts if not task.on_demand else task.pairs()[0][0])
            raise CohortError(f"no subject has both ends of any translation of {task}")
        taught = {c for route in routes for c in (*route.inputs, *route.outputs)}
        if complete and (untaught := [c for c in task.contrasts if c not in taught]):
            raise CohortError(
                f"no subject has {' or '.join(map(str, untaught))} beside another contrast of the "
                f"task ({task}): take it out of the task, or start with a model that knows it"
            )
        super().__init__(
            task,
            view,
            routes,
            size=size,
            augmentation=augmentation,
            seed=seed,
            background=background,
            emphasis=emphasis,
            cache=cache,
        )

    @property
    def readings(self) -> list[tuple[Subject, tuple[Contrast, ...]]]:
        """Everybody, with every contrast of the task."""
        people = {id(s): s for route in self.routes for s in route.sources.subjects}
        return [(subject, self.task.contrasts) for subject in people.values()]

    def moving(self, subject: Subject, contrasts: Sequence[Contrast]) -> list[Contrast]:
        """The first source of each translation that the person can show."""
        del contrasts
        first = dict.fromkeys(route.inputs[0] for route in self.routes)
        return [contrast for contrast in first if contrast in subject.scans]

    def draw(self, route: Route, rng: np.random.Generator) -> Sample:
        """A random window of somebody, in all the contrasts that the task can ask for."""
        inputs, outputs = route.inputs, route.outputs
        subject = route.sources.drawn(rng)
        person = self.decode(subject, self.task.contrasts)
        corner = self.placing.anywhere(person, rng)
        asked = self.task.targets if self.task.on_demand else outputs
        seen = (subject, self.task.contrasts, inputs[0])
        both, tissue, carried = self.cut(person, (*inputs, *asked), corner, seen)
        source, every, tissue, neighbour = self.changed(
            self.augmentation,
            both[: len(inputs)],
            both[len(inputs) :],
            tissue,
            carried,
            seed=int(rng.integers(2**62)),
        )
        source, every, tissue, inside = self.misalignment(source, every, tissue, rng)
        chosen = asked.index(outputs[0]) if self.task.on_demand else 0
        target = every[chosen : chosen + 1] if self.task.on_demand else every
        known = torch.tensor([c in person.contrasts and c not in inputs for c in asked])
        return Sample(
            source=self.channels(source),
            target=self.centre(target),
            weight=self.centre(self.weights(tissue) * inside),
            source_contrast=self.task.sources.index(inputs[0]),
            target_contrast=chosen,
            subject=person.name,
            every=self.centre(every) if self.task.on_demand else None,
            known=known if self.task.on_demand else None,
            target_slab=self.slab(target),
            neighbour=neighbour,
        )
