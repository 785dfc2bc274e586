from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medi2i.batch import Pairing
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort, find_cohort
from medi2i.data.labelled import LabelledWindows, table_labels
from medi2i.data.masks import expert_mask
from medi2i.data.settings import Data
from medi2i.data.supply import batches
from medi2i.errors import CohortError, ConfigError, MissingFileError, UsageError
from medi2i.task import Task, View
from medi2i.volume import Volume, load_volume, save_volume

FLAIR = Contrast.FLAIR
TASK = Task((FLAIR,), (FLAIR,), domains=("healthy", "diseased"))
VIEW = View(dims=2, slices=3)
SHAPE = (24, 20, 12)
STILL = Augmentation.none()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two people: the value of a voxel is its height; lesions in slices 4 to 6, a speck in 8.

    Slices 0 and 11 hold air. The second person's file is turned upside down.
    """
    folder = tmp_path / "study"
    for number, name in enumerate(("sub-1", "sub-2")):
        voxels = np.zeros(SHAPE, np.float32)
        voxels[3:21, 3:17, 1:11] = 100 + np.arange(1, 11)
        mask = np.zeros(SHAPE, np.uint8)
        mask[8:12, 8:12, 4:7] = 1
        affine = np.diag([1.0, 1.0, 4.0, 1.0])
        if number:
            voxels, mask = voxels[..., ::-1], mask[..., ::-1]
            affine[2, 2] = -4
        save_volume(Volume.of(voxels, affine), folder / name / "anat" / f"{name}_FLAIR.nii")
        place = folder / "derivatives" / "expert" / name / "anat"
        save_volume(Volume.of(mask, affine), place / f"{name}_label-lesion_mask.nii")
    return folder


def windows(study: Path, **more: object) -> LabelledWindows:
    arguments = {"size": 16, "augmentation": STILL, **more}
    return LabelledWindows(find_cohort(study), TASK, VIEW, **arguments)  # type: ignore[arg-type]


def test_masks_become_labels_of_slices_by_height(study: Path) -> None:
    supply = windows(study)
    for told in supply.told.values():
        assert told[1].tolist() == [4, 5, 6]
        assert told[0].tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11]


def test_slices_with_a_speck_of_lesion_are_neither(study: Path) -> None:
    path = study / "derivatives/expert/sub-1/anat/sub-1_label-lesion_mask.nii"
    mask = load_volume(path)
    mask.voxels[10, 10, 8] = 1  # one voxel of 252: 0.4 %
    save_volume(mask, path, overwrite=True)
    first = next(iter(windows(study).told.values()))
    assert 8 in first[1]
    big = np.zeros((60, 60, 12), np.float32)
    big[1:-1, 1:-1] = 100
    save_volume(Volume.of(big), study / "sub-1/anat/sub-1_FLAIR.nii", overwrite=True)
    speck = np.zeros(big.shape)
    speck[30, 30, 8], speck[20:30, 20:30, 5] = 1, 1
    save_volume(Volume.of(speck), path, overwrite=True)
    first = next(iter(windows(study).told.values()))
    assert first[1].tolist() == [5]
    assert 8 not in first[0]


def test_windows_show_the_domains_that_they_say(study: Path) -> None:
    supply = windows(study)
    seen = set()
    for number in range(40):
        sample = supply[number]
        assert sample.source.shape == (3, 16, 16)
        assert sample.target.shape == (1, 16, 16)
        assert sample.target_slab is not None
        assert {sample.source_contrast, sample.target_contrast} == {0, 1}
        seen.add(sample.source_contrast)
        # the value tells the height; the scans' range is about 100 to 110
        for image, label in (
            (sample.source[1], sample.source_contrast),
            (sample.target[0], sample.target_contrast),
        ):
            height = _height(float(image.max()))
            assert (4 <= height <= 6) == (label == 1), (height, label)
    assert seen == {0, 1}


def _height(value: float) -> int:
    """Air is -1 and about 110 is 1."""
    return round((value + 1) / 2 * 110 - 100)


def test_healthy_slices_lie_as_near_to_diseased_ones_as_there_are(study: Path) -> None:
    supply = windows(study)
    heights: dict[int, list[int]] = {0: [], 1: []}
    for number in range(60):
        sample = supply[number]
        heights[sample.source_contrast].append(_height(float(sample.source[1].max())))
        heights[sample.target_contrast].append(_height(float(sample.target[0].max())))
    assert set(heights[0]) <= {3, 7}
    assert set(heights[1]) == {4, 5, 6}


def test_sample_number_n_is_always_the_same(study: Path) -> None:
    one, other = windows(study, seed=3), windows(study, seed=3)
    for number in (5, 0, 5):
        assert torch.equal(one[number].source, other[number].source)
        assert torch.equal(one[number].target, other[number].target)
    batch = next(batches(one, 4))
    assert batch.source_contrast is not None
    assert batch.target_contrast is not None
    assert bool((batch.source_contrast != batch.target_contrast).all())
    assert batch.every is None


def test_labels_of_a_table(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text("participant_id\tlabel\nsub-1\thealthy\nsub-2\tdiseased\n")
    supply = windows(study, labels=str(table))
    for number in range(8):
        sample = supply[number]
        people = {0: "sub-1", 1: "sub-2"}
        assert sample.subject == people[sample.source_contrast]
        assert sample.other == people[sample.target_contrast]
    table.write_text(
        "participant_id\tslice\tlabel\nsub-1\t3\thealthy\nsub-1\t5\tdiseased\nsub-2\t2\tn/a\n"
    )
    supply = windows(study, labels=str(table))
    assert [s.name for s in supply.subjects] == ["sub-1"]
    assert _height(float(supply[0].source[1].max())) in (3, 5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("participant_id\tgroup\nsub-1\tx\n", 'lacks the column "label"'),
        ("participant_id\tlabel\nsub-1\till\n", 'the label "ill"; one of healthy, diseased'),
        ("participant_id\tlabel\nsub-1\thealthy\nsub-1\tdiseased\n", "a second time"),
        ("participant_id\tlabel\tslice\nsub-1\thealthy\tlow\n", "no whole number"),
        ("participant_id\tlabel\nsub-1\thealthy\n", 'no slice of 2 subjects is "diseased"'),
    ],
)
def test_bad_tables(study: Path, tmp_path: Path, content: str, said: str) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text(content)
    with pytest.raises(CohortError, match=said):
        windows(study, labels=str(table))
    with pytest.raises(MissingFileError, match='"masks" or the path'):
        table_labels(tmp_path / "none.tsv", TASK.domains)


def test_what_cannot_be_labelled(study: Path) -> None:
    cohort = find_cohort(study)
    with pytest.raises(UsageError, match="dims is 3"):
        LabelledWindows(cohort, TASK, View(dims=3, patch=16))
    with pytest.raises(UsageError, match="3 domains were given"):
        LabelledWindows(cohort, Task((FLAIR,), (FLAIR,), domains=("a", "b", "c")), VIEW)
    with pytest.raises(UsageError, match="has no domains"):
        LabelledWindows(cohort, Task((FLAIR,), (Contrast.T1W,)), VIEW)
    for path in (study / "derivatives").rglob("*.nii"):
        path.unlink()
    assert expert_mask(cohort.subjects[0], load_volume(cohort.subjects[0].scans[FLAIR])) is None
    with pytest.raises(CohortError, match="by experts' masks"):
        LabelledWindows(Cohort(cohort.subjects), TASK, VIEW)


def test_settings_choose_by_the_task(study: Path) -> None:
    cohort = find_cohort(study)
    data = Data(size=16, augmentation=STILL)
    for pairing in Pairing:
        assert isinstance(data.windows(cohort, TASK, VIEW, pairing), LabelledWindows)
    with pytest.raises(ConfigError, match="no domains that they could tell apart"):
        Data(labels="x.tsv").windows(cohort, Task((FLAIR,), (Contrast.T1W,)), VIEW, Pairing.PAIRED)
    with pytest.raises(ConfigError, match="one translation"):
        Data(emphasis={"FLAIR": 2.0}).windows(cohort, TASK, VIEW, Pairing.UNPAIRED)


ALONE = Task((FLAIR,), (FLAIR,), domains=("healthy",))


@pytest.mark.parametrize(
    ("slices", "allowed"),
    # lesions in 4 to 6; 0 and 11 are air, and count as healthy neighbours
    [(1, {1, 2, 3, 7, 8, 9, 10}), (3, {1, 2, 8, 9, 10}), (5, {9})],
)
def test_a_single_domain_shows_no_lesion_not_even_in_a_neighbour(
    study: Path, slices: int, allowed: set[int]
) -> None:
    for path in study.rglob("*_FLAIR.nii"):  # lesions glow
        scan = load_volume(path)
        mask = load_volume(
            study
            / f"derivatives/expert/{path.parts[-3]}/anat/{path.parts[-3]}_label-lesion_mask.nii"
        )
        save_volume(scan.like(np.where(mask.voxels > 0, 300, scan.voxels)), path, overwrite=True)
    supply = LabelledWindows(
        find_cohort(study), ALONE, View(slices=slices), size=16, augmentation=STILL
    )
    seen = set()
    for number in range(60):
        sample = supply[number]
        assert (sample.source_contrast, sample.target_contrast, sample.other) == (0, 0, "")
        assert torch.equal(sample.source[slices // 2], sample.target[0])
        assert float(sample.source.max()) < 0.5, "a lesion, which is 1"
        seen.add(round((float(sample.target.max()) + 1) / 2 * 300 - 100))
    assert seen == allowed
    batch = next(batches(supply, 3))
    assert batch.target_contrast is not None
    assert batch.target_contrast.tolist() == [0, 0, 0]
    assert batch.target_weight is None


def test_a_single_domain_by_a_table(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text("participant_id\tlabel\nsub-1\tdiseased\nsub-2\thealthy\n")
    supply = LabelledWindows(find_cohort(study), ALONE, VIEW, labels=str(table), size=16)
    assert [s.name for s in supply.subjects] == ["sub-2"]
    assert {supply[number].subject for number in range(5)} == {"sub-2"}
    rows = "".join(f"sub-1\t{z}\t{'diseased' if z == 6 else 'healthy'}\n" for z in range(2, 9))
    table.write_text(f"participant_id\tslice\tlabel\n{rows}")
    supply = LabelledWindows(find_cohort(study), ALONE, VIEW, labels=str(table), size=16)
    ((_, told),) = supply.told.items()
    assert told[0].tolist() == [3, 4]
    table.write_text("participant_id\tlabel\nsub-1\tdiseased\n")
    with pytest.raises(CohortError, match='is "healthy"'):
        LabelledWindows(find_cohort(study), ALONE, VIEW, labels=str(table))
