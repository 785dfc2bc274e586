"""From where a network sees brain to where the brain ends: bone is dark, and all around it.

The network of :mod:`medi2i.inference.glance` has learned on simulated heads, and in thick slices of
real ones it stops short of the cortex. What it marks is where the search begins: from there the
mask grows through all that is as bright as brain, as far as bone and fluid let it, not into the
scalp, and not through gaps narrower than a few millimetres, where vessels and nerves leave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.metrics import bounding_box

__all__ = ["grown", "tidy"]

Mask = NDArray[np.bool_]

# lengths in voxels of 2 mm
CORE = 2  # of what the network marks, this far inside is certain
GAP = 3  # half the width of the narrowest bridge that is crossed
REACH = 9  # how far the network is believed to stop short, at most
SKIN = 5  # scalp and bone are at least this thick
SMOOTH = 3  # sulci narrower than twice this belong to the brain
# shares of the way from air to the median of the brain
DARK, DARK_BARE = 0.5, 0.35  # less is no brain, with skull and without
GLARE = 0.3  # so far above the brightest of it is fat
BARE = 1.5  # a head at most so many times as large as what the network marks has no skull
AIR = -1.0
FEWEST = 100  # voxels, 0.8 ml


def grown(values: NDArray[np.float32], marked: Mask) -> Mask:
    """The brain in one piece and without holes.

    Args:
        values: (X, Y, Z) at 2 mm on canonical axes; air -1, bright tissue 1.
        marked: where the network sees brain.

    Returns:
        The mask; what is marked as it is, where that is next to nothing.
    """
    marked = tidy(marked)
    if marked.sum() < FEWEST:
        return marked
    core = ndimage.binary_erosion(marked, _ball(CORE))
    core = core if core.any() else marked
    inside = values[core]
    span = float(np.median(inside)) - AIR
    head = _large(ndimage.binary_opening(values > AIR + 0.25, _ball(1)))
    bare = head.sum() <= BARE * marked.sum()
    high = float(np.percentile(inside, 99)) + GLARE * span
    tissue = (values > AIR + (DARK_BARE if bare else DARK) * span) & (values < high)
    if not bare:
        tissue &= _depth(head) > SKIN
    # nothing further out can become brain, so nothing further out is looked at
    box = bounding_box(marked, REACH + 1)
    whole = np.zeros(marked.shape, bool)
    whole[box] = _filled(marked[box], core[box], tissue[box])
    return whole


def _filled(marked: Mask, core: Mask, tissue: Mask) -> Mask:
    """What of the tissue is reached from the core, and what is marked, in one piece."""
    near = tissue & (ndimage.distance_transform_edt(~marked) <= REACH)
    wide = ndimage.binary_erosion(near, _ball(GAP))
    pieces, _ = ndimage.label(wide)
    own = np.unique(pieces[core & wide])
    reached = np.isin(pieces, own[own > 0])
    whole = ndimage.binary_dilation(reached, _ball(GAP + 1)) & near | marked & tissue
    whole = ndimage.binary_opening(whole, _ball(1))
    return tidy(_closed(whole, SMOOTH))


def tidy(mask: Mask) -> Mask:
    """The largest piece of a mask (sharing faces), its holes filled.

    >>> ring = np.ones((3, 3, 3), bool)
    >>> ring[1, 1, 1] = False
    >>> bool(tidy(ring).all())
    True
    """
    pieces, count = ndimage.label(mask)
    if not count:
        return np.zeros(mask.shape, bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = pieces == sizes.argmax()
    # What does not touch the rim is a hole: labelling once is far faster than filling by growth.
    gaps, _ = ndimage.label(~np.pad(largest, 1))
    filled: Mask = gaps != gaps[0, 0, 0]
    return filled[1:-1, 1:-1, 1:-1]


def _large(mask: Mask) -> Mask:
    """The largest piece and those at least a tenth as large: bone parts scalp and brain."""
    pieces, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    large: Mask = (sizes >= sizes.max() / 10)[pieces]
    return large


def _depth(head: Mask) -> NDArray[np.float64]:
    """How far below the skin, voxels; the ends of the scan are no skin."""
    full = _closed(head, 8)
    for z in range(full.shape[2]):  # sinuses and ears open to the air in some other slice
        full[:, :, z] = ndimage.binary_fill_holes(full[:, :, z])
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(
        np.pad(full, ((1, 1), (1, 1), (0, 0)))
    )
    return depth[1:-1, 1:-1]


def _closed(mask: Mask, radius: int) -> Mask:
    """Closing by distances, as if nothing lay beyond the ends."""
    out = np.pad(mask, radius + 1)
    wide = ndimage.distance_transform_edt(~out) <= radius
    back: Mask = ndimage.distance_transform_edt(np.pad(wide, 1, constant_values=True)) > radius
    inner = slice(radius + 2, -radius - 2)
    return back[inner, inner, inner] | mask


def _ball(radius: int) -> Mask:
    """(2 r + 1)^3: what lies within `radius` of the middle."""
    steps = np.mgrid[(slice(-radius, radius + 1),) * 3]
    ball: Mask = np.square(steps).sum(0) <= radius**2 + 0.5
    return ball
