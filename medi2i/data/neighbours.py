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
        apart = float(np.linalg.norm(affine[:3, 2]))
        if apart > self.gap * 1.001:
            raise CohortError(
                f'slices of "{subject.scans[first]}" lie {apart:.3g} mm apart; at most '
                f"{self.gap:g} mm were expected, because anatomy cannot be followed further: leave "
                "this scan out, train without guidance, or raise `gap` under `data`"
            )


class Carrier:
    """A field on its way through augmentation, as channels that are moved like an image.

    Augmentation shows at p what lay at f(p). A field u becomes J(p)^-1 u(f(p)), J the Jacobian
    of f: exactly for shifts, turns and mirrors, to first order where space is bent. So f travels
    beside u. All channels are linear in what they mean, and -1 outside what was cut.
    """

    CHANNELS = 5

    def __init__(self, placing: Placing, slices: int) -> None:
        self.placing = placing
        self.slices = slices

    def begin(self, fields: Fields, person: Prepared, seen: Seen, corner: Corner) -> Tensor:
        """(5, X, Y, k + 1) for a window that is one slice thicker than the slab."""
        shape = person.tissue.shape
        height = corner[2] + self.slices // 2
        plane = torch.full((self.CHANNELS, *shape[:2]), -1.0)
        if height + 1 < shape[2]:
            plane[2:4] = torch.from_numpy(fields.between(seen, height)) / _REACH
            plane[4] = 1.0
        window = self.placing.cut_plane(person, plane, corner, -1.0)
        for axis in range(2):
            size = window.shape[axis + 1]
            places = torch.arange(size) * (2 / size) - 1
            window[axis] = places[:, None] if axis == 0 else places
        return window[..., None].repeat(1, 1, 1, self.slices + 1)

    def end(self, path: Tensor, tissue: Tensor) -> tuple[Tensor, Tensor]:
        """The field (2, X, Y) and where it holds (1, X, Y), after augmentation.

        Args:
            path: what :meth:`begin` gave, moved.
            tissue: (1, X, Y, k + 1), moved alike.
        """
        path = path[..., 0]
        at = [path[axis] * (path.shape[axis + 1] / 2) for axis in range(2)]
        (xx, xy), (yx, yy) = (torch.gradient(place) for place in at)
        det = xx * yy - xy * yx
        # beside what was cut, a difference is taken across its edge
        known = -functional.max_pool2d(-path[4:], 3, stride=1, padding=1) > 0.999
        known &= det.abs() > 0.1
        u, v = path[2:4] * _REACH
        det = torch.where(known[0], det, 1.0)
        field = torch.stack([yy * u - xy * v, xx * v - yx * u]) / det
        centre = self.slices // 2
        inside = known & (tissue[..., centre : centre + 2] > 0.5).all(-1)
        return torch.where(known, field, 0.0), inside.float()


def _unit(person: Prepared, moving: Contrast, heights: slice | None = None) -> Array:
    """(X, Y, Z) of one contrast, air at 0."""
    voxels = person.voxels[person.contrasts.index(moving)][..., heights or slice(None)]
    unit: Array = np.clip((np.asarray(voxels, np.float32) + 1) / 2, 0, 2)
    return unit


def _key(seen: Seen) -> tuple[str, ...]:
    subject, contrasts, moving = seen
    return (*(str(subject.scans[c]) for c in contrasts if c in subject.scans), moving.value)
