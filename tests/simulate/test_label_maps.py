from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.simulate import InversionRecovery, Relaxation, procedural_head
from medi2i.simulate.label_maps import (
    OEDEMA,
    Look,
    _insert_lesions,
    _tissues,
    random_sequence,
    simulate_scans,
)

CONTRASTS = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)
CLEAN = Look(blur=(0.01, 0.02), thick=(0.01, 0.02), bias=(0.0, 0.0), noise=(0.0, 0.0))


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int16]:
    """A head whose ventricles and white matter are boxes, large enough to survive the bending."""
    grid = np.zeros((44, 50, 44), np.int16)
    grid[4:40, 4:46, 4:40] = 24
    grid[6:38, 6:44, 6:38] = 3
    grid[9:35, 9:41, 9:35] = 2
    grid[17:27, 20:30, 17:27] = 4
    return grid


def test_the_same_seed_gives_the_same_bytes(labels: NDArray[np.int16]) -> None:
    first = simulate_scans(labels, CONTRASTS, seed=3, skull=False)
    again = simulate_scans(labels, CONTRASTS, seed=3, skull=False)
    other = simulate_scans(labels, CONTRASTS, seed=4, skull=False)
    for contrast in CONTRASTS:
        np.testing.assert_array_equal(first[contrast], again[contrast])
        assert not np.array_equal(first[contrast], other[contrast])


def test_contrasts_are_those_that_a_radiologist_knows(labels: NDArray[np.int16]) -> None:
    scans = simulate_scans(labels, CONTRASTS, seed=1, skull=False, lesions=False, look=CLEAN)
    shape = scans[Contrast.T1W].shape
    fluid = tuple(slice(n // 2 - 2, n // 2 + 2) for n in shape)
    mean = {c: float(scan[fluid].mean()) for c, scan in scans.items()}
    brain = {c: float(np.median(scan[scan > 0])) for c, scan in scans.items()}
    assert mean[Contrast.T1W] < 0.6 * brain[Contrast.T1W]
    assert mean[Contrast.T2W] > 1.5 * brain[Contrast.T2W]
    assert mean[Contrast.FLAIR] < 0.6 * brain[Contrast.FLAIR]


def test_stripped_scans_are_zero_outside_the_brain_alike(labels: NDArray[np.int16]) -> None:
    scans = simulate_scans(labels, CONTRASTS, seed=2, skull=False)
    outside = [scan == 0 for scan in scans.values()]
    assert 0.02 < outside[0].mean() < 0.9
    for other in outside[1:]:
        assert (outside[0] == other).mean() > 0.999


def test_scans_are_finite_not_negative_and_of_the_stated_scale(labels: NDArray[np.int16]) -> None:
    for scan in simulate_scans(labels, CONTRASTS, seed=5, skull=True).values():
        assert np.isfinite(scan).all()
        assert scan.min() >= 0
        assert 900 < np.percentile(scan, 99.9) < 1200


def test_oedema_shines_in_flair_and_lies_in_the_brain(labels: NDArray[np.int16]) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        tissues = _tissues(rng)
        sequence = random_sequence(Contrast.FLAIR, rng)
        assert sequence.signal(tissues[OEDEMA]) > 1.2 * sequence.signal(tissues[2])
        diseased = labels.copy()
        _insert_lesions(diseased, rng)
        changed = diseased != labels
        assert changed.any()
        assert set(np.unique(labels[changed])) <= {2, 3, 4}


def test_a_real_anatomy_of_simple_shapes_can_be_scanned_too() -> None:
    head = procedural_head(0, shape=(40, 48, 40), spacing=(4, 4, 4))
    scan = simulate_scans(head.labels, [Contrast.T2W], seed=0, skull=True)[Contrast.T2W]
    assert scan.std() > 10


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(UsageError, match="999"):
        simulate_scans(np.full((8, 8, 8), 999), [Contrast.T1W], seed=0, skull=False)


def test_flair_sequences_nearly_null_fluid() -> None:
    fluid = Relaxation(pd=1.0, t1=4150.0, t2=2000.0, t2s=1000.0)
    white = Relaxation(pd=0.7, t1=870.0, t2=72.0, t2s=53.0)
    for seed in range(20):
        sequence = random_sequence(Contrast.FLAIR, np.random.default_rng(seed))
        assert isinstance(sequence, InversionRecovery)
        assert sequence.ti < fluid.t1 * math.log(2)
        assert abs(sequence.signal(fluid)) < 0.6 * sequence.signal(white)


def test_no_protocol_for_contrast_agent() -> None:
    with pytest.raises(UsageError, match="ce-gad"):
        random_sequence(Contrast.T1CE, np.random.default_rng(0))
