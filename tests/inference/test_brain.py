"""The mask grows to where the brain ends: a head of spheres, 2 mm, whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.inference.brain import grown

Mask = NDArray[np.bool_]
SHAPE = (96, 100, 80)
BRAIN, BONE, SCALP = 30, 34, 39  # radii, voxels


def radius() -> NDArray[np.float64]:
    axes = [np.arange(n) - (n - 1) / 2 for n in SHAPE]
    squares = [np.square(g) for g in np.meshgrid(*axes, indexing="ij")]
    far: NDArray[np.float64] = np.sqrt(squares[0] + squares[1] + squares[2])
    return far


def head(*, skull: bool) -> NDArray[np.float32]:
    """Brain 0, bone -0.9, scalp 0.9, air -1, and some noise."""
    far = radius()
    values = np.full(SHAPE, -1.0)
    if skull:
        values[far < SCALP] = 0.9
        values[far < BONE] = -0.9
    values[far < BRAIN] = 0.0
    noise = np.random.default_rng(0).normal(0, 0.05, SHAPE)
    return np.where(values > -1, values + noise, -1).astype(np.float32)


def dice(one: Mask, other: Mask) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize("skull", [False, True], ids=["bare", "skull"])
def test_a_mask_that_stops_short_reaches_the_edge_and_stays_there(skull: bool) -> None:
    short = 7 if skull else 3  # so much smaller than the head, it would be taken for one with skull
    brain, marked = radius() < BRAIN, radius() < BRAIN - short
    assert dice(marked, brain) < 0.87
    assert dice(grown(head(skull=skull), marked), brain) > 0.97


def test_a_mask_that_went_into_the_scalp_comes_back() -> None:
    far = radius()
    brain, marked = far < BRAIN, far < BRAIN
    marked[:, 80:] |= (far < SCALP)[:, 80:]  # near the crown of one side
    found = grown(head(skull=True), marked)
    assert dice(found, brain) > 0.97
    assert not found[far > BONE].any()


def test_it_does_not_leave_through_a_narrow_gap() -> None:
    values, brain = head(skull=True), radius() < BRAIN
    values[46:50, 48:52, :20] = 0.0  # a nerve, 8 mm wide, through bone and scalp
    found = grown(values, ndimage.binary_erosion(brain, iterations=4))
    assert dice(found, brain) > 0.97


def test_it_goes_no_further_than_networks_stop_short() -> None:
    far = radius()
    found = grown(head(skull=False), far < 12)
    assert found.sum() < (far < 12 + 9 + 2).sum()


def test_next_to_nothing_stays_as_it_is() -> None:
    marked = np.zeros(SHAPE, bool)
    assert not grown(head(skull=True), marked).any()
    marked[48, 50, 40] = True
    assert np.array_equal(grown(head(skull=True), marked), marked)
