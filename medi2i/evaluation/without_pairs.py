"""Choosing a model where nobody has pairs: does it look like the target, is it still the source?

Two questions that need no acquired scan of the same person. How far are the translations from
real scans of the target contrast, as sets of small patches: the sliced Wasserstein distance (Rabin
et al. 2011, doi:10.1007/978-3-642-24785-9_37; of patches Karras et al. 2018, arXiv:1710.10196), in
units of the distance that the untranslated sources have, so that 1 is no better than doing nothing
and 0 is not to be told apart. And do edges still run where they ran: the orientation score of
:mod:`medi2i.evaluation.structure`. Either alone is satisfied by a wrong answer: the source itself
has kept all its structure, and a real scan of somebody else is at distance 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.scoring import unit_range
from medi2i.evaluation.structure import orientation

__all__ = ["Look", "PatchSet", "WithoutPairs", "patch_set", "without_pairs"]

SIDE = 7
"""Of a patch, voxels, in the slice plane."""
PATCHES = 4096
"""Of each scan."""
DIRECTIONS = 128
"""Onto which patches are projected."""
QUANTILES = 1024
"""At which two distributions are compared."""

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]
PatchSet = NDArray[np.float32]
"""(N, SIDE * SIDE) patches of one kind of scan."""


@dataclass(frozen=True)
class Look:
    """One scan and where its brain is: (X, Y, Z) each, any intensities; mm per voxel."""

    voxels: Field
    brain: Mask
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class WithoutPairs:
    """What can be said of a model without pairs.

    Attributes:
        distance: of its translations from real scans of the target contrast; 1 is as far as the
            untranslated sources, 0 is none.
        structure: mean agreement of the directions of edges with the source, up to 1.
    """

    distance: float
    structure: float

    @property
    def criterion(self) -> float:
        """Higher is better: structure that was kept less distance that was left, in equal parts."""
        return self.structure - self.distance


def patch_set(scans: Iterable[Look], *, seed: int = 0) -> PatchSet:
    """Patches at random places of brains, each scan on its own range of intensities.

    Args:
        scans: as many as there are; each gives the same number of patches.
        seed: of the places.

    Raises:
        DimensionError: a mask of another shape. UsageError: no scan; no patch's centre in a brain.
    """
    rng, half, found = np.random.default_rng(seed), SIDE // 2, []
    for number, scan in enumerate(scans, start=1):
        if scan.voxels.shape != scan.brain.shape:
            raise DimensionError(
                f"scan {number} is {scan.voxels.shape}, its mask {scan.brain.shape}"
            )
        inner = np.zeros_like(scan.brain)
        inner[half:-half, half:-half] = scan.brain[half:-half, half:-half]
        x, y, z = np.nonzero(inner)
        if not len(x):
            raise UsageError(f"scan {number} has no brain that holds a patch of {SIDE} voxels")
        chosen = rng.integers(len(x), size=PATCHES)
        steps = np.arange(-half, half + 1)
        image = unit_range(scan.voxels, scan.brain)
        patches = image[
            x[chosen, None, None] + steps[:, None],
            y[chosen, None, None] + steps,
            z[chosen, None, None],
        ]
        found.append(patches.reshape(PATCHES, -1).astype(np.float32))
    if not found:
        raise UsageError("no scan was given to take patches from")
    return np.concatenate(found)


def sliced_distance(one: PatchSet, other: PatchSet, *, seed: int = 0) -> float:
    """The mean distance of the two sets along random directions, in units of intensity.

    Both sets are taken as distributions: they need not be of one size.

    >>> set_ = np.random.default_rng(0).random((500, 49), np.float32)
    >>> sliced_distance(set_, set_)
    0.0
    """
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((DIRECTIONS, one.shape[1])).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ranks = []
    for patches in (one, other):
        along = np.sort(directions @ patches.T)
        shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
        ranks.append(along[:, (shares * len(patches)).astype(int)])
    return float(np.abs(ranks[0] - ranks[1]).mean())


def without_pairs(
    translations: Sequence[Look],
    sources: Sequence[Look],
    targets: PatchSet,
) -> WithoutPairs:
    """Judge a model by its translations of some scans, without the scans that it should equal.

    Args:
        translations, sources: of the same people, in the same order.
        targets: patches of real scans of the target contrast, of anybody.

    Raises:
        UsageError: the sources themselves look like the target: there is nothing to translate.
    """
    if len(translations) != len(sources):
        raise UsageError(
            f"{len(translations)} translations of {len(sources)} sources came; one of each was "
            "expected"
        )
    before = sliced_distance(patch_set(sources), targets)
    if before == 0:
        raise UsageError("the sources are like the target already: nothing is left to translate")
    after = sliced_distance(patch_set(translations), targets)
    kept = [
        orientation(source.voxels, made.voxels, source.brain, spacing=source.spacing)
        for source, made in zip(sources, translations, strict=True)
    ]
    return WithoutPairs(after / before, float(np.mean(kept)))
