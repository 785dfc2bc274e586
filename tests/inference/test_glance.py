from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medi2i import zoo
from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.errors import ContrastError, DimensionError, IntensityError, ModelError
from medi2i.inference.brain import tidy
from medi2i.inference.glance import (
    CLASSES,
    Glance,
    as_seen,
    coarse,
    glance,
    intensities,
    read_glance_net,
    write_glance_net,
)
from medi2i.inference.guards import guarded
from medi2i.inference.recognise import ALIKE, SURE, look, recognise
from medi2i.networks.glance import GlanceNet
from medi2i.simulate import phantom, procedural_head
from medi2i.volume import Volume, load_volume

Mask = NDArray[np.bool_]
THREE = (Contrast.T1W, Contrast.T2W, Contrast.FLAIR)
GRID = (80, 96, 80)
SPACING = (2.0, 2.0, 2.0)
TINY: dict[str, Any] = {"classes": 6, "features": [2, 2], "encoder_blocks": [1, 1], "hidden": 3}


def doubts(volume: Volume, contrast: Contrast, *, least: float = 0.0) -> list[str]:
    return guarded(volume, look(volume), contrast, least=least)


def dice(one: Mask, other: Mask) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


# ---- what the network sees


def test_coarse_voxels_keep_their_places() -> None:
    """A bright block in a sagittal file of 1 x 1 x 3 mm lies where it lies in the body."""
    voxels = np.zeros((90, 80, 30), np.float32)
    voxels[20:40, 30:50, 10:20] = 100
    affine = np.array([[0, 0, 3.0, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    small = coarse(Volume.of(voxels, affine))  # axes R, A, S: 90 x 90 x 80 mm
    assert small.shape == (45, 45, 40)
    block = np.zeros(small.shape, bool)
    block[15:30, 10:20, 15:25] = True  # S runs against the file's second axis
    assert dice(small > 50, block) > 0.95
    assert small.sum() * 8 == pytest.approx(voxels.sum() * 3, rel=0.02)


def test_intensities_run_from_air_to_bright_tissue() -> None:
    small = np.zeros((20, 20, 20), np.float32)
    small[5:15, 5:15, 5:15] = 100
    small[10, 10, 10] = 1e4  # a glare is cut off
    values = intensities(small)
    assert values[0, 0, 0] == -1
    assert values[6, 6, 6] == pytest.approx(1, abs=0.05)
    assert values.max() == pytest.approx(1.5)
    np.testing.assert_allclose(intensities(5 * small + 3), values, rtol=0, atol=1e-5)
    with pytest.raises(IntensityError, match="constant"):
        intensities(np.ones((4, 4, 4), np.float32))


def test_air_is_left_out_but_for_a_margin() -> None:
    small = np.zeros((60, 50, 40), np.float32)
    small[20:40, 10:30, 0:30] = np.random.default_rng(0).uniform(50, 100, (20, 20, 30))
    scan, box = as_seen(small, 16)
    assert box == (slice(16, 44), slice(6, 34), slice(0, 34))
    assert scan.shape == (32, 32, 48)
    np.testing.assert_array_equal(scan[:28, :28, :34], intensities(small)[box])
    assert (scan[28:] == -1).all()
    assert (scan[:, :, 34:] == -1).all()


def test_of_a_long_body_the_upper_end_is_seen() -> None:
    small = np.random.default_rng(0).uniform(50, 100, (40, 40, 300)).astype(np.float32)
    _, box = as_seen(small, 16)
    assert box == (slice(0, 40), slice(0, 40), slice(124, 300))


def test_tidy_masks_are_in_one_piece_without_holes() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[2:14, 2:14, 2:14] = True
    whole = mask.copy()
    mask[5:8, 5:8, 5:8] = False  # a hole
    mask[16:19, 16:19, 16:19] = True  # another piece
    np.testing.assert_array_equal(tidy(mask), whole)
    mask[5:8, 5:8, :8] = False  # no hole any more: it is open to the outside
    assert tidy(mask).sum() == whole.sum() - 3 * 3 * 6
    assert not tidy(np.zeros((3, 3, 3), bool)).any()


# ---- the network on disk


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_glance_net(GlanceNet(**TINY).eval(), tmp_path / "glance", TINY, {"use": "none"})


def test_what_is_written_is_read(tiny: Path) -> None:
    torch.manual_seed(0)
    before = GlanceNet(**TINY).eval()
    after = read_glance_net(tiny)
    scan = torch.randn(1, 1, 16, 16, 16)
    for one, other in zip(before(scan), after(scan), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not after.training
    record = json.loads((tiny / "model.json").read_text())
    assert (
        record["sha256"] == hashlib.sha256((tiny / "weights.safetensors").read_bytes()).hexdigest()
    )
    assert record["contrasts"] == ["T1w", "T2w", "FLAIR", "PDw", "ce-gad_T1w"]
    assert record["card"] == {"use": "none"}


def test_altered_networks_are_refused(tiny: Path, tmp_path: Path) -> None:
    record = json.loads((tiny / "model.json").read_text())
    cases: dict[str, Callable[[Path], object]] = {
        "the file was altered": lambda f: (f / "weights.safetensors").write_bytes(b"x"),
        "lacks weights": lambda f: (f / "weights.safetensors").unlink(),
        "has no model.json": lambda f: (f / "model.json").unlink(),
        r"tells \['T1w'\] apart": lambda f: (f / "model.json").write_text(
            json.dumps({**record, "contrasts": ["T1w"]})
        ),
        "cannot be used": lambda f: (f / "model.json").write_text(
            json.dumps({**record, "arguments": {**TINY, "hidden": 4}})
        ),
        "lacks arguments": lambda f: (f / "model.json").write_text(
            json.dumps({k: v for k, v in record.items() if k != "arguments"})
        ),
    }
    for number, (sentence, spoil) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tiny, folder)
        spoil(folder)
        with pytest.raises(ModelError, match=sentence):
            read_glance_net(folder)


def test_it_ships_but_is_no_translator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "glance" not in zoo.shipped()
    assert zoo.aids() == {name: zoo.FOLDER / name for name in ("glance", "posture")}
    assert sum(path.stat().st_size for path in zoo.aid("glance").iterdir()) < 2.1e6
    assert (zoo.aid("glance") / "README.md").is_file()
    with pytest.raises(ModelError, match='"default" does not come'):
        zoo.aid("default")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(ModelError, match='"glance" does not come'):
        zoo.aid("glance")


# ---- what it says


@pytest.fixture(scope="module", params=[True, False], ids=["skull", "stripped"])
def looked(request: pytest.FixtureRequest) -> tuple[dict[Contrast, Glance], Mask]:
    """The phantom in three contrasts, seen, and where its brain is."""
    skull, seed = bool(request.param), 7
    scans = phantom(seed, contrasts=THREE, shape=GRID, spacing=SPACING, skull=skull)
    labels = procedural_head(seed, shape=GRID, spacing=SPACING, skull=skull).labels
    brain = (labels > 0) & (labels < 500)
    if skull:  # the fluid between the furrows belongs to it, that under the bone does not
        brain = ndimage.binary_closing(brain & (labels != 24), iterations=2)
    return {contrast: glance(scan) for contrast, scan in scans.items()}, brain


@pytest.mark.parametrize("contrast", THREE)
def test_the_phantom(looked: tuple[dict[Contrast, Glance], Mask], contrast: Contrast) -> None:
    seen, brain = looked[0][contrast], looked[1]
    assert seen.is_head
    assert seen.contrast is contrast
    assert seen.confidence == max(seen.probabilities.values()) > 0.5
    assert set(seen.probabilities) == set(CLASSES)
    assert 0.999 <= sum(seen.probabilities.values()) + seen.none <= 1.001
    assert dice(seen.brain_mask, brain) > 0.84
    assert ndimage.label(seen.brain_mask)[1] == 1


def test_another_grid_and_other_axes_show_the_same() -> None:
    """Sagittal 1.5 mm against axial 1.1 x 1.1 x 5 mm of one head, and a window of intensities."""
    fine = phantom(3, contrasts=["t1"], shape=(107, 128, 107), spacing=(1.5, 1.5, 1.5))
    volume = fine[Contrast.T1W]
    turned = np.asfortranarray(volume.voxels.transpose(1, 2, 0)[:, ::-1])
    affine = volume.affine @ np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, -1, 0, 106], [0, 0, 0, 1]])
    sagittal = Volume.of(turned * 7 + 40, affine)
    one, other = glance(volume), glance(sagittal)
    np.testing.assert_array_equal(one.brain_mask.transpose(1, 2, 0)[:, ::-1], other.brain_mask)
    assert one.probabilities[Contrast.T1W] == pytest.approx(
        other.probabilities[Contrast.T1W], abs=1e-3
    )
    thick = phantom(3, contrasts=["t1"], shape=(146, 175, 32), spacing=(1.1, 1.1, 5.0))
    slices = glance(thick[Contrast.T1W])
    assert slices.contrast is Contrast.T1W
    assert slices.brain_mask.shape == (146, 175, 32)
    volumes = [s.brain_mask.sum() * v for s, v in ((one, 1.5**3), (slices, 1.1 * 1.1 * 5))]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.08)


def foreign_volumes() -> Iterator[tuple[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    yield "noise", rng.standard_normal(GRID, np.float32)
    yield "noise of a magnitude image", np.abs(rng.standard_normal(GRID, np.float32))
    ramp = np.arange(GRID[1], dtype=np.float32)[:, None] + np.zeros(GRID, np.float32)
    yield "ramp", ramp
    yield "constant", np.full(GRID, 7, np.float32)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in GRID), indexing="ij")
    yield "bottle", (((x / 0.6) ** 2 + (y / 0.6) ** 2 < 1) & (abs(z) < 0.8)).astype(np.float32)
    head = phantom(4, contrasts=["t2"], shape=GRID, spacing=SPACING)[Contrast.T2W].voxels
    yield "black for white", 1000 - head


@pytest.mark.parametrize("name", [name for name, _ in foreign_volumes()])
def test_what_is_no_head_is_flagged(name: str) -> None:
    volume = Volume.of(dict(foreign_volumes())[name], np.diag([2.0, 2, 2, 1]), name="x.nii")
    seen = glance(volume)
    assert not seen.is_head
    if name == "constant":
        assert not seen.brain_mask.any()
    (sentence,) = doubts(volume, Contrast.T1W)
    assert '"x.nii" does not look like the MRI of a head' in sentence
    with pytest.raises(ContrastError, match="and it does not look like the MRI of a"):
        recognise(volume, "x.nii")


def test_too_little_to_be_judged() -> None:
    volume = Volume.of(np.random.default_rng(0).random((99, 99, 25), np.float32) * 100)
    with pytest.raises(DimensionError, match="shows 25 mm of a head"):
        glance(volume)
    assert doubts(volume, Contrast.T1W) == []
    with pytest.raises(ContrastError, match=r'which contrast is "a/b\.nii".*shows 25 mm'):
        recognise(volume, "a/b.nii")


# ---- what is made of it


def saying(probabilities: dict[Contrast, float], head: float = 0.99) -> Glance:
    likeliest = max(probabilities, key=lambda c: probabilities[c])
    volume = Volume.of(np.zeros((2, 2, 2)))
    empty = np.zeros((1, 1, 1), np.float32)
    return Glance(likeliest, probabilities[likeliest], probabilities, head, volume, empty, empty)


def test_an_image_that_leaves_it_open_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = saying({Contrast.T1W: 0.55, Contrast.FLAIR: 0.4, Contrast.T1CE: 0.01})
    monkeypatch.setattr("medi2i.inference.recognise.glance", lambda _: seen)
    with pytest.raises(
        ContrastError,
        match=r'which contrast is "s7.nii"\? Neither its name nor a side-car says, and its image '
        r"leaves it open: T1w \(0.55\), FLAIR \(0.40\): give it with --from",
    ):
        recognise(Volume.of(np.zeros((2, 2, 2))), "s7.nii")


def test_with_or_without_contrast_agent_the_likelier_is_taken_and_both_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = saying({Contrast.T1W: 0.55, Contrast.T2W: 0.01, Contrast.T1CE: 0.4})
    monkeypatch.setattr("medi2i.inference.recognise.glance", lambda _: seen)
    volume = Volume.of(np.zeros((2, 2, 2)))
    assert recognise(volume, "s7.nii") == (
        Contrast.T1W,
        "contrast recognised from the image: T1w (0.55; or ce-gad_T1w, 0.40)",
    )
    sure = saying({Contrast.T1W: 0.99})
    monkeypatch.setattr("medi2i.inference.recognise.glance", lambda _: sure)
    assert doubts(volume, Contrast.T1CE) == []
    assert len(doubts(volume, Contrast.FLAIR)) == 1


def test_a_clear_image_is_believed_and_a_contradiction_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = saying({Contrast.T1W: 0.002, Contrast.T2W: 0.991})
    monkeypatch.setattr("medi2i.inference.recognise.glance", lambda _: seen)
    volume = Volume.of(np.zeros((2, 2, 2)), name="a_T1w.nii")
    assert recognise(volume, "x") == (
        Contrast.T2W,
        "contrast recognised from the image: T2w (0.99)",
    )
    assert doubts(volume, Contrast.T2W) == []
    assert doubts(volume, Contrast.T1W) == [
        '"a_T1w.nii" is taken for T1w, but its image looks like T2w (0.99)'
    ]
    weak = saying({Contrast.T1W: 0.06, Contrast.T2W: 0.93})
    monkeypatch.setattr("medi2i.inference.recognise.glance", lambda _: weak)
    assert doubts(volume, Contrast.T1W) == []
    assert doubts(volume, Contrast.T2W, least=0.5) == []
    assert doubts(volume, Contrast.T1W, least=0.5) == [
        '"a_T1w.nii" is taken for T1w, but its image leaves it open: T1w (0.06), T2w (0.93)'
    ]


# ---- real scans


def real(shared_data: Path, study: str) -> list[tuple[Contrast, Path]]:
    cohort = find_cohort([shared_data / study]).split("val")
    return [item for subject in cohort for item in subject.scans.items()]


def test_real_stripped_scans(shared_data: Path) -> None:
    for contrast, path in real(shared_data, "volumes"):
        volume = load_volume(path)
        seen = glance(volume)
        assert seen.is_head, path.name
        assert dice(seen.brain_mask, volume.voxels != 0) > 0.9, path.name
        if contrast is not Contrast.T1CE:  # which the card counts apart
            assert seen.contrast in (contrast, *as_likely(contrast)), path.name


def test_real_scans_with_skull(shared_data: Path) -> None:
    """Most are recognised; of the others it says that it does not know."""
    heads = right = wrong = 0
    scans = real(shared_data, "lgg")
    for contrast, path in scans:
        seen = glance(load_volume(path))
        heads += seen.is_head
        alike = seen.contrast in (contrast, *as_likely(contrast))
        right += alike
        wrong += seen.is_head and not alike and seen.confidence >= SURE
    assert heads >= 0.85 * len(scans)
    assert right >= 0.85 * len(scans)
    assert not wrong


def as_likely(contrast: Contrast) -> tuple[Contrast, ...]:
    return ALIKE if contrast in ALIKE else ()
