"""A glance at a whole scan before any work: its contrast, whether it is a head, its brain.

coarse voxels (2 mm) -> intensities in [-1, 1.5] -> GlanceNet -> Glance
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medi2i.contrasts import Contrast
from medi2i.errors import DimensionError, IntensityError, ModelError
from medi2i.inference.aids import KEYS, read_aid, write_aid
from medi2i.inference.brain import grown, tidy
from medi2i.model import read_record
from medi2i.networks.glance import GlanceNet
from medi2i.normalise import fit_scaling
from medi2i.resolution import resize
from medi2i.volume import Volume
from medi2i.zoo import aid

__all__ = [
    "CLASSES",
    "SPACING",
    "Glance",
    "as_seen",
    "coarse",
    "glance",
    "intensities",
    "read_glance_net",
    "write_glance_net",
]

CLASSES = tuple(Contrast)
"""What the contrast head tells apart, in its order; one more output stands for none of them."""
SPACING = 2.0
"""Millimetres per voxel that the network looks at."""
SMALLEST = 60.0
"""Millimetres along every axis below which a scan shows too little of a head to be judged."""
_LARGEST = 176  # voxels: 352 mm hold any head; of more, the middle is looked at, and the top
_MARGIN = 4  # voxels of air left around what there is
_AIR, _GLARE = -1.0, 1.5  # range of what the network sees
_SHOWN = -0.98  # of it, from which there is something


@dataclass(frozen=True, eq=False)
class Glance:
    """What a scan looks like.

    Attributes:
        contrast: the likeliest; meaningful where `confidence` is high and `is_head` true.
        confidence: its probability, 0 to 1.
        probabilities: of every contrast; what is missing to 1 is `none`.
        head: probability that this is the MRI of a head.
        is_head: whether `head` is at least 0.5.
    """

    contrast: Contrast
    confidence: float
    probabilities: Mapping[Contrast, float]
    head: float
    _volume: Volume
    _brain: NDArray[np.float32]  # probability, 2 mm, canonical
    _values: NDArray[np.float32]  # what was looked at, on the same grid

    @property
    def none(self) -> float:
        """Probability that it is none of the contrasts."""
        return 1 - sum(self.probabilities.values())

    @property
    def is_head(self) -> bool:
        """Whether this is more likely a head than not."""
        return self.head >= 0.5

    @property
    def shown(self) -> NDArray[np.bool_]:
        """(X, Y, Z) at 2 mm on canonical axes: what is not air or blank."""
        there: NDArray[np.bool_] = self._values > _SHOWN
        return there

    @cached_property
    def marked(self) -> NDArray[np.bool_]:
        """(X, Y, Z) at 2 mm on canonical axes: the brain as the network marks it, in one piece.

        It may stop short of the cortex; :attr:`brain_mask` does not, and takes longer.
        """
        return tidy(self._brain > 0.5)

    @cached_property
    def brain_mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) on the scan's own grid and axes: the brain, in one piece, without holes.

        Smooth, for it is drawn at 2 mm; empty where no brain is seen.
        """
        return self._drawn(grown(self._values, self._brain > 0.5))

    @cached_property
    def marked_mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) on the scan's own grid and axes: what is :attr:`marked`, roughly."""
        return self._drawn(self.marked, fast=True)

    def _drawn(self, coarse_mask: NDArray[np.bool_], *, fast: bool = False) -> NDArray[np.bool_]:
        canonical = self._volume.canonical()
        drawn = torch.from_numpy(coarse_mask.astype(np.float32))[None]
        if fast:  # linear
            fine = functional.interpolate(drawn[None], canonical.shape, mode="trilinear")[0, 0]
        else:
            fine = resize(drawn, canonical.shape)[0]
        there = canonical.like(fine.numpy() > 0.5).oriented_as(self._volume)
        return there.voxels > 0.5


def glance(volume: Volume, *, net: GlanceNet | None = None) -> Glance:
    """Look at a scan.

    Args:
        volume: of any grid and orientation, head on or stripped. Its affine is believed.
        net: another network; by default the one that comes with medi2i.

    Raises:
        DimensionError: less than 60 mm along an axis, which shows too little to be judged.
        ModelError: the network is missing or was altered.
    """
    extent = min(n * step for n, step in zip(volume.shape, volume.spacing, strict=True))
    if extent < SMALLEST:
        raise DimensionError(
            f'"{volume.name}" shows {extent:.0f} mm of a head along one axis; at least '
            f"{SMALLEST:.0f} mm were expected to tell what it is"
        )
    if net is None:
        net = read_glance_net(aid("glance"))
    small = coarse(volume)
    brain = np.zeros(small.shape, np.float32)
    try:
        scan, box = as_seen(small, net.multiple)
    except IntensityError:  # one value everywhere
        none = dict.fromkeys(CLASSES, 0.0)
        return Glance(CLASSES[0], 0.0, none, 0.0, volume, brain, brain)
    with torch.inference_mode():
        logits, contrast, head = net(torch.from_numpy(scan)[None, None])
    shown = torch.sigmoid(logits[0, 0]).numpy()
    inner = tuple(slice(0, s.stop - s.start) for s in box)
    brain[box] = shown[inner]
    found = torch.softmax(contrast[0].double(), 0).tolist()
    probabilities = dict(zip(CLASSES, found, strict=False))
    likeliest = max(probabilities, key=lambda c: probabilities[c])
    return Glance(
        likeliest,
        probabilities[likeliest],
        probabilities,
        float(torch.sigmoid(head[0])),
        volume,
        brain,
        intensities(small),
    )


def coarse(volume: Volume) -> NDArray[np.float32]:
    """A scan's voxels on canonical axes at about 2 mm, smoothed where that is coarser."""
    canonical = volume.canonical()
    shape = [
        max(1, round(n * step / SPACING))
        for n, step in zip(canonical.shape, canonical.spacing, strict=True)
    ]
    voxels = torch.from_numpy(np.ascontiguousarray(canonical.voxels))
    small: NDArray[np.float32] = resize(voxels[None], shape)[0].numpy()
    return small


def intensities(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coarse voxels on the network's scale: air -1, bright tissue 1, nothing above 1.5.

    Raises:
        IntensityError: one value everywhere.
    """
    values: NDArray[np.float32] = np.clip(fit_scaling(small).apply(small), _AIR, _GLARE)
    return values


def as_seen(
    small: NDArray[np.float32], multiple: int
) -> tuple[NDArray[np.float32], tuple[slice, slice, slice]]:
    """What the network sees of coarse voxels: the part that is not air, in [-1, 1.5].

    Args:
        multiple: every axis of the result divides by it.

    Returns:
        The part, filled with air at the far ends, and its place: `small[box]`.

    Raises:
        IntensityError: one value everywhere.
    """
    values = intensities(small)
    bright = values > -0.7
    box = []
    for axis, size in enumerate(small.shape):
        share = bright.mean(tuple(a for a in range(3) if a != axis))
        filled = np.flatnonzero(share > min(0.005, float(share.max()) / 2))
        low, high = max(0, filled[0] - _MARGIN), min(size, filled[-1] + 1 + _MARGIN)
        extra = max(0, int(high - low) - _LARGEST)
        low += extra if axis == 2 else extra // 2
        box.append(slice(int(low), int(min(high, low + _LARGEST))))
    place = (box[0], box[1], box[2])
    part = values[place]
    pads = [(0, -n % multiple) for n in part.shape]
    return np.pad(part, pads, constant_values=_AIR), place


@cache
def read_glance_net(folder: Path) -> GlanceNet:
    """The network in a folder, ready to look; read once.

    Raises:
        ModelError: a file is missing, altered, or of another kind.
    """
    record = read_record(folder, {**KEYS, "contrasts": list, "normaliser": str})
    if record["contrasts"] != [str(contrast) for contrast in CLASSES]:
        raise ModelError(
            f'network "{folder}" tells {record["contrasts"]} apart; '
            f"{[str(contrast) for contrast in CLASSES]} was expected"
        )
    return read_aid(folder, GlanceNet)


def write_glance_net(
    net: GlanceNet, folder: Path, arguments: Mapping[str, Any], card: Mapping[str, Any]
) -> Path:
    """Write weights.safetensors and model.json; see :func:`~medi2i.inference.aids.write_aid`."""
    contrasts = [str(contrast) for contrast in CLASSES]
    return write_aid(net, folder, arguments, card, contrasts=contrasts, normaliser="robust")
