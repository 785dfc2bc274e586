from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import medi2i
from medi2i.contrasts import Contrast, contrast_of
from medi2i.data.cohort import find_cohort
from medi2i.data.registration import load_together
from medi2i.errors import ContrastError, InputError, ModelError, UsageError
from medi2i.preparation import Steps, prepare, prepare_person
from medi2i.preparation.grid import isotropic, resample_once
from medi2i.preparation.outputs import Places, check_places
from medi2i.volume import Volume, load_volume, save_volume

T1W, T2W, T1CE = Contrast.T1W, Contrast.T2W, Contrast.T1CE


def test_steps_are_checked() -> None:
    with pytest.raises(UsageError, match="every step is switched off"):
        Steps(bias_correction=False, registration=False)
    with pytest.raises(UsageError, match=r"a spacing of 0\.1 mm; 0\.25 to 10 was expected"):
        Steps(spacing=0.1)
    assert Steps(strip=True).masked
    assert not Steps().masked


def test_a_grid_of_cubes_has_the_same_middle_and_extent() -> None:
    affine = np.array([[0, 0, 3.0, 5], [1, 0, 0, 7], [0, -2, 0, 9], [0, 0, 0, 1]])
    volume = Volume.of(np.ones((12, 9, 8)), affine)
    cubes = isotropic(volume, 2.0)
    assert cubes.shape == (6, 9, 12)
    assert cubes.spacing == pytest.approx((2, 2, 2))
    middle, same = (v.affine @ [*((np.array(v.shape) - 1) / 2), 1] for v in (volume, cubes))
    np.testing.assert_allclose(middle, same, atol=1e-9)
    with pytest.raises(UsageError, match="a larger spacing was expected"):
        isotropic(Volume.of(np.ones((9, 9, 9)), np.diag([200.0, 200, 200, 1])), 0.25)


def test_resampling_is_linear_and_smooths_before_it_thins() -> None:
    ramp = np.zeros((24, 20, 16), np.float32) + np.arange(24, dtype=np.float32)[:, None, None]
    volume = Volume.of(ramp, name="ramp")
    onto = isotropic(volume, 0.5)
    fine = resample_once(volume, onto, None)
    inner = (onto.affine[0, 0] * np.arange(48) + onto.affine[0, 3])[2:-2]
    np.testing.assert_allclose(fine.voxels[2:-2, 20, 16], inner, atol=1e-4)
    stripes = volume.like(np.where(np.arange(24)[:, None, None] % 2, 10.0, 0.0) + 0 * ramp)
    thin = resample_once(stripes, isotropic(stripes, 4.0), None)
    np.testing.assert_allclose(thin.voxels[1:-1], 5, atol=0.5)  # and not 0 or 10
    assert resample_once(volume, volume, None) is volume


@pytest.fixture(scope="module")
def moved(heads: dict[Contrast, Volume]) -> tuple[dict[Contrast, Volume], sitk.Transform]:
    """T1w, and T2w after a nod, on a grid of its own."""
    nod = sitk.Euler3DTransform()
    nod.SetParameters([math.radians(5), 0, 0, 3, -6, 5])
    scan = heads[T2W]
    affine = scan.affine.copy()
    affine[:3, 3] += (4, -4, 0)
    there = scan.resampled_onto(
        Volume.of(np.zeros((44, 52, 46)), affine), transform=nod.GetInverse()
    )
    return {T1W: heads[T1W], T2W: there}, nod


def similarity(one: Volume, other: Volume) -> float:
    return float(np.corrcoef(one.voxels.ravel(), other.voxels.ravel())[0, 1])


@pytest.mark.usefixtures("seeing")
def test_onto_one_grid_with_a_mask(
    heads: dict[Contrast, Volume], moved: tuple[dict[Contrast, Volume], sitk.Transform]
) -> None:
    scans, nod = moved
    ready = prepare(scans, bias_correction=False, strip=True)
    assert list(ready) == [T1W, T2W]
    first, second = ready["T1w"], ready["T2w"]  # type: ignore[index]
    assert second.volume.shape == heads[T1W].shape
    assert np.array_equal(second.volume.affine, heads[T1W].affine)
    assert (first.space, second.space) == (T1W, T1W)
    assert first.transform is None
    assert second.transform is not None
    for point in ((0.0, 0, 0), (60, 50, -40), (-50, 60, 50)):
        found, true = (t.TransformPoint(point) for t in (second.transform, nod))
        assert np.linalg.norm(np.subtract(found, true)) < 0.5
    assert first.brain is not None
    inside = first.brain.mask.voxels > 0
    for one in ready.values():
        assert not one.volume.voxels[~inside].any()
        assert one.volume.voxels[inside].all()
    stripped = heads[T2W].like(heads[T2W].voxels * inside)
    assert similarity(second.volume, stripped) > 0.97
    aligned = second.steps["Registration"]
    assert aligned["Reference"] == "T1w"
    assert aligned["MutualInformationAfter"] > aligned["MutualInformationBefore"]
    assert aligned["TurnDegrees"] == pytest.approx(5, abs=0.4)
    matrix = np.array(aligned["MatrixLPS"])
    place = np.array([20.0, -30, 10])
    np.testing.assert_allclose(
        matrix[:, :3] @ place + matrix[:, 3], second.transform.TransformPoint(place), atol=1e-9
    )
    assert second.steps["BiasCorrection"] is False


def test_each_by_itself(heads: dict[Contrast, Volume]) -> None:
    steps = Steps(bias_correction=False, registration=False, spacing=8.0)
    ready = prepare_person({T1W: heads[T1W], T2W: heads[T2W]}, steps)
    for contrast, one in ready.items():
        assert one.space is contrast
        assert one.volume.spacing == pytest.approx((8, 8, 8))
        assert one.steps["Registration"] is False
        assert one.steps["Resampling"]["SpacingMillimetres"] == [8, 8, 8]
        assert one.steps["Resampling"]["Onto"] == contrast


@pytest.mark.usefixtures("quick")
def test_one_that_fails_does_not_stop_the_others(heads: dict[Contrast, Volume]) -> None:
    noise = heads[T2W].like(np.random.default_rng(0).random(heads[T2W].shape) + 1, name="n.nii")
    scans = {T1W: heads[T1W], T2W: noise}
    told: dict[Contrast, InputError] = {}
    ready = prepare_person(scans, Steps(), failed=told.__setitem__)
    assert list(ready) == [T1W]
    assert ready[T1W].steps["BiasCorrection"]["Method"] == "N4"
    assert "could not be registered" in str(told[T2W])
    with pytest.raises(InputError, match="could not be registered"):
        prepare_person(scans, Steps(bias_correction=False))


@pytest.mark.usefixtures("seeing")
def test_brain_masks_are_doubted(heads: dict[Contrast, Volume]) -> None:
    scan = heads[T1W]
    odd = Volume.of(scan.voxels, scan.affine / np.array([2, 2, 2, 1]), name="odd.nii")
    steps = Steps(bias_correction=False, brain_mask=True)
    (one,) = prepare_person({T1W: odd}, steps).values()
    assert one.warnings[0].startswith('"odd.nii" does not look like the MRI of a head')
    assert one.brain is not None
    millilitres = one.brain.mask.voxels.sum() * 2**3 / 1000  # mm3 -> ml
    assert f'"odd.nii" holds {millilitres:.0f} ml; 700 to 2200' in one.warnings[1]
    with pytest.raises(InputError, match=r'no brain is seen in "phantom-1_T1w'):
        prepare_person({T1W: scan.like(np.where(scan.voxels > 0, -scan.voxels, 0))}, steps)


def test_without_the_network(
    heads: dict[Contrast, Volume], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(medi2i.zoo, "FOLDER", tmp_path)
    with pytest.raises(ModelError, match='network "glance" does not come'):
        prepare(heads[T1W], bias_correction=False, brain_mask=True)


def test_contrasts_in_python(heads: dict[Contrast, Volume]) -> None:
    assert medi2i.prepare is prepare
    nameless = Volume.of(heads[T1W].voxels, heads[T1W].affine)
    (one,) = prepare(nameless, contrast="t1", bias_correction=False, spacing=9.0)
    assert one is T1W
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ([nameless, nameless], {"contrast": "t1"}, UsageError, "given for 2 scans"),
        ([], {}, UsageError, "no scan was given to prepare"),
        ([heads[T1W]] * 2, {}, ContrastError, "two scans are T1w"),
        ({"t1": nameless, "T1w": nameless}, {}, ContrastError, "name one contrast twice"),
        (heads[T1W], {"onto": "t2"}, UsageError, "T2w was asked for as the reference; the scans"),
    ]
    for scans, options, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            prepare(scans, bias_correction=False, **options)


@pytest.mark.parametrize("reference", [T1W, T2W, T1CE])
def test_names_tell_their_contrast(reference: Contrast) -> None:
    for pattern in ("sub-1_ses-2_{}.nii.gz", "{}.nii", "IXI002-Guys-0828-{}.nii.gz"):
        sources = {c: Path("raw") / pattern.format(c) for c in (T1W, T2W, T1CE)}
        if not pattern.startswith("sub"):
            sources[T1CE] = Path("raw") / pattern.format("t1c")
        places = Places(Path("out"), sources, reference, masks=True, pictures=True)
        paths = list(places.paths())
        assert len(set(paths)) == len(paths) == 3 + 3 + 2 + 2 + 1
        for contrast in sources:
            assert contrast_of(places.scan(contrast)) is contrast
            assert ("space-" in places.scan(contrast).name) is (contrast is not reference)
        assert contrast_of(places.mask(reference)) is None


def test_a_transform_beside_a_scan_that_was_moved_is_not_used_again(tmp_path: Path) -> None:
    """Raw scans beside the transform are moved by it; those in another's space already, not."""
    voxels = np.zeros((12, 12, 12), np.float32)
    voxels[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).uniform(1, 9, (6, 6, 6))
    name = "sub-1_from-T2w_to-T1w_mode-image_xfm.tfm"
    for study, second in (("raw", "sub-1"), ("done", "sub-1_space-T1w_desc-preproc")):
        anat = tmp_path / study / "sub-1" / "anat"
        moved = np.roll(voxels, 2, 0) if study == "raw" else voxels
        save_volume(Volume.of(voxels), anat / "sub-1_T1w.nii")
        save_volume(Volume.of(moved), anat / f"{second}_T2w.nii")
        sitk.WriteTransform(sitk.TranslationTransform(3, (-2.0, 0, 0)), str(anat / name))
        (subject,) = find_cohort(tmp_path / study)
        assert (T2W, T1W) in subject.transforms
        together = load_together(subject, [T1W, T2W])
        np.testing.assert_allclose(together[T2W].voxels, voxels, atol=1e-4)
    atlas = anat / "sub-1_space-MNI152_T2w.nii"
    (anat / f"{second}_T2w.nii").rename(atlas)
    (subject,) = find_cohort(tmp_path / "done")
    np.testing.assert_array_equal(load_together(subject, [T1W, T2W])[T2W].voxels, voxels)


def test_real_thick_slices(shared_data: Path) -> None:
    """RAW12s1: what is found agrees with the transform that comes with the data."""
    (subject,) = (s for s in find_cohort(shared_data / "openms") if s.name == "sub-RAW12s1")
    flair = Contrast.FLAIR
    scans = {c: load_volume(subject.scans[c]) for c in (flair, T1W)}
    ready = prepare_person(scans, Steps(bias_correction=False))
    given = sitk.ReadTransform(str(subject.transforms[T1W, flair]))
    found = ready[T1W].transform
    assert found is not None
    centre = scans[flair].affine @ [*(np.array(scans[flair].shape) / 2), 1]
    points = [(centre[:3] + d) * [-1, -1, 1] for d in np.eye(3) * 40]
    gaps = [np.subtract(found.TransformPoint(p), given.TransformPoint(p)) for p in points]
    assert max(map(np.linalg.norm, gaps)) < 1.5
    assert json.dumps(ready[T1W].steps)


def test_a_result_never_falls_on_an_input(tmp_path: Path) -> None:
    """Whatever it is called, and even where overwriting is allowed."""
    names = {T1W: "t1.nii.gz", T2W: "t1_desc-preproc_T1w.nii.gz"}
    sources = {contrast: tmp_path / name for contrast, name in names.items()}
    places = Places(tmp_path, sources, None)
    with pytest.raises(UsageError, match=r"t1_desc-preproc_T1w.nii.gz\" is an input; another"):
        check_places(places, overwrite=True)
