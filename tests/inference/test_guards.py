"""What is said of a scan that is turned, cut off, noisy or moved, or none of what a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.inference.glance import Glance, glance
from medi2i.inference.guards import beyond, guarded, scope_of
from medi2i.inference.guards.field import cuts
from medi2i.inference.guards.posture import TURNS, misplaced, postures, turned
from medi2i.inference.guards.spoilt import GHOSTS, NOISE, Slice, ghosts, noise, slices_of, spoilt
from medi2i.model import Model
from medi2i.simulate import phantom, procedural_head
from medi2i.simulate.artefacts import motion_ghosts, rician
from medi2i.volume import Volume, load_volume, save_volume
from medi2i.zoo import load_model

Mask = NDArray[np.bool_]
SHAPE, SPACING = (88, 104, 92), (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def brain() -> Mask:
    """A brain at 2 mm, upright."""
    inside = procedural_head(21, shape=SHAPE, spacing=SPACING, skull=False).brain
    closed: Mask = ndimage.binary_closing(inside, iterations=2)
    return closed


@pytest.fixture(scope="module")
def scan() -> Volume:
    """A head, T1w, with nothing wrong."""
    scans = phantom(7, contrasts=["t1"], shape=(80, 96, 80), spacing=SPACING)
    return scans[Contrast.T1W].like(scans[Contrast.T1W].voxels, name="a_T1w.nii")


@pytest.fixture(scope="module")
def seen(scan: Volume) -> Glance:
    return glance(scan)


def looking(brain: Mask) -> Glance:
    """A glance that saw this brain."""
    values = np.where(brain, 0.5, -1).astype(np.float32)
    volume = Volume.of(values, np.diag([*SPACING, 1.0]))
    return Glance(Contrast.T1W, 1.0, {}, 1.0, volume, brain.astype(np.float32), values)


# ---- posture


def test_turns_are_all_turns_and_none_mirrors() -> None:
    assert np.array_equal(TURNS[0], np.eye(3))
    assert len({turn.tobytes() for turn in TURNS}) == 24
    assert all(np.linalg.det(turn) == pytest.approx(1) for turn in TURNS)


def test_a_brain_is_upright_until_it_is_turned(brain: Mask) -> None:
    """The turn back is the only one that makes it upright again."""
    assert postures(brain)[0] > 0
    for turn in TURNS:
        scores = postures(turned(brain, turn))
        back = next(i for i, other in enumerate(TURNS) if np.array_equal(other, turn.T))
        assert int(np.argmax(scores)) == back
        assert max(s for i, s in enumerate(scores) if i != back) < scores[back] - 3


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (
            (slice(None), slice(None, None, -1), slice(None, None, -1)),
            "the bottom and its face to ",
        ),
        (
            (slice(None, None, -1), slice(None, None, -1), slice(None)),
            "the top and its face to the back",
        ),
    ],
    ids=["on its head", "backwards"],
)
def test_where_top_and_face_are_is_told(brain: Mask, axes: tuple[slice, ...], words: str) -> None:
    (sentence,) = misplaced("a.nii", looking(brain[axes]))
    assert sentence.startswith('"a.nii" does not lie as its header says')
    assert words in sentence
    assert list(misplaced("a.nii", looking(brain))) == []


def test_a_brain_on_its_side_is_tipped(brain: Mask) -> None:
    tipped = ndimage.rotate(brain.astype(np.float32), 45, (0, 2), order=1) > 0.5
    (sentence,) = misplaced("a.nii", looking(tipped))
    assert "seems to be tipped" in sentence


# ---- the field of view


def test_an_end_inside_the_brain_is_named_and_measured(brain: Mask) -> None:
    whole = np.ones_like(brain)
    assert cuts(brain, whole) == []
    middle = brain.shape[2] // 2
    ((end, share),) = cuts(brain[:, :, :middle], whole[:, :, :middle])
    areas = brain.sum((0, 1))
    assert end == "upper end"
    assert share == pytest.approx(areas[middle - 2 : middle].max() / areas[:middle].max())
    blank = whole.copy()
    blank[:60] = False  # there, but nothing is shown
    assert [end for end, _ in cuts(brain & blank, blank)] == ["left"]


# ---- noise and motion


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_noise_is_measured(scan: Volume, seen: Glance, share: float) -> None:
    """What is added is found, beside what was there; each as a share of its own span."""
    before = slices_of(scan, seen.marked_mask)
    span = tissue_span(before)
    noisy = rician(scan.voxels, share * span, np.random.default_rng(3))
    after = slices_of(scan.like(noisy), seen.marked_mask)
    assert noise(before) < NOISE
    expected = np.hypot(noise(before), share)
    assert noise(after) * tissue_span(after) / span == pytest.approx(expected, rel=0.1)


def tissue_span(slices: Sequence[Slice]) -> float:
    low, high = np.percentile(np.concatenate([image[inside] for image, inside in slices]), [5, 95])
    return float(high - low)


def test_ghosts_grow_with_motion_and_noise_is_none(scan: Volume, seen: Glance) -> None:
    def found(voxels: NDArray[np.float32]) -> float:
        return ghosts(slices_of(scan.like(voxels), seen.marked_mask))

    def moved(strength: float) -> NDArray[np.float32]:
        return motion_ghosts(scan.voxels, np.random.default_rng(5), strength, 1)

    still, little, much = found(scan.voxels), found(moved(1.0)), found(moved(4.0))
    assert still < GHOSTS < much
    assert still < little < much
    assert found(rician(scan.voxels, 0.03 * float(scan.voxels.max()), np.random.default_rng(0))) < (
        GHOSTS
    )
    (sentence,) = spoilt("a.nii", scan.like(moved(4.0)), seen.marked_mask)
    assert sentence.startswith('"a.nii" shows ghosts as of motion')


def test_nothing_to_measure(scan: Volume) -> None:
    nowhere = slices_of(scan, np.zeros(scan.shape, bool))
    assert nowhere == []
    assert noise(nowhere) == ghosts(nowhere) == 0
    assert ghosts(slices_of(scan, np.ones(scan.shape, bool))) == 0


# ---- all of it


def test_a_good_scan_is_not_complained_of(scan: Volume, seen: Glance) -> None:
    assert guarded(scan, seen, Contrast.T1W) == []
    assert guarded(scan, None, Contrast.T1W) == []
    assert guarded(scan, "not looked at", Contrast.T1W) == ["not looked at"]


def test_what_is_wrong_is_told(scan: Volume) -> None:
    noise = rician(scan.voxels, 0.1 * float(scan.voxels.max()), np.random.default_rng(0))
    bad = {
        '"a_T1w.nii" is noisy': scan.like(noise),
        "ends inside the brain": Volume.of(scan.voxels[:, :, :50], scan.affine, scan.name),
    }
    for words, one in bad.items():
        assert words in " ".join(guarded(one, glance(one), None))


# ---- what a model has seen


def test_a_card_says_what_was_seen_and_others_are_doubted(
    scan: Volume, seen: Glance, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.nii", tmp_path / "b.nii"]
    save_volume(scan, paths[0])
    thick = Volume.of(scan.voxels, np.diag([2.0, 2.0, 5.0, 1.0]))
    save_volume(thick, paths[1])
    scope = scope_of(paths)
    assert scope == {"skull": ["on"], "in_plane_mm": [2.0, 2.0], "slices_mm": [2.0, 5.0]}
    model = with_scans(scope)
    assert list(beyond(model, scan, seen)) == []
    other = Volume.of(scan.voxels, np.diag([1.0, 1.0, 8.0, 1.0]), "c.nii")
    assert list(beyond(model, other, seen)) == [
        f'"c.nii" has {what} mm, and may do worse here'
        for what in (
            'voxels in plane of 1 mm; model "default" was trained on 2 to 2',
            'slices of 8 mm; model "default" was trained on 2 to 5',
        )
    ]
    resampling = replace(model, view=replace(model.view, spacing=2.0))
    assert len(list(beyond(resampling, other, seen))) == 1  # finer voxels are brought to 2 mm
    bare = with_scans({"skull": ["off"]})
    (told,) = beyond(bare, scan, seen)
    assert told.startswith('"a_T1w.nii" has a skull; model')
    assert list(beyond(bare, scan, None)) == []
    assert list(beyond(with_scans(None), other, seen)) == []


def with_scans(scans: object) -> Model:
    """The default model with this on its card, and no resolution of its own."""
    model = load_model("default")
    return replace(model, view=replace(model.view, spacing=None), card={"scans": scans})


def test_real_scans_as_they_are(shared_data: Path) -> None:
    """No false alarm of posture, noise or motion on whole volumes with and without skull."""
    for name in ("volumes/sub-KIRBY113", "volumes/sub-TCGA061802"):
        path = next((shared_data / name / "anat").glob("*FLAIR.nii.gz"))
        volume = load_volume(path)
        assert guarded(volume, glance(volume), None) == []
