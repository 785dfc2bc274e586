from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import (
    Conditional,
    avg_pool,
    check_dims,
    conv,
    conv_transpose,
    dropout,
    fold,
    max_pool,
    norm,
    pad_to_multiple,
    unfold,
)

SPATIAL = {2: (6, 12), 3: (6, 12, 18)}


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.tensor(shape).prod())).reshape(shape)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_unfold_undoes_fold(dims: int, factor: int) -> None:
    image = numbered(2, 3, *SPATIAL[dims])
    folded = fold(image, factor)
    assert folded.shape == (2, 3 * factor**dims, *(size // factor for size in SPATIAL[dims]))
    assert torch.equal(unfold(folded, factor), image)


def test_fold_keeps_neighbours_together() -> None:
    flat = fold(numbered(1, 1, 4, 4), 2)
    assert flat[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    solid = fold(numbered(1, 1, 4, 4, 4), 2)
    assert solid[0, :, 0, 0, 0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]
    # and each contrast keeps to itself: all of the first before any of the second
    assert fold(numbered(1, 2, 4, 4, 4), 2)[0, :8].max() < 64


def test_pad_to_multiple_repeats_the_far_edges() -> None:
    padded, crop = pad_to_multiple(numbered(1, 1, 2, 3), 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(padded[crop], numbered(1, 1, 2, 3))


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (1, 7), (3, 8, 5)])
def test_padding_is_cut_off_again(shape: tuple[int, ...]) -> None:
    image = numbered(2, 1, *shape)
    padded, crop = pad_to_multiple(image, 4)
    assert all(size % 4 == 0 for size in padded.shape[2:])
    assert torch.equal(padded[crop], image)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_fresh_condition_changes_nothing_and_a_trained_one_does(dims: int) -> None:
    layer = Conditional(3, 2)
    image = torch.randn(3, 2, *SPATIAL[dims])
    asked = torch.eye(3)
    assert torch.equal(layer(image, asked), image)
    with torch.no_grad():
        layer.scale_shift.weight[0, 1] = 0.5  # scales the first channel for the second condition
        layer.scale_shift.weight[3, 2] = -1.0  # shifts the second channel for the third
    changed = layer(image, asked)
    assert torch.equal(changed[0], image[0])
    torch.testing.assert_close(changed[1, 0], 1.5 * image[1, 0])
    assert torch.equal(changed[1, 1], image[1, 1])
    torch.testing.assert_close(changed[2, 1], image[2, 1] - 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_batch_norm_of_a_batch_of_one_is_instance_norm(dims: int) -> None:
    image = torch.randn(1, 4, *SPATIAL[dims]) * 3 + 2
    batch, instance = (norm(kind, dims, 4)(image) for kind in ("batch", "instance"))
    torch.testing.assert_close(batch, instance, rtol=0, atol=2e-6)


def test_instance_norm_keeps_no_statistics_and_norm_may_be_absent() -> None:
    assert not dict(norm("instance", 2, 4).named_buffers())
    assert isinstance(norm("none", 3, 4), nn.Identity)
    assert not list(norm("instance", 3, 4, affine=False).parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_layers_know_their_dimensions(dims: int) -> None:
    image = torch.randn(1, 2, *(8,) * dims)
    assert conv(dims, 2, 5, 3, padding=1)(image).shape == (1, 5, *(8,) * dims)
    assert conv_transpose(dims, 2, 5, 2, stride=2)(image).shape == (1, 5, *(16,) * dims)
    pool = functional.max_pool2d if dims == 2 else functional.max_pool3d
    assert torch.equal(max_pool(dims)(image), pool(image, 2))
    assert avg_pool(dims)(image).shape == (1, 2, *(4,) * dims)
    assert dropout(dims, 0.5).eval()(image) is image


@pytest.mark.parametrize("dims", [0, 1, 4])
def test_other_dimensions_are_refused(dims: int) -> None:
    with pytest.raises(UsageError, match=f"dims is {dims}; 2 .* or 3 .* was expected"):
        check_dims(dims)
