from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medi2i.errors import ConfigError, IntensityError
from medi2i.normalise import Scaling, fit, fit_scaling, foreground
from medi2i.volume import load_volume

DATA = Path(__file__).parents[2] / "shared" / "data"


def head(shape: tuple[int, int, int] = (48, 40, 32), seed: int = 0) -> NDArray[np.float64]:
    """A ball of smooth tissue, 300 to 1000, in air of 0."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    tissue = 650 + 350 * np.sin(7 * grid[0] + 3 * grid[1]) * np.cos(5 * grid[2])
    return np.where(radius < 0.8, tissue + rng.normal(0, 5, shape), 0.0)


def rician(voxels: NDArray[Any], sigma: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    real = voxels + rng.normal(0, sigma, voxels.shape)
    return np.hypot(real, rng.normal(0, sigma, voxels.shape))


def test_numbers_written_out() -> None:
    # Air 0 on 600 of 1000 voxels; of the 400 others 99.5 % lie at or below 100.
    voxels = np.repeat([0.0, 50.0, 100.0, 5000.0], [600, 300, 99, 1])
    assert fit_scaling(voxels) == Scaling(0.0, 100.0)
    scaled = Scaling(0.0, 100.0).apply(np.array([-5.0, 0.0, 25.0, 50.0, 100.0, 5000.0]))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [-1.1, -1.0, -0.5, 0.0, 1.0, 99.0], rtol=1e-6)
    assert Scaling(0.0, 100.0).as_dict() == {"low": 0.0, "high": 100.0}


@pytest.mark.parametrize("air", [0.0, 17.0, -300.0])
@pytest.mark.parametrize(("gain", "offset"), [(1e-9, 0.0), (3.7, 0.0), (2.0, -4000.0), (1e7, 5.0)])
def test_the_fit_follows_gain_and_offset(air: float, gain: float, offset: float) -> None:
    voxels = head() + air
    plain, changed = fit_scaling(voxels), fit_scaling(gain * voxels + offset)
    span = gain * (plain.high - plain.low)
    assert changed.low == pytest.approx(gain * plain.low + offset, abs=1e-6 * span)
    assert changed.high == pytest.approx(gain * plain.high + offset, abs=1e-6 * span)


def test_padding_hardly_matters() -> None:
    voxels = head()
    plain, padded = fit_scaling(voxels), fit_scaling(np.pad(voxels, 30))
    assert padded.low == plain.low == 0
    assert padded.high == pytest.approx(plain.high, rel=0.01)


@pytest.mark.parametrize("sigma", [5.0, 20.0, 50.0])
def test_a_noisy_background_hardly_matters(sigma: float) -> None:
    voxels = head()
    plain, noisy = fit_scaling(voxels), fit_scaling(rician(voxels, sigma))
    span = plain.high - plain.low
    assert noisy.low == pytest.approx(plain.low, abs=0.02 * span)
    assert noisy.high == pytest.approx(plain.high, abs=max(0.02 * span, 1.5 * sigma))


def test_negative_values_from_interpolation_do_not_move_air() -> None:
    voxels = head()
    rng = np.random.default_rng(2)
    ringing = np.where(rng.random(voxels.shape) < 0.03, voxels - 60 * rng.random(), voxels)
    assert ringing.min() < 0
    assert fit_scaling(ringing).low == 0


def test_z_scores() -> None:
    voxels = head()
    inside = voxels > 0
    whole = (voxels - voxels.mean()) / voxels.std()  # the background becomes a negative constant
    assert fit_scaling(whole).low == pytest.approx(whole.min())
    brain = np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0.0)
    scaling = fit_scaling(brain)  # the background lies amid the tissue: not air
    assert scaling.low < np.quantile(brain[inside], 0.02)
    assert scaling.high > np.quantile(brain[inside], 0.98)


def test_no_background_at_all() -> None:
    voxels = head()[16:32, 14:26, 10:22]
    assert (voxels > 0).all()
    scaling = fit_scaling(voxels)
    assert scaling.low == pytest.approx(np.quantile(voxels, 0.005))
    assert scaling.high == pytest.approx(np.quantile(voxels, 0.995), rel=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_any_real_dtype_and_memory_order(dtype: type) -> None:
    voxels: NDArray[Any] = (head() / 4).astype(dtype)
    plain = fit_scaling(voxels)
    assert plain == fit_scaling(np.asfortranarray(voxels))
    assert plain == fit_scaling(voxels[::-1, ::-1])
    assert plain == fit_scaling(voxels.tolist())


@pytest.mark.parametrize("voxels", [np.zeros((4, 4, 4)), np.full((4, 4, 4), -7.5), np.empty(0)])
def test_constant_or_empty_is_refused(voxels: NDArray[np.float64]) -> None:
    with pytest.raises(IntensityError, match=r'of "x\.nii"'):
        fit_scaling(voxels, name="x.nii")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(value: float) -> None:
    voxels = head()
    voxels[3, 3, 3] = value
    with pytest.raises(IntensityError, match="finite"):
        fit_scaling(voxels)


def test_a_large_volume_with_little_in_it() -> None:
    voxels = np.zeros((200, 200, 200), np.float32)
    voxels[11, 13, 17] = 5  # not among the voxels that are looked at first
    assert fit_scaling(voxels) == Scaling(0, 5)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_scaling_must_be_invertible(low: float, high: float) -> None:
    with pytest.raises(IntensityError, match="low < high"):
        Scaling(low, high)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e7])
@pytest.mark.parametrize("order", ["C", "F"])
def test_inverse(scale: float, order: Literal["C", "F"]) -> None:
    voxels = (head() * scale).astype(np.float32, order=order)
    scaling = fit_scaling(voxels)
    values = scaling.apply(voxels)
    assert values.min() == -1
    assert np.mean(values > 1) < 0.005
    assert values.flags.f_contiguous == voxels.flags.f_contiguous
    back = scaling.invert(values)
    np.testing.assert_allclose(back, voxels, rtol=0, atol=2e-7 * float(voxels.max()))


def test_inverse_of_integers_is_exact_after_rounding() -> None:
    voxels = np.arange(-2000, 30000, dtype=np.int16)
    scaling = Scaling(3.0, 900.0)
    assert np.array_equal(np.rint(scaling.invert(scaling.apply(voxels))), voxels)


def test_views_keep_their_order() -> None:
    voxels = head()[::-1, ::2].transpose(1, 0, 2)
    assert not voxels.flags.contiguous
    assert not voxels.flags.f_contiguous
    np.testing.assert_allclose(Scaling(0, 2).apply(voxels), voxels - 1, rtol=1e-6)


def test_none_is_the_identity_bit_by_bit() -> None:
    voxels = np.array([-0.0, 1e-40, 1 / 3, 1e30], np.float32)
    scaling = fit("none", voxels)
    assert scaling.apply(voxels).tobytes() == voxels.tobytes()
    assert scaling.invert(voxels).tobytes() == voxels.tobytes()
    assert fit("robust", head()) == fit_scaling(head())
    with pytest.raises(ConfigError, match="robust"):
        fit("zscore", voxels)  # type: ignore[arg-type]


def test_tensors() -> None:
    voxels = head().astype(np.float32)
    scaling = fit_scaling(voxels)
    tensor = scaling.apply(torch.from_numpy(voxels))
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), scaling.apply(voxels), atol=1e-6)
    np.testing.assert_allclose(scaling.invert(tensor).numpy(), voxels, atol=1e-3)


def test_foreground() -> None:
    voxels = head()
    assert np.array_equal(foreground(voxels), voxels > 0)
    assert np.array_equal(foreground(voxels, scaling=fit_scaling(voxels)), voxels > 0)
    wrong = foreground(rician(voxels, 20)) != (voxels > 0)
    assert wrong.mean() < 0.01


def test_it_is_fast() -> None:
    voxels = np.random.default_rng(0).random((240, 240, 155), np.float32)
    start = time.perf_counter()
    fit_scaling(voxels)
    assert time.perf_counter() - start < 2  # about 0.05 s on an idle machine


@pytest.mark.parametrize(
    "scan",
    [
        "volumes/sub-KIRBY113/anat/sub-KIRBY113_T1w.nii.gz",
        "volumes/sub-TCGA061802/anat/sub-TCGA061802_T2w.nii.gz",
        "volumes/sub-TCGADU7294/anat/sub-TCGADU7294_T1w.nii.gz",
        "openms/sub-RAW12s1/anat/sub-RAW12s1_FLAIR.nii.gz",
        "lgg/sub-TCGADU5854/anat/sub-TCGADU5854_FLAIR.nii.gz",
    ],
)
def test_real_scans(scan: str) -> None:
    if not (DATA / scan).exists():
        pytest.skip("the real scans in ../shared/data are absent")
    voxels = load_volume(DATA / scan).voxels
    scaling = fit_scaling(voxels)
    assert scaling.low == 0  # also with the -69 that interpolation left in one of them
    inside = voxels > 0
    assert np.quantile(voxels[inside], 0.97) < scaling.high < voxels.max()
    noisy = fit_scaling(rician(voxels, 0.03 * scaling.high))
    assert noisy.low == pytest.approx(0, abs=0.02 * scaling.high)
    assert noisy.high == pytest.approx(scaling.high, rel=0.04)
    back = scaling.invert(scaling.apply(voxels))
    assert np.array_equal(np.rint(back), voxels)
