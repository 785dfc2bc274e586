from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from medi2i.contrasts import Contrast
from medi2i.errors import InputError, IntensityError
from medi2i.preparation.rigid import coarser, register
from medi2i.simulate import phantom
from medi2i.volume import Volume

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
CORNERS = [(x, y, z) for x in (-60.0, 60.0) for y in (-70.0, 70.0) for z in (-50.0, 60.0)]


def pose(turns: tuple[float, ...], shifts: tuple[float, ...]) -> sitk.Euler3DTransform:
    """Degrees and mm."""
    transform = sitk.Euler3DTransform()
    transform.SetParameters([*map(math.radians, turns), *shifts])
    return transform


def farthest(found: sitk.Transform, true: sitk.Transform) -> float:
    """Millimetres by which the two disagree at the corners of a box around the brain."""
    return max(
        float(np.linalg.norm(np.subtract(found.TransformPoint(p), true.TransformPoint(p))))
        for p in CORNERS
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    """T1w and T2w of one head at 3 mm."""
    scans = phantom(1, contrasts=["t1", "t2"], shape=(60, 72, 60), spacing=(3, 3, 3))
    return scans[T1W], scans[T2W]


@pytest.mark.parametrize(
    "turns, shifts",
    [((0, 0, 0), (7, -5, 4)), ((6, -3, 8), (6, -8, 4))],
    ids=["shift", "shift and turn"],
)
def test_a_known_motion_is_found(
    pair: tuple[Volume, Volume], turns: tuple[float, ...], shifts: tuple[float, ...]
) -> None:
    """Within three quarters of a millimetre (a quarter of a voxel) everywhere in the brain."""
    fixed, still = pair
    true = pose(turns, shifts)
    moving = still.resampled_onto(still, transform=true.GetInverse())
    found = register(fixed, moving)
    assert farthest(found.transform, true) < 0.75
    assert found.after > 1.5 * found.before
    assert found.turn == pytest.approx(math.hypot(*turns), abs=0.5)


def test_a_wrong_header_is_made_good_for(heads: dict[Contrast, Volume]) -> None:
    """50 mm apart by their headers: too far to slide there, found from the heads' middles."""
    affine = heads[T2W].affine.copy()
    affine[:3, 3] += (40, 10, -28)
    found = register(heads[T1W], Volume.of(heads[T2W].voxels, affine))
    assert farthest(found.transform, pose((0, 0, 0), (-40, -10, -28))) < 0.5
    assert found.shift == pytest.approx(math.sqrt(40**2 + 10**2 + 28**2), abs=0.5)


def test_other_axes_and_thick_slices(heads: dict[Contrast, Volume]) -> None:
    """What is placed well stays, however the voxels are stored; the same bits each time."""
    scan = heads[FLAIR]
    thick = coarser(Volume.of(scan.voxels.transpose(2, 0, 1), scan.affine[:, [2, 0, 1, 3]]), 4.0)
    found, again = register(heads[T1W], thick), register(heads[T1W], thick)
    assert farthest(found.transform, sitk.Euler3DTransform()) < 0.5
    assert found.transform.GetParameters() == again.transform.GetParameters()
    assert (found.before, found.after) == (again.before, again.after)


def test_what_cannot_be_registered(heads: dict[Contrast, Volume]) -> None:
    fixed, scan = heads[T1W], heads[T2W]
    far = scan.affine.copy()
    far[:3, 3] += (90, 0, 0)
    with pytest.raises(InputError, match=r"90 mm and \d degrees away, and at most 60 mm and 45"):
        register(fixed, Volume.of(scan.voxels, far))
    noise = np.random.default_rng(0).random(scan.shape, np.float32)
    with pytest.raises(InputError, match=r'"noise.nii" could not be registered to "phantom-1_T1w'):
        register(fixed, Volume.of(noise, scan.affine, "noise.nii"))
    with pytest.raises(IntensityError, match="constant"):
        register(fixed, scan.like(np.full(scan.shape, 3)))


def test_coarser_keeps_extent_and_places() -> None:
    voxels = np.random.default_rng(0).random((20, 30, 8), np.float32)
    volume = Volume.of(voxels, np.diag([1.0, 2, 5, 1]))
    small = coarser(volume, 4.0)
    assert small.shape == (5, 15, 8)  # 1 -> 4 mm, 2 -> 4 mm; 5 mm stays
    assert small.spacing == pytest.approx((4, 4, 5))
    for corner in ((-0.5, -0.5, -0.5), (1, 1, 1)):  # of the extent: outer faces of outer voxels
        low = np.array(corner) < 0
        old, new = (np.where(low, -0.5, np.array(s) - 0.5) for s in (volume.shape, small.shape))
        np.testing.assert_allclose(volume.affine @ [*old, 1], small.affine @ [*new, 1], atol=1e-6)
    assert small.voxels.mean() == pytest.approx(voxels.mean(), rel=0.02)
