"""Random poses and shapes of a head: affine, then bent by a diffeomorphism, half of them mirrored.

A stationary velocity, white noise smoothed by a Gaussian, is integrated by scaling and squaring
on a coarse lattice (Arsigny et al. 2006, doi:10.1007/11866565_113); the affine map follows on the
same lattice, and what lies between its points is interpolated, a few slices at a time. Labels
drawn anew in this way are how networks learn anatomy that no data set holds (Billot et al. 2023,
doi:10.1016/j.media.2023.102789).

The flip exchanges left and right by mirroring the array; label values stay, so that a label of the
left side then lies on the right. An image made from tissues alone does not tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError
from medi2i.networks.deformation import integrate, least_jacobian, sample

__all__ = ["Bend", "draw_bend"]

Field = NDArray[np.float32]
Label = TypeVar("Label", bound=np.integer[Any] | np.bool_)

STEP = 4.0
"""Voxels between the lattice's points, at most; smooth fields need no more."""
SLAB = 8
"""Slices that are bent at a time: what fits into a processor's cache."""
LEAST = 0.1
"""The diffeomorphism may shrink no cell to less than this; 0 would be a fold."""


@dataclass(frozen=True, eq=False)
class Bend:
    """A map from the voxels of a bent head to where they lie in the head as it was.

    ``bent(x) = head(x + displacement(x))``, then mirrored along the first axis if `flipped`. The
    border is repeated where the map leaves the volume. Made by :func:`draw_bend`.

    Args:
        shape: (X, Y, Z) of the volumes that it bends; in RAS the first axis is left-right.
        lattice: (3, L, M, N) float32, at least 2 along every axis: displacement in voxels, at
            points evenly spaced from the first voxel to the last.
        flipped: mirror left and right.
    """

    shape: tuple[int, int, int]
    lattice: Field
    flipped: bool

    @property
    def displacement(self) -> Field:
        """(3, X, Y, Z) float32, voxels, before the flip. Computed at every call: it is large."""
        whole = np.empty((3, *self.shape), np.float32)
        for slab, part in self._slabs():
            whole[:, slab] = part
        return whole

    def labels(self, labels: NDArray[Label]) -> NDArray[Label]:
        """A label map or mask, bent; every voxel takes the nearest label.

        Args:
            labels: (X, Y, Z) integers or truth values.

        Returns:
            (X, Y, Z) of the same type.

        Raises:
            DimensionError: another shape.
            UsageError: neither integers nor truth values.
        """
        self._check(labels)
        if labels.dtype.kind not in "iub":
            raise UsageError(
                f"a map of type {labels.dtype} came where labels were expected; bend images with "
                "Bend.image"
            )
        flat = labels.ravel()
        bent = np.empty(self.shape, labels.dtype)
        seen = bent[::-1] if self.flipped else bent
        for slab, positions in self._positions():
            index = np.zeros(positions.shape[1:], np.int64)
            for place, size in zip(positions, self.shape, strict=True):
                np.clip(place, 0, size - 1, out=place)
                place += np.float32(0.5)
                index *= size
                index += place.astype(np.int64)
            seen[slab] = flat[index]
        return bent

    def image(self, image: NDArray[np.floating[Any]]) -> Field:
        """An image or a field of tissue shares, bent; linear between voxels.

        Args:
            image: (X, Y, Z), any unit.

        Returns:
            (X, Y, Z) float32 within the range of the input.

        Raises:
            DimensionError: another shape.
        """
        self._check(image)
        whole = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
        bent = np.empty(self.shape, np.float32)
        seen = bent[::-1] if self.flipped else bent
        for slab, positions in self._positions():
            seen[slab] = sample(whole, torch.from_numpy(positions)[None])[0, 0].numpy()
        return bent

    def _positions(self) -> Iterator[tuple[slice, Field]]:
        """Slabs of x + u(x), voxels."""
        for slab, part in self._slabs():
            for axis, size in enumerate(self.shape):
                centres = np.arange(size, dtype=np.float32)[slab if axis == 0 else slice(None)]
                part[axis] += centres.reshape([-1 if a == axis else 1 for a in range(3)])
            yield slab, part

    def _slabs(self) -> Iterator[tuple[slice, Field]]:
        """Slabs of the displacement along the first axis: (3, up to SLAB, Y, Z)."""
        along = [
            _between(points, size)
            for points, size in zip(self.lattice.shape[1:], self.shape, strict=True)
        ]
        for start in range(0, self.shape[0], SLAB):
            slab = slice(start, min(start + SLAB, self.shape[0]))
            few = np.einsum("xl,clmn->cxmn", along[0][slab], self.lattice, optimize=True)
            yield slab, (along[1] @ few) @ along[2].T

    def _check(self, volume: NDArray[Any]) -> None:
        if volume.shape != self.shape:
            raise DimensionError(
                f"the volume has shape {volume.shape}, but the bend was drawn for {self.shape}; "
                "draw one for this shape"
            )


def draw_bend(
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    degrees: float = 8.0,
    zoom: float = 0.1,
    shear: float = 0.05,
    strength: float = 4.0,
    scale: float = 14.0,
    flip: float = 0.5,
) -> Bend:
    """A random pose and shape: the same state of `rng` gives the same bytes.

    The Jacobian determinant is positive everywhere (before the flip). Where the velocity drawn
    would bring the diffeomorphism's smallest determinant to LEAST or below, it is reduced by a
    quarter, again and again, until it does not. Draws are as many in any case.

    Args:
        shape: (X, Y, Z).
        rng: decides everything.
        degrees: largest turn about each axis, through the volume's centre.
        zoom: largest relative change of size along each axis, below 1.
        shear: largest shear, a tangent.
        strength: largest standard deviation of the velocity, voxels, which are mm in a 1 mm map;
            every axis has its own, a quarter of it at least. Displacements are about as large.
        scale: smoothness, the standard deviation in voxels of the Gaussian behind the velocity;
            between 3/4 and 3/2 of it is drawn. 2 at least.
        flip: probability of mirroring.

    Raises:
        DimensionError: not three positive sizes.
        UsageError: a range that makes no sense.
    """
    sizes = tuple(int(size) for size in shape)
    if len(sizes) != 3 or min(sizes) < 1:
        raise DimensionError(f"the shape is {tuple(shape)}; three positive sizes were expected")
    for name, value, least, most in (
        ("degrees", degrees, 0.0, 180.0),
        ("zoom", zoom, 0.0, 0.9),
        ("shear", shear, 0.0, 1.0),
        ("strength", strength, 0.0, 1e3),
        ("scale", scale, 2.0, 1e4),
        ("flip", flip, 0.0, 1.0),
    ):
        if not least <= value <= most:  # NaN included
            raise UsageError(f"{name} is {value}; {least:g} to {most:g} was expected")

    matrix = _affine(rng, degrees, zoom, shear)
    spread = strength * rng.uniform(0.25, 1.0, 3)
    reach = scale * rng.uniform(0.75, 1.5)
    step = min(STEP, max(1.0, reach / 2.5))
    axes = [np.linspace(0, n - 1, max(2, math.ceil((n - 1) / step) + 1)) for n in sizes]
    column = (3, 1, 1, 1)
    velocity = spread.reshape(column) * _smooth(axes, rng, reach)
    flipped = bool(rng.random() < flip)

    # in units of the lattice while it is integrated; 1 where an axis has one voxel alone
    pitch = np.array([a[1] - a[0] or 1.0 for a in axes]).reshape(column)
    while True:
        bent = integrate(torch.from_numpy((velocity / pitch).astype(np.float32))[None])
        if float(least_jacobian(bent)) > LEAST:
            break
        velocity *= 0.75

    # matrix (x + bent(x) - centre) + centre - x, without the rounding of large positions
    from_centre = np.stack(np.meshgrid(*(a - a[-1] / 2 for a in axes), indexing="ij"))
    lattice = np.einsum("ij,jxyz->ixyz", matrix, bent[0].double().numpy() * pitch)
    lattice += np.einsum("ij,jxyz->ixyz", matrix - np.eye(3), from_centre)
    return Bend(shape=sizes, lattice=lattice.astype(np.float32), flipped=flipped)


def _affine(
    rng: np.random.Generator, degrees: float, zoom: float, shear: float
) -> NDArray[np.float64]:
    """(3, 3): a turn about each axis, times a shear, times a zoom along each axis."""
    turns = np.deg2rad(degrees * rng.uniform(-1, 1, 3))
    zooms = 1 + zoom * rng.uniform(-1, 1, 3)
    slants = shear * rng.uniform(-1, 1, 3)
    matrix = np.eye(3)
    for axis, angle in enumerate(turns):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    sheared = np.eye(3)
    sheared[(0, 0, 1), (1, 2, 2)] = slants  # triangular, so that it keeps volumes
    whole: NDArray[np.float64] = matrix @ sheared @ np.diag(zooms)
    return whole


def _smooth(
    axes: Sequence[NDArray[np.float64]], rng: np.random.Generator, scale: float
) -> NDArray[np.float64]:
    """(3, *points): Gaussian fields of unit variance, white noise under a Gaussian of `scale`.

    The noise has points of its own, spaced less than the Gaussian is wide, also beyond the border:
    cheap at any scale, and stationary up to the border.
    """
    weights = []
    for places in axes:
        sources = np.arange(-3 * scale, places[-1] + 3 * scale, 0.75 * scale)
        weight = np.exp(-(((places[:, None] - sources) / scale) ** 2) / 2)
        weights.append(weight / np.sqrt((weight**2).sum(1, keepdims=True)))
    noise = rng.standard_normal((3, *(weight.shape[1] for weight in weights)))
    field: NDArray[np.float64] = np.einsum("xi,yj,zk,cijk->cxyz", *weights, noise, optimize=True)
    return field


def _between(points: int, size: int) -> Field:
    """(size, points): weights of linear interpolation from evenly spaced points to all voxels."""
    places = np.arange(size) * ((points - 1) / max(size - 1, 1))
    below = np.minimum(places.astype(int), points - 2)
    rows = np.arange(size)
    weights = np.zeros((size, points), np.float32)
    weights[rows, below + 1] = places - below
    weights[rows, below] = 1 - weights[rows, below + 1]
    return weights
