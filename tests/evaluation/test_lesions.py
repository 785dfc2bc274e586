from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medi2i.data.cohort import Subject
from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.lesions import expert_mask, lesion_scores
from medi2i.volume import Volume, save_volume


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    acquired = 100 + 10 * rng.standard_normal((40, 40, 40))
    brain = np.ones(acquired.shape, bool)
    lesions = np.zeros_like(brain)
    lesions[15:25, 15:25, 15:25] = True
    acquired[lesions] += 40
    return acquired, lesions, brain


def test_a_perfect_translation_carries_everything() -> None:
    acquired, lesions, brain = head()
    scores = lesion_scores(acquired, acquired, lesions, brain)
    assert (scores.mae, scores.brain_mae, scores.carried) == (0, 0, 1)
    assert scores.acquired_contrast == pytest.approx(4, abs=0.2)


def test_half_the_lesion_is_half_the_contrast_and_its_error_is_inside() -> None:
    acquired, lesions, brain = head()
    synthetic = acquired - 20 * lesions
    scores = lesion_scores(synthetic, acquired, lesions, brain)
    assert scores.carried == pytest.approx(0.5, abs=0.03)
    low, high = np.percentile(acquired, (0.5, 99.5))
    assert scores.mae == pytest.approx(20 / (high - low))
    assert scores.brain_mae == pytest.approx(scores.mae * lesions.mean())


def test_what_is_far_does_not_count_as_surroundings() -> None:
    acquired, lesions, brain = head()
    far = acquired.copy()
    far[:3] = 1e4
    one, other = (lesion_scores(a, a, lesions, brain).contrast for a in (acquired, far))
    assert one == other
    # with slices 5 mm thick the ring reaches one slice, not eight
    thick = acquired.copy()
    thick[:, :, 27:] = 1e4
    spaced = lesion_scores(thick, thick, lesions, brain, spacing=(1, 1, 5))
    assert spaced.contrast == pytest.approx(4, abs=0.3)


def test_nothing_to_score() -> None:
    acquired, lesions, brain = head()
    with pytest.raises(UsageError, match="no voxel"):
        lesion_scores(acquired, acquired, lesions & False, brain)
    with pytest.raises(UsageError, match="around"):
        lesion_scores(acquired, acquired, lesions, lesions)
    with pytest.raises(DimensionError, match="one grid"):
        lesion_scores(acquired[1:], acquired, lesions, brain)


def test_the_experts_mask_lies_beside_the_scans(tmp_path: Path) -> None:
    scan = Volume.of(np.ones((8, 6, 4)), np.diag([-1.0, 1.0, 2.0, 1.0]))
    drawn = np.zeros(scan.shape)
    drawn[1, 2, 3] = 1
    anat = tmp_path / "derivatives" / "expert" / "sub-1" / "anat"
    save_volume(scan.like(drawn), anat / "sub-1_label-lesion_mask.nii")
    save_volume(scan.like(0 * drawn + 1), anat / "sub-1_desc-brain_mask.nii")
    ill, well = (Subject(name, name, {}, study=str(tmp_path)) for name in ("sub-1", "sub-2"))
    found = expert_mask(ill, scan.canonical())
    assert found is not None
    assert np.argwhere(found).tolist() == [[6, 2, 3]]  # its first axis runs to the left
    assert expert_mask(well, scan.canonical()) is None
