"""Whether noise or motion has spoilt a scan, from the scan alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.volume import Volume

__all__ = ["GHOSTS", "NOISE", "ghosts", "noise", "slices_of", "spoilt"]

NOISE = 0.08
"""Noise from which a scan is called noisy: at most 0.045 in 32 validation scans, and 0.065 in 24
simulated ones."""
GHOSTS = 0.02
"""Ghosts from which a scan is said to have moved: at most 0.001 in 32 validation scans, whose air
is blank, and 0.016 in 24 simulated ones, some of which move a little."""

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

MOST = 16  # slices looked at
FEWEST = 200  # voxels that say anything
ROUND = 5  # voxels around the head that belong to no side
FAINT = 0.25  # of the brain's middle: less is no head
Slice = tuple[Field, Mask]
"""(I, J) each: an image, and where brain is in it."""


def spoilt(name: str, volume: Volume, brain: Mask) -> Iterator[str]:
    """Sentences where noise or motion may have spoilt what a network makes of a scan.

    Args:
        brain: (X, Y, Z), on the scan's grid.
    """
    slices = slices_of(volume, brain)
    if (found := noise(slices)) > NOISE:
        yield (
            f'"{name}" is noisy: in its brain noise has {found:.0%} of the span of tissue, '
            f"and {NOISE:.0%} is much; fine detail of the result is not to be trusted"
        )
    if (found := ghosts(slices)) > GHOSTS:
        yield (
            f'"{name}" shows ghosts as of motion: beside the head the signal reaches '
            f"{found:.0%} of that in the brain; look at it before the result is used"
        )


def slices_of(volume: Volume, brain: Mask) -> list[Slice]:
    """Some slices as they were acquired, with much brain each: images, and where brain is."""
    axis = int(np.argmax(volume.spacing))
    voxels, inside = (np.moveaxis(array, axis, 0) for array in (volume.voxels, brain))
    areas = inside.sum((1, 2))
    full = np.flatnonzero(areas > areas.max() / 4) if areas.any() else areas[:0]
    places = np.linspace(0, len(full) - 1, min(MOST, len(full))).round().astype(int)
    return [(voxels[i], inside[i]) for i in full[places]]


def noise(slices: Sequence[Slice]) -> float:
    """Standard deviation of the noise inside the brain, as a share of the span of tissue there.

    By the second difference along both axes of a slice, which sees neither flat tissue nor
    straight edges (Immerkaer 1996, doi:10.1006/cviu.1996.0060), and the median of its size. The
    span is from the 5th to the 95th percentile. Noise that was smoothed after it arose is
    underestimated. 0 where too little brain is seen.
    """
    found = []
    for image, inside in slices:
        curved = np.diff(np.diff(image, 2, axis=0), 2, axis=1)
        deep = ndimage.binary_erosion(inside, np.ones((3, 3)), iterations=2)[1:-1, 1:-1]
        found.append(np.abs(curved[deep]))
    sizes = np.concatenate([*found, np.empty(0)])
    span = np.ptp(np.percentile(_tissue(slices), [5, 95])) if slices else 0.0
    if sizes.size < FEWEST or span <= 0:
        return 0.0
    return float(np.median(sizes) / 0.6745 / 6 / span)  # of a normal variable; root of 6 x 6


def ghosts(slices: Sequence[Slice]) -> float:
    """How far signal rises above the floor beside the head, as a share of that in the brain.

    A head that moves during the scan leaves copies of itself along the phase encoding, also where
    there is air. From the median of the air to its 95th percentile, both after a blur of 2 voxels,
    which leaves noise its floor alone. 0 where the air was blanked, which hides motion, and where
    there is next to no air.
    """
    level = float(np.median(_tissue(slices))) if slices else 0.0
    if level <= 0:
        return 0.0
    found = []
    for image, inside in slices:
        smooth = ndimage.gaussian_filter(image, 2.0)
        head = ndimage.binary_fill_holes(inside | (smooth > FAINT * level))
        near = ndimage.maximum_filter(head, 2 * ROUND + 1)
        found.append(smooth[~near])
    values = np.concatenate(found)
    if values.size < FEWEST:
        return 0.0
    floor, high = np.percentile(values, [50, 95])
    return float(high - floor) / level


def _tissue(slices: Sequence[Slice]) -> Field:
    return np.concatenate([image[inside] for image, inside in slices])
