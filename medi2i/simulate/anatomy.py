"""Anatomy on a grid; and a procedural head that needs no data, different for every seed.

The procedural head is drawn in an atlas frame: millimetres, x to the right, y to the front, z up,
origin near the anterior commissure, a little larger than life as brain atlases are. A person is
that atlas times about 0.9, with their own proportions, bent by a smooth random displacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import UsageError
from medi2i.simulate.body import WHITE, brain_of, parenchyma_of
from medi2i.simulate.brain import draw_brain
from medi2i.simulate.person import Person
from medi2i.simulate.physics import Tissue
from medi2i.simulate.shapes import TISSUES, WHOLE, Canvas, Patch
from medi2i.simulate.skull import draw_face, draw_skull_and_scalp

__all__ = ["Head", "procedural_head"]

_CENTRE = (0.0, -8.0, 5.0)  # of the grid in the atlas frame; each head lies a little aside
_BEND = 1.3  # standard deviation of the displacement, mm
_SLAB = 12  # sagittal planes drawn at a time: what is worked on stays in the processor's cache


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """An anatomy on a grid.

    Attributes:
        labels: (X, Y, Z) int16, the label with the largest share: keys of `physics.LABELS`.
        shares: (T, X, Y, Z) uint8, 255ths of each voxel per tissue; they sum to 255.
        tissues: what the T shares are of, in that order.
        spacing: voxel size, mm.
        affine: (4, 4), voxel indices to RAS+ millimetres.
    """

    labels: NDArray[np.int16]
    shares: NDArray[np.uint8]
    tissues: tuple[Tissue, ...]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.labels.shape
        return x, y, z

    @property
    def brain(self) -> NDArray[np.bool_]:
        """(X, Y, Z): what skull-stripping leaves; see `body.Body`."""
        return brain_of(self.labels)

    @property
    def parenchyma(self) -> NDArray[np.bool_]:
        """(X, Y, Z): the brain's own tissue."""
        return parenchyma_of(self.labels)

    @property
    def white(self) -> NDArray[np.bool_]:
        """(X, Y, Z): cerebral white matter."""
        return np.isin(self.labels, WHITE)

    @property
    def air(self) -> NDArray[np.bool_]:
        """(X, Y, Z): outside and inside the head."""
        empty: NDArray[np.bool_] = self.labels == 0
        return empty

    def render(self, values: Mapping[Tissue, float]) -> NDArray[np.float32]:
        """(X, Y, Z) float32: a value per tissue, weighed by its share of each voxel."""
        image = np.zeros(self.shape, np.float32)
        for tissue, share in zip(self.tissues, self.shares, strict=True):
            if value := values[tissue]:
                image += share * np.float32(value / WHOLE)
        return image


def _draw(person: Person, axes: list[NDArray[np.float32]], edge: float, *, skull: bool) -> Canvas:
    """Paint the part of a head that lies on a grid, given by its axes in the atlas frame."""
    x, y, z = axes
    grid = np.meshgrid(x, y, z, indexing="ij")
    bent = [
        g + np.float32(_BEND) * field(x, y, z) for g, field in zip(grid, person.bent, strict=True)
    ]
    whole = (slice(0, len(x)), slice(0, len(y)), slice(0, len(z)))
    canvas = Canvas((x, y, z), Patch(bent[0], bent[1], bent[2], whole), edge)
    cavity = draw_brain(canvas, person)
    if skull:
        draw_face(canvas, person)
        draw_skull_and_scalp(canvas, person, cavity)
    canvas.shares[TISSUES.index(Tissue.AIR)] += canvas.left
    return canvas


def procedural_head(
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = (160, 192, 160),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    skull: bool = True,
) -> Head:
    """A head of its own for every seed: folded cortex, nuclei, ventricles, skull, face.

    Args:
        seed: which person. The same person on another grid is the same person; the same seed and
            grid give the same bytes.
        shape: voxels from left to right, back to front, bottom to top.
        spacing: voxel size in mm. The head lies in the middle of the grid: 160 x 192 x 160 mm
            hold it from the crown to the upper jaw.
        skull: False leaves brain and fluid only, as after skull-stripping.

    Raises:
        UsageError: an axis shorter than 4 voxels, a spacing that is not a positive number.
    """
    if len(shape) != 3 or any(int(n) != n or n < 4 for n in shape):
        raise UsageError(f"shape is {shape}; three whole numbers of at least 4 were expected.")
    if len(spacing) != 3 or any(not (math.isfinite(s) and s > 0) for s in spacing):
        raise UsageError(f"spacing is {spacing}; three lengths in mm above 0 were expected.")

    person = Person.draw(seed)
    centre = (_CENTRE[0] + person.aside, *_CENTRE[1:])
    affine, axes = np.eye(4), []
    for axis, (n, step) in enumerate(zip(shape, spacing, strict=True)):
        scale = person.size * person.proportions[axis]
        first = centre[axis] * scale - (n - 1) / 2 * step  # mm from the anterior commissure
        affine[axis, axis], affine[axis, 3] = step, first
        axes.append(((first + step * np.arange(n)) / scale).astype(np.float32))
    edge = math.prod(spacing) ** (1 / 3) / person.size

    labels = np.zeros(shape, np.int16)
    shares = np.zeros((len(TISSUES), *shape), np.uint8)
    for start in range(0, shape[0], _SLAB):
        stop = min(start + _SLAB, shape[0])
        low, high = max(start - 1, 0), min(stop + 1, shape[0])  # slopes need a neighbour
        slab = _draw(person, [axes[0][low:high], axes[1], axes[2]], edge, skull=skull)
        own = slice(start - low, stop - low)
        labels[start:stop] = slab.labels[own]
        shares[:, start:stop] = slab.shares[:, own]
    return Head(labels, shares, TISSUES, spacing, affine)
