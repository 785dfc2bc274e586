from __future__ import annotations

import numpy as np
import pytest

from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.through_plane import through_plane_ratio

RNG = np.random.default_rng(0)
SCAN = RNG.random((6, 5, 8))
EVERYWHERE = np.ones(SCAN.shape, dtype=bool)


def test_the_acquired_scan_is_like_itself_and_offsets_do_not_count() -> None:
    assert through_plane_ratio(SCAN, SCAN, EVERYWHERE) == 1
    assert through_plane_ratio(SCAN + 5, SCAN, EVERYWHERE) == pytest.approx(1)
    assert through_plane_ratio(0.25 * SCAN, SCAN, EVERYWHERE) == pytest.approx(0.25)


def test_flicker_raises_it_across_the_slices_alone() -> None:
    flicker = SCAN + 10 * (np.arange(8) % 2)
    assert through_plane_ratio(flicker, SCAN, EVERYWHERE) > 10
    assert through_plane_ratio(flicker, SCAN, EVERYWHERE, axis=0) == pytest.approx(1)


def test_only_neighbours_that_both_lie_in_the_brain_count() -> None:
    acquired = np.array([0.0, 1.0, 3.0, 100.0]).reshape(1, 1, 4)
    synthetic = np.array([0.0, 2.0, 3.0, -9.0]).reshape(1, 1, 4)
    brain = np.array([True, True, True, False]).reshape(1, 1, 4)
    assert through_plane_ratio(synthetic, acquired, brain) == pytest.approx((2 + 1) / (1 + 2))
    brain[0, 0, 2] = False
    assert through_plane_ratio(synthetic, acquired, brain) == pytest.approx(2)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DimensionError, match="one grid"):
        through_plane_ratio(SCAN[1:], SCAN, EVERYWHERE)
    with pytest.raises(UsageError, match="no two neighbouring slices"):
        through_plane_ratio(SCAN, SCAN, EVERYWHERE & (np.arange(8) == 3))
    with pytest.raises(UsageError, match="same in all slices"):
        through_plane_ratio(SCAN, np.ones_like(SCAN), EVERYWHERE)
