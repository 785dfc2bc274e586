from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import medi2i
from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.inference.samples import Moments, Samples, run_samples, sample
from medi2i.inference.translate import Scans, run_model
from medi2i.model import Model, write_model
from medi2i.systems import SYSTEMS, Translator
from medi2i.task import Task, View
from medi2i.volume import Volume, save_volume
from tests.inference.chance import PAIR, Coded, Dropped, model_of

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
SHAPE = (7, 9, 5)
VIEWS = {
    "slices": View(),
    "slabs": View(slices=3),
    "patches": View(dims=3, patch=4),
}
AFFINE = np.array([[0, 0, 1.1, 9], [-1.2, 0, 0.1, -8], [0, 0.9, 0, 5], [0, 0, 0, 1]])


def scan(offset: float = 100.0, spread: float = 50.0) -> Volume:
    """Noise on an oblique grid whose axes are permuted and flipped."""
    voxels = np.random.default_rng(0).normal(offset, spread, SHAPE)
    return Volume.of(voxels.astype(np.float32), AFFINE)


def head() -> Volume:
    """A smooth positive ball in blank air."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 20, 12)), indexing="ij"))
    return Volume.of(800 * np.clip(1 - np.square(1.3 * grid).sum(0), 0, None))


def drawn(model: Model, volume: Volume, **options: Any) -> Samples:
    return sample({T1W: volume}, to="t2", model=model, **options)


def coded(model: Model) -> Coded:
    assert isinstance(model.system, Coded)
    return model.system


@pytest.fixture
def where(device: torch.device) -> str:
    return device.type


# ---- mean and standard deviation


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_mean_and_std_are_those_of_the_samples(where: str, view: View, offset: float) -> None:
    result = drawn(model_of(Coded, view=view), scan(offset, 1.0), samples=5, seed=1, device=where)
    stack = np.stack([volume.voxels for volume in result.volumes]).astype(np.float64)
    assert len(stack) == 5
    np.testing.assert_allclose(result.mean.voxels, stack.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.std.voxels, stack.std(0), rtol=1e-5, atol=1e-7)
    assert result.std.voxels.min() > 0
    for volume in (result.mean, result.std, *result.volumes):
        assert volume.shape == SHAPE
        assert np.array_equal(volume.affine, AFFINE)


def test_a_code_that_does_not_matter_has_no_spread(where: str) -> None:
    volume, model = scan(), model_of(Coded, reach=0.0)
    result = drawn(model, volume, samples=3, device=where)
    assert not result.std.voxels.any()
    assert np.array_equal(result.mean.voxels, volume.voxels)
    translated = run_model(model, {T1W: volume}, T2W, device=where).volume
    assert np.array_equal(result.mean.voxels, translated.voxels)


def test_numbers_by_hand() -> None:
    """Shift and ramp of a known code, undone by hand."""
    model, volume = model_of(Coded, reach=2.0), scan()
    result = drawn(model, volume, samples=2, seed=4, device="cpu")
    # the network sees slices across the canonical z axis, and the ramp lies along canonical y
    for number, made in enumerate(result.volumes):
        shift, slope, _ = coded(model).codes[number][0].tolist()
        ramp = np.linspace(-1, 1, made.canonical().shape[1])[:, None]
        expected = volume.canonical().voxels + 2 * (shift + slope * ramp)
        np.testing.assert_allclose(made.canonical().voxels, expected, rtol=1e-5)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12),
    st.sampled_from([0.0, 1e6]),
)
@settings(max_examples=50, deadline=None)
def test_moments(values: list[float], offset: float) -> None:
    arrays = [np.array([value, -value, 1.0]) + offset for value in values]
    moments = Moments()
    for array in arrays:
        moments.add(array)
    np.testing.assert_allclose(moments.mean, np.mean(arrays, axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(moments.std, np.std(arrays, axis=0), rtol=1e-7, atol=1e-7)
    assert moments.std[2] == 0


def test_moments_leave_their_input_alone() -> None:
    moments, array = Moments(), np.array([1.0, 2.0], np.float32)
    for _ in range(3):
        moments.add(array)
    assert array.tolist() == [1, 2]
    assert moments.mean.tolist() == [1, 2]


# ---- seeds


@pytest.mark.parametrize("kind", [Coded, Dropped])
def test_a_sample_is_known_by_seed_and_number(where: str, kind: type[Translator]) -> None:
    def voxels(samples: int, seed: int) -> list[NDArray[np.float32]]:
        result = drawn(model_of(kind), scan(), samples=samples, seed=seed, device=where)
        return [volume.voxels for volume in result.volumes]

    two, five, other = voxels(2, 7), voxels(5, 7), voxels(5, -8)
    for one, another in zip(two, five, strict=False):
        assert np.array_equal(one, another)
    every = [*five, *other]
    for index, one in enumerate(every):
        assert not any(np.array_equal(one, another) for another in every[:index])


@pytest.mark.parametrize("kind", [Coded, Dropped])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_the_batch_size_does_not_matter(where: str, kind: type[Translator], view: View) -> None:
    results = [
        drawn(model_of(kind, view=view), scan(), samples=2, device=where, batch_size=size)
        for size in (None, 1, 3, 1000)
    ]
    for result in results[1:]:
        assert np.array_equal(result.std.voxels, results[0].std.voxels)
        for one, another in zip(result.volumes, results[0].volumes, strict=True):
            assert np.array_equal(one.voxels, another.voxels)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_all_windows_of_a_volume_get_one_code(where: str, view: View) -> None:
    model = model_of(Coded, view=view)
    drawn(model, scan(), samples=2, device=where, batch_size=2)
    codes = torch.cat(coded(model).codes).cpu()
    windows = len(codes) // 2
    assert windows == len(view.grid(scan().canonical().shape)) > 2
    assert codes.shape == (2 * windows, 3)
    for part in (codes[:windows], codes[windows:]):
        assert (part == part[0]).all()
    assert not torch.equal(codes[0], codes[-1])


def test_dropout_drops_the_same_in_every_window(where: str) -> None:
    """So that the slices of a sample belong to one image."""
    volume = Volume.of(np.ones(SHAPE, np.float32))
    for made in drawn(model_of(Dropped), volume, samples=2, device=where).volumes:
        assert set(np.unique(made.voxels)) == {0, 2}
        assert (made.voxels == made.voxels[:, :, :1]).all()


def test_codes_are_standard_normal() -> None:
    model = model_of(Coded)
    volume = Volume.of(np.zeros((2, 2, 2), np.float32))
    volume.voxels[0] = 1
    run_samples(model, {T1W: volume}, T2W, samples=400, device="cpu")
    codes = torch.stack([code[0] for code in coded(model).codes])
    assert codes.shape == (400, 3)
    assert float(codes.mean(0).abs().max()) < 0.15  # three standard errors
    assert float((codes.std(0) - 1).abs().max()) < 0.11
    assert float((torch.corrcoef(codes.T) - torch.eye(3)).abs().max()) < 0.15


def test_other_chance_is_not_the_code_again() -> None:
    class Both(Coded):
        """A system with a code that also asks torch for numbers."""

        def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
            assert not torch.isclose(torch.randn(3), code[0]).any()
            return super().sample(source, code, target=target)

    drawn(model_of(Both), scan(), samples=2, device="cpu")


@pytest.mark.parametrize("kind", [Coded, Dropped])
def test_the_callers_random_state_stays(where: str, kind: type[Translator]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = drawn(model_of(kind), scan(), samples=2, device=where)
    assert torch.equal(torch.rand(3), expected)
    second = drawn(model_of(kind), scan(), samples=2, device=where)
    assert np.array_equal(first.std.voxels, second.std.voxels)


# ---- one after the other


def test_each_sample_is_handed_on_and_let_go(where: str) -> None:
    model, taken, told = model_of(Coded), [], []
    voxels: list[weakref.ref[NDArray[np.float32]]] = []

    def take(number: int, volume: Volume) -> None:
        assert not any(earlier() is not None for earlier in voxels), "earlier samples are kept"
        voxels.append(weakref.ref(volume.voxels))
        taken.append((number, len(coded(model).codes)))

    result = run_samples(
        model,
        {T1W: scan()},
        T2W,
        samples=3,
        device=where,
        batch_size=4,
        take=take,
        watch=lambda *progress: told.append(progress),
    )
    windows = scan().canonical().shape[2]
    assert windows == 9
    assert taken == [(1, 3), (2, 6), (3, 9)]  # passes of 4, 4 and 1 windows before each
    assert told == [(n + done, 27) for n in (0, 9, 18) for done in (4, 8, 9)]
    assert set(result.maps) == {"std"}
    assert set(result.seconds) == {"normalise", "network", "stitch"}


# ---- what holds for a translation holds for samples


def test_air_stays_blank_and_a_magnitude_image_stays_one(where: str) -> None:
    volume = head()
    model = model_of(Coded, normaliser="robust", reach=1.0)
    result = drawn(model, volume, samples=4, device=where)
    corner = (slice(2), slice(2), slice(2))
    for made in (result.mean, result.std, *result.volumes):
        assert made.voxels.min() == 0
        assert not made.voxels[corner].any()
    assert result.std.voxels[12, 10, 6] > 10
    assert not np.array_equal(result.mean.voxels, volume.voxels)


def test_the_asked_target_reaches_the_network(where: str) -> None:
    volume = Volume.of(np.zeros(SHAPE, np.float32))
    every = (T1W, T2W, FLAIR)
    model = model_of(Coded, Task(every, every, on_demand=True), reach=0.0)
    result = run_samples(model, {T1W: volume}, FLAIR, samples=2, device=where)
    assert (result.volume.voxels == 20).all()
    model = model_of(Coded, Task((T1W,), (T2W, PDW)), reach=0.0)
    result = run_samples(model, {T1W: volume}, PDW, samples=2, device=where)
    assert (result.volume.voxels == 1).all()


# ---- what cannot be


@pytest.mark.parametrize("samples", [1, 0, -3])
def test_too_few(samples: int) -> None:
    with pytest.raises(UsageError, match=f"^{samples} samples were asked for; at least 2"):
        drawn(model_of(Coded), scan(), samples=samples)


def test_a_deterministic_system() -> None:
    class Single(Coded):
        """One image per scan."""

        one_to_many = False

    with pytest.raises(UsageError) as caught:
        drawn(model_of(Single), scan())
    said = str(caught.value)
    assert 'model "drawer", system "single" as it was built, gives one image per scan' in said
    assert "leave --samples out (in Python: use translate)" in said
    for name, kind in SYSTEMS.items():
        assert (name in said.rpartition("(")[2].rstrip(")").split(", ")) == kind.one_to_many


def test_another_target() -> None:
    with pytest.raises(ContrastError, match="T1w -> PDw was asked for"):
        sample({T1W: scan()}, to="pd", model=model_of(Coded))


# ---- the public door


def test_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "coded", Coded)
    folder = write_model(model_of(Coded, PAIR, reach=0.5), tmp_path / "model")
    path = save_volume(scan(), tmp_path / "sub-1_T1w.nii.gz")
    cases: list[tuple[Scans, str | None]] = [
        (path, None),
        ({"t1": str(path)}, None),
        (scan(), "t1"),
    ]
    ways = [
        medi2i.sample(given, to="t2", source=source, model=folder, samples=2, seed=3, device="cpu")
        for given, source in cases
    ]
    for way in ways:
        assert len(way.volumes) == 2
        assert np.array_equal(way.std.voxels, ways[0].std.voxels)
    assert way.std.voxels.min() > 0
