"""Where the brain is, head on or stripped, and smoothing that does not look beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.errors import DimensionError, InputError, ModelError
from medi2i.inference.brain import tidy
from medi2i.inference.glance import Glance, glance
from medi2i.networks.glance import GlanceNet
from medi2i.normalise import foreground
from medi2i.volume import Volume

__all__ = ["Brain", "eroded", "find_brain", "is_stripped", "smoothed"]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

STRIPPED = 1.35
"""How many times the brain that is seen all tissue may be, for the skull to be gone."""


@dataclass(frozen=True, eq=False)
class Brain:
    """Where the brain is.

    Attributes:
        mask: (X, Y, Z) on the scan's own grid.
        stripped: whether the scan shows nothing but brain, so that the mask is what is not air.
        unseen: why nobody looked, and the mask is only a guess; "" where somebody did.
        glance: what was seen; None where nobody looked.
    """

    mask: Mask
    stripped: bool
    unseen: str = ""
    glance: Glance | None = None


def find_brain(volume: Volume, *, net: GlanceNet | None = None) -> Brain:
    """The brain of a scan: all that is not air where the skull is gone, else where it is seen.

    Where nobody can look, because the scan is too thin or the network is not installed, all that
    is not air is taken, with a warning.

    Args:
        volume: of any grid and orientation; stripped, or with the whole head.
        net: another network that looks; by default the one that comes with medi2i.

    Raises:
        InputError: no brain is seen. IntensityError: one value everywhere.
    """
    tissue = tidy(foreground(volume.voxels))
    try:
        seen = glance(volume, net=net)
    except (DimensionError, ModelError) as error:
        return Brain(tissue, True, f"the brain is taken to be all that is not air: {error}")
    name = volume.name or "the scan"
    mask = seen.brain_mask
    if not mask.any():
        raise InputError(
            f'"{name}" shows no brain (head: {seen.head:.2f}); an MRI of a head was expected'
        )
    if _bare(tissue, mask):
        return Brain(tissue, True, glance=seen)
    return Brain(mask, False, glance=seen)


def is_stripped(volume: Volume, brain: Mask) -> bool:
    """Whether a scan shows nothing but its brain."""
    return _bare(tidy(foreground(volume.voxels)), brain)


def _bare(tissue: Mask, brain: Mask) -> bool:
    return bool(tissue.sum() <= STRIPPED * brain.sum())


def eroded(mask: Mask, depth: float, spacing: Spacing) -> Mask:
    """What lies deeper than `depth` mm; along thick slices nothing is taken off.

    A slice that is thicker than `depth` shows the neighbouring tissue all the same.

    >>> bool(eroded(np.ones((9, 9, 3), bool), 2.0, (1, 1, 5))[4, 4, 0])
    True
    """
    if depth <= 0:
        return mask
    thin = [axis for axis, step in enumerate(spacing) if step <= depth]
    pads = [(1, 1) if axis in thin else (0, 0) for axis in range(3)]
    # too long a step for the distance to leave the slice
    steps = [step if axis in thin else 1e6 for axis, step in enumerate(spacing)]
    inside = ndimage.distance_transform_edt(np.pad(mask, pads), sampling=steps) > depth
    cut = tuple(slice(before, -after or None) for before, after in pads)
    deep: Mask = inside[cut]
    return deep


def smoothed(image: Field, mask: Mask, sigma: float, spacing: Spacing) -> NDArray[np.float32]:
    """A Gaussian mean over the voxels of the mask alone; 0 outside it.

    Args:
        sigma: mm; 0 leaves the image as it is.
        spacing: mm.
    """
    inside = mask.astype(np.float32)
    values = image.astype(np.float32) * inside
    if sigma <= 0:
        return values
    widths = [sigma / step for step in spacing]
    mean = ndimage.gaussian_filter(values, widths, mode="constant", truncate=3)
    weight = ndimage.gaussian_filter(inside, widths, mode="constant", truncate=3)
    result: NDArray[np.float32] = np.where(mask, mean / np.maximum(weight, 1e-6), 0).astype(
        np.float32
    )
    return result
