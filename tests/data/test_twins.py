from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medi2i.batch import Pairing
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import find_cohort
from medi2i.data.settings import Data
from medi2i.data.twins import ILL, TwinWindows
from medi2i.errors import CohortError, DimensionError, UsageError
from medi2i.task import Task, View
from medi2i.volume import Volume, save_volume

FLAIR = Contrast.FLAIR
TASK = Task((FLAIR,), (FLAIR,), domains=("healthy",))
VIEW = View(dims=2, slices=3)
SHAPE = (24, 20, 12)
STILL = Augmentation.none()
AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def head() -> NDArray[np.float32]:
    voxels = np.zeros(SHAPE, np.float32)
    voxels[3:21, 3:17, 1:11] = np.random.default_rng(1).uniform(80, 120, (18, 14, 10))
    return voxels


def save(folder: Path, name: str, voxels: NDArray[np.float32]) -> None:
    path = folder / "anat" / f"{name}_FLAIR.nii"
    save_volume(Volume.of(voxels, AFFINE), path, overwrite=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """sub-1 has a bright lesion in slices 4 to 6, sub-2 is healthy, sub-3 has no twin."""
    folder = tmp_path / "study"
    healthy = head()
    ill = healthy.copy()
    ill[8:14, 8:14, 4:7] = 400
    twins = folder / "derivatives" / "simulated"
    for name, voxels in (("sub-1", ill), ("sub-2", healthy), ("sub-3", ill)):
        save(folder / name, name, voxels)
        if name != "sub-3":
            save(twins / name, f"{name}_desc-healthy", healthy)
    return folder


def windows(study: Path, **more: object) -> TwinWindows:
    arguments = {"size": 16, "augmentation": STILL, **more}
    return TwinWindows(find_cohort(study), TASK, VIEW, **arguments)  # type: ignore[arg-type]


def test_only_lesions_tell_somebody_from_the_twin(study: Path) -> None:
    supply = windows(study, seed=3)
    assert [s.name for s in supply.subjects] == ["sub-1", "sub-2"]
    ill = 0
    for number in range(60):
        sample = supply[number]
        assert sample.source.shape == (3, 16, 16)
        assert sample.target.shape == (1, 16, 16)
        off = (sample.source[1] - sample.target[0]).abs()
        if sample.subject == "sub-2":
            assert float(off.max()) == 0
        elif bool((off > 0).any()):
            ill += 1
            assert int((off > 0).sum()) <= 36  # the lesion, on the scale of the scan
            assert float(off.max()) > 0.5
    assert ill > 10


def test_windows_are_drawn_where_somebody_is_ill(study: Path) -> None:
    """3 of 10 slices would be by chance."""
    supply = windows(study, seed=1, size=24)
    shown = [s for s in map(supply.__getitem__, range(200)) if s.subject == "sub-1"]
    ill = sum(bool((s.source[1] != s.target[0]).any()) for s in shown) / len(shown)
    assert ill == pytest.approx(ILL + (1 - ILL) * 0.3, abs=0.12)


def test_looks_change_in_both_alike_and_noise_is_left_out(study: Path) -> None:
    loud = Augmentation(flip=1, affine=1, elastic=0, bias=1, gamma=1, noise=1, anisotropy=1)
    supply = windows(study, augmentation=loud)
    still = windows(study)
    assert supply.augmentation.noise == 0
    changed = 0
    for number in range(30):
        sample = supply[number]
        if sample.subject == "sub-2":
            assert torch.allclose(sample.source[1], sample.target[0], atol=1e-5)
            changed += not torch.equal(sample.source, still[number].source)
    assert changed > 5


def test_the_cache_gives_the_same(study: Path, tmp_path: Path) -> None:
    kept = [windows(study, cache=tmp_path / "kept")[n] for n in range(8)]
    again = windows(study, cache=tmp_path / "kept")
    fresh = windows(study)
    for number, sample in enumerate(kept):
        for other in (again[number], fresh[number]):
            assert torch.equal(sample.source, other.source)
            assert torch.equal(sample.target, other.target)


def test_settings_choose_them(study: Path) -> None:
    supply = Data(size=16, labels="twins").windows(find_cohort(study), TASK, VIEW, Pairing.PAIRED)
    assert isinstance(supply, TwinWindows)
    assert supply.augmentation.noise == 0


def test_what_is_refused(study: Path, tmp_path: Path) -> None:
    two = Task((FLAIR,), (FLAIR,), domains=("healthy", "diseased"))
    with pytest.raises(UsageError, match="twins are of one domain"):
        TwinWindows(find_cohort(study), two, VIEW)
    save(tmp_path / "alone" / "sub-1", "sub-1", head())
    with pytest.raises(CohortError, match="none of 1 subjects has a healthy twin"):
        TwinWindows(find_cohort(tmp_path / "alone"), TASK, VIEW)
    twin = study / "derivatives" / "simulated" / "sub-1"
    save(twin, "sub-1_desc-healthy", head()[:-1])
    supply = windows(study)
    with pytest.raises(DimensionError, match='"sub-1" and the healthy twin differ in shape'):
        [supply[number] for number in range(20)]


def test_what_forked_workers_share_is_decoded_before(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supply = windows(study)
    supply.prepare()
    monkeypatch.setattr("medi2i.data.decoded.load_together", None)  # from now on nothing is read
    for number in range(20):
        supply[number]


def test_a_scale_of_another_is_another_image(study: Path) -> None:
    supply = windows(study)
    ill, healthy = find_cohort(study).subjects[:2]
    own = supply.decode(healthy, (FLAIR,)).voxels
    assert supply.decode(healthy, (FLAIR,)).voxels is own
    assert supply.decode(healthy, (FLAIR,), scaled_as=ill).voxels.max() < own.max()
