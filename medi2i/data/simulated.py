"""Simulated people on the fly: a map-style data set as MONAI and torch know it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from medi2i.contrasts import Contrast
from medi2i.errors import MissingFileError, UsageError
from medi2i.simulate.body import read_labels
from medi2i.simulate.examination import Shown
from medi2i.simulate.lesions import Pathology
from medi2i.simulate.protocols import Style
from medi2i.simulate.simulator import USUAL, Simulated, simulate

if TYPE_CHECKING:
    import torchio

__all__ = ["SimulatedHeads", "label_maps"]


class SimulatedHeads(Dataset[dict[str, Any]]):
    """`subjects` people who are computed when they are asked for, and always the same.

    An item is a dictionary of one tensor (1, X, Y, Z) float32 per contrast, "brain" and "lesion"
    masks (1, X, Y, Z) bool, the "affine" (4, 4) float64 and the "name": what MONAI's dictionary
    transforms take. :meth:`torchio_subject` gives the same as a torchio Subject.

    Args:
        subjects: how many.
        contrasts: which scans of each.
        anatomy: folder of label maps (*.nii.gz, 1 mm), used in turn; None for procedural heads.
        pathologies: drawn from at random for each person, None among them for the healthy.
        shapes: folder of lesion masks.
        seed: of everybody.
        style, head: kept where given, else drawn; grids differ from person to person.

    Raises:
        UsageError: fewer than one subject. MissingFileError: no label maps.
        ContrastError: a contrast without a protocol.

    >>> heads = SimulatedHeads(4, contrasts=["t1", "t2"], pathologies=["ms", None])
    >>> len(heads)
    4
    """

    def __init__(
        self,
        subjects: int,
        *,
        contrasts: Iterable[Contrast | str] = USUAL,
        anatomy: Path | None = None,
        pathologies: Sequence[Pathology | str | None] = (None,),
        shapes: Path | None = None,
        seed: int = 0,
        style: Style | None = None,
        head: Shown | None = None,
    ) -> None:
        if subjects < 1:
            raise UsageError(f"subjects is {subjects}; at least 1 was expected")
        self.subjects = subjects
        self.contrasts = tuple(Contrast.parse(contrast) for contrast in contrasts)
        self.maps = label_maps(anatomy) if anatomy is not None else []
        self.pathologies = [None if p is None else Pathology(p) for p in pathologies]
        self.shapes = shapes
        self.seed = seed
        self.style = style
        self.head = head

    def __len__(self) -> int:
        return self.subjects

    def seed_of(self, number: int) -> int:
        """Of `simulate` for one person."""
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])

    def pathology_of(self, number: int) -> Pathology | None:
        """What one person has."""
        rng = np.random.default_rng([self.seed, number, 1])
        return self.pathologies[int(rng.integers(len(self.pathologies)))]

    def person(self, number: int) -> Simulated:
        """One person, volumes and parameters."""
        if not 0 <= number < self.subjects:
            raise IndexError(f"there is no subject {number} among {self.subjects}")
        labels = read_labels(self.maps[number % len(self.maps)]) if self.maps else None
        return simulate(
            self.seed_of(number),
            contrasts=self.contrasts,
            labels=labels,
            pathology=self.pathology_of(number),
            shapes=self.shapes,
            style=self.style,
            head=self.head,
        )

    def __getitem__(self, number: int) -> dict[str, Any]:
        person = self.person(number)
        scans = {str(c): torch.from_numpy(v.voxels)[None] for c, v in person.scans.items()}
        brain = torch.from_numpy(person.brain.voxels > 0)[None]
        lesion = torch.zeros_like(brain)
        if person.lesions is not None:
            lesion = torch.from_numpy(person.lesions.voxels > 0)[None]
        affine = torch.from_numpy(person.brain.affine)
        return {
            **scans,
            "brain": brain,
            "lesion": lesion,
            "affine": affine,
            "name": f"sim-{self.seed}-{number}",
        }

    def torchio_subject(self, number: int) -> torchio.Subject:
        """One person as torchio knows it: a ScalarImage per contrast, LabelMaps for the masks."""
        import torchio

        item = self[number]
        affine, name = item.pop("affine"), item.pop("name")
        images = {
            key: (torchio.LabelMap if value.dtype == torch.bool else torchio.ScalarImage)(
                tensor=value.float(), affine=affine
            )
            for key, value in item.items()
        }
        return torchio.Subject(name=name, **images)


def label_maps(folder: Path) -> list[Path]:
    """The label maps of a folder, sorted.

    Raises:
        MissingFileError: there are none.
    """
    maps = sorted(folder.glob("*.nii.gz")) + sorted(folder.glob("*.nii"))
    if not maps:
        raise MissingFileError(
            f'"{folder}" holds no label maps; *.nii.gz of 1 mm with the values of FreeSurfer and '
            "SimNIBS were expected. Leave --anatomy away for procedural heads"
        )
    return maps
