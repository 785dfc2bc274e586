"""What data hands to systems: the only words that the two share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch", "Neighbour", "Pairing"]


class Pairing(Enum):
    """How the two sides of a batch belong together."""

    PAIRED = "paired"
    """Same person, same voxel."""
    UNPAIRED = "unpaired"
    """Two draws that have nothing to do with each other: two persons, two places."""


@dataclass(frozen=True)
class Neighbour:
    """The next slice up in the same volume, and where the anatomy of this one lies in it.

    A 3-D patch holds the next one of all its slices but the last; there is a field for each.

    Attributes:
        slab: (B, C * k, X, Y): the slab one slice further up, laid out as the slab itself; None
            for patches.
        field: (B, 2, X, Y), or (B, 2, X, Y, Z - 1) for patches: displacement in voxels in the plane
            with warp(this slice, field) ~ next slice, by the convention of `networks.deformation`.
        inside: (B, 1, X, Y), or (B, 1, X, Y, Z - 1): 1 where both slices show tissue and the field
            is known, else 0; 0 everywhere for the last slice of a volume, which has no next one.
    """

    slab: Tensor | None
    field: Tensor
    inside: Tensor

    def to(self, device: torch.device | str) -> Neighbour:
        """The same with every tensor on `device`."""
        moved: dict[str, Tensor] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch:
    """One training batch, intensities in [-1, 1] (a few bright voxels may lie above).

    Attributes:
        source: (B, C * k, *spatial): C source contrasts of k neighbouring slices each,
            the slices of the first contrast first. k = 1 for slices and for 3-D patches.
        target: (B, M, *spatial): M target contrasts of the centre slice, or the 3-D patch.
        weight: (B, 1, *spatial) in [0, 1]: how much each voxel counts, or None for all alike.
        source_contrast, target_contrast: (B,) long, positions in the model's list of contrasts
            where one network serves several; None where the task is fixed.
        every: (B, T, *spatial): all the contrasts that can be asked for, of which `target` is one;
            None where the task is fixed.
        known: (B, T) bool: which of `every` were acquired and are not the source itself.
        target_weight: as `weight`, where the target is another person; None where it is the same.
        target_slab: (B, M * k, *spatial): the target with its neighbouring slices, for systems
            that go both ways; None where only the centre slice was drawn.
        neighbour: of the source's centre slice, or of a patch's slices; None unless something
            asks for it.
        target_neighbour: of the target's, where that is another person.
        subjects: who is in the batch, for messages.
    """

    source: Tensor
    target: Tensor
    weight: Tensor | None = None
    source_contrast: Tensor | None = None
    target_contrast: Tensor | None = None
    every: Tensor | None = None
    known: Tensor | None = None
    target_weight: Tensor | None = None
    target_slab: Tensor | None = None
    neighbour: Neighbour | None = None
    target_neighbour: Neighbour | None = None
    subjects: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            if isinstance(value, Neighbour)
            else value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor | Neighbour)
        }
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.source)
