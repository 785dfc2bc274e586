"""The story of the weights for healthy images: how images are scored against twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.model import Model, build_system
from medi2i.task import Task, View
from medi2i.volume import Volume, save_volume
from tests.pipelines.stories import story

FLAIR = Contrast.FLAIR
TASK = Task((FLAIR,), (FLAIR,), domains=("healthy",))
SPOT = (slice(8, 14), slice(8, 14), slice(4, 7))
train_healthy = story("train_healthy")


def test_nobody_is_scored_on_lesions_of_their_own(tmp_path: Path) -> None:
    masks, shapes = tmp_path / "lesions", tmp_path / "shapes"
    masks.mkdir()
    for name in ("ms-07", "ms-08", "stroke-07"):
        (masks / f"{name}.nii.gz").write_bytes(name.encode())
    train_healthy.of_others(masks, shapes, {"sub-MS07", "sub-MS26"})
    assert sorted(path.name for path in shapes.iterdir()) == ["ms-08.nii.gz", "stroke-07.nii.gz"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """sub-1 has a lesion, sub-2 none; both have a twin, and sub-1 an expert."""
    random = np.random.default_rng(0)
    voxels = np.zeros((24, 24, 12), np.float32)
    voxels[3:21, 3:21, 1:11] = random.uniform(400, 600, (18, 18, 10))
    ill, mask = voxels.copy(), np.zeros(voxels.shape, np.uint8)
    ill[SPOT] += 300
    mask[SPOT] = 1
    derived = tmp_path / "derivatives" / "simulated"
    for name, scan in (("sub-1", ill), ("sub-2", voxels)):
        save_volume(Volume.of(scan), tmp_path / name / "anat" / f"{name}_FLAIR.nii")
        twin = derived / name / "anat" / f"{name}_desc-healthy_FLAIR.nii"
        save_volume(Volume.of(voxels), twin)
    place = derived / "sub-1" / "anat" / "sub-1_label-lesion_mask.nii"
    save_volume(Volume.of(mask), place, dtype="uint8")
    return tmp_path


def test_an_image_is_scored_against_the_twin(study: Path) -> None:
    arguments = {"features": [4, 8], "head": "exact"}
    view = View()
    system = build_system("denoising_autoencoder", arguments, TASK, view).eval()
    same = Model("same", "denoising_autoencoder", arguments, TASK, view, system)
    table = train_healthy.against_twins(same, find_cohort(study).subjects)
    ill, healthy, mean = table["sub-1"], table["sub-2"], table["mean"]
    assert (mean["people"], mean["with_lesions"]) == (2, 1)
    # 300 of the 99.5th percentile, by a network that changes nothing
    assert 300 / 900 <= ill["ill_in_lesions"] <= 300 / 800
    assert ill["healed_in_lesions"] == pytest.approx(ill["ill_in_lesions"])
    assert ill["healed_ssim_in_lesions"] == pytest.approx(ill["ill_ssim_in_lesions"])
    assert ill["ill_ssim_in_lesions"] < 0.9
    for row in (ill, healthy):
        assert row["ill_elsewhere"] == 0
        assert row["healed_elsewhere"] == pytest.approx(0, abs=1e-6)
    assert "ill_in_lesions" not in healthy


def test_healthy_tissue_is_what_lies_far_from_lesions(study: Path) -> None:
    arguments = {"features": [4, 8]}
    view = View()
    system = build_system("denoising_autoencoder", arguments, TASK, view).eval()
    model = Model("some", "denoising_autoencoder", arguments, TASK, view, system)
    known = train_healthy.calibration(model, find_cohort(study).subjects)
    assert known.origin.endswith("FLAIR of 1")
    assert known.threshold(0.05) > known.threshold(0.5) > 0
