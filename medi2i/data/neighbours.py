"""Neighbouring slices for guidance: fields of people, kept, and moved as augmentation moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.data.decoded import Decoder, Prepared
from medi2i.data.motion import VERSION, Method, checked_method, field_from, slice_fields
from medi2i.data.placing import Corner, Placing
from medi2i.errors import CohortError
from medi2i.files import atomic_write
from medi2i.geometry import canonical_grid
from medi2i.volume import load_volume

__all__ = ["GAP", "Carrier", "Fields", "Seen"]

Array = NDArray[Any]

GAP = 3.0
"""The largest distance in mm between slices over which motion is sought, unless said otherwise."""

Seen = tuple[Subject, Sequence[Contrast], Contrast]
"""Whose motion, what is decoded together (on the grid of the first that there is), and in which
of these contrasts motion is sought."""

_REACH = 32.0
"""Voxels of displacement that stand for 1 on the way through augmentation."""


class Fields:
    """Fields between the slices of people, estimated once where there is a cache.

    Without a cache each pair of slices is estimated when it is asked for, and kept in memory.

    Args:
        decode: the people.
        method: see :func:`medi2i.data.motion.slice_field`.
        gap: the largest distance between neighbouring slices, in mm, over which motion is sought.

    Raises:
        UsageError: another method.
    """

    def __init__(self, decode: Decoder, method: Method = "demons", gap: float = GAP) -> None:
        self.decode = decode
        self.method: Method = checked_method(method)
        self.gap = gap
        self._kept: dict[tuple[str, ...], Array] = {}
        self._found: dict[tuple[str, ...], dict[int, Array]] = {}

    def prepare(self, seen: Seen) -> None:
        """Estimate all fields of one person now, where there is a cache to keep them.

        Raises:
            CohortError: the slices lie too far apart.
        """
        key = _key(seen)
        if key in self._kept or key in self._found:
            return
        subject, contrasts, moving = seen
        words = ("fields", self.method, VERSION, moving.value, f"{self.gap:g}")
        there = [c for c in contrasts if c in subject.scans]
        kept = self.decode.kept_at(subject, there, *words)
        if kept is None or not kept.is_file():
            self._check(subject, there[0])
        if kept is None or self.method == "still":
            self._found[key] = {}
            return
        if not kept.is_file():
            person = self.decode(subject, contrasts)
            fields = slice_fields(_unit(person, moving), person.tissue, self.method)
            atomic_write(kept, lambda stream: np.save(stream, fields))
        self._kept[key] = np.load(kept, mmap_mode="r")

    def between(self, seen: Seen, height: int) -> NDArray[np.float32]:
        """(2, X, Y) in voxels: from the axial slice at `height` to the next.

        Raises:
            CohortError: the slices lie too far apart.
        """
        self.prepare(seen)
        key = _key(seen)
        if key in self._kept:
            return np.asarray(self._kept[key][height], np.float32)
        found = self._found[key]
        if height not in found:
            subject, contrasts, moving = seen
            person, pair = self.decode(subject, contrasts), slice(height, height + 2)
            field = field_from(
                _unit(person, moving, pair), person.tissue[..., pair], 0, self.method
            )
            found[height] = field.astype(np.float16)
        return np.asarray(found[height], np.float32)

    def _check(self, subject: Subject, first: Contrast) -> None:
        scan = load_volume(subject.scans[first])
        _, affine = canonical_grid(scan.shape, scan.affine)
        apart, resampled = float(np.linalg.norm(affine[:3, 2])), ""
        view = self.decode.view
        # thinner ones are made up between those that were seen; coarser ones are what is followed
        if 2 in view.axes and view.spacing is not None and view.spacing > apart:
            apart, resampled = view.spacing, " at the spacing of the view"
        if apart > self.gap * 1.001:
            raise CohortError(
                f'slices of "{subject.scans[first]}" lie {apart:.3g} mm apart{resampled}; at most '
                f"{self.gap:g} mm were expected, because anatomy cannot be followed further: leave "
                "this scan out, train without guidance, or raise `gap` under `data`"
            )


class Carrier:
    """Fields on their way through augmentation, as channels that are moved like an image.

    Augmentation shows at p what lay at f(p). Anatomy goes on along d = (u, v, -1): what a slice
    shows lies in the slice below at the field's end. Moved, it goes on along J(p)^-1 d(f(p)), J the
    Jacobian of f, made as long as it takes to the slice below: exactly for shifts, turns and
    mirrors in the plane, to first order where space is bent or slices are tipped. So f travels
    beside the field. All channels are linear in what they mean, and -1 outside what was cut.

    The channels of a window are f, one for each of its axes, the field, and where it is known. A
    slab has the field from its centre slice to the next at every height, a patch in each slice the
    field that leads there from the slice below.
    """

    def __init__(self, placing: Placing, slices: int) -> None:
        self.placing = placing
        self.slices = slices
        self.dims = placing.view.dims

    def begin(self, fields: Fields, person: Prepared, seen: Seen, corner: Corner) -> Tensor:
        """(5, X, Y, k + 1) for a window that is one slice thicker than the slab; (6, *patch)."""
        if self.dims == 2:
            plane = self._plane(fields, person, seen, corner, corner[2] + self.slices // 2)
            known = plane[..., None].repeat(1, 1, 1, self.slices + 1)
        else:
            below = range(corner[2] - 1, corner[2] - 1 + self.placing.size)
            planes = [self._plane(fields, person, seen, corner, height) for height in below]
            known = torch.stack(planes, dim=-1)
        places = known.new_empty(self.dims, *known.shape[1:])
        for axis, place in enumerate(places):
            size = place.shape[axis]
            along = torch.arange(size) * (2 / size) - 1
            place[:] = along.reshape([-1 if other == axis else 1 for other in range(3)])
        return torch.cat([places, known])

    def end(self, path: Tensor, tissue: Tensor) -> tuple[Tensor, Tensor]:
        """The field and where it holds, after augmentation; of a patch all fields.

        Args:
            path: what :meth:`begin` gave, moved.
            tissue: (1, X, Y, k + 1) or (1, *patch), moved alike.

        Returns:
            (2, X, Y) and (1, X, Y); (2, X, Y, Z - 1) and (1, X, Y, Z - 1) for patches.
        """
        dims, centre = self.dims, self.slices // 2
        if dims == 2:
            path, tissue = path[..., 0], tissue[..., centre : centre + 2]
        # rows are the axes of f, columns those of the window; a slab's heights stay as they are
        window = path.shape[1:]
        jacobian = torch.eye(3).reshape(3, 3, *[1] * dims).repeat(1, 1, *window)
        for axis in range(dims):
            place = path[axis] * (window[axis] / 2)
            jacobian[axis, :dims] = torch.stack(torch.gradient(place))
        direction = torch.cat([path[dims : dims + 2] * _REACH, -torch.ones(1, *window)])
        along_x, along_y, along_z = jacobian.unbind(1)
        # Cramer's rule; the length that the direction gets makes the determinant unnecessary
        x, y, z = (
            (direction * torch.linalg.cross(one, other, dim=0)).sum(0)
            for one, other in ((along_y, along_z), (along_z, along_x), (along_x, along_y))
        )
        volume = (along_x * torch.linalg.cross(along_y, along_z, dim=0)).sum(0)
        # beside what was cut, a difference is taken across its edge
        pool = functional.max_pool2d if dims == 2 else functional.max_pool3d
        known = -pool(-path[-1:], 3, stride=1, padding=1) > 0.999
        # nor is a direction followed that the slice below lies far along
        known &= (volume.abs() > 0.1) & (-z / volume > 0.5)
        field = torch.stack([x, y]) / torch.where(known[0], -z, 1.0)
        field = torch.where(known, field, 0.0)
        if dims == 2:
            return field, (known & (tissue > 0.5).all(-1)).float()
        both = (tissue[..., :-1] > 0.5) & (tissue[..., 1:] > 0.5)
        return field[..., 1:], (known[..., 1:] & both).float()

    def _plane(
        self, fields: Fields, person: Prepared, seen: Seen, corner: Corner, height: int
    ) -> Tensor:
        """(3, X, Y): the field from a height to the next and a 1, all -1 where there is none."""
        shape = person.tissue.shape
        plane = torch.full((3, *shape[:2]), -1.0)
        if 0 <= height < shape[2] - 1:
            plane[:2] = torch.from_numpy(fields.between(seen, height)) / _REACH
            plane[2] = 1.0
        return self.placing.cut_plane(person, plane, corner, -1.0)


def _unit(person: Prepared, moving: Contrast, heights: slice | None = None) -> Array:
    """(X, Y, Z) of one contrast, air at 0."""
    voxels = person.voxels[person.contrasts.index(moving)][..., heights or slice(None)]
    unit: Array = np.clip((np.asarray(voxels, np.float32) + 1) / 2, 0, 2)
    return unit


def _key(seen: Seen) -> tuple[str, ...]:
    subject, contrasts, moving = seen
    return (*(str(subject.scans[c]) for c in contrasts if c in subject.scans), moving.value)
