from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.errors import InputError, IntensityError
from medi2i.preparation.bias import correct_bias
from medi2i.simulate import procedural_head
from medi2i.simulate.fields import bias_field
from medi2i.volume import Volume
from tests.preparation.conftest import SHAPE, SPACING

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def white() -> NDArray[np.bool_]:
    return procedural_head(1, shape=SHAPE, spacing=SPACING).white


def unevenness(voxels: NDArray[np.float32], tissue: NDArray[np.bool_]) -> float:
    return float(voxels[tissue].std() / voxels[tissue].mean())


def test_a_known_field_is_flattened(
    heads: dict[Contrast, Volume], white: NDArray[np.bool_]
) -> None:
    clean = heads[Contrast.T1W]
    field = bias_field(SHAPE, np.random.default_rng(3), 0.25, spacing=SPACING)
    biased = clean.like(clean.voxels * field)
    corrected = correct_bias(biased)
    added = [unevenness(v, white) for v in (clean.voxels, biased.voxels, corrected.volume.voxels)]
    assert added[2] - added[0] < 0.3 * (added[1] - added[0])
    np.testing.assert_allclose(
        corrected.volume.voxels * corrected.field, biased.voxels, rtol=1e-5, atol=1e-3
    )
    tissue = biased.voxels > 0.2 * biased.voxels.max()
    assert np.log(corrected.field[tissue]).mean() == pytest.approx(0, abs=0.05)
    assert corrected.strength > 0.1


def test_an_even_scan_is_left_about_as_it_is(
    heads: dict[Contrast, Volume], white: NDArray[np.bool_]
) -> None:
    clean = heads[Contrast.T1W]
    once, again = correct_bias(clean), correct_bias(clean)
    ratio = once.volume.voxels[white] / clean.voxels[white]
    assert ratio.std() < 0.05
    np.testing.assert_array_equal(once.volume.voxels, again.volume.voxels)
    assert once.volume.voxels.shape == SHAPE


def test_air_of_a_stripped_scan_stays_0(heads: dict[Contrast, Volume]) -> None:
    clean = heads[Contrast.T1W]
    outside = np.ones(SHAPE, bool)
    outside[10:-10, 10:-10, 10:-10] = False
    stripped = clean.like(np.where(outside, 0, clean.voxels))
    assert not correct_bias(stripped).volume.voxels[outside].any()


def test_what_has_no_logarithm(heads: dict[Contrast, Volume]) -> None:
    scan = heads[Contrast.T1W]
    standardised = (scan.voxels - scan.voxels.mean()) / scan.voxels.std()
    with pytest.raises(IntensityError, match="tissue at or below 0"):
        correct_bias(scan.like(standardised, name="z.nii"))
    with pytest.raises(IntensityError, match="constant"):
        correct_bias(scan.like(np.zeros(SHAPE)))


def test_too_little_tissue() -> None:
    voxels = np.zeros((16, 16, 16), np.float32)
    voxels[8, 8, 8:10] = 5, 7
    with pytest.raises(
        InputError, match=r'"speck.nii" shows too little tissue to fit a bias field to: 0 voxels'
    ):
        correct_bias(Volume.of(voxels, name="speck.nii"))
