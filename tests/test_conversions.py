"""Out and in again by every library, on an oblique, anisotropic, flipped grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medi2i.errors import DimensionError, FormatError, GeometryError
from medi2i.volume import Volume, load_volume, save_volume


def oblique() -> Volume:
    turn, _ = np.linalg.qr([[0.9, -0.3, 0.2], [0.3, 0.9, -0.1], [-0.1, 0.2, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.8, 1.1, 3.0])
    affine[:3, 3] = (12.5, -80.25, 33.0)
    return Volume.of(np.random.default_rng(0).random((6, 7, 4), np.float32), affine)


@pytest.mark.parametrize(
    "there",
    [Volume.to_nibabel, Volume.to_simpleitk, Volume.to_torchio, Volume.to_monai],
    ids=["nibabel", "SimpleITK", "torchio", "MONAI"],
)
def test_there_and_back(there: Callable[[Volume], Any]) -> None:
    volume = oblique()
    back = Volume.from_image(there(volume))
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)


@pytest.mark.filterwarnings("ignore:NvImgCodec")  # MONAI looks for a decoder on GPUs
def test_every_library_reads_the_file_as_the_conversion_has_it(tmp_path: Path) -> None:
    from monai.transforms.io.array import LoadImage
    from torchio import ScalarImage

    volume = oblique()
    path = save_volume(volume, tmp_path / "scan.nii.gz")
    itk, own_itk = sitk.ReadImage(path), volume.to_simpleitk()
    for ask in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(own_itk, ask)(), getattr(itk, ask)(), atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(own_itk), sitk.GetArrayFromImage(itk))
    monai, own_monai = (
        LoadImage("NibabelReader", ensure_channel_first=True)(path),
        volume.to_monai(),
    )
    torch.testing.assert_close(own_monai.as_tensor(), monai.as_tensor())
    torch.testing.assert_close(own_monai.affine, monai.affine, atol=1e-5, rtol=0)
    other, own = ScalarImage(path), volume.to_torchio()
    torch.testing.assert_close(own.data, other.data)
    np.testing.assert_allclose(own.affine, other.affine, atol=1e-5)
    for image in (itk, monai, other, nib.load(path)):
        taken = Volume.from_image(image)
        np.testing.assert_allclose(taken.affine, volume.affine, atol=1e-5)
        np.testing.assert_array_equal(taken.voxels, volume.voxels)


def test_codes_and_units_go_along_with_nibabel(tmp_path: Path) -> None:
    path = save_volume(oblique(), tmp_path / "scan.nii")
    image = nib.Nifti1Image.from_filename(path)
    image.header.set_xyzt_units("micron")
    image.set_qform(image.affine, code=3)
    image.set_sform(image.affine, code=4)
    back = Volume.from_image(image).to_nibabel()
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (3, 4)
    assert back.header.get_xyzt_units()[0] == "micron"
    assert load_volume(path).to_nibabel().get_data_dtype() == np.float32


def test_a_metatensor_may_be_in_lps() -> None:
    volume = oblique()
    turned = volume.to_monai()
    turned.meta["space"] = "LPS"
    expected = np.diag([-1, -1, 1, 1]) @ volume.affine
    np.testing.assert_allclose(Volume.from_image(turned).affine, expected)
    turned.meta["space"] = "elsewhere"
    with pytest.raises(GeometryError, match='space "elsewhere"'):
        Volume.from_image(turned)


def test_what_is_no_volume_is_refused() -> None:
    with pytest.raises(FormatError, match=r"type ndarray came.*nibabel"):
        Volume.from_image(np.zeros((3, 3, 3)))
    with pytest.raises(DimensionError, match=r"shape \(3, 3, 3, 2\)"):
        Volume.from_image(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.float32), np.eye(4)))
    with pytest.raises(DimensionError, match="3 values per voxel"):
        Volume.from_image(sitk.Image((4, 4, 4), sitk.sitkVectorFloat32, 3))
    with pytest.raises(DimensionError, match=r"\(1, X, Y, Z\) was expected"):
        Volume.from_image(oblique().to_monai()[0])


def test_shear_has_no_place_in_simpleitk() -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    volume = Volume.of(np.ones((4, 4, 4)), sheared)
    with pytest.raises(GeometryError, match="sheared"):
        volume.to_simpleitk()
    np.testing.assert_array_equal(Volume.from_image(volume.to_nibabel()).affine, sheared)


def test_a_notebook_shows_three_planes_and_an_escaped_name() -> None:
    shown = Volume.of(oblique().voxels, name='<b>"x"</b>')._repr_html_()
    assert shown.startswith("<img ")
    assert "data:image/png;base64," in shown
    assert "<b>" not in shown
