"""The story of the weights for healthy images: how images are scored against twins."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.model import Model, build_system
from medi2i.task import Task, View
from medi2i.volume import Volume, save_volume

FLAIR = Contrast.FLAIR
TASK = Task((FLAIR,), (FLAIR,), domains=("healthy",))
SPOT = (slice(8, 14), slice(8, 14), slice(4, 7))


@pytest.fixture(scope="module")
def story() -> ModuleType:
    """The story as a module."""
    path = Path(__file__).resolve().parents[2] / "pipelines" / "train_healthy.py"
    spec = importlib.util.spec_from_file_location("train_healthy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_an_image_is_scored_against_the_twin(story: ModuleType, study: Path) -> None:
    arguments = {"features": [4, 8], "head": "exact"}
    view = View()
    system = build_system("denoising_autoencoder", arguments, TASK, view).eval()
    same = Model("same", "denoising_autoencoder", arguments, TASK, view, system)
    table = story.against_twins(same, find_cohort(study).subjects)
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


def test_healthy_tissue_is_what_lies_far_from_lesions(story: ModuleType, study: Path) -> None:
    arguments = {"features": [4, 8]}
    view = View()
    system = build_system("denoising_autoencoder", arguments, TASK, view).eval()
    model = Model("some", "denoising_autoencoder", arguments, TASK, view, system)
    known = story.calibration(model, find_cohort(study).subjects)
    assert known.origin.endswith("FLAIR of 1")
    assert known.threshold(0.05) > known.threshold(0.5) > 0
