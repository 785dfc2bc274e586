from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.simulate import Tissue, procedural_head
from medi2i.simulate.coarse import (
    TISSUES,
    CoarseHead,
    bend,
    coarse_scan,
    coarsen,
    degrade,
    smooth_noise,
)
from medi2i.simulate.foreign import FOREIGN, foreign

SHAPE = (80, 96, 80)
Field = NDArray[np.float32]


@pytest.fixture(scope="module")
def head() -> CoarseHead:
    """A head of 4 mm voxels taken for 1 mm ones, each repeated: simple and fast."""
    labels = procedural_head(5, shape=(44, 52, 46), spacing=(4, 4, 4)).labels
    return coarsen(labels.repeat(4, 0).repeat(4, 1).repeat(4, 2))


def test_every_voxel_is_shared_out() -> None:
    """Of eight voxels three are white matter and five cortex."""
    labels = np.zeros((6, 6, 6), np.int16)
    labels[2:4, 2:4, 2:4] = 3
    labels[2, 2, 2:4] = labels[2, 3, 2] = 2
    shares = coarsen(labels).shares
    assert shares.shape == (len(TISSUES), 5, 5, 4)
    here = dict(zip(TISSUES, shares[:, 2, 2, 1].tolist(), strict=True))
    assert here[Tissue.WHITE_MATTER] == 96  # 3/8 of 255
    assert here[Tissue.CORTEX] == 159
    assert sum(here.values()) == 255
    assert (shares.sum(0, dtype=int) == 255).all()
    assert shares[TISSUES.index(Tissue.AIR), 0, 0, 0] == 255


def test_the_brain_has_its_furrows_and_ventricles_and_half_a_voxel_more() -> None:
    labels = np.zeros((44, 44, 44), np.int16)
    labels[6:38, 6:38, 6:38] = 24
    labels[10:34, 10:34, 10:34] = 3
    labels[20:24, 20:24, 20:24] = 4  # a ventricle
    labels[20:24, 10:20, 20:24] = 24  # a furrow
    brain = coarsen(labels).brain  # moved by the rim of air: one voxel in x and y
    assert brain[11, 11, 10] == brain[11, 7, 10] == 1
    assert brain[8, 5, 8] == 0.5
    assert brain[8, 4, 8] == 0
    assert 0 <= 12**3 - (brain > 0.75).sum() <= 4 * 2  # the mouth of the furrow stays open


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(UsageError, match="999"):
        coarsen(np.full((8, 8, 8), 999))


def test_the_same_generator_gives_the_same_scan(head: CoarseHead) -> None:
    def draw(seed: int) -> tuple[Field, Field]:
        rng = np.random.default_rng(seed)
        return coarse_scan(head, Contrast.T1W, rng, stripped=False, shape=SHAPE)

    first, again, other = draw(3), draw(3), draw(4)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("contrast", [*Contrast, None])
def test_scans_are_images(head: CoarseHead, contrast: Contrast | None) -> None:
    for stripped in (False, True):
        rng = np.random.default_rng(11)
        image, brain = coarse_scan(head, contrast, rng, stripped=stripped, shape=SHAPE)
        assert image.shape == brain.shape == SHAPE
        assert image.dtype == brain.dtype == np.float32
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert 0 <= brain.min() < brain.max() <= 1
        assert image[brain > 0.5].std() > 0
        if stripped:
            assert not image[brain < 0.5].any()
            assert (image[brain > 0.5] > 0).mean() > 0.98


def test_contrasts_are_those_that_a_radiologist_knows(head: CoarseHead) -> None:
    """Ventricles are dark in T1w and FLAIR and bright in T2w; an agent makes vessels bright."""
    fluid, blood, white = (
        head.shares[TISSUES.index(tissue)] > 250
        for tissue in (Tissue.CSF, Tissue.MUCOSA, Tissue.WHITE_MATTER)
    )
    ratios: dict[Contrast, list[float]] = {contrast: [] for contrast in Contrast}
    agent: dict[Contrast, list[float]] = {contrast: [] for contrast in Contrast}
    for seed in range(4):
        for contrast in Contrast:
            moved = _still(head, contrast, seed)
            ratios[contrast].append(float(moved[fluid].mean() / moved[white].mean()))
            agent[contrast].append(float(moved[blood].mean() / moved[white].mean()))
    mean = {contrast: float(np.mean(values)) for contrast, values in ratios.items()}
    assert mean[Contrast.T1W] < 0.6
    assert mean[Contrast.FLAIR] < 0.6
    assert mean[Contrast.T2W] > 1.5
    assert np.mean(agent[Contrast.T1CE]) > 1.15 * np.mean(agent[Contrast.T1W])


def _still(head: CoarseHead, contrast: Contrast, seed: int) -> Field:
    """The head's own grid, unmoved: only what depends on signals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medi2i.simulate.coarse.bend", lambda channels, rng, shape: list(channels))
        patch.setattr(
            "medi2i.simulate.coarse.degrade", lambda image, brain, rng, **_: (image, brain)
        )
        rng = np.random.default_rng(seed)
        shape = head.brain.shape
        return coarse_scan(head, contrast, rng, stripped=False, shape=shape)[0]


def test_bending_keeps_images_together_and_about_in_the_middle() -> None:
    ball = np.zeros((60, 70, 50), np.float32)
    x, y, z = np.ogrid[:60, :70, :50]
    ball[(x - 29.5) ** 2 + (y - 34.5) ** 2 + (z - 24.5) ** 2 < 15**2] = 1
    for seed in range(5):
        one, two = bend((ball, 3 * ball), np.random.default_rng(seed), shape=(64, 64, 64))
        np.testing.assert_allclose(two, 3 * one, rtol=0, atol=1e-5)
        assert np.abs(np.array(ndimage.center_of_mass(one)) - 31.5).max() < 7
        assert 0.4 < one.sum() / ball.sum() < 2.3


def test_beyond_the_map_its_edge_goes_on() -> None:
    """A neck that the map cuts is not followed by air."""
    column = np.zeros((20, 20, 20), np.float32)
    column[8:12, 8:12] = 1
    (moved,) = bend((column,), np.random.default_rng(0), shape=(40, 40, 40))
    assert moved[:, :, 0].max() > 0.5


def test_thick_slices_blur_along_one_axis_alone() -> None:
    noise = np.random.default_rng(0).random((48, 48, 48), np.float32)
    brain = np.ones_like(noise)
    image, _ = degrade(
        noise, brain, np.random.default_rng(1), stripped=False, thick=True, strength=0
    )
    roughness = [float(np.abs(np.diff(image, axis=axis)).mean()) for axis in range(3)]
    smooth, *others = sorted(roughness)
    assert smooth < 0.6 * min(others)


def test_a_ramp_stays_a_ramp_through_slices() -> None:
    from medi2i.simulate.coarse import _sliced

    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (4, 5, 40))
    for thickness in (3.0, 4.4, 6.0, 7.0):
        sliced = _sliced(ramp, 2, thickness)
        assert sliced.shape == ramp.shape
        np.testing.assert_allclose(sliced[..., 8:32], ramp[..., 8:32], rtol=0, atol=1.01)


@pytest.mark.parametrize("scale", [1.0, 4.0, 20.0])
def test_noise_is_about_as_smooth_and_as_strong_as_asked(scale: float) -> None:
    noise = smooth_noise((60, 60, 60), np.random.default_rng(0), scale)
    assert noise.shape == (60, 60, 60)
    assert 0.4 < noise.std() < 1.6
    assert np.abs(np.diff(noise, axis=1)).mean() < 1.5 / scale


@pytest.fixture(scope="module")
def scan(head: CoarseHead) -> Field:
    return _still(head, Contrast.T1W, 0)


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_things_are_something_else(kind: str, scan: Field) -> None:
    before = scan.copy()
    for seed in range(3):
        thing = foreign(scan, np.random.default_rng(seed), kind)
        assert thing.shape == scan.shape
        assert thing.dtype == np.float32
        assert np.isfinite(thing).all()
        assert thing.std() > 0
        assert np.corrcoef(thing.ravel(), scan.ravel())[0, 1] < 0.99
    np.testing.assert_array_equal(scan, before)


def test_turned_heads_are_the_same_voxels_elsewhere() -> None:
    cube = np.random.default_rng(0).random((8, 8, 8), np.float32)
    turned: Callable[[int], Field] = lambda seed: foreign(  # noqa: E731
        cube, np.random.default_rng(seed), "turned"
    )
    for seed in range(20):
        np.testing.assert_array_equal(np.sort(turned(seed), axis=None), np.sort(cube, axis=None))
        assert not np.array_equal(turned(seed), cube)
        assert not np.array_equal(turned(seed), cube[::-1])  # left for right cannot be seen
