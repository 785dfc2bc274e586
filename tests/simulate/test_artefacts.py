from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import UsageError
from medi2i.simulate.artefacts import gibbs, motion_ghosts, point_spread, rician

Image = NDArray[np.float32]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def block() -> Image:
    """A bright block in the middle of nothing."""
    image = np.zeros((48, 56, 40), np.float32)
    image[18:30, 21:35, 15:25] = 100.0
    return image


# --- Rician noise ---------------------------------------------------------------------------------


def test_noise_alone_is_rayleigh() -> None:
    noise = rician(np.zeros((60, 60, 60), np.float32), 20.0, _rng())
    assert noise.mean() == pytest.approx(20 * np.sqrt(np.pi / 2), rel=0.01)
    assert (noise**2).mean() == pytest.approx(2 * 20**2, rel=0.01)
    assert noise.dtype == np.float32


def test_a_strong_signal_keeps_its_square_and_its_deviation() -> None:
    noisy = rician(np.full((60, 60, 60), -300.0, np.float32), 20.0, _rng())
    assert (noisy**2).mean() == pytest.approx(300**2 + 2 * 20**2, rel=0.002)
    assert noisy.std() == pytest.approx(20, rel=0.02)


def test_no_noise_leaves_the_magnitude() -> None:
    signed = np.array([[[-2.0, 0.0, 3.0]]], np.float32)
    np.testing.assert_array_equal(rician(signed, 0.0, _rng()), np.abs(signed))


# --- rings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_edge_overshoots_by_nine_per_cent(axis: int) -> None:
    shape = [1, 1, 1]
    shape[axis] = 512
    edge = np.zeros(512, np.float32)
    edge[128:384] = 1.0
    keep = [1.0, 1.0, 1.0]
    keep[axis] = 0.125
    ringing = gibbs(edge.reshape(shape), keep).ravel()
    assert ringing.max() - 1 == pytest.approx(0.0895, abs=0.004)  # Wilbraham and Gibbs
    assert -ringing.min() == pytest.approx(0.0895, abs=0.004)
    # The rings of 64 kept lines are 8 voxels apart.
    peaks = 1 + np.flatnonzero(np.diff(np.sign(np.diff(ringing[140:370]))) < 0)
    assert np.median(np.diff(peaks)) == pytest.approx(512 / 63, abs=1.2)


def test_rings_only_where_k_space_is_cut(block: Image) -> None:
    cut = gibbs(block, (1.0, 0.5, 1.0))
    outside = block == 0
    rows = np.zeros_like(outside)
    rows[18:30, :, 15:25] = True
    assert np.abs(cut[outside & rows]).max() > 5
    assert np.abs(cut[outside & ~rows]).max() < 1e-3
    assert cut.mean() == pytest.approx(block.mean(), rel=1e-5)


def test_truncation_is_a_projection(block: Image) -> None:
    once = gibbs(block, (0.6, 0.7, 0.8))
    np.testing.assert_allclose(gibbs(once, (0.6, 0.7, 0.8)), once, atol=1e-3)
    np.testing.assert_array_equal(gibbs(block, (1, 1, 1)), block)
    assert once.dtype == np.float32


# --- blur -----------------------------------------------------------------------------------------


def test_a_point_becomes_half_as_bright_at_half_the_width() -> None:
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1.0
    spread = point_spread(point, (6.0, 4.0, 0.0))
    peak = spread[20, 20, 20]
    assert spread[23, 20, 20] == pytest.approx(peak / 2, rel=0.01)
    assert spread[20, 22, 20] == pytest.approx(peak / 2, rel=0.01)
    assert spread[20, 20, 21] == 0
    assert spread.sum() == pytest.approx(1.0, rel=1e-5)


# --- ghosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shots", [1, 5])
def test_ghosts_lie_along_the_phase_encoding(block: Image, axis: int, shots: int) -> None:
    """Far from the block, all that is seen lies beside it along one axis."""
    energy = np.zeros(3)
    for seed in range(6):
        ghosts = motion_ghosts(block, _rng(seed), 1.0, axis, shots=shots)
        centred = np.moveaxis(ghosts, axis, 0)
        assert centred.shape == np.moveaxis(block, axis, 0).shape
        for other in range(3):
            n = ghosts.shape[other]
            far = [slice(0, n // 6), slice(-(n // 6), None)]
            energy[other] += sum((np.take(ghosts, range(n)[f], other) ** 2).sum() for f in far)
    others = [a for a in range(3) if a != axis]
    # What lies in the far slabs of another axis would have to come from the block's own rows.
    assert energy[axis] > 100 * max(energy[a] for a in others)
    assert energy[axis] > 0


def test_interleaved_shots_put_ghosts_farther_out(block: Image) -> None:
    def outer(shots: int) -> float:
        scans = (motion_ghosts(block, _rng(seed), 1.0, 1, shots=shots) for seed in range(8))
        return float(sum((scan[:, :8] ** 2).sum() + (scan[:, -8:] ** 2).sum() for scan in scans))

    assert outer(4) > 2 * outer(1)


def test_the_head_stays_where_the_central_line_saw_it(block: Image) -> None:
    """Shifts of 3 voxels, mostly seen elsewhere than in the block's own place."""
    inside = np.argwhere(block > 0).mean(0)
    away = []
    for seed in range(12):
        ghosts = motion_ghosts(block, _rng(seed), 3.0, 1)
        assert np.abs(ghosts - block).max() > 1
        away.append(np.abs(np.argwhere(ghosts > 50).mean(0) - inside))
    assert (np.median(away, axis=0) < 0.5).all()


def test_no_motion_no_ghosts(block: Image) -> None:
    np.testing.assert_allclose(motion_ghosts(block, _rng(), 0.0, 1), block, atol=1e-3)


# --- all of them ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(block: Image) -> None:
    before = block.copy()
    artefacts: list[Callable[[np.random.Generator], Image]] = [
        lambda rng: rician(block, 5.0, rng),
        lambda rng: motion_ghosts(block, rng, 1.0, 1),
    ]
    for artefact in artefacts:
        assert artefact(_rng(3)).tobytes() == artefact(_rng(3)).tobytes()
        assert artefact(_rng(3)).tobytes() != artefact(_rng(4)).tobytes()
        assert artefact(_rng(3)).dtype == np.float32
    gibbs(block, (0.5, 0.5, 0.5))
    point_spread(block, (2, 2, 2))
    np.testing.assert_array_equal(block, before)


def test_refusals(block: Image) -> None:
    with pytest.raises(UsageError, match=r"sigma is -0\.1"):
        rician(block, -0.1, _rng())
    with pytest.raises(UsageError, match="sigma is nan"):
        rician(block, float("nan"), _rng())
    with pytest.raises(UsageError, match="strength is -1"):
        motion_ghosts(block, _rng(), -1, 0)
    with pytest.raises(UsageError, match="axis is 3"):
        motion_ghosts(block, _rng(), 1, 3)
    with pytest.raises(UsageError, match="shots is 0"):
        motion_ghosts(block, _rng(), 1, 0, shots=0)
    with pytest.raises(UsageError, match=r"keep is \(1, 0, 1\)"):
        gibbs(block, (1, 0, 1))
    with pytest.raises(UsageError, match="keep has 2"):
        gibbs(block, (1, 1))
    with pytest.raises(UsageError, match=r"fwhm_voxels\[1\] is -2"):
        point_spread(block, (1, -2, 1))
