from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import UsageError
from medi2i.simulate import LABELS, Head, Tissue, procedural_head
from medi2i.simulate.shapes import WHOLE, Smooth

SHAPE, SPACING = (40, 48, 40), (4.0, 4.0, 4.0)


def _share(head: Head, tissue: Tissue) -> NDArray[np.float64]:
    return np.asarray(head.shares[head.tissues.index(tissue)] / WHOLE)


def test_the_same_seed_gives_the_same_bytes() -> None:
    one, two, other = (procedural_head(s, shape=SHAPE, spacing=SPACING) for s in (3, 3, 4))
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.shares.tobytes() == two.shares.tobytes()
    assert (one.labels != other.labels).mean() > 0.02


def test_shares_sum_to_one_and_labels_are_known(head: Head) -> None:
    np.testing.assert_array_equal(head.shares.sum(axis=0, dtype=np.int64), WHOLE)
    assert set(np.unique(head.labels).tolist()) <= set(LABELS)


def test_a_label_is_of_the_tissue_it_shares(head: Head) -> None:
    for label in np.unique(head.labels):
        there = head.labels == label
        assert _share(head, LABELS[int(label)])[there].min() > 0


def test_every_structure_is_there(head: Head) -> None:
    paired = (2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54)
    single = (14, 15, 16, 24, 506, 509, 511, 512, 515, 516, 600)
    assert set(paired + single) <= set(np.unique(head.labels).tolist())


def test_volumes_are_those_of_an_adult(head: Head) -> None:
    litres = {tissue: float(_share(head, tissue).sum()) * 8e-6 for tissue in Tissue}
    assert 0.38 < litres[Tissue.WHITE_MATTER] < 0.62
    assert 0.35 < litres[Tissue.CORTEX] < 0.70
    assert 0.12 < litres[Tissue.CSF] < 0.38
    assert 0.8 < sum(litres[t] for t in (Tissue.WHITE_MATTER, Tissue.CORTEX)) < 1.25


def test_left_is_left(head: Head) -> None:
    """RAS: x grows to the right; label 2 is left white matter, 41 right."""
    left, right = (np.argwhere(head.labels == label)[:, 0].mean() for label in (2, 41))
    assert left < right
    front = np.argwhere(head.labels == 506)[:, 1].mean()  # eyes
    back = np.argwhere(head.labels == 8)[:, 1].mean()  # cerebellum
    assert back < front
    assert np.argwhere(head.labels == 512)[:, 2].mean() < np.argwhere(head.labels == 3)[:, 2].mean()


def test_grey_lies_between_white_and_fluid(head: Head) -> None:
    """Cortex is a ribbon: hardly a voxel of cerebral white matter touches the skull's fluid."""
    white, fluid = (np.isin(head.labels, labels) for labels in ((2, 41), (24,)))
    touching = sum(
        int((np.roll(white, step, axis) & fluid).sum()) for axis in range(3) for step in (-1, 1)
    )
    assert touching < 0.05 * white.sum()


def test_the_cortex_is_folded(head: Head) -> None:
    """Fluid reaches deep into the brain: more of it lies in sulci than in a smooth shell."""
    fluid = head.labels == 24
    brain = np.isin(head.labels, (2, 3, 41, 42))
    outermost = np.zeros_like(fluid)
    for line in range(fluid.shape[1]):
        for row in range(fluid.shape[2]):
            inside = np.flatnonzero(brain[:, line, row])
            if inside.size:
                outermost[inside[0] : inside[-1] + 1, line, row] = True
    assert (fluid & outermost).sum() > 0.05 * (brain & outermost).sum()


def test_without_skull_only_the_brain_is_left() -> None:
    kept, bare = (procedural_head(2, shape=SHAPE, spacing=SPACING, skull=s) for s in (True, False))
    inside = np.isin(bare.labels, (2, 3, 7, 8, 16, 41, 42, 46, 47))
    # Bone may win a voxel on the edge, whose largest share was the air left by stripping.
    assert (kept.labels[inside] == bare.labels[inside]).mean() > 0.999
    assert _share(bare, Tissue.FAT).max() == 0
    assert _share(bare, Tissue.AIR).mean() > _share(kept, Tissue.AIR).mean()


def test_a_person_is_the_same_on_another_grid() -> None:
    coarse = procedural_head(5, shape=(30, 36, 30), spacing=(5.0, 5.0, 5.0))
    fine = procedural_head(5, shape=(60, 72, 60), spacing=(2.5, 2.5, 2.5))
    for tissue in (Tissue.WHITE_MATTER, Tissue.CSF, Tissue.FAT):
        blocks = _share(fine, tissue).reshape(30, 2, 36, 2, 30, 2).mean(axis=(1, 3, 5))
        assert np.abs(blocks - _share(coarse, tissue)).mean() < 0.035


def test_slabs_do_not_show() -> None:
    """A grid that begins elsewhere falls into other slabs; where both overlap they agree."""
    wide = procedural_head(6, shape=(40, 20, 20), spacing=(4.0, 8.0, 8.0))
    # Two voxels less on either side.
    narrow = procedural_head(6, shape=(36, 20, 20), spacing=(4.0, 8.0, 8.0))
    assert (wide.labels[2:-2] != narrow.labels).mean() < 1e-3  # rounding alone


def test_the_origin_is_the_anterior_commissure(head: Head) -> None:
    voxel = np.linalg.solve(head.affine, [0, 0, 0, 1])[:3]
    # It lies between the third ventricle's front and the putamina, in the brain's middle.
    third = np.argwhere(head.labels == 14).mean(axis=0)
    assert abs(voxel[0] - third[0]) < 2
    assert voxel[1] > third[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (160, 192)},
        {"shape": (160, 192, 3)},
        {"shape": (160, 192.5, 160)},
        {"spacing": (1, 1, 0)},
        {"spacing": (1, 1, float("nan"))},
        {"spacing": (1, 1)},
    ],
)
def test_impossible_grids(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UsageError, match="expected"):
        procedural_head(0, **wrong)  # type: ignore[arg-type]


def test_smooth_fields_have_the_stated_spread() -> None:
    axis = np.linspace(-127.5, 127.5, 32, dtype=np.float32)
    values = [Smooth(np.random.default_rng(seed), 5)(axis, axis, axis) for seed in range(20)]
    assert float(np.std(values)) == pytest.approx(1, abs=0.05)
    assert float(np.mean(values)) == pytest.approx(0, abs=1e-3)
