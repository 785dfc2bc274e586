from __future__ import annotations

import pytest
import torch

from medi2i.networks.views import random_view

STILL = {"turn": 0.0, "shear": 0.0, "resize": 0.0, "shift": 0.0}


@pytest.mark.parametrize("dims", [2, 3])
def test_without_movement_only_the_first_axis_is_mirrored(dims: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(12, 2, *[8] * dims)
    views = random_view(images, **STILL)
    mirrored = 0
    for image, view in zip(images, views, strict=True):
        is_mirrored = torch.allclose(view, image.flip(1), atol=1e-5)
        assert is_mirrored or torch.allclose(view, image, atol=1e-5)
        mirrored += is_mirrored
    assert 0 < mirrored < 12


@pytest.mark.parametrize("dims", [2, 3])
def test_looks_stay_and_each_image_moves_by_itself(dims: int) -> None:
    torch.manual_seed(0)
    flat = torch.tensor([-1.0, 0.25]).reshape(2, 1, *[1] * dims).expand(2, 1, *[16] * dims)
    torch.testing.assert_close(random_view(flat), flat.contiguous())
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 16)] * dims, indexing="ij")
    blob = torch.exp(-4 * (torch.stack(axes) - 0.3).square().sum(0))
    views = random_view(blob.expand(6, 1, *blob.shape))
    assert (views[1:] - views[:-1]).flatten(1).abs().amax(1).min() > 0.05
    assert float(views.max()) <= 1.0001
    assert 0.5 < float(views.mean() / blob.mean()) < 1.5


def test_shifts_are_shares_of_the_image() -> None:
    torch.manual_seed(0)
    axis = torch.linspace(-1, 1, 101)
    ramp = axis[None, :].expand(101, 101).expand(200, 1, 101, 101)
    centres = random_view(ramp, **(STILL | {"shift": 0.1}))[:, 0, 50, 50]
    assert float(centres.abs().max()) <= 0.2 + 0.01  # a tenth of a range of 2
    assert float(centres.abs().max()) > 0.17
