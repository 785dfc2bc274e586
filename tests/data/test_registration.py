from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject, find_cohort
from medi2i.data.registration import load_together
from medi2i.errors import FormatError
from medi2i.volume import Volume, save_volume

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
SIZE = 12


def anatomy() -> NDArray[np.float32]:
    """Random voxels in the middle, air around."""
    voxels = np.zeros((SIZE,) * 3, np.float32)
    voxels[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).uniform(1, 9, (SIZE - 6,) * 3)
    return voxels


def shifted(voxels: NDArray[np.float32], *steps: int) -> NDArray[np.float32]:
    return np.roll(voxels, steps, (0, 1, 2))


def turned(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """A quarter turn about Z: the voxel at (x, y) goes to (SIZE - 1 - y, x)."""
    return np.rot90(voxels, 1, (0, 1)).copy()


def translation(*millimetres: float) -> sitk.Transform:
    return sitk.TranslationTransform(3, millimetres)


def quarter_turn() -> sitk.Transform:
    """From points of the still scan to those of the turned one, LPS, about the grid's centre."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([0, -1, 0, 1, 0, 0, 0, 0, 1])
    middle = (SIZE - 1) / 2
    transform.SetCenter([-middle, -middle, middle])
    return transform


def subject_of(
    folder: Path,
    scans: dict[Contrast, NDArray[np.float32]],
    transforms: dict[tuple[Contrast, Contrast], sitk.Transform],
    affine: Any = None,
) -> Subject:
    anat = folder / "sub-1" / "anat"
    for contrast, voxels in scans.items():
        save_volume(Volume.of(voxels, affine), anat / f"sub-1_{contrast}.nii")
    for (moving, fixed), transform in transforms.items():
        name = f"sub-1_from-{moving}_to-{fixed}_mode-image_xfm.txt"
        sitk.WriteTransform(transform, str(anat / name))
    (subject,) = find_cohort(folder)
    return subject


def assert_together(subject: Subject, contrasts: list[Contrast]) -> None:
    """All show the same anatomy at the same voxel, on the first one's grid."""
    together = load_together(subject, contrasts)
    assert list(together) == contrasts
    reference = together[contrasts[0]]
    for contrast, volume in together.items():
        assert np.array_equal(volume.affine, reference.affine)
        np.testing.assert_allclose(
            volume.voxels, reference.voxels, rtol=0, atol=1e-4, err_msg=contrast
        )


def test_equal_grids_are_not_touched(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, {T1W: anatomy(), T2W: anatomy() ** 2}, {})
    together = load_together(subject, [T1W, T2W])
    assert np.array_equal(together[T2W].voxels, anatomy() ** 2)


def test_without_a_transform_world_coordinates_count(tmp_path: Path) -> None:
    anat = tmp_path / "sub-1" / "anat"
    save_volume(Volume.of(anatomy()), anat / "sub-1_T1w.nii")
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = (SIZE + 1, -3, 0)  # the same anatomy, on a shifted grid that runs leftwards
    voxels = shifted(anatomy(), -2, 3, 0)[::-1]
    save_volume(Volume.of(voxels, flipped), anat / "sub-1_T2w.nii")
    (subject,) = find_cohort(tmp_path)
    assert_together(subject, [T1W, T2W])
    assert_together(subject, [T2W, T1W])


@pytest.mark.parametrize("order", [[T1W, T2W], [T2W, T1W]], ids=str)
def test_a_transform_and_its_inverse(tmp_path: Path, order: list[Contrast]) -> None:
    """The anatomy lies 2 voxels further right and 1 back in the T2w scan."""
    subject = subject_of(
        tmp_path,
        {T1W: anatomy(), T2W: shifted(anatomy(), 2, -1, 0)},
        {(T2W, T1W): translation(-2, 1, 0)},  # right is -x, front is -y in LPS
    )
    assert_together(subject, order)


@pytest.mark.parametrize(
    "order", [[T1W, T2W], [T2W, T1W], [FLAIR, T1W, T2W], [T2W, FLAIR, T1W]], ids=str
)
def test_over_a_contrast_in_between(tmp_path: Path, order: list[Contrast]) -> None:
    """A turn, then a shift: the two do not commute, so their order has to be right."""
    subject = subject_of(
        tmp_path,
        {FLAIR: anatomy(), T1W: turned(anatomy()), T2W: shifted(anatomy(), 1, 2, -1)},
        {(T1W, FLAIR): quarter_turn(), (T2W, FLAIR): translation(-1, -2, -1)},
    )
    assert_together(subject, order)


def test_a_transform_that_cannot_be_read_or_inverted(tmp_path: Path) -> None:
    bent = sitk.BSplineTransform(3)
    bent.SetTransformDomainMeshSize([2, 2, 2])
    subject = subject_of(tmp_path, {T1W: anatomy(), T2W: anatomy()}, {(T2W, T1W): bent})
    assert_together(subject, [T1W, T2W])
    with pytest.raises(FormatError, match="has no inverse; a transform the other way"):
        load_together(subject, [T2W, T1W])
    subject.transforms[T2W, T1W].write_text("no transform")
    with pytest.raises(FormatError, match="is not an ITK transform"):
        load_together(subject, [T1W, T2W])


def edges(volume: Volume) -> NDArray[np.float32]:
    along_x, along_y = np.gradient(volume.voxels, axis=(0, 1))
    result: NDArray[np.float32] = np.abs(along_x) + np.abs(along_y)
    return result


def test_real_thick_slices_come_together(shared_data: Path) -> None:
    """RAW12s1: three scans on three grids; edges agree better by the transforms beside them."""
    (subject,) = (s for s in find_cohort(shared_data / "openms") if s.name == "sub-RAW12s1")
    assert set(subject.transforms) == {(T1W, FLAIR), (T2W, FLAIR)}
    agreement: dict[Contrast, list[float]] = {T1W: [], T2W: []}
    for one in (replace(subject, transforms={}), subject):
        together = load_together(one, [FLAIR, T1W, T2W])
        for contrast, found in agreement.items():
            inside = together[contrast].voxels != 0
            pair = (edges(together[c])[inside] for c in (FLAIR, contrast))
            found.append(float(np.corrcoef(*pair)[0, 1]))
    for trusting, transformed in agreement.values():
        assert transformed > trusting
    assert agreement[T1W][1] > agreement[T1W][0] + 0.1
