from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.structure import orientation, structure_scores
from medi2i.simulate import phantom

Field = NDArray[np.float32]
SPACING = (3.0, 3.0, 3.0)


@cache
def head() -> tuple[Field, Field]:
    """T1w and T2w of one head of simple shapes, stripped, 3 mm."""
    scans = phantom(
        3,
        contrasts=(Contrast.T1W, Contrast.T2W),
        shape=(54, 64, 54),
        spacing=SPACING,
        skull=False,
    )
    t1, t2 = (np.asarray(scan.voxels, np.float32) for scan in scans.values())
    return t1, t2


def middle() -> Field:
    """A third of the T1w head, enough where the whole shows no more."""
    return head()[0][:, :, 18:36]


def scores(source: Field, synthetic: Field, **changes: Any) -> Any:
    return structure_scores(source, synthetic, **({"spacing": SPACING} | changes))


def test_a_monotone_or_inverted_copy_keeps_every_edge_and_place() -> None:
    source, _ = head()
    for copy in (np.sqrt(source), source.max() - source):
        found = scores(source, copy)
        assert found.orientation > 0.98
        assert found.displacement < 0.2
        assert not found.moved


def test_mutual_information_of_copies_and_of_strangers() -> None:
    source = middle()
    assert scores(source, 3 * source + 1).mutual_information == pytest.approx(2, abs=1e-6)
    noise = np.random.default_rng(0).random(source.shape, np.float32)
    assert scores(source, noise).mutual_information == pytest.approx(1, abs=0.02)


def test_edges_of_noise_agree_by_chance_alone() -> None:
    random = np.random.default_rng(0)
    one, other = (random.random((30, 30, 30), np.float32) for _ in range(2))
    assert scores(one, other).orientation == pytest.approx(1 / 3, abs=0.04)
    flat = scores(one[:, :, :1], other[:, :, :1], brain=np.ones((30, 30, 1), bool))
    assert flat.orientation == pytest.approx(1 / 2, abs=0.05)


def test_the_true_other_contrast_is_closer_than_a_moved_one() -> None:
    source, target = head()
    true, moved = (scores(source, i) for i in (target, np.roll(target, 2, axis=0)))
    assert true.orientation > moved.orientation
    assert true.displacement < 0.6 < moved.displacement
    assert moved.moved


def test_a_shift_is_found_with_its_direction_and_length() -> None:
    source, _ = head()
    shifted = np.roll(source.max() - source, 1, axis=1)  # one voxel of 3 mm to the front
    found = scores(source, shifted, brain=source > 0)
    assert found.displacement == pytest.approx(3, rel=0.35)
    along = found.field[source > 0].mean(0)
    assert np.abs(along).argmax() == 1
    assert along[1] > 0
    assert found.field.shape == (*source.shape, 3)


def test_the_unit_is_millimetres() -> None:
    source = middle()
    shifted = np.roll(source, 1, axis=1)
    small, large = (scores(source, shifted, spacing=(s, s, s)) for s in (3.0, 6.0))
    assert large.displacement == pytest.approx(2 * small.displacement, rel=0.2)


def test_what_cannot_be_compared() -> None:
    source, target = head()
    with pytest.raises(DimensionError, match="one grid"):
        scores(source, target[1:])
    with pytest.raises(UsageError, match="nowhere above 0"):
        scores(-source, target)
    with pytest.raises(UsageError, match="translation is constant"):
        scores(source, np.ones_like(source))


def test_the_orientation_alone_is_the_same() -> None:
    source, target = head()
    moved = np.roll(target, 2, axis=0)
    expected = scores(source, moved).orientation
    assert orientation(source, moved, source > 0, spacing=SPACING) == pytest.approx(expected)
