"""One pair: paths or volumes, any orientation, one grid or a clear sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medi2i.errors import GeometryError, MissingFileError, UsageError
from medi2i.evaluation import evaluate, protocol
from medi2i.volume import Volume, save_volume

AFFINE = np.array([[1.0, 0, 0, -9], [0, 1.0, 0, -8], [0, 0, 4.0, -7], [0, 0, 0, 1]])


def scans() -> tuple[Volume, Volume, Volume]:
    """Source, target, prediction: thick slices along the third axis."""
    rng = np.random.default_rng(0)
    source = rng.random((18, 16, 8)) * 100
    source[:4] = 0
    target = np.where(source > 0, 150 - source, 0)
    predicted = np.where(source > 0, target + 20 * rng.standard_normal(source.shape), 0)
    x, y, z = (Volume.of(voxels, AFFINE) for voxels in (source, target, predicted))
    return x, y, z


def test_volumes_and_paths_score_as_arrays(tmp_path: Path) -> None:
    source, target, predicted = scans()
    expected = protocol("brain-3d").score(
        predicted.voxels, target.voxels, source=source.voxels, spacing=(1, 1, 4)
    )
    assert evaluate(predicted, target, source=source) == expected
    mask = source.like(source.voxels > 0)
    assert evaluate(predicted, target, mask=mask) == expected
    paths = [
        save_volume(volume, tmp_path / f"{name}.nii.gz")
        for name, volume in zip("xyz", (source, target, predicted), strict=True)
    ]
    assert evaluate(paths[2], str(paths[1]), source=paths[0]) == expected
    whole = evaluate(predicted, target, protocol=protocol("torchmetrics"))
    assert whole == evaluate(predicted, target, protocol="torchmetrics@1")
    assert whole.protocol == "torchmetrics@1"


def test_orientation_does_not_matter() -> None:
    source, target, predicted = scans()
    turned = np.array([[0, 0, 1.0, -9], [0, -1.0, 0, 7], [4.0, 0, 0, -7], [0, 0, 0, 1]])
    voxels = predicted.voxels.transpose(2, 1, 0)[:, ::-1, :]
    other = Volume.of(voxels, turned[[0, 1, 2, 3]])
    expected = evaluate(predicted, target, source=source)
    assert evaluate(other, target, source=source) == expected


def test_grids_that_differ() -> None:
    source, target, predicted = scans()
    nudged = AFFINE.copy()
    nudged[0, 3] += 0.005  # what a header rounds away
    evaluate(Volume.of(predicted.voxels, nudged), target, source=source)
    nudged[0, 3] += 2.5
    with pytest.raises(GeometryError, match=r"lie up to 2\.5\d? mm apart"):
        evaluate(Volume.of(predicted.voxels, nudged), target, source=source)
    small = Volume.of(predicted.voxels[1:], AFFINE, name="small.nii.gz")
    with pytest.raises(
        GeometryError,
        match=r'The prediction "small\.nii\.gz" has 17 x 16 x 8 voxels, the target 18 x 16 x 8',
    ):
        evaluate(small, target, source=source)
    with pytest.raises(GeometryError, match="The source"):
        evaluate(predicted, target, source=small)


def test_errors_pass_through(tmp_path: Path) -> None:
    source, target, predicted = scans()
    with pytest.raises(UsageError, match="brain-3d@1 scores where the source"):
        evaluate(predicted, target)
    with pytest.raises(UsageError, match="There is no protocol"):
        evaluate(predicted, target, source=source, protocol="best")
    with pytest.raises(MissingFileError):
        evaluate(tmp_path / "none.nii.gz", target, source=source)
