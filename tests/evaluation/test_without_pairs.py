from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.without_pairs import (
    Look,
    WithoutPairs,
    patch_set,
    sliced_distance,
    without_pairs,
)

SHAPE = (40, 44, 10)


def head(seed: int) -> NDArray[np.float64]:
    """Somebody: smooth structure of their own, 0 to 1."""
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    smooth = ndimage.gaussian_filter(noise, (2.5, 2.5, 1.5))
    low, high = smooth.min(), smooth.max()
    scaled: NDArray[np.float64] = (smooth - low) / (high - low)
    return scaled


def target_of(source: NDArray[np.float64]) -> NDArray[np.float64]:
    """The other contrast: what was bright is dark, with another curve."""
    return np.power(1 - source, 3)


def look(voxels: NDArray[np.float64]) -> Look:
    brain = np.zeros(SHAPE, bool)
    brain[4:-4, 4:-4] = True
    return Look(voxels, brain)


def judged(translate: object) -> WithoutPairs:
    people = [head(seed) for seed in range(3)]
    made = [translate(p) for p in people]  # type: ignore[operator]
    real = patch_set([look(target_of(head(seed))) for seed in range(10, 14)])
    return without_pairs([look(m) for m in made], [look(p) for p in people], real)


def test_the_true_translation_wins_over_all_that_are_wrong() -> None:
    true = judged(target_of)
    somebody = iter(range(20, 30))
    wrong = {
        "identity": judged(lambda p: p),
        "somebody else": judged(lambda p: target_of(head(next(somebody)))),
        "moved": judged(lambda p: target_of(np.roll(p, 4, axis=0))),
        "blurred": judged(lambda p: ndimage.gaussian_filter(target_of(p), 4)),
    }
    assert true.distance < 0.3
    assert wrong["identity"].distance == pytest.approx(1, abs=0.02)
    assert wrong["identity"].structure == pytest.approx(1)
    assert wrong["somebody else"].distance < 0.4
    assert all(true.criterion > other.criterion + 0.1 for other in wrong.values()), wrong


def test_the_distance_of_shifted_sets_is_the_shift_along_each_direction() -> None:
    patches = np.random.default_rng(0).random((3000, 49), np.float32)
    along = np.zeros(49, np.float32)
    along[0] = 0.7  # the mean of |cosine| to one axis in 49 dimensions is sqrt(2 / (pi 49))
    expected = 0.7 * np.sqrt(2 / (np.pi * 49))
    assert sliced_distance(patches, patches + along) == pytest.approx(expected, rel=0.1)
    assert sliced_distance(patches, patches[:1000]) < 0.03


def test_patches_lie_in_the_brain_and_follow_the_seed() -> None:
    voxels = np.zeros(SHAPE)
    voxels[4:-4, 4:-4] = 1 + head(0)[4:-4, 4:-4]
    scan = look(voxels)
    first, second = patch_set([scan], seed=1), patch_set([scan], seed=1)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4096, 49)
    assert not np.array_equal(first, patch_set([scan], seed=2))


def test_what_cannot_be_judged_is_said() -> None:
    scan, real = look(head(0)), patch_set([look(head(0))])
    with pytest.raises(UsageError, match="already"):
        without_pairs([scan], [scan], real)
    with pytest.raises(UsageError, match="one of each"):
        without_pairs([scan], [scan, scan], real)
    with pytest.raises(UsageError, match="no scan"):
        patch_set([])
    with pytest.raises(UsageError, match="holds a patch"):
        patch_set([Look(head(0), np.zeros(SHAPE, bool))])
    with pytest.raises(DimensionError, match="its mask"):
        patch_set([Look(head(0), np.ones((2, 2, 2), bool))])
