from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medi2i.data.motion import checked_method, slice_field, slice_fields
from medi2i.errors import DimensionError, UsageError
from medi2i.networks.deformation import warp

Array = NDArray[Any]
SIZE = (72, 60)


def head(size: tuple[int, int] = SIZE) -> Array:
    """A textured disc in air."""
    x, y = (a.astype(np.float32) for a in np.meshgrid(*map(np.arange, size), indexing="ij"))
    random = np.random.default_rng(0)
    texture = sum(
        np.cos(2 * np.pi * (x * math.cos(t) + y * math.sin(t)) / wavelength + random.uniform(0, 6))
        for t, wavelength in ((0.3, 14), (1.2, 19), (2.1, 11), (2.9, 24))
    )
    inside = np.hypot(x - size[0] / 2, y - size[1] / 2) < min(size) / 2 - 8
    return np.where(inside, 0.5 + 0.1 * texture, 0).astype(np.float32)


def bent(image: Array, field: Array) -> Array:
    image_, field_ = (torch.from_numpy(np.array(a, np.float32))[None] for a in (image, field))
    return warp(image_[None], field_)[0, 0].numpy()


def shift(by: tuple[float, float]) -> Array:
    return np.broadcast_to(np.array(by, np.float32)[:, None, None], (2, *SIZE)).copy()


def turn(degrees: float) -> Array:
    grid = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij")).astype(np.float32)
    x, y = grid - np.array(SIZE, np.float32)[:, None, None] / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.stack([c * x - s * y - x, s * x + c * y - y])


@pytest.mark.parametrize("method", ["demons", "tvl1"])
@pytest.mark.parametrize(
    "field", [shift((3, 0)), shift((0, -3)), turn(5)], ids=["along x", "along y", "turn"]
)
def test_a_known_motion_is_found(field: Array, method: Any) -> None:
    first = head()
    second = bent(first, field)
    found = slice_field(first, second, method)
    core = (first > 0) & (second > 0)
    missed = np.hypot(*(found - field))[core].mean() / np.hypot(*field)[core].mean()
    assert missed < 0.25
    swapped = np.hypot(*(found[::-1] - field))[core].mean() / np.hypot(*field)[core].mean()
    opposite = np.hypot(*(-found - field))[core].mean() / np.hypot(*field)[core].mean()
    assert min(swapped, opposite) > 1
    before, after = (np.abs(x - second)[core].mean() for x in (first, bent(first, found)))
    assert after < 0.25 * before


def test_nothing_moves_in_air_and_between_equal_slices() -> None:
    image = head()
    assert not slice_field(image, np.zeros_like(image)).any()
    assert np.abs(slice_field(image, image)).max() < 1e-3
    assert not slice_field(image, np.roll(image, 3, 0), "still").any()


def test_the_noise_of_air_moves_nothing() -> None:
    volume = np.stack([head(), bent(head(), shift((2, 0)))], axis=-1)
    tissue = volume > 0
    noisy = np.where(tissue, volume, np.random.default_rng(1).uniform(0, 1, volume.shape))
    (clean,), (blanked,) = (slice_fields(v, tissue) for v in (volume, noisy))
    both = tissue.any(-1)
    assert np.abs(clean - blanked)[:, both].mean() < 0.3, "at the rim alone"
    core = tissue.all(-1)
    assert abs(float(blanked[0][core].mean()) - 2) < 0.3


def test_fields_of_a_volume_lie_between_its_slices() -> None:
    volume = np.stack([head(), bent(head(), shift((2, 0))), bent(head(), shift((2, 2)))], axis=-1)
    fields = slice_fields(volume, volume > 0)
    assert fields.shape == (2, 2, *SIZE)
    core = (volume > 0).all(-1)
    for field, expected in zip(fields, ((2, 0), (0, 2)), strict=True):
        means = field[:, core].mean(1)
        assert means == pytest.approx(expected, abs=0.3)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="known"):
        checked_method("magic")
    with pytest.raises(DimensionError, match="one shape"):
        slice_field(np.ones((4, 4)), np.ones((4, 5)))
