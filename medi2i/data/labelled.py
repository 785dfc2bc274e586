"""Windows of one contrast in domains that labels tell apart: healthy slices, diseased slices.

With a single domain, windows of that domain alone: source and target are then the same image, and
no neighbouring slice of another domain, or of none, is ever seen.

Labels come from a table, or from experts' masks reduced to one bit per axial slice; the masks
themselves never reach a network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort, Subject, read_rows
from medi2i.data.decoded import Prepared
from medi2i.data.masks import expert_mask
from medi2i.data.placing import Corner
from medi2i.data.supply import People, Route, Sample, Windows
from medi2i.errors import CohortError, MissingFileError, UsageError
from medi2i.task import Task, View
from medi2i.volume import load_volume

__all__ = ["LEAST", "MASKS", "LabelledWindows", "table_labels"]

MASKS = "masks"
"""What `labels` says for experts' masks."""
LEAST = 0.001
"""Share of a slice's tissue from which a lesion makes it diseased; with less it is neither."""
_TRIES = 3
"""People of whom the one is taken who has a slice nearest to the height wanted."""

Labels = Mapping[str, str | Mapping[int, str]]
"""By name of the subject: one label, or one for each labelled axial slice, from the feet up."""


class LabelledWindows(Windows):
    """An endless, numbered supply of windows of two people, each of another domain; or of one.

    Which domain a source has is drawn evenly; the target has another. Healthy and diseased slices
    lie at the same relative heights of the head, or the labels would tell heights: the slice of
    the domain that is named last is drawn first, and the other as near to its height as there is.

    Args:
        cohort: subjects; those without the contrasts, or without a label, are left out.
        task: with domains, in whose order labels are counted.
        view: of slices; patches have no label of their own.
        labels: "masks", for which the task has two domains, without and with a lesion, or the
            first of these alone; or the path of a table, see :func:`table_labels`.
        size, augmentation, seed, background, cache: see :class:`Windows`.

    Raises:
        CohortError: nobody is labelled, or nobody shows a domain.
        UsageError: the task has no domains, not two for masks, or the view is of patches.
    """

    draws_neighbours = False

    def __init__(
        self,
        cohort: Cohort,
        task: Task,
        view: View,
        *,
        labels: str = MASKS,
        size: int = 192,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        background: float = 0.1,
        cache: Path | None = None,
    ) -> None:
        if not task.domains:
            raise UsageError(f"{task} has no domains; labelled windows need some")
        if view.dims != 2:
            raise UsageError("labels are of axial slices, but dims is 3; 2 was expected")
        if labels == MASKS and len(task.domains) > 2:
            raise UsageError(
                f"masks tell slices without a lesion from those with one; {len(task.domains)} "
                f"domains were given ({', '.join(task.domains)}): give a table instead"
            )
        able = cohort.having(task.sources)
        everybody = People.of(able.subjects)
        super().__init__(
            task,
            view,
            [Route(task.sources, task.targets, everybody, everybody)],
            size=size,
            augmentation=augmentation,
            seed=seed,
            background=background,
            emphasis=None,
            cache=cache,
        )
        self.moves = replace(self.augmentation, bias=0, gamma=0, noise=0, anisotropy=0)
        known = None if labels == MASKS else table_labels(Path(labels), task.domains)
        told: dict[str, dict[int, NDArray[np.intp]]] = {}
        for subject in able:
            slices = self._of_mask(subject) if known is None else known.get(subject.name)
            if slices is not None and (own := self._by_domain(slices)):
                told[_key(subject)] = own
        self.told = told
        self.shown: list[People] = []
        for place, domain in enumerate(task.domains):
            showing = [s for s in able if place in told.get(_key(s), ())]
            if not showing:
                where = "experts' masks" if known is None else f'"{labels}"'
                raise CohortError(
                    f'no slice of {len(able)} subjects is "{domain}" by {where}; at least one of '
                    f"each of {', '.join(task.domains)} was expected"
                )
            self.shown.append(People.of(showing))

    @property
    def readings(self) -> list[tuple[Subject, tuple[Contrast, ...]]]:
        """Everybody who has a label."""
        sources = self.task.sources
        return [(s, sources) for s in self.routes[0].sources.subjects if _key(s) in self.told]

    def draw(self, route: Route, rng: np.random.Generator) -> Sample:
        """A random window of one domain, and one of another domain at the same height."""
        count = len(self.task.domains)
        if count == 1:
            return self._alone(rng)
        origin = int(rng.integers(count))
        asked = (origin + int(rng.integers(1, count))) % count
        leading, following = max(origin, asked), min(origin, asked)
        leader, corner = self._leading(leading, rng)
        follower, behind = self._following(following, leader, corner, rng)
        here, there = (leader, corner), (follower, behind)
        if origin != leading:
            here, there = there, here
        seed, other_seed = (int(rng.integers(2**62)) for _ in range(2))
        source, weight = self._cut(*here, self.augmentation, seed)
        target, target_weight = self._cut(*there, self.moves, other_seed)
        del route
        return Sample(
            source=self.channels(source),
            target=self.centre(target),
            weight=self.centre(weight),
            source_contrast=origin,
            target_contrast=asked,
            subject=here[0].name,
            target_weight=self.centre(target_weight),
            target_slab=self.slab(target),
            other=there[0].name,
        )

    def _alone(self, rng: np.random.Generator) -> Sample:
        """A window that is its own target."""
        person, corner = self._leading(0, rng)
        image, weight = self._cut(person, corner, self.augmentation, int(rng.integers(2**62)))
        return Sample(
            source=self.channels(image),
            target=self.centre(image),
            weight=self.centre(weight),
            source_contrast=0,
            target_contrast=0,
            subject=person.name,
        )

    def _leading(self, domain: int, rng: np.random.Generator) -> tuple[Prepared, Corner]:
        person, heights = self._drawn(domain, rng)
        return person, self.placing.anywhere(replace(person, heights=heights), rng)

    def _following(
        self, domain: int, other: Prepared, corner: Corner, rng: np.random.Generator
    ) -> tuple[Prepared, Corner]:
        """A window at about another's share of the head's height."""
        share = _share(other, corner[2] + self.view.slices // 2)
        drawn = [self._drawn(domain, rng) for _ in range(_TRIES)]
        offs = [np.abs(_share(person, heights) - share) for person, heights in drawn]
        nearest = int(np.argmin([off.min() for off in offs]))
        (person, heights), off = drawn[nearest], offs[nearest]
        near = heights[off <= off.min() + 0.03]
        return person, self.placing.anywhere(replace(person, heights=near), rng)

    def _drawn(self, domain: int, rng: np.random.Generator) -> tuple[Prepared, NDArray[np.intp]]:
        subject = self.shown[domain].drawn(rng)
        person = self.decode(subject, self.task.sources)
        heights = self.told[_key(subject)][domain]
        worthy = heights[np.isin(heights, person.heights)]
        if not len(worthy):  # labelled slices that hardly show tissue are better than none
            worthy = heights[heights < person.tissue.shape[2]]
        if not len(worthy):
            raise CohortError(
                f'"{person.name}" has {person.tissue.shape[2]} slices, but only slices beyond that '
                f'are labelled "{self.task.domains[domain]}"; slices are counted from 0'
            )
        return person, worthy

    def _cut(
        self, person: Prepared, corner: Corner, augmentation: Augmentation, seed: int
    ) -> tuple[Tensor, Tensor]:
        image, tissue = self.placing.cut(person, self.task.sources, corner)
        image, _, tissue = augmentation(image, tissue, tissue, seed=seed)
        return image, self.weights(tissue)

    def _of_mask(self, subject: Subject) -> Mapping[int, str] | None:
        """The label of each axial slice by the expert's mask; slices with little are left out."""
        scan = load_volume(subject.scans[self.task.sources[0]]).canonical()
        mask = expert_mask(subject, scan)
        if mask is None:
            return None
        healthy, diseased = (*self.task.domains, "")[:2]
        tissue = np.maximum((scan.voxels > scan.voxels.min()).sum((0, 1)), 1)
        share = mask.sum((0, 1)) / tissue
        return {
            z: diseased if part >= LEAST else healthy
            for z, part in enumerate(share)
            if part >= LEAST or part == 0
        }

    def _by_domain(self, slices: str | Mapping[int, str]) -> dict[int, NDArray[np.intp]]:
        """The slices of each domain that there is; all of a person with one label.

        With a single domain those alone whose neighbours in the slab are of it too.
        """
        domains = self.task.domains
        if isinstance(slices, str):
            return {domains.index(slices): np.arange(1 << 15)} if slices in domains else {}
        found: dict[int, list[int]] = defaultdict(list)
        for z, label in sorted(slices.items()):
            if label in domains:
                found[domains.index(label)].append(z)
        if len(domains) == 1:
            known, half = set(found[0]), self.view.slices // 2
            found[0] = [z for z in found[0] if known.issuperset(range(z - half, z + half + 1))]
        return {domain: np.asarray(own, np.intp) for domain, own in found.items() if own}


def table_labels(path: Path, domains: tuple[str, ...]) -> Labels:
    """Labels from a .tsv or .csv table.

    Columns: "participant_id"; "label", one of the domains; and, where labels are of slices,
    "slice", counted from 0 at the feet. A row without a label is left out; with a single domain,
    any other label says that a slice is not of it.

    Raises:
        MissingFileError: no such table. CohortError: a column is missing, or a label unknown.
    """
    if not path.is_file():
        raise MissingFileError(
            f'labels "{path}" do not exist; "{MASKS}" or the path of a table was expected'
        )
    labels: dict[str, str | dict[int, str]] = {}
    for number, row in enumerate(read_rows(path), start=2):
        if "label" not in row:
            raise CohortError(f'"{path}" lacks the column "label"')
        name, label, where = row["participant_id"], row["label"], row.get("slice", "")
        if not label:
            continue
        if label not in domains and len(domains) > 1:
            raise CohortError(
                f'line {number} of "{path}" has the label "{label}"; one of {", ".join(domains)} '
                "was expected"
            )
        known = labels.setdefault(name, {} if where else label)
        if isinstance(known, dict) and where.isdecimal():
            known[int(where)] = label
        elif where or isinstance(known, dict) or known != label:
            raise CohortError(
                f'line {number} of "{path}" labels "{name}" a second time or its slice "{where}" '
                "is no whole number; one label for all of a person, or one per slice, was expected"
            )
    return labels


def _key(subject: Subject) -> str:
    """Subjects of different studies may share a name."""
    return f"{subject.study}\0{subject.name}"


def _share(person: Prepared, z: int | NDArray[np.intp]) -> NDArray[np.float64]:
    """Where slices lie in the head: 0 at its lowest, 1 at its highest."""
    first, last = int(person.heights[0]), int(person.heights[-1])
    return np.asarray((z - first) / max(last - first, 1), np.float64)
