"""Where lesions lie: a head's frame in MNI space, what surrounds a place, masks laid into a head.

All of it on one grid of 1 mm RAS voxels, cropped to the brain.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medi2i.errors import MissingFileError
from medi2i.simulate.lesions.shapes import (
    STEP,
    Box,
    Field,
    Mask,
    Vector,
    jacobian,
    linear,
    noise,
    smoothstep,
)
from medi2i.volume import load_volume

__all__ = ["Brain", "real_shape", "shape_files"]

# Cerebral white matter of the MNI152 template: centre (mm), principal axes (columns: right, front
# and a little down, up), spread along them (mm). The centre is shifted by 2 mm to where the deep
# nuclei of 20 segmented heads come to lie best; they then do to 2.7 mm (root mean square).
_CENTRE = np.array([0.0, -18.0, 20.0])
_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.9941, 0.1086], [0.0, -0.1086, 0.9941]])
_SPREAD = np.array([31.4, 38.5, 22.7])


class Brain:
    """One head's brain and its frame in MNI space.

    The frame matches the principal axes of cerebral white matter, so that a head may be tilted and
    of any size.

    Attributes:
        white, tissue: (X, Y, Z) bool.
        matrix, offset: (3, 3) and (3,): MNI mm = matrix @ voxel + offset.
    """

    def __init__(self, white: Mask, tissue: Mask) -> None:
        self.white, self.tissue = white, tissue
        points = 3.0 * np.argwhere(white[::3, ::3, ::3])
        if len(points) < 4:
            points = 1.0 * np.argwhere(tissue)
        centre, spread, axes = points.mean(0), np.ones(3), np.eye(3)
        if len(points) >= 4:
            variance, vectors = np.linalg.eigh(np.cov(points.T))  # ascending: up, right, front
            axes = vectors[:, [1, 2, 0]]
            axes = axes * np.where(np.diag(axes) < 0, -1.0, 1.0)
            spread = np.sqrt(np.maximum(variance[[1, 2, 0]], 1.0))
        self.matrix = _AXES @ np.diag(_SPREAD / spread) @ axes.T
        self.offset = _CENTRE - self.matrix @ centre

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.tissue.shape
        return x, y, z

    def voxel(self, mni: ArrayLike) -> Vector:
        """Where a point in MNI mm lies in the head."""
        return np.linalg.solve(self.matrix, np.asarray(mni, np.float64) - self.offset)

    def mni(self, axis: int, box: Box | None = None, step: int = 1) -> Field:
        """One MNI coordinate of every voxel of a box, or of every `step`-th voxel of the head."""
        total: Field = np.full((1, 1, 1), self.offset[axis], np.float32)
        for i, (cut, n) in enumerate(zip(box or (slice(None),) * 3, self.shape, strict=True)):
            along = (self.matrix[axis, i] * np.arange(n)[cut][::step]).astype(np.float32)
            total = total + along.reshape([-1 if i == j else 1 for j in range(3)])
        return total

    def around(self, centre: ArrayLike, reach: ArrayLike) -> Box:
        """The voxels within `reach` of a centre along each axis."""
        at, far = np.broadcast_arrays(np.asarray(centre), np.asarray(reach))
        low = np.maximum(np.floor(at - far), 0).astype(int)
        high = np.minimum(np.ceil(at + far) + 1, self.shape).astype(int)
        x, y, z = (slice(int(a), max(int(a), int(b))) for a, b in zip(low, high, strict=True))
        return x, y, z

    @cached_property
    def from_ventricles(self) -> Field:
        """Coarse: distance to the lateral ventricles, mm.

        They are the holes in the brain's tissue where MNI space has them; where there is none,
        their centre line stands in.
        """
        x, y, z = (self.mni(axis, step=STEP) for axis in range(3))
        place = (np.abs(x) < 32) & (np.abs(x) > 3) & (y > -58) & (y < 38) & (z > 0) & (z < 31)
        place &= (y > -45) | (np.abs(x) > 12)
        holes, _ = ndimage.label(place & ~self.tissue[::STEP, ::STEP, ::STEP])
        large = np.bincount(holes.ravel()) >= 25
        large[0] = False
        ventricles = large[holes]
        if not ventricles.any():
            ventricles = (np.abs(np.abs(x) - 14) < 3) & (np.abs(y + 8) < 30) & (np.abs(z - 16) < 3)
        if not ventricles.any():
            return np.full(ventricles.shape, 99.0, np.float32)
        distance: Field = ndimage.distance_transform_edt(~ventricles).astype(np.float32) * STEP
        return distance

    @cached_property
    def depth(self) -> Field:
        """Coarse: distance to the outside of the brain, sulci and ventricles closed, mm."""
        pad = 8
        coarse = np.pad(self.tissue[::STEP, ::STEP, ::STEP], pad)
        closed = ndimage.binary_fill_holes(ndimage.binary_closing(coarse, iterations=pad - 2))
        inner = (slice(pad, -pad),) * 3
        distance: Field = ndimage.distance_transform_edt(closed)[inner].astype(np.float32) * STEP
        return distance

    def pick(self, weights: NDArray[Any], rng: np.random.Generator) -> Vector | None:
        """A random voxel, by weights on the coarse grid; None where all are 0."""
        drawn = self.pick_several(weights, rng, 1)
        return drawn[0] if len(drawn) else None

    def pick_several(self, weights: NDArray[Any], rng: np.random.Generator, count: int) -> Vector:
        """(count, 3) random voxels, by weights on the coarse grid; (0, 3) where all are 0."""
        total = np.cumsum(weights, dtype=np.float64)
        if not total.size or total[-1] <= 0:
            return np.zeros((0, 3))
        index = np.searchsorted(total, rng.random(count) * total[-1], side="right")
        at = np.unravel_index(np.minimum(index, total.size - 1), weights.shape)
        return np.stack(at, axis=1) * float(STEP)

    def fine(self, coarse: Field, box: Box) -> Field:
        """A coarse field on the fine grid of a box, linear between."""
        for axis, cut in enumerate(box):
            coarse = linear(coarse, np.arange(cut.start, cut.stop) / STEP, axis)
        return coarse

    def push(
        self, centre: Vector, radius: float, amount: float, rng: np.random.Generator
    ) -> tuple[Field, Box] | None:
        """Mass effect: tissue moves away from a centre, most at `radius`, and not at the skull.

        With s = r/radius the move is `amount` times s within the lesion, which grows in place, and
        s exp(1.2 (1 - s)) around it.

        Returns:
            (3, ...) displacement in voxels on a box, and the box: what comes to x was at x + u(x).
            The Jacobian of x + u(x) is at least 0.1 everywhere. None where nothing can move.
        """
        box = self.around(centre, 3.5 * radius)
        inner = tuple(slice(-(-s.start // STEP), -(-s.stop // STEP)) for s in box)
        if any(s.stop - s.start < 2 for s in inner):
            return None
        away = [
            np.float32(STEP) * g.astype(np.float32) - np.float32(c)
            for g, c in zip(np.ogrid[inner], centre, strict=True)
        ]
        s = np.sqrt(sum(a * a for a in away)) / np.float32(radius)
        fall = np.exp(1.2 * np.minimum(1 - s, 0)) * smoothstep((3.5 - s) / 1.5)
        fall *= smoothstep(self.depth[inner] / 14)
        fall *= 1 + np.float32(0.2) * noise(fall.shape, rng, radius / STEP)
        u = np.stack([-np.float32(amount / radius) * fall * a for a in away])
        while float(jacobian(u, STEP).min()) < 0.2:
            u *= 0.8
        start = [s.start * STEP for s in inner]
        stop = [(s.stop - 1) * STEP + 1 for s in inner]
        x, y, z = (slice(a, b) for a, b in zip(start, stop, strict=True))
        for axis, cut in enumerate((x, y, z), start=1):
            u = linear(u, np.arange(cut.stop - cut.start) / STEP, axis)
        return u, (x, y, z)


@lru_cache(maxsize=8)
def shape_files(folder: Path, kind: str) -> tuple[Path, ...]:
    """The lesion masks of one kind in a folder, sorted.

    Raises:
        MissingFileError: there is none.
    """
    files = tuple(sorted(folder.glob(f"{kind}-*.nii.gz"))) if folder.is_dir() else ()
    if not files:
        raise MissingFileError(
            f'"{folder}" holds no lesion masks; files named {kind}-*.nii.gz were expected. Name'
            " another folder, or none for shapes that are made up."
        )
    return files


@lru_cache(maxsize=1024)
def _mask(path: Path) -> tuple[NDArray[np.uint8], tuple[int, ...], NDArray[np.float64]]:
    """A mask cropped to its lesion: its bits, its shape, and voxel -> MNI mm (4, 4)."""
    volume = load_volume(path).canonical()
    mask = volume.voxels > 0.5
    if not mask.any():
        return np.zeros(0, np.uint8), (0, 0, 0), volume.affine
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return np.packbits(mask[box]), mask[box].shape, affine


def _sample(
    brain: Brain, path: Path, rng: np.random.Generator, *, turn: float, shift: float, bend: float
) -> tuple[Field, Box] | None:
    """One mask laid into a head; as `real_shape`. None where it falls outside."""
    bits, shape, affine = _mask(path)
    flip = np.diag([rng.choice((-1.0, 1.0)), 1.0, 1.0])
    angles = np.deg2rad(turn * rng.standard_normal(3))
    zoom, moved = np.diag(rng.uniform(0.85, 1.15, 3)), shift * rng.standard_normal(3)
    threshold = rng.uniform(0.3, 0.6)
    if not bits.size:
        return None
    skew = np.array(
        [[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]]
    )
    rotation = np.linalg.solve(np.eye(3) - skew / 2, np.eye(3) + skew / 2)  # Cayley's map
    # lesion voxel -> MNI -> turned about its middle, moved, flipped -> voxel of the head
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    about = rotation @ zoom
    there = np.linalg.inv(brain.matrix) @ flip
    matrix = there @ about @ affine[:3, :3]
    offset = there @ (about @ (affine[:3, 3] - middle) + middle + moved)
    offset -= np.linalg.solve(brain.matrix, brain.offset)
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    corners = matrix @ ends + offset[:, None]
    low, high = corners.min(1), corners.max(1)
    box = brain.around((low + high) / 2, (high - low) / 2 + 3 * bend + 2)
    size = [s.stop - s.start for s in box]
    if min(size) < 2:
        return None
    back = np.linalg.inv(matrix)
    grid = [g - o for g, o in zip(np.ogrid[box], offset, strict=True)]
    places = np.empty((3, *size), np.float32)
    for axis in range(3):
        places[axis] = np.float32(bend) * noise(size, rng, 12.0)
        for g, a in zip(grid, back[axis], strict=True):
            places[axis] += (a * g).astype(np.float32)
    mask = np.unpackbits(bits, count=math.prod(shape)).reshape(shape)
    soft = ndimage.gaussian_filter(np.pad(mask.astype(np.float32), 2), 0.7)
    level = ndimage.map_coordinates(soft, places + 2, order=1)
    part: Field = np.clip((level - np.float32(threshold)) / np.float32(0.5) + 0.5, 0, 1)
    part[level < 0.02] = 0
    return part, box


def real_shape(
    brain: Brain,
    folder: Path,
    kind: str,
    rng: np.random.Generator,
    *,
    turn: float,
    shift: float,
    bend: float,
) -> tuple[Field, Box] | None:
    """A lesion mask in MNI space, bent anew and laid into a head.

    Args:
        turn, shift, bend: standard deviation of its rotation (degrees about each axis), of its
            displacement (mm) and of the smooth field that bends it (mm). It is also scaled by 0.85
            to 1.15 along each axis, made a little larger or smaller, and flipped half the time.

    Returns:
        How much of each voxel is lesion, 0 to 1, on a box, and the box. None where none of eight
        masks comes to lie in tissue: small ones may fall between the gyri of another head.

    Raises:
        MissingFileError: the folder holds no mask of this kind.
    """
    files = shape_files(Path(folder), kind)
    for _ in range(8):
        path = files[int(rng.integers(len(files)))]
        drawn = _sample(brain, path, rng, turn=turn, shift=shift, bend=bend)
        if drawn is not None and float((drawn[0] * brain.tissue[drawn[1]]).sum()) > 80:
            return drawn
    return None
