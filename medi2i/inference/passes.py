"""Several looks at one volume, averaged: in three planes, and with left and right exchanged.

A network of slices sees a volume in one plane. Shown the same volume in the other two planes, and
mirrored, it errs elsewhere each time: the mean of its answers is nearer to the truth than any one
of them, and fits together in all three directions. It costs as many times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AXIAL", "Pass", "Quality", "passes_of"]

THICK = 2.0
"""Coarsest voxel, in mm, of a volume that is also shown in other planes: across thicker slices
they would show interpolation, which networks of slices have not learned to see through."""


class Quality(StrEnum):
    """How many looks a translation takes: what --quality takes."""

    FAST = "fast"
    """One, axial."""
    PLANES = "planes"
    """Three planes; one where slices are thick."""
    BEST = "best"
    """Three planes and the axial one mirrored; axial and mirrored where slices are thick."""


@dataclass(frozen=True)
class Pass:
    """One look at a volume in canonical axes.

    Attributes:
        across: the axis that slices lie across: 0 sagittal, 1 coronal, 2 axial.
        mirrored: left and right exchanged.
    """

    across: int = 2
    mirrored: bool = False

    @property
    def order(self) -> tuple[int, int, int]:
        """The axes of the volume in the order in which the network sees them."""
        first, second = (axis for axis in range(3) if axis != self.across)
        return first, second, self.across

    def __str__(self) -> str:
        """Its name.

        >>> print(Pass(1, mirrored=True))
        coronal, mirrored
        """
        plane = ("sagittal", "coronal", "axial")[self.across]
        return f"{plane}, mirrored" if self.mirrored else plane

    def shown(self, volume: Tensor) -> Tensor:
        """(C, X, Y, Z) as the network shall see it, a view or a copy."""
        turned = volume.flip(1) if self.mirrored else volume
        return turned.permute(0, *(axis + 1 for axis in self.order))

    def back(self, volume: Tensor) -> Tensor:
        """What :meth:`shown` has done, undone."""
        whole = [0, *(self.order.index(axis) + 1 for axis in range(3))]
        turned = volume.permute(whole)
        return turned.flip(1) if self.mirrored else turned


AXIAL = Pass()


def passes_of(quality: Quality, spacing: Sequence[float], dims: int) -> tuple[Pass, ...]:
    """The looks that a quality takes.

    Args:
        quality: how many there shall be.
        spacing: of the volume in canonical axes, mm.
        dims: of the network. One of 3-D patches sees all planes at once: only mirroring is left.

    >>> [len(passes_of(Quality.BEST, spacing, 2)) for spacing in ((1, 1, 1), (0.5, 0.5, 5))]
    [4, 2]
    """
    flat = dims == 2 and max(spacing) <= THICK
    planes = (Pass(1), Pass(0)) if flat and quality is not Quality.FAST else ()
    mirrored = (Pass(mirrored=True),) if quality is Quality.BEST else ()
    return AXIAL, *mirrored, *planes
