"""Places in MNI space, of scans that are registered to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from medi2i.anomaly.lesions import Lesion, lesion_table
from medi2i.anomaly.standard import to_standard
from medi2i.contrasts import Contrast
from medi2i.errors import FormatError

FLAIR = Contrast.FLAIR
PLACE = (10.0, 20.0, 30.0)


def write(folder: Path, name: str, transform: sitk.Transform) -> Path:
    """Beside the scan "sub-1_FLAIR.nii.gz", which need not be there."""
    sitk.WriteTransform(transform, str(folder / name))
    return folder / "sub-1_FLAIR.nii.gz"


def onto_template() -> sitk.Transform:
    """Resamples a scan onto a template that lies 5 mm to the right, 7 in front, turned by 90°."""
    # LPS, from points of the template to those of the scan: the right is negative, so is the front
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([0, 1, 0, -1, 0, 0, 0, 0, 1])
    transform.SetTranslation([5, 7, 0])
    return transform


def expected() -> tuple[float, float, float]:
    """By hand: the scan's point (-10, -20, 30) in LPS is (y + 5, -x + 7, z) of the template's."""
    y, x = -10 - 5, -(-20 - 7)
    return -x, -y, 30.0


def test_a_scan_in_the_templates_space_is_there_already() -> None:
    there = to_standard(Path("sub-1_space-MNI152NLin6Asym_FLAIR.nii.gz"), FLAIR)
    assert there is not None
    assert there(PLACE) == PLACE


def test_a_transform_beside_the_scan_leads_there(tmp_path: Path) -> None:
    scan = write(
        tmp_path, "sub-1_from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm.txt", onto_template()
    )
    there = to_standard(scan, FLAIR)
    assert there is not None
    assert there(PLACE) == pytest.approx(expected())


def test_so_does_one_the_other_way(tmp_path: Path) -> None:
    other = onto_template().GetInverse()
    scan = write(tmp_path, "sub-1_from-MNI152Lin_to-FLAIR_mode-image_xfm.mat", other)
    there = to_standard(scan, FLAIR)
    assert there is not None
    assert there(PLACE) == pytest.approx(expected())


def test_other_transforms_are_left_alone(tmp_path: Path) -> None:
    for name in (
        "sub-1_from-T1w_to-MNI152Lin_mode-image_xfm.txt",
        "sub-1_from-FLAIR_to-T1w_mode-image_xfm.txt",
        "sub-2_from-FLAIR_to-MNI152Lin_mode-image_xfm.txt",
    ):
        scan = write(tmp_path, name, onto_template())
    assert to_standard(scan, FLAIR) is None
    (tmp_path / "sub-1_from-FLAIR_to-MNI152Lin_mode-image_xfm.txt").write_text("nothing")
    with pytest.raises(FormatError, match="is not an ITK transform"):
        to_standard(scan, FLAIR)


def test_the_table_has_columns_for_it() -> None:
    lesion = Lesion(1, 1.25, PLACE, 0.5, 0.25)
    header, row = lesion_table([lesion], lambda p: (p[0] + 1, p[1], -p[2])).splitlines()
    assert header.split("\t")[-3:] == ["x_mni_mm", "y_mni_mm", "z_mni_mm"]
    assert row.split("\t")[-3:] == ["11.0", "20.0", "-30.0"]
    assert "mni" not in lesion_table([lesion])
