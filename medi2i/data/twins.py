"""Windows of people as they are, and of the same as they would be without their lesions.

Twins lie beside the scans of a study, as `medi2i simulate --twins` writes them:
derivatives/*/sub-*/[ses-*/]anat/sub-*_desc-healthy_FLAIR.nii[.gz].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort, Subject
from medi2i.data.supply import People, Route, Sample, Windows
from medi2i.errors import CohortError, DimensionError, UsageError
from medi2i.task import Task, View

__all__ = ["TWINS", "TwinWindows", "twin_of"]

TWINS = "twins"
"""What `labels` says for healthy twins."""
ILL = 0.75
"""Share of windows that are drawn where a person differs from the twin."""
DIFFERS = 0.1
"""By how much a voxel must, of a range of 2."""
FEWEST = 20
"""Voxels that must, in a slice that counts."""


class TwinWindows(Windows):
    """An endless, numbered supply of windows: what a person looks like, and the healthy twin.

    Three quarters of them lie where the two differ, as far as somebody is ill. Both have the
    person's intensity scale. What augmentation does to looks is done to both; its noise, which
    would tell them apart, is left out.

    Args:
        cohort: subjects; those without a twin are left out.
        task: contrasts given back, and one domain.
        size, augmentation, seed, background, cache: see :class:`Windows`.

    Raises:
        CohortError: nobody has a twin.
        UsageError: the task has not one domain.
    """

    draws_neighbours = False

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
        if len(task.domains) != 1:
            raise UsageError(f"{task} was given, but twins are of one domain, such as healthy")
        able = cohort.having(task.sources)
        found = {id(s): twin for s in able if (twin := twin_of(s, task.sources)) is not None}
        if not found:
            raise CohortError(
                f"none of {len(able)} subjects has a healthy twin; files such as "
                '"derivatives/*/sub-1/anat/sub-1_desc-healthy_FLAIR.nii.gz" were expected '
                "(medi2i simulate --twins writes them)"
            )
        self.twins = found
        self._ill: dict[int, NDArray[np.intp]] = {}
        people = People.of([subject for subject in able if id(subject) in found])
        super().__init__(
            task,
            view,
            [Route(task.sources, task.targets, people, people)],
            size=size,
            augmentation=replace(augmentation or Augmentation(), noise=0.0),
            seed=seed,
            background=background,
            emphasis=None,
            cache=cache,
        )

    @property
    def readings(self) -> list[tuple[Subject, tuple[Contrast, ...]]]:
        """Everybody who has a twin."""
        return [(subject, self.task.sources) for subject in self.routes[0].sources.subjects]

    def read(self, subject: Subject, contrasts: tuple[Contrast, ...]) -> None:
        """Decode a person and the twin."""
        super().read(subject, contrasts)
        self.decode(self.twins[id(subject)], contrasts, scaled_as=subject)

    def draw(self, route: Route, rng: np.random.Generator) -> Sample:
        """A random window of somebody, and of the twin."""
        subject = route.sources.drawn(rng)
        wanted = self.task.sources
        person = self.decode(subject, wanted)
        twin = self.decode(self.twins[id(subject)], wanted, scaled_as=subject)
        if twin.voxels.shape != person.voxels.shape:
            raise DimensionError(
                f'"{subject.name}" and the healthy twin differ in shape: {person.tissue.shape} '
                f"and {twin.tissue.shape}; one grid was expected"
            )
        ill = self._ill_heights(subject, person.voxels, twin.voxels)
        often = rng.random() < ILL and len(ill)
        placed = replace(person, heights=ill) if often else person
        corner = self.placing.anywhere(placed, rng)
        image, tissue = self.placing.cut(person, wanted, corner)
        healthy, _ = self.placing.cut(twin, wanted, corner)
        seed = int(rng.integers(2**62))  # of both, or their looks would change differently
        image, _, _ = self.augmentation(image, tissue, tissue, seed=seed)
        healthy, _, tissue = self.augmentation(healthy, tissue, tissue, seed=seed)
        return Sample(
            source=self.channels(image),
            target=self.centre(healthy),
            weight=self.centre(self.weights(tissue)),
            source_contrast=0,
            target_contrast=0,
            subject=person.name,
        )

    def _ill_heights(
        self, subject: Subject, ill: NDArray[np.float16], healthy: NDArray[np.float16]
    ) -> NDArray[np.intp]:
        """Axial slices in which somebody differs from the twin."""
        if id(subject) not in self._ill:
            off = np.abs(ill.astype(np.float32) - healthy) > DIFFERS
            self._ill[id(subject)] = np.flatnonzero(off.any(0).sum((0, 1)) >= FEWEST)
        return self._ill[id(subject)]


def twin_of(subject: Subject, contrasts: Sequence[Contrast]) -> Subject | None:
    """Somebody without the lesions; None where not every contrast of the twin is there."""
    found = {}
    for contrast in contrasts:
        name = f"{subject.name}_desc-healthy_{contrast}.nii"
        paths = sorted(Path(subject.study).glob(f"derivatives/*/{subject.person}/**/{name}*"))
        if not paths:
            return None
        found[contrast] = paths[0]
    return replace(subject, scans=found)
