from __future__ import annotations

import numpy as np
import pytest
import torch

from medi2i.losses import unexplained


def scan(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 2, 8, 8, 8)])
def test_what_intensities_tell_is_no_surprise(shape: tuple[int, ...]) -> None:
    source = scan(*shape)
    told = (1 - 2 * source + source**3).sum(1, keepdim=True)
    assert float(unexplained(source, told).max()) < 0.01


def test_a_lesion_stands_out_and_what_is_as_dark_elsewhere_does_not() -> None:
    source = scan(1, 1, 32, 32)
    target = -source
    lesion = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    lesion[..., 4:8, 4:8] = True
    source[lesion], target[lesion] = -0.9, 0.0  # elsewhere -0.9 becomes 0.9
    surprise = unexplained(source, target)
    assert float(surprise[lesion].min()) > 5 * float(surprise[~lesion].median())
    assert float(surprise[lesion].min()) > 1


def test_it_is_the_weighted_cubic_of_least_squares() -> None:
    source, target, weight = scan(1, 2, 9, 7), scan(1, 1, 9, 7, seed=1), scan(1, 1, 9, 7, seed=2)
    weight = (weight + 1) / 2
    s, r, w = (t[0].double().flatten(1).numpy() for t in (source, target, weight))
    known = np.stack([np.ones_like(s[0]), *s, *s**2, *s**3], axis=1)
    root = np.sqrt(w[0])
    fit, *_ = np.linalg.lstsq(known * root[:, None], r[0] * root, rcond=None)
    mean = np.average(r[0], weights=w[0])
    deviation = np.sqrt(np.average((r[0] - mean) ** 2, weights=w[0]))
    expected = np.minimum(np.abs(r[0] - known @ fit) / deviation, 3)
    found = unexplained(source, target, weight)[0, 0].flatten().double().numpy()
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_what_does_not_count_decides_nothing_and_each_channel_is_alone() -> None:
    source, target = scan(2, 1, 12, 12), scan(2, 3, 12, 12, seed=1)
    weight = torch.ones(2, 3, 12, 12)
    weight[..., :6] = 0
    spoiled = target.clone()
    spoiled[..., :6] = 100
    inside = (..., slice(6, None))
    found = unexplained(source, target, weight)[inside]
    torch.testing.assert_close(unexplained(source, spoiled, weight)[inside], found)
    for c in range(3):
        alone = unexplained(source, target[:, c : c + 1], weight[:, c : c + 1])
        torch.testing.assert_close(alone[inside], found[:, c : c + 1])


def test_flat_images_and_no_weight_at_all_stay_finite() -> None:
    flat = torch.full((1, 1, 8, 8), -1.0)
    assert float(unexplained(flat, flat).max()) < 0.01
    assert torch.isfinite(unexplained(flat, scan(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))).all()
