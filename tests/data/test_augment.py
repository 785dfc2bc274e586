from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medi2i.data.augment import Augmentation

SPATIAL = ("flip", "affine", "elastic")
LOOKS = ("bias", "gamma", "noise", "anisotropy")
SHAPES = {"slice": (24, 20, 1), "slab": (24, 20, 3), "patch": (20, 16, 18)}


def only(*changes: str, **numbers: float) -> Augmentation:
    off: Any = dict.fromkeys((*SPATIAL, *LOOKS), 0.0)
    return Augmentation(**{**off, **dict.fromkeys(changes, 1.0), **numbers})


def window(shape: tuple[int, ...], channels: int = 1) -> Tensor:
    """(C, X, Y, Z): a bright lopsided blob with some texture in air, in [-1, 1]."""
    axes = [torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    blob = torch.exp(-4 * ((x - 0.2) ** 2 + (y + 0.1) ** 2 + z**2)) * (1.2 + torch.sin(9 * x))
    image = blob / blob.max() * 2 - 1
    return torch.stack([image * 0.9**channel for channel in range(channels)])


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SHAPES[request.param]


def tissue(image: Tensor) -> Tensor:
    return (image[:1] > -0.9).float()


@pytest.mark.parametrize("change", [*SPATIAL, *LOOKS])
def test_the_same_seed_gives_the_same_bytes(change: str, shape: tuple[int, ...]) -> None:
    image, change_ = window(shape), only(change)
    first, second, other = (change_(image, image, tissue(image), seed=seed) for seed in (1, 1, 2))
    for one, again in zip(first, second, strict=True):
        assert one.shape == image.shape
        assert torch.isfinite(one).all()
        assert torch.equal(one, again)
    assert not torch.allclose(first[0], image, atol=1e-3)
    if change not in ("flip", "anisotropy"):  # which have little or nothing to draw
        assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("change", SPATIAL)
def test_places_change_alike_on_both_sides(change: str, shape: tuple[int, ...]) -> None:
    image = window(shape, channels=2)
    source, target, weight = only(change)(image, image[:1], (image[:1] + 1) / 2, seed=3)
    torch.testing.assert_close(source[:1], target, rtol=0, atol=1e-6)
    torch.testing.assert_close(weight, ((target + 1) / 2).clamp(0, 1), rtol=0, atol=1e-5)
    assert not torch.allclose(target, image[:1], atol=1e-2)


@pytest.mark.parametrize("change", LOOKS)
def test_looks_change_the_source_alone(change: str, shape: tuple[int, ...]) -> None:
    image = window(shape)
    source, target, weight = only(change)(image, image, tissue(image), seed=3)
    torch.testing.assert_close(target, image, rtol=0, atol=1e-6)
    assert torch.equal(weight, tissue(image))
    assert not torch.allclose(source, image, atol=1e-3)


def test_flip_mirrors_left_and_right() -> None:
    image = window(SHAPES["patch"])
    source, _, _ = only("flip")(image, image, tissue(image), seed=0)
    torch.testing.assert_close(source, image.flip(1), rtol=0, atol=1e-6)


def test_air_stays_air_where_something_turned_away() -> None:
    bright = torch.ones(1, 24, 24, 1)
    turn = only("affine", degrees=40.0, zoom=0.0)
    source, _, weight = turn(bright, bright, torch.ones_like(bright), seed=5)
    assert float(source.min()) == pytest.approx(-1, abs=1e-6)
    assert float(weight.min()) == 0


def test_slabs_keep_to_their_plane() -> None:
    """Every slice of a slab of equal slices is changed like the others."""
    image = window(SHAPES["slice"]).expand(-1, -1, -1, 3).contiguous()
    source, _, _ = only("affine", "elastic")(image, image, tissue(image), seed=4)
    for place in (0, 2):
        torch.testing.assert_close(source[..., place], source[..., 1], rtol=0, atol=1e-4)


def test_global_random_numbers_are_left_alone() -> None:
    def drawn() -> list[Any]:
        return [torch.rand(3).tolist(), np.random.random(3).tolist(), random.random()]  # noqa: NPY002, S311

    def seeded() -> None:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - the very generator that must not be touched
        random.seed(0)

    seeded()
    expected = drawn()
    seeded()
    image = window(SHAPES["slab"])
    only(*SPATIAL, *LOOKS)(image, image, tissue(image), seed=1)
    assert drawn() == expected


def test_none_is_the_identity() -> None:
    image = window(SHAPES["slab"])
    none = Augmentation.none()
    assert not none.active
    assert Augmentation().active
    given = (image, image, tissue(image))
    assert all(a is b for a, b in zip(none(*given, seed=1), given, strict=True))


def test_a_small_chance_usually_does_nothing() -> None:
    image = window(SHAPES["slice"])
    rarely = only(noise=1e-9)
    source, _, _ = rarely(image, image, tissue(image), seed=0)
    torch.testing.assert_close(source, image, rtol=0, atol=1e-6)
