"""A brain that lesions are painted into, front to back, and what masses do to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.simulate.lesions.places import Brain
from medi2i.simulate.lesions.shapes import Box, Field, Vector, front, noise, smoothstep
from medi2i.simulate.physics import Tissue

__all__ = ["Canvas", "inside"]


def inside(distance: NDArray[np.floating], width: float) -> Field:
    """The part of a voxel within a shape whose rim fades over `width` mm."""
    part: Field = np.clip(0.5 - distance / np.float32(width), 0, 1).astype(np.float32, copy=False)
    return part


class Canvas:
    """What is drawn first takes its part of a voxel first.

    Attributes:
        brain: the healthy one; places are chosen in it.
        white, tissue: (X, Y, Z) bool, where both are now, mass effect included.
        left: (X, Y, Z), the part of each voxel that nothing has taken; 0 off the tissue.
        shares: the parts taken, by tissue.
        displacement: (3, X, Y, Z) voxels, as `Lesions` has it.
    """

    def __init__(self, brain: Brain, rng: np.random.Generator, *, mass_effect: bool) -> None:
        self.brain, self.rng, self.mass_effect = brain, rng, mass_effect
        self.white, self.tissue = brain.white, brain.tissue
        self.left: Field = brain.tissue.astype(np.float32)
        self.shares: dict[Tissue, Field] = {}
        self.displacement: Field | None = None

    def paint(self, tissue: Tissue, part: NDArray[np.floating], box: Box) -> None:
        """Give `part` (0 to 1) of what is left of each voxel to a tissue."""
        if tissue not in self.shares:
            self.shares[tissue] = np.zeros(self.brain.shape, np.float32)
        left = self.left[box]
        taken = left * np.clip(part, 0, 1).astype(np.float32, copy=False)
        left -= taken
        self.shares[tissue][box] += taken

    def push(self, centre: Vector, radius: float, amount: float) -> None:
        """Mass effect, where it is wanted: from here on the head is the displaced one."""
        moved = None
        if self.mass_effect and not self.shares:
            moved = self.brain.push(centre, radius, amount, self.rng)
        if moved is None:
            return
        u, box = moved
        self.displacement = np.zeros((3, *self.brain.shape), np.float32)
        self.displacement[:, *box] = u
        grid = np.ogrid[tuple(slice(0, n) for n in u.shape[1:])]
        at = np.stack([move + g.astype(np.float32) for move, g in zip(u, grid, strict=True)])
        kinds = self.white[box] + self.tissue[box].astype(np.uint8)  # white is tissue too
        kinds = ndimage.map_coordinates(kinds, at, order=0, mode="nearest")
        self.white, self.tissue = self.white.copy(), self.tissue.copy()
        self.white[box], self.tissue[box] = kinds == 2, kinds > 0
        self.left = self.tissue.astype(np.float32)

    def one_side(self, distance: Field, box: Box, centre: Vector) -> Field:
        """A shape cut off at the falx: it crosses the midline in white matter alone."""
        x = float(self.brain.matrix[0] @ centre + self.brain.offset[0])
        if abs(x) < 4:
            return distance
        beyond = np.maximum(np.float32(-np.sign(x)) * self.brain.mni(0, box), 0)
        cut: Field = distance + np.where(self.white[box], np.float32(0.5), np.float32(6)) * beyond
        return cut

    def oedema(self, solid: Field, box: Box, *, reach: float, strength: float) -> None:
        """Fluid that seeps from a solid shape (its signed distance) along white matter.

        It reaches out in fingers between the sulci, spares the cortex and fades.
        """
        pad = int(1.5 * reach) + 2
        wide = self.brain.around(
            [(s.start + s.stop - 1) / 2 for s in box],
            [(s.stop - s.start) / 2 + pad for s in box],
        )
        seeds = np.zeros([s.stop - s.start for s in wide], bool)
        x, y, z = (
            slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True)
        )
        seeds[x, y, z] = solid < 0
        white = self.white[wide]
        way = front(seeds, white, self.tissue[wide], grey=3.0)
        uneven = 1 + 0.35 * noise(way.shape, self.rng, 14) + 0.12 * noise(way.shape, self.rng, 4)
        fade = smoothstep((np.float32(reach) * uneven - way) / np.float32(0.45 * reach + 1.5))
        soaked = ndimage.gaussian_filter(np.where(white, np.float32(1), np.float32(0.35)), 0.6)
        self.paint(Tissue.OEDEMA, np.float32(strength) * fade * soaked, wide)
