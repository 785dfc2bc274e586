from __future__ import annotations

import numpy as np
import pytest

from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.sparsification import sparsification


def test_by_hand() -> None:
    error = np.array([1.0] * 10 + [3.0] * 10)
    found = sparsification(error, error, steps=4)
    # 20 voxels: mean 2; 15 left: (10 + 15)/15 = 5/3; 10 left: 1; 5 left: 1
    np.testing.assert_allclose(found.curve, [1, 5 / 6, 0.5, 0.5])
    np.testing.assert_allclose(found.ideal, found.curve)
    assert (found.gain, found.ratio) == (1.0, 1.0)


def test_chance_gains_nothing_and_the_opposite_loses() -> None:
    rng = np.random.default_rng(0)
    error = rng.exponential(size=20_000)
    assert abs(sparsification(error, rng.random(20_000)).gain) < 0.05
    assert sparsification(error, -error).gain < -0.5
    assert not sparsification(error, -error).rising


def test_a_scale_that_is_known_is_calibrated_and_rises() -> None:
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.1, 2.0, 50_000)
    found = sparsification(rng.laplace(scale=scale), scale)
    assert found.ratio == pytest.approx(1, abs=0.02)
    assert found.rising
    assert 0.2 < found.gain < 0.8


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DimensionError, match="one of each"):
        sparsification(np.ones(20), np.ones(21))
    with pytest.raises(UsageError, match="at least 10"):
        sparsification(np.ones(3), np.ones(3))
    with pytest.raises(UsageError, match="errors"):
        sparsification(np.zeros(20), np.ones(20))
