"""What is to be scanned: a tissue, or a mixture of tissues, in every voxel of a 1 mm grid.

Two bodies exist: the procedural head of `anatomy.py`, and :class:`LabelledBody`, the label map of a
real head under a random bend. What scans them (`examination.py`) asks for a :class:`Body`, no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.errors import GeometryError, InputError, UsageError
from medi2i.simulate.bending import draw_bend
from medi2i.simulate.physics import LABELS, Tissue
from medi2i.volume import load_volume

__all__ = [
    "WHITE",
    "Body",
    "LabelledBody",
    "brain_of",
    "check_labels",
    "limbic_of",
    "parenchyma_of",
    "read_labels",
]

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

MARGIN = 14
"""Voxels kept around the brain."""
FLUID_AROUND, HEAD, SOFT_TISSUE, FAT = 24, 500, 507, 600
"""Labels: fluid between brain and skull; from HEAD on the head; soft tissue, a part of it fat."""
WHITE = (2, 41)
"""Labels of cerebral white matter."""
CORTEX, LIMBIC = (3, 42), 499
"""Labels of cerebral cortex, and of the part of it that is brighter in T2w and FLAIR."""
_NEAR = {
    "insula": ((12, 51), 9.0),
    "parahippocampal": ((17, 53), 6.0),
    "cingulate": ((4, 43), 18.0),
}
"""Where that lies: within so many mm of putamen, hippocampus, lateral ventricle."""
_MEDIAL = 9.0
"""And, the last, within so many mm of the other hemisphere."""
_FLUID = (4, 43, 5, 44, 14, 15, 24, 72)


class Body(Protocol):
    """Anything that can lie in the scanner: axes as in RAS, voxels of about 1 mm."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        ...

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel indices to RAS+ millimetres."""
        ...

    @property
    def brain(self) -> Mask:
        """(X, Y, Z): what skull-stripping leaves: brain, ventricles, furrows."""
        ...

    @property
    def parenchyma(self) -> Mask:
        """(X, Y, Z): the brain's own tissue, where lesions can be."""
        ...

    @property
    def white(self) -> Mask:
        """(X, Y, Z): cerebral white matter."""
        ...

    @property
    def air(self) -> Mask:
        """(X, Y, Z): outside and inside the head."""
        ...

    def render(self, values: Mapping[Tissue, float]) -> Field:
        """(X, Y, Z) float32: a value per tissue, weighed by its share of each voxel."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledBody:
    """A label map as a body.

    Attributes:
        labels: (X, Y, Z), keys of `physics.LABELS`, axes as in RAS.
        affine: (4, 4).
    """

    labels: NDArray[np.int16]
    affine: NDArray[np.float64]

    @classmethod
    def bent(
        cls, labels: NDArray[np.integer[Any]], rng: np.random.Generator, *, strength: float = 1.0
    ) -> LabelledBody:
        """A head of its own made from a label map: turned, zoomed, bent, half of them mirrored.

        Args:
            labels: (X, Y, Z) at 1 mm in RAS; checked by :func:`check_labels`.
            rng: decides everything.
            strength: 0 only crops and mirrors; 1 is the usual bend.
        """
        check_labels(labels)
        cut = _cropped(labels)
        shape: tuple[int, int, int] = cut.shape
        drawn = draw_bend(shape, rng) if strength else None
        new = drawn.labels(cut) if drawn is not None else cut[:: int(rng.choice((-1, 1)))].copy()
        for lesion, white in zip((25, 57), WHITE, strict=True):
            new[new == lesion] = white  # the map's own lesions: people get those that are drawn
        new[limbic_of(new)] = LIMBIC
        fat = _patches(new.shape, rng) > rng.uniform(-0.8, 0.2)
        new[(new == SOFT_TISSUE) & fat] = FAT  # maps call all soft tissue one thing
        affine = np.eye(4)
        affine[:3, 3] = [-(n - 1) / 2 for n in shape]
        return cls(new, affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.labels.shape
        return x, y, z

    @cached_property
    def brain(self) -> Mask:
        """See :class:`Body`."""
        return brain_of(self.labels)

    @cached_property
    def parenchyma(self) -> Mask:
        """See :class:`Body`."""
        return parenchyma_of(self.labels)

    @cached_property
    def white(self) -> Mask:
        """See :class:`Body`."""
        return np.isin(self.labels, WHITE)

    @property
    def air(self) -> Mask:
        """See :class:`Body`."""
        empty: Mask = self.labels == 0
        return empty

    @cached_property
    def _indexed(self) -> tuple[list[Tissue], NDArray[np.uint8]]:
        known, place = np.unique(self.labels, return_inverse=True)
        return [LABELS[int(label)] for label in known], place.reshape(self.shape).astype(np.uint8)

    def render(self, values: Mapping[Tissue, float]) -> Field:
        """See :class:`Body`."""
        tissues, place = self._indexed
        return np.array([values[tissue] for tissue in tissues], np.float32)[place]


def read_labels(path: Path) -> NDArray[np.int16]:
    """A label map from a NIfTI file, on axes as in RAS.

    Raises:
        InputError: empty, not whole numbers, unknown values (they are named).
        GeometryError: voxels that are not of about 1 mm.
    """
    volume = load_volume(path).canonical()
    if max(abs(step - 1.0) for step in volume.spacing) > 0.1:
        spacing = " x ".join(f"{step:.3g}" for step in volume.spacing)
        raise GeometryError(
            f'label map "{path}" has voxels of {spacing} mm; about 1 mm along each axis was '
            "expected: resample it first, nearest label"
        )
    if np.any(volume.voxels != np.round(volume.voxels)):
        raise InputError(f'"{path}" holds fractions; a map of whole label values was expected')
    try:
        check_labels(volume.voxels.astype(np.int32))
    except UsageError as error:
        raise InputError(f'label map "{path}": {error}') from None
    return volume.voxels.astype(np.int16)


def check_labels(labels: NDArray[np.integer[Any]]) -> None:
    """Refuse a map that is not one of a head.

    Raises:
        UsageError: unknown values, or no brain in it.
    """
    unknown = sorted(set(np.unique(labels).tolist()) - set(LABELS))
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
        raise UsageError(
            f"the unknown label values {shown} came where those of physics.LABELS were expected "
            "(FreeSurfer's in the brain, SimNIBS' from 502 on)"
        )
    if not np.isin(labels, WHITE).any():
        raise UsageError("there is no cerebral white matter (labels 2 and 41): is the map empty?")


def brain_of(labels: NDArray[np.integer[Any]], *, grow: int = 1) -> Mask:
    """What stripping leaves of a 1 mm label map: brain, ventricles, furrows, `grow` mm of rim."""
    inner = (labels > 0) & (labels < HEAD) & (labels != FLUID_AROUND)
    closed = ndimage.binary_closing(np.pad(inner, 5), iterations=4)[(slice(5, -5),) * 3]
    filled: Mask = ndimage.binary_fill_holes(closed | inner)
    return ndimage.binary_dilation(filled, iterations=grow) if grow else filled


def parenchyma_of(labels: NDArray[np.integer[Any]]) -> Mask:
    """The brain's own tissue, without its fluid."""
    inside: Mask = (labels > 0) & (labels < HEAD) & ~np.isin(labels, _FLUID)
    return inside


def limbic_of(labels: NDArray[np.integer[Any]]) -> Mask:
    """Cortex of cingulum, insula and around the hippocampus, which label maps call cortex, 1 mm."""
    coarse = labels[::2, ::2, ::2]

    def near(values: tuple[int, ...], reach: float) -> Mask:
        if not (there := np.isin(coarse, values)).any():
            return there
        within: Mask = ndimage.distance_transform_edt(~there, sampling=2.0) <= reach
        return within

    (left, right), close = CORTEX, {name: near(*place) for name, place in _NEAR.items()}
    medial = near((left, WHITE[0]), _MEDIAL) & near((right, WHITE[1]), _MEDIAL)
    chosen = close["insula"] | close["parahippocampal"] | (close["cingulate"] & medial)
    whole = chosen.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in labels.shape)]
    limbic: Mask = whole & np.isin(labels, CORTEX)
    return limbic


def _cropped(labels: NDArray[np.integer[Any]]) -> NDArray[np.int16]:
    """The brain with a margin."""
    brain = (labels > 0) & (labels < HEAD)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(inside[0]) - MARGIN), int(inside[-1]) + 1 + MARGIN))
    return np.ascontiguousarray(labels[tuple(box)], np.int16)


def _patches(shape: tuple[int, ...], rng: np.random.Generator, scale: int = 5) -> Field:
    """Smooth noise of unit variance in patches of about `scale` voxels."""
    coarse = ndimage.gaussian_filter(
        rng.standard_normal([n // scale + 3 for n in shape], np.float32), 1.0
    )
    coarse /= max(float(coarse.std()), 1e-6)
    zoomed = ndimage.zoom(coarse, scale, order=1, grid_mode=True, mode="nearest")
    field: Field = zoomed[tuple(slice(0, n) for n in shape)]
    return field
