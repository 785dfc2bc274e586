from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.errors import DimensionError, UsageError
from medi2i.networks.deformation import jacobian_determinant, least_jacobian
from medi2i.simulate import bending
from medi2i.simulate.bending import Bend, draw_bend
from medi2i.volume import load_volume

SHAPE = (50, 62, 55)
STILL: dict[str, float] = {"degrees": 0, "zoom": 0, "shear": 0, "strength": 0, "flip": 0}


def draw(seed: int, shape: tuple[int, ...] = SHAPE, /, **ranges: float) -> Bend:
    return draw_bend(shape, np.random.default_rng(seed), **ranges)


def field(bend: Bend) -> torch.Tensor:
    return torch.from_numpy(bend.displacement)[None]


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int16]:
    """Smooth regions of five labels, different in every part of the volume."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(7).standard_normal(SHAPE), 4)
    regions: NDArray[np.int64] = np.digitize(smooth / smooth.std(), [-1, -0.3, 0.3, 1])
    return (100 * regions).astype(np.int16)


def matrix_of(bend: Bend) -> NDArray[np.float64]:
    """The matrix of an affine bend, from differences between its corners."""
    u = bend.displacement.astype(np.float64)
    last = [n - 1 for n in bend.shape]
    ends = (u[:, -1, 0, 0], u[:, 0, -1, 0], u[:, 0, 0, -1])
    slopes = [(end - u[:, 0, 0, 0]) / n for end, n in zip(ends, last, strict=True)]
    return np.eye(3) + np.stack(slopes, axis=1)


# --- one seed, one head ---------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(labels: NDArray[np.int16]) -> None:
    first, again, other = draw(3), draw(3), draw(4)
    assert first.displacement.tobytes() == again.displacement.tobytes()
    assert first.labels(labels).tobytes() == again.labels(labels).tobytes()
    image = labels.astype(np.float32)
    assert first.image(image).tobytes() == again.image(image).tobytes()
    assert np.abs(first.displacement - other.displacement).max() > 1
    assert {draw(seed, (8, 8, 8)).flipped for seed in range(12)} == {False, True}


def test_what_is_drawn_afterwards_does_not_depend_on_the_ranges() -> None:
    following = set()
    for ranges in ({}, STILL, {"strength": 60.0}):
        rng = np.random.default_rng(5)
        draw_bend((24, 24, 24), rng, **ranges)
        following.add(rng.random())
    assert len(following) == 1


# --- a diffeomorphism -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_jacobian_is_positive_everywhere(seed: int) -> None:
    u = field(draw(seed, (80, 96, 88)))
    determinant = jacobian_determinant(u)
    assert determinant.min() > 0.05
    assert determinant.max() > 1.2  # it does bend
    assert least_jacobian(u) > 0.05


def test_what_would_fold_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = {"strength": 40.0, "scale": 8.0}
    tamed = field(draw(0, **ranges))
    assert least_jacobian(tamed) > 0
    assert torch.equal(tamed, field(draw(0, **ranges)))
    with monkeypatch.context() as patch:
        patch.setattr(bending, "LEAST", -math.inf)
        assert least_jacobian(field(draw(0, **ranges))) < 0
    monkeypatch.setattr(bending, "LEAST", 0.6)
    assert least_jacobian(field(draw(0, degrees=0, zoom=0, shear=0))) > 0.55


def test_the_velocity_is_as_strong_and_as_smooth_as_asked() -> None:
    strength = 0.01  # so weak that displacement and velocity are the same
    deviations = []
    for seed in range(4):
        bend = draw(seed, (160, 160, 160), **{**STILL, "strength": strength})
        u = bend.lattice[:, 4:-4, 4:-4, 4:-4].astype(np.float64)
        pitch = 159 / (bend.lattice.shape[1] - 1)
        for component in u:
            deviations.append(component.std() / strength)
            slope = np.mean([np.diff(component, axis=a).std() for a in range(3)]) / pitch
            width = component.std() / slope / math.sqrt(2)  # of the Gaussian behind the field
            assert 0.65 * 14 < width < 1.65 * 14
    assert 0.2 < min(deviations) < 0.5
    assert 0.7 < max(deviations) < 1.2


def test_displacements_are_of_some_millimetres() -> None:
    spread = [draw(seed, (160, 180, 160), **{**STILL, "strength": 4}).lattice for seed in range(4)]
    for lattice in spread:
        assert 1.0 < np.sqrt((lattice**2).mean()) < 5.0


# --- pose -----------------------------------------------------------------------------------------


def test_nothing_asked_nothing_moves(labels: NDArray[np.int16]) -> None:
    still = draw(0, **STILL)
    assert not still.displacement.any()
    np.testing.assert_array_equal(still.labels(labels), labels)
    image = labels.astype(np.float32)
    np.testing.assert_allclose(still.image(image), image, atol=0.02)  # of 400


def test_turns_about_the_centre() -> None:
    for seed in range(4):
        bend = draw(seed, (51, 61, 55), **{**STILL, "degrees": 10})
        matrix = matrix_of(bend)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-5)
        turn = math.degrees(math.acos((np.trace(matrix) - 1) / 2))
        assert 0.5 < turn < 10 * math.sqrt(3)
        np.testing.assert_allclose(bend.displacement[:, 25, 30, 27], 0, atol=1e-5)


def test_zoom_and_shear() -> None:
    zoomed = matrix_of(draw(1, **{**STILL, "zoom": 0.2}))
    np.testing.assert_allclose(zoomed, np.diag(np.diag(zoomed)), atol=1e-6)
    assert (np.abs(np.diag(zoomed) - 1) <= 0.2).all()
    assert np.ptp(np.diag(zoomed)) > 0.01  # not the same along all axes
    sheared = matrix_of(draw(1, **{**STILL, "shear": 0.1}))
    np.testing.assert_allclose(np.diag(sheared), 1, atol=1e-6)
    assert np.linalg.det(sheared) == pytest.approx(1, abs=1e-5)
    assert 0.01 < np.abs(sheared - np.eye(3)).max() <= 0.1


def test_the_affine_map_follows_the_diffeomorphism() -> None:
    whole, bent, posed = draw(2), draw(2, degrees=0, zoom=0, shear=0), draw(2, strength=0)
    matrix, centre = matrix_of(posed), (np.array(SHAPE) - 1) / 2
    voxel = np.array([12, 40, 30])
    moved = voxel + bent.displacement[:, 12, 40, 30] - centre
    expected = matrix @ moved + centre - voxel
    np.testing.assert_allclose(whole.displacement[:, 12, 40, 30], expected, atol=1e-4)


def test_the_flip_exchanges_left_and_right(labels: NDArray[np.int16]) -> None:
    straight, flipped = draw(6, flip=0), draw(6, flip=1)
    assert (straight.flipped, flipped.flipped) == (False, True)
    np.testing.assert_array_equal(flipped.displacement, straight.displacement)
    np.testing.assert_array_equal(flipped.labels(labels), straight.labels(labels)[::-1])
    image = labels.astype(np.float32)
    np.testing.assert_array_equal(flipped.image(image), straight.image(image)[::-1])
    mirror = draw(0, **{**STILL, "flip": 1})
    np.testing.assert_array_equal(mirror.labels(labels), labels[::-1])


# --- labels and images ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_independent_sampler_agrees(seed: int, labels: NDArray[np.int16]) -> None:
    bend = draw(seed)
    at = np.indices(SHAPE) + bend.displacement.astype(np.float64)
    nearest = ndimage.map_coordinates(labels, at, order=0, mode="nearest")
    linear = ndimage.map_coordinates(labels.astype(np.float64), at, order=1, mode="nearest")
    if bend.flipped:
        nearest, linear = nearest[::-1], linear[::-1]
    bent = bend.labels(labels)
    assert (bent != nearest).mean() < 1e-4  # ties, rounded otherwise
    assert (bent != labels).mean() > 0.05
    np.testing.assert_allclose(bend.image(labels.astype(np.float32)), linear, atol=0.05)  # of 400


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint8", "int32", "bool"])
def test_labels_keep_their_type_and_masks_follow(labels: NDArray[np.int16], dtype: str) -> None:
    bend = draw(1)
    bent = bend.labels(labels)
    if dtype == "bool":
        mask = bend.labels(labels == 200)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, bent == 200)
    else:
        tens: NDArray[Any] = np.asfortranarray((labels // 100).astype(dtype))
        result = bend.labels(tens)
        assert result.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(result, bent // 100)


def test_images_stay_within_their_range_and_shares_sum_to_one(labels: NDArray[np.int16]) -> None:
    bend = draw(2)
    shares = [bend.image((labels == value).astype(np.float64)) for value in range(0, 500, 100)]
    assert all(share.dtype == np.float32 and share.shape == SHAPE for share in shares)
    assert min(share.min() for share in shares) >= 0
    np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 20, 5), (2, 2, 2), (9, 1, 1), (17, 4, 40)])
def test_small_and_thin_volumes(shape: tuple[int, int, int]) -> None:
    bend = draw(0, shape)
    assert bend.displacement.shape == (3, *shape)
    assert np.isfinite(bend.displacement).all()
    grid = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    assert bend.labels(grid).shape == bend.image(grid.astype(np.float32)).shape == shape
    np.testing.assert_array_equal(draw(0, shape, **STILL).labels(grid), grid)


def test_a_real_head_keeps_its_anatomy(shared_data: Path) -> None:
    path = shared_data / "anatomy" / "head-01.nii.gz"
    if not path.is_file():
        pytest.skip("the label maps of heads are not in ../shared/data/anatomy")
    labels = load_volume(path).canonical().voxels.astype(np.int16)[::2, ::2, ::2].copy()
    ranges: dict[str, float] = {"scale": 7, "strength": 2}  # at 2 mm
    straight = draw(1, labels.shape, **ranges, flip=0).labels(labels)
    flipped = draw(1, labels.shape, **ranges, flip=1).labels(labels)
    assert set(np.unique(straight)) <= set(np.unique(labels))
    for value in (2, 41, 4, 43):  # white matter and ventricles, left and right
        assert 0.6 < (straight == value).sum() / (labels == value).sum() < 1.6

    def right_of(head: NDArray[np.int16]) -> bool:
        left, right = (np.argwhere(head == value)[:, 0].mean() for value in (2, 41))
        return bool(left > right)

    assert right_of(labels) == right_of(straight) != right_of(flipped)
    # a map without folds tears no organ apart
    white = np.isin(straight, (2, 41, 3, 42))
    parts, _ = ndimage.label(white)
    assert np.bincount(parts[white]).max() > 0.98 * white.sum()


# --- refusals -------------------------------------------------------------------------------------


def test_another_shape_or_kind_is_refused(labels: NDArray[np.int16]) -> None:
    bend = draw(0)
    with pytest.raises(DimensionError, match=r"shape \(49, 62, 55\).*\(50, 62, 55\)"):
        bend.labels(labels[1:])
    with pytest.raises(DimensionError, match="draw one for this shape"):
        bend.image(np.zeros((3, *SHAPE), np.float32))
    with pytest.raises(UsageError, match=r"float32.*Bend\.image"):
        bend.labels(labels.astype(np.float32))  # type: ignore[type-var]


@pytest.mark.parametrize(
    "name, value",
    [
        ("degrees", -1.0),
        ("zoom", 1.0),
        ("shear", -0.1),
        ("strength", math.nan),
        ("strength", math.inf),
        ("scale", 0.0),
        ("flip", 1.5),
    ],
)
def test_ranges_without_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}; .* was expected"):
        draw(0, **{name: value})


@pytest.mark.parametrize("shape", [(10, 10), (10, 0, 10), (4, 4, 4, 4)])
def test_shapes_without_sense_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionError, match="three positive sizes"):
        draw(0, shape)
