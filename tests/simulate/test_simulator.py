from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.simulate import SpinEcho, procedural_head
from medi2i.simulate.body import LIMBIC, LabelledBody, brain_of, check_labels, limbic_of
from medi2i.simulate.examination import Shown, draw_examination, draw_person, scan
from medi2i.simulate.lesions import Pathology
from medi2i.simulate.physics import InversionRecovery, Tissue, relaxation
from medi2i.simulate.protocols import Geometry, Style
from medi2i.simulate.simulator import Simulated, simulate

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int16]:
    """A head of boxes: skin, fluid, cortex, white matter, a ventricle."""
    grid = np.zeros((72, 80, 72), np.int16)
    grid[4:68, 4:76, 4:68] = 511
    grid[6:66, 6:74, 6:66] = 24
    grid[8:64, 8:72, 8:64] = 3
    grid[12:60, 12:68, 12:60] = 2
    grid[30:42, 34:46, 30:42] = 4
    return grid


def person(labels: NDArray[np.int16], seed: int = 3, **changes: Any) -> Simulated:
    settings: dict[str, Any] = {"contrasts": (T1W, T2W, FLAIR), "head": Shown.STRIPPED}
    return simulate(seed, labels=labels, **{**settings, **changes})


def test_the_same_call_gives_the_same_bytes(labels: NDArray[np.int16]) -> None:
    first, again, other = person(labels), person(labels), person(labels, seed=4)
    assert first.examination == again.examination
    for contrast, volume in first.scans.items():
        np.testing.assert_array_equal(volume.voxels, again.scans[contrast].voxels)
        assert not np.array_equal(volume.voxels, other.scans[contrast].voxels)


def test_a_contrast_is_the_same_whichever_others_are_asked_for(labels: NDArray[np.int16]) -> None:
    three = person(labels)
    one = person(labels, contrasts=(FLAIR,))
    np.testing.assert_array_equal(one.scans[FLAIR].voxels, three.scans[FLAIR].voxels)


def test_scans_and_masks_share_one_grid(labels: NDArray[np.int16]) -> None:
    made = person(labels, pathology="tumour", style=Style.SLICES)
    assert made.lesions is not None
    volumes = [*made.scans.values(), made.brain, made.lesions]
    for volume in volumes:
        assert volume.shape == volumes[0].shape
        np.testing.assert_array_equal(volume.affine, volumes[0].affine)
    expected = made.examination.geometry.spacing
    thick = made.examination.geometry.axis
    assert volumes[0].spacing[thick] == pytest.approx(expected[thick], rel=1e-6)
    np.testing.assert_allclose(volumes[0].spacing, expected, rtol=0.02)  # whole voxels


def test_stripped_scans_are_zero_outside_the_brain_and_nowhere_negative(
    labels: NDArray[np.int16],
) -> None:
    made = person(labels)
    for contrast, volume in made.scans.items():
        assert volume.voxels.min() >= 0
        assert not volume.voxels[made.brain.voxels == 0].any()
        top = np.percentile(volume.voxels[made.brain.voxels > 0], 99.9)
        if made.examination.flaws[contrast].levels:
            assert top == 255
        else:
            assert top == pytest.approx(1000, rel=0.2)


def test_contrasts_look_as_their_names_say(labels: NDArray[np.int16]) -> None:
    made = person(labels, spacing=(1.0, 1.0, 1.0), style=Style.VOLUMETRIC)
    body = LabelledBody.bent(labels, np.random.default_rng(np.random.SeedSequence(3).spawn(5)[0]))
    fluid = np.abs(body.render({t: float(t is Tissue.CSF) for t in Tissue})) > 0
    inner = fluid & (brain_of(body.labels))
    for contrast, low, high in ((T1W, 0.0, 0.6), (T2W, 1.5, 9.0), (FLAIR, 0.0, 0.6)):
        voxels = made.scans[contrast].voxels
        ratio = np.median(voxels[inner & (body.labels == 4)]) / np.median(voxels[body.white])
        assert low < ratio < high, (contrast, ratio)


def test_twins_differ_in_their_lesions_and_little_elsewhere(labels: NDArray[np.int16]) -> None:
    made = person(labels, pathology=Pathology.TUMOUR, twins=True, style=Style.VOLUMETRIC)
    assert made.lesions is not None
    ill = made.lesions.voxels > 0
    assert ill.any()
    far = (made.brain.voxels > 0) & ~_grown(ill, 16)
    for contrast in (T2W, FLAIR):
        change = np.abs(made.scans[contrast].voxels - made.healthy[contrast].voxels)
        assert change[ill].mean() > 60
        if far.any() and not made.examination.flaws[contrast].motion:
            assert change[far].mean() < 8


def test_exact_sequences_are_kept(labels: NDArray[np.int16]) -> None:
    sequence = SpinEcho(tr=4321.0, te=87.0)
    made = person(labels, contrasts=(T2W,), sequences={T2W: sequence})
    assert made.examination.sequences[T2W] == sequence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing is"),
        ({"spacing": (1.0, 2.0, 3.0)}, "two sides of one length"),
        ({"field": 7.0}, "1.5 and 3.0"),
        ({"pathology": "flu"}, "flu"),
    ],
)
def test_what_cannot_be_is_refused(
    labels: NDArray[np.int16], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        person(labels, **change)


def test_contrasts_without_a_protocol_are_refused(labels: NDArray[np.int16]) -> None:
    with pytest.raises(ContrastError):
        person(labels, contrasts=("ct",))


def test_maps_that_are_not_of_a_head_are_refused(labels: NDArray[np.int16]) -> None:
    wrong = labels.copy()
    wrong[0, 0, 0] = 999
    with pytest.raises(UsageError, match="999"):
        check_labels(wrong)
    with pytest.raises(UsageError, match="empty"):
        check_labels(np.zeros((8, 8, 8), np.int16))


def test_lesions_of_the_label_map_itself_heal(labels: NDArray[np.int16]) -> None:
    ill = labels.copy()
    ill[16:20, 16:20, 16:20] = 25
    for strength in (0.0, 1.0):
        body = LabelledBody.bent(ill, np.random.default_rng(0), strength=strength)
        assert not (body.labels == 25).any()
        assert body.white.any()


def test_a_head_of_shares_and_its_labels_render_alike() -> None:
    head = procedural_head(1, shape=(40, 48, 40), spacing=(4.0, 4.0, 4.0))
    values = {tissue: float(number) for number, tissue in enumerate(Tissue)}
    image = head.render(values)
    assert image.shape == head.shape
    assert image.min() >= 0
    assert image.max() <= len(values)
    assert head.white.any()
    assert (head.parenchyma | ~head.white).all()
    assert not (head.brain & head.air).all()


def test_noise_is_what_the_flaws_say(labels: NDArray[np.int16]) -> None:
    body = LabelledBody.bent(labels, np.random.default_rng(0), strength=0)
    seed = np.random.SeedSequence(1)
    exam = draw_examination((T2W,), seed, head=Shown.ON, field=3.0, spacing=(1.0, 1.0, 1.0))
    subject = draw_person(body, seed, field=3.0)
    quiet = replace(exam.flaws[T2W], noise=0.0, motion=0.0, kept=1.0, levels=0)
    loud = replace(quiet, noise=0.03)
    clean, noisy = (
        scan(subject, replace(exam, flaws={T2W: flaws}), T2W, seed).voxels
        for flaws in (quiet, loud)
    )
    bright = clean > 300
    assert np.std((noisy - clean)[bright]) == pytest.approx(30, rel=0.1)
    assert exam.geometry == Geometry(1.0, 1.0, 0.0, 2)


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    from scipy import ndimage

    grown: NDArray[np.bool_] = ndimage.binary_dilation(mask, iterations=by)
    return grown


def test_cortex_of_the_limbic_lobe_is_known_by_what_lies_near() -> None:
    """Cortex between the hemispheres above a ventricle, and over the putamen; no more."""
    grid = np.zeros((80, 60, 60), np.int16)
    grid[4:40], grid[40:76] = 2, 41
    grid[4:10], grid[70:76] = 3, 42  # the outer surface
    grid[36:40, :, 30:], grid[40:44, :, 30:] = 3, 42  # the midline
    grid[34:40, 10:50, 10:20], grid[40:46, 10:50, 10:20] = 4, 43
    grid[14:18, 20:40, 10:20] = 12
    limbic = limbic_of(grid)
    assert limbic[37, 30, 32]
    assert limbic[42, 30, 32]
    assert not limbic[37, 30, 50], "too far above the ventricle"
    assert limbic[8, 30, 14], "over the putamen"
    assert not limbic[72, 30, 14], "the other side has none"
    assert not limbic[~np.isin(grid, (3, 42))].any()
    body = LabelledBody.bent(grid, np.random.default_rng(0), strength=0)
    assert (body.labels == LIMBIC).sum() == pytest.approx(limbic.sum(), rel=0.02)


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_limbic_cortex_is_brighter_in_flair(field: float) -> None:
    cortex, limbic = (relaxation(t, field=field) for t in (Tissue.CORTEX, Tissue.LIMBIC))
    flair = InversionRecovery(tr=9000, te=100, ti=2500)
    assert 1.05 < flair.signal(limbic) / flair.signal(cortex) < 1.25
