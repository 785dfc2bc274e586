from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import UsageError
from medi2i.simulate.fields import _field_shift, bias_field, susceptibility, transmit_field

SHAPE = (60, 72, 60)
SPACING = (3.0, 3.0, 3.0)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _ball(n: int, radius: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """A ball in the middle of n cubed voxels, and the distance from its centre."""
    line = np.arange(n) - n // 2
    away = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    return away <= radius, away


# --- the receiving coil ---------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.4])
def test_the_logarithm_has_the_strength_that_was_asked_for(strength: float) -> None:
    logarithm = np.log(bias_field(SHAPE, _rng(), strength, spacing=SPACING))
    assert logarithm.std() == pytest.approx(strength, abs=1e-4)
    assert logarithm.mean() == pytest.approx(0.0, abs=1e-4)


def test_a_shorter_scale_varies_faster() -> None:
    steep = [
        np.mean(
            [np.diff(np.log(bias_field(SHAPE, _rng(s), 0.2, mm)), axis=0).std() for s in range(4)]
        )
        for mm in (128, 64, 32, 16)
    ]
    assert steep == sorted(steep)
    assert steep[-1] > 1.5 * steep[0]


# --- the transmitting coil ------------------------------------------------------------------------


def test_the_flip_angle_is_nominal_on_average_and_higher_in_the_centre() -> None:
    half = np.array(SHAPE) / 2
    index = np.indices(SHAPE) - (np.array(SHAPE) - 1)[:, None, None, None] / 2
    radius = np.sqrt(((index / half[:, None, None, None]) ** 2).sum(0))
    for seed in range(8):
        field = transmit_field(SHAPE, _rng(seed), 0.2, spacing=SPACING)
        assert field[radius <= 1].mean() == pytest.approx(1, abs=1e-3)
        assert 1.1 < field[radius < 0.2].mean() < 1.3
        assert 0.8 < field[(radius > 0.85) & (radius <= 1)].mean() < 1.0
        assert field.min() > 0
        assert field.dtype == np.float32


def test_an_even_field_is_one() -> None:
    np.testing.assert_array_equal(transmit_field(SHAPE, _rng(), 0.0), 1)


# --- the static field -----------------------------------------------------------------------------


def test_a_ball_of_air_is_a_dipole() -> None:
    """Outside: difference / 3 (a/r)^3 (3 cos^2 - 1), along z twice as much as across, negative."""
    air, _ = _ball(96, 8.0)
    shift = _field_shift(air, np.array([0.0, 0.0, 1.0]), (1.0, 1.0, 1.0))
    volume = air.sum() / (4 / 3 * np.pi)  # a^3 of the ball that the voxels make
    for away in (12, 16, 20):
        dipole = volume / away**3 / 3
        assert shift[48, 48, 48 + away] == pytest.approx(2 * dipole, rel=0.06, abs=1e-4)
        assert shift[48 + away, 48, 48] == pytest.approx(-dipole, rel=0.06, abs=1e-4)


def test_spins_fan_out_as_the_dipole_says() -> None:
    air, _ = _ball(96, 8.0)
    left = susceptibility(air, _rng(1), te=10.0, field=3.0)
    volume = air.sum() / (4 / 3 * np.pi)
    for away in (12, 16):
        # Hz per voxel along z above the ball, for a difference of 9.4 ppm +- 10 %
        slope = 42.577e6 * 3 * 9.4e-6 * 2 * volume / away**4
        low, high = (float(np.sinc(slope * f * 0.010)) for f in (1.12, 0.84))
        assert abs(low) - 0.03 <= left[48, 48, 48 + away] <= abs(high) + 0.03


def test_loss_grows_with_echo_time_and_field_and_ends_within_centimetres() -> None:
    air, away = _ball(96, 6.0)
    near = (away > 7.5) & (away < 11)
    loss = {
        (te, field): 1 - float(susceptibility(air, _rng(2), te=te, field=field)[near].mean())
        for te, field in ((3.0, 1.5), (3.0, 3.0), (6.0, 3.0))
    }
    assert 0.001 < loss[3.0, 1.5] < loss[3.0, 3.0] < loss[6.0, 3.0] < 1
    left = susceptibility(air, _rng(2), te=6.0)
    assert left[away > 30].min() > 0.995
    assert left.min() >= 0
    assert left.max() <= 1


def test_a_head_three_times_as_large_in_voxels_three_times_as_large() -> None:
    air, away = _ball(64, 6.0)
    shell = (away > 8) & (away < 12)
    small, large = (
        susceptibility(air, _rng(2), te=5.0, spacing=(s, s, s))[shell].mean() for s in (1.0, 3.0)
    )
    # A third of the slope per mm, over three times the mm.
    assert large == pytest.approx(small, abs=0.01)


def test_no_sinus_no_loss() -> None:
    np.testing.assert_array_equal(susceptibility(np.zeros((8, 8, 8), bool), _rng(), te=5.0), 1)


# --- all of them ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes() -> None:
    air, _ = _ball(40, 5.0)
    fields: list[Callable[[np.random.Generator], NDArray[np.float32]]] = [
        lambda rng: bias_field(SHAPE, rng, 0.2),
        lambda rng: transmit_field(SHAPE, rng, 0.2),
        lambda rng: susceptibility(air, rng, te=5.0),
    ]
    for field in fields:
        assert field(_rng(3)).tobytes() == field(_rng(3)).tobytes()
        assert field(_rng(3)).tobytes() != field(_rng(4)).tobytes()
        assert field(_rng(3)).dtype == np.float32


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"strength is -0\.1"):
        bias_field(SHAPE, _rng(), -0.1)
    with pytest.raises(UsageError, match="scale_mm is 0"):
        bias_field(SHAPE, _rng(), 0.1, 0)
    with pytest.raises(UsageError, match=r"strength is 0\.5"):
        transmit_field(SHAPE, _rng(), 0.5)
    with pytest.raises(UsageError, match="te is 0"):
        susceptibility(np.ones((4, 4, 4), bool), _rng(), te=0)
    with pytest.raises(UsageError, match="field -3"):
        susceptibility(np.ones((4, 4, 4), bool), _rng(), te=5, field=-3)
