from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.bicyclegan import BicycleDiscriminator, BicycleGenerator, CodeEncoder


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---- the published sizes


def test_generator_parameters() -> None:
    with torch.device("meta"):
        assert count(BicycleGenerator(dims=2, inputs=1, outputs=1)) == 54_788_481
        assert count(BicycleGenerator(dims=2, inputs=3, outputs=3)) == 54_794_627
        assert count(BicycleGenerator(dims=2, inputs=1, outputs=1, where="input")) == 54_411_649
        without = BicycleGenerator(dims=2, inputs=1, outputs=1, code=0, kind="batch")
        assert count(without) == 54_413_313


def test_encoder_and_discriminator_parameters() -> None:
    with torch.device("meta"):
        assert count(CodeEncoder(dims=2, inputs=1)) == 2_587_984
        assert count(BicycleDiscriminator(dims=2, inputs=1)) == 3_455_906
        assert count(BicycleDiscriminator(dims=2, inputs=2)) == 3_457_442


# ---- the networks, beside the layer list of the sheet


def test_the_generator_is_the_layer_list() -> None:
    """Nested as the paper draws it, with the code beside the input of each strided convolution."""
    torch.manual_seed(0)
    network = BicycleGenerator(dims=2, inputs=2, outputs=1, code=3, depth=6, features=4).eval()
    downs, ups = list(network.down), list(network.up)

    def level(number: int, x: Tensor, z: Tensor) -> Tensor:
        planes = z[:, :, None, None].expand(-1, -1, *x.shape[2:])
        inner = torch.cat([x, planes], 1)
        if number > 0:
            inner = functional.leaky_relu(inner, 0.2)
        inner = downs[number](inner)
        if 0 < number < 5:
            inner = functional.instance_norm(inner)
        if number < 5:
            inner = level(number + 1, inner, z)
        up = ups[5 - number](functional.relu(inner))
        if number == 0:
            return torch.tanh(up)
        return torch.cat([functional.instance_norm(up), x], 1)

    image, code = torch.randn(2, 2, 128, 64), torch.randn(2, 3)
    torch.testing.assert_close(network(image, code), level(0, image, code))


def test_the_encoder_is_the_layer_list() -> None:
    torch.manual_seed(0)
    network = CodeEncoder(dims=2, inputs=1, code=2, features=2)
    weights = iter(network.parameters())

    def convolved(x: Tensor, **how: Any) -> Tensor:
        return functional.conv2d(x, next(weights), next(weights), **how)

    image = torch.randn(2, 1, 256, 256)
    x = convolved(image, stride=2, padding=1)
    for _ in range(4):
        inner = convolved(functional.leaky_relu(functional.instance_norm(x), 0.2), padding=1)
        inner = convolved(functional.leaky_relu(functional.instance_norm(inner), 0.2), padding=1)
        x = functional.avg_pool2d(inner, 2) + convolved(functional.avg_pool2d(x, 2))
    assert x.shape == (2, 8, 8, 8)  # so that the authors' mean over 8 x 8 is ours
    x = functional.avg_pool2d(functional.leaky_relu(x, 0.2), 8).flatten(1)
    for ours in network(image):
        torch.testing.assert_close(ours, functional.linear(x, next(weights), next(weights)))


def test_maps_of_a_256_image_and_widths_of_the_scales() -> None:
    with torch.device("meta"):
        network = BicycleDiscriminator(dims=2, inputs=2, scales=3)
        shapes = [tuple(m.shape) for m in network(torch.zeros(1, 2, 256, 256))]
    assert shapes == [(1, 1, 30, 30), (1, 1, 14, 14), (1, 1, 6, 6)]
    firsts: list[Any] = [judge.judge[0] for judge in network.judges]  # type: ignore[index]
    assert [first.out_channels for first in firsts] == [64, 32, 8]


@pytest.mark.parametrize(("scale", "extent"), [(0, 70), (1, 141)])
def test_field_of_view_by_gradient(scale: int, extent: int) -> None:
    network = BicycleDiscriminator(dims=2, inputs=1, features=1, kind="none")
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)  # so that nothing cancels
    image = torch.ones(1, 1, 256, 256, requires_grad=True)
    logits = network(image)[scale]
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (extent, extent)


@pytest.mark.parametrize("dims", [2, 3])
def test_interpolated_doubling_keeps_the_size(dims: int) -> None:
    network = BicycleGenerator(
        dims=dims, inputs=1, outputs=2, code=2, depth=3, features=2, up="linear"
    )
    output = network(torch.randn(1, 1, *(16,) * dims), torch.randn(1, 2))
    assert output.shape == (1, 2, *(16,) * dims)
    # a kernel of 3 instead of 4; the decoder reads 8, 2 x 4 and 2 x 2 channels
    transposed = BicycleGenerator(dims=dims, inputs=1, outputs=2, code=2, depth=3, features=2)
    reads = 8 * 4 + 8 * 2 + 4 * 2
    assert count(transposed) - count(network) == (4**dims - 3**dims) * reads


def test_without_a_code_it_is_a_plain_generator() -> None:
    network = BicycleGenerator(dims=2, inputs=1, outputs=1, code=0, depth=3, features=2)
    assert network(torch.randn(2, 1, 16, 16), torch.zeros(2, 0)).shape == (2, 1, 16, 16)
    with pytest.raises(UsageError, match=r"code of shape \(2, 3\) given; \(2, 0\) expected"):
        network(torch.randn(2, 1, 16, 16), torch.zeros(2, 3))
