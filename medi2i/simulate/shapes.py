"""What a head is drawn with: signed distances, random fields, and a canvas of tissue shares.

A shape is a signed distance in mm, negative inside. The canvas is painted front to back: each shape
takes its part of what nearer ones left of a voxel, in whole 255ths, so that the shares of a voxel
sum to 255 exactly and edges carry partial volume at any spacing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.simulate.physics import LABELS, Tissue

__all__ = [
    "TISSUES",
    "WHOLE",
    "Canvas",
    "Field",
    "Patch",
    "Point",
    "Ripples",
    "Smooth",
    "blend",
    "carve",
    "ellipsoid",
    "overlap",
    "sheet",
    "tube",
]

Field = NDArray[np.floating[Any]]  # (X, Y, Z), float32 in practice
Point = tuple[float, float, float]
Region = tuple[slice, slice, slice]

WHOLE = 255
"""The shares in a voxel sum to this."""

TISSUES = tuple(Tissue)


@dataclass(frozen=True, slots=True)
class Patch:
    """Coordinates of a box of voxels, mm."""

    x: Field
    y: Field
    z: Field
    region: Region

    def folded(self) -> Patch:
        """The same box with left and right laid on each other: x is the distance to the midline."""
        return Patch(np.abs(self.x), self.y, self.z, self.region)


# --- distances ------------------------------------------------------------------------------------


def ellipsoid(at: Patch, centre: Point, radii: Point) -> Field:
    """Distance to an ellipsoid; exact on its surface, of first order near it."""
    u, v, w = (
        (a - np.float32(c)) / np.float32(r)
        for a, c, r in zip((at.x, at.y, at.z), centre, radii, strict=True)
    )
    rx, ry, rz = (np.float32(1 / r**2) for r in radii)
    u, v, w = u * u, v * v, w * w
    level = np.sqrt(u + v + w)
    distance: Field = level * (level - 1) / np.maximum(np.sqrt(u * rx + v * ry + w * rz), 1e-6)
    return distance


def tube(at: Patch, *path: tuple[Point, float]) -> Field:
    """Distance to a tube along `path`: at least two points, each with the radius there."""
    pieces: list[Field] = []
    for (start, radius), (end, last) in pairwise(path):
        sx, sy, sz = (np.float32(b - a) for a, b in zip(start, end, strict=True))
        px, py, pz = at.x - start[0], at.y - start[1], at.z - start[2]
        t = np.clip((px * sx + py * sy + pz * sz) / (sx * sx + sy * sy + sz * sz), 0, 1)
        away = np.sqrt((px - t * sx) ** 2 + (py - t * sy) ** 2 + (pz - t * sz) ** 2)
        pieces.append(away - (radius + t * (last - radius)))
    nearest: Field = np.minimum.reduce(pieces)
    return nearest


def blend(a: Field, b: Field, width: float) -> Field:
    """Union of two shapes, the crease filled over about `width` mm (polynomial minimum)."""
    h = np.clip(0.5 + (b - a) / (2 * width), 0, 1)
    joined: Field = b + (a - b) * h - width * h * (1 - h)
    return joined


def carve(a: Field, b: Field, width: float) -> Field:
    """What lies in `a` and not in `b`, the edge rounded over about `width` mm."""
    return -blend(-a, b, width)


def overlap(a: Field, b: Field, width: float) -> Field:
    """What lies in both, the edge rounded over about `width` mm."""
    return -blend(-a, -b, width)


def sheet(value: Field, step: float) -> Field:
    """Distance to the zeros of a field, from its value and its slope; voxels are `step` apart."""
    square = np.zeros_like(value)
    for axis, size in enumerate(value.shape):
        if size > 1:
            square += np.gradient(value, step, axis=axis) ** 2
    distance: Field = np.abs(value) / np.maximum(np.sqrt(square), 0.04)
    return distance


# --- random fields --------------------------------------------------------------------------------


class Smooth:
    """A random smooth field: `waves - 1` half waves at most along each side of a 256 mm cube.

    Mean 0, standard deviation 1 over that cube; long waves weigh more.
    """

    def __init__(self, rng: np.random.Generator, waves: int) -> None:
        index = np.stack(np.meshgrid(*[np.arange(waves)] * 3, indexing="ij"))
        radius = np.sqrt((index**2).sum(0))
        weights = rng.standard_normal(radius.shape) * (radius > 0) / np.maximum(radius, 1) ** 1.5
        variance = 0.5 ** (index > 0).sum(0)  # of a product of cosines
        self.weights = (weights / np.sqrt((weights**2 * variance).sum())).astype(np.float32)

    def __call__(
        self, x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]
    ) -> Field:
        """Values on the grid that three axes (mm) span: (len(x), len(y), len(z))."""
        values: Field = self.weights
        order = np.arange(len(values), dtype=np.float32)
        for axis in (x, y, z):  # each contracts the first axis and appends one of the grid
            basis = np.cos(np.float32(np.pi / 256) * np.outer(order, axis + np.float32(128)))
            values = np.tensordot(values, basis, axes=(0, 0))
        return values


class Ripples:
    """A random field with one wavelength (mm; along x, y, z) in all directions.

    A sum of `waves` plane waves; mean 0, standard deviation 1. Its zeros wind through space like
    sulci.
    """

    def __init__(self, rng: np.random.Generator, wavelength: Point, waves: int = 20) -> None:
        directions = rng.standard_normal((waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions *= 2 * np.pi * rng.uniform(0.85, 1.18, (waves, 1)) / np.asarray(wavelength)
        phases = rng.uniform(0, 2 * np.pi, (waves, 1))
        self.waves = np.hstack([directions, phases]).astype(np.float32)

    def __call__(self, x: Field, y: Field, z: Field) -> Field:
        """Values at points, mm."""
        total, wave, part = np.zeros_like(x), np.empty_like(x), np.empty_like(x)
        for kx, ky, kz, phase in self.waves:  # in place: three times faster
            np.multiply(x, kx, out=wave)
            wave += np.multiply(y, ky, out=part)
            wave += np.multiply(z, kz, out=part)
            wave += phase
            total += np.cos(wave, out=wave)
        total *= np.float32(np.sqrt(2 / len(self.waves)))
        return total


# --- painting -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Canvas:
    """Labels and tissue shares on one grid, from nothing to all painted.

    Attributes:
        axes: the grid before it is bent, mm.
        everywhere: the coordinates of its voxels, mm.
        edge: width over which an edge fades, mm: one voxel.
        labels: (X, Y, Z), the label with the largest share so far.
        shares: (T, X, Y, Z), 255ths of each voxel per tissue of `TISSUES`.
        left: (X, Y, Z), 255ths that nothing has taken yet.
    """

    axes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    everywhere: Patch
    edge: float
    labels: NDArray[np.int16] = field(init=False)
    shares: NDArray[np.uint8] = field(init=False)
    left: NDArray[np.uint8] = field(init=False)
    largest: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        shape = self.everywhere.x.shape
        self.labels = np.zeros(shape, np.int16)
        self.shares = np.zeros((len(TISSUES), *shape), np.uint8)
        self.left = np.full(shape, WHOLE, np.uint8)
        self.largest = np.zeros(shape, np.uint8)

    def box(self, low: Point, high: Point) -> Patch:
        """The voxels from one corner to the other, mm; those bent into it included."""
        slack = 6.0  # more than the grid is bent
        cut = []
        for axis, lo, hi in zip(self.axes, low, high, strict=True):
            first, last = np.searchsorted(axis, (lo - slack, hi + slack))
            cut.append(slice(max(int(first) - 1, 0), int(last) + 1))
        region = (cut[0], cut[1], cut[2])
        whole = self.everywhere
        return Patch(whole.x[region], whole.y[region], whole.z[region], region)

    def smooth(self, values: Smooth, at: Patch) -> Field:
        """A smooth random field on the grid before it is bent."""
        x, y, z = (axis[cut] for axis, cut in zip(self.axes, at.region, strict=True))
        return values(x, y, z)

    def cover(self, distance: Field) -> Field:
        """The part of each voxel that lies inside a shape, 0 to 1."""
        inside: Field = np.clip(0.5 - distance / np.float32(self.edge), 0, 1)
        return inside

    def fill(self, label: int | tuple[int, int], distance: Field, at: Patch) -> None:
        """Paint the inside of a shape."""
        self.paint(label, self.cover(distance), at)

    def paint(self, label: int | tuple[int, int], part: Field, at: Patch) -> None:
        """Give `part` (0 to 1) of what is left of each voxel to a label and its tissue.

        Two labels are those to the left and to the right of the midline.
        """
        values: int | NDArray[np.int16]
        if isinstance(label, tuple):
            tissue, values = LABELS[label[0]], np.where(at.x < 0, *map(np.int16, label))
        else:
            tissue, values = LABELS[label], label
        left, largest = self.left[at.region], self.largest[at.region]
        taken = (left * part + np.float32(0.5)).astype(np.uint8)
        left -= taken
        self.shares[TISSUES.index(tissue)][at.region] += taken
        wins = taken > largest
        np.copyto(self.labels[at.region], values, where=wins, casting="same_kind")
        np.copyto(largest, taken, where=wins)
