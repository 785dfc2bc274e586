from __future__ import annotations

import numpy as np
import pytest

from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.through_plane import motion_residual, through_plane_ratio

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


def test_a_scan_that_leans_leaves_nothing_once_its_motion_is_followed() -> None:
    base = np.random.default_rng(1).random((20, 16))
    leaning = np.stack([np.roll(base, -2 * height, axis=0) for height in range(5)], axis=-1)
    fields = np.zeros((4, 2, 20, 16), np.float16)
    fields[:, 0] = 2
    brain = np.zeros(leaning.shape, bool)
    brain[:10] = True  # away from where roll comes round
    assert motion_residual(leaning, fields, brain) < 1e-6
    assert motion_residual(1 - leaning, fields, brain) < 1e-6
    assert motion_residual(leaning, 0 * fields, brain) > 0.2
    assert motion_residual(leaning, fields[:, ::-1], brain) > 0.2
    flicker = leaning + 0.1 * (np.arange(5) % 2)
    assert motion_residual(flicker, fields, brain) == pytest.approx(0.1, abs=1e-6)
    turned = np.moveaxis(flicker, 2, 0), fields, np.moveaxis(brain, 2, 0)
    assert motion_residual(*turned, axis=0) == pytest.approx(0.1, abs=1e-6)
    with pytest.raises(DimensionError, match="slices first"):
        motion_residual(leaning, fields[1:], brain)
    with pytest.raises(UsageError, match="no two neighbouring"):
        motion_residual(leaning, fields, brain & (np.arange(5) == 2))
