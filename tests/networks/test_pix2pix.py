from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medi2i.errors import UsageError
from medi2i.networks.pix2pix import PatchDiscriminator, Pix2pixGenerator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def generator(**changes: Any) -> Pix2pixGenerator:
    torch.manual_seed(0)
    return Pix2pixGenerator(
        **({"dims": 2, "inputs": 1, "outputs": 1, "depth": 4, "features": 4} | changes)
    )


# ---- the published sizes


@pytest.mark.parametrize(
    ("channels", "kind", "parameters"),
    [(1, "batch", 54_407_809), (1, "instance", 54_403_457), (3, "batch", 54_413_955)],
)
def test_generator_parameters(channels: int, kind: Any, parameters: int) -> None:
    with torch.device("meta"):
        network = Pix2pixGenerator(dims=2, inputs=channels, outputs=channels, kind=kind)
    assert count(network) == parameters


def test_the_lua_generator_differs_by_its_biases() -> None:
    """Lua torch keeps a bias in every convolution (and resets it to zero in each step)."""
    with torch.device("meta"):
        network = Pix2pixGenerator(dims=2, inputs=1, outputs=1)
    left_out = sum(
        module.out_channels
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is None
    )
    assert count(network) + left_out == 54_413_313


@pytest.mark.parametrize(
    ("layers", "parameters"),
    [(0, 8_768), (1, 135_489), (2, 662_337), (3, 2_764_609), (4, 6_959_937), (5, 11_155_265)],
)
def test_discriminator_parameters(layers: int, parameters: int) -> None:
    with torch.device("meta"):
        network = PatchDiscriminator(dims=2, inputs=2, layers=layers)
    assert count(network) == parameters


def test_discriminator_parameters_with_instance_norm() -> None:
    with torch.device("meta"):
        network = PatchDiscriminator(dims=2, inputs=2, layers=3, kind="instance")
    assert count(network) == 2_763_713


# ---- what the discriminator sees


@pytest.mark.parametrize(
    ("layers", "extent"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142), (5, 286), (6, 574)]
)
def test_field_of_view_by_gradient(layers: int, extent: int) -> None:
    size = max(32, 2 ** (layers + 4))
    network = PatchDiscriminator(dims=2, inputs=1, layers=layers, features=1, kind="none")
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)  # so that nothing cancels
    image = torch.ones(1, 1, size, size, requires_grad=True)
    logits = network(image)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (extent, extent)


@pytest.mark.parametrize(
    ("layers", "cells"), [(0, 256), (1, 126), (2, 62), (3, 30), (4, 14), (5, 6)]
)
def test_map_of_a_256_image(layers: int, cells: int) -> None:
    network = PatchDiscriminator(dims=2, inputs=2, layers=layers, features=1)
    assert network(torch.zeros(1, 2, 256, 256)).shape == (1, 1, cells, cells)


def test_discriminator_in_3d() -> None:
    network = PatchDiscriminator(dims=3, inputs=2, layers=2, features=2, kind="instance")
    assert network(torch.randn(1, 2, 32, 32, 32)).shape == (1, 1, 6, 6, 6)


# ---- the generator


@pytest.mark.parametrize("dims", [2, 3])
def test_generator_keeps_the_size_within_minus_one_and_one(dims: int) -> None:
    image = 5 * torch.randn(1, 2, 16, *(32,) * (dims - 1))
    output = generator(dims=dims, inputs=2, outputs=3)(image)
    assert output.shape == (1, 3, 16, *(32,) * (dims - 1))
    assert output.abs().max() <= 1


def test_eight_halvings_take_multiples_of_256_only() -> None:
    network = generator(depth=8, features=1).eval()
    assert network(torch.zeros(1, 1, 512, 256)).shape == (1, 1, 512, 256)
    with pytest.raises(UsageError, match=r"\(128, 128\) given; multiples of 256 expected"):
        network(torch.zeros(1, 1, 128, 128))


def test_fewer_than_three_halvings_are_refused() -> None:
    with pytest.raises(UsageError, match="depth is 2"):
        generator(depth=2)


def test_dropout_makes_passes_differ_in_training_alone() -> None:
    network = generator(depth=6, kind="instance", dropout=0.5)
    image = torch.randn(1, 1, 64, 64)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("dims", "depth", "places"), [(2, 8, [1, 2, 3]), (2, 7, [1, 2]), (2, 5, []), (3, 4, [])]
)
def test_dropout_lies_above_the_innermost_stage(dims: int, depth: int, places: list[int]) -> None:
    network = generator(dims=dims, depth=depth, features=1)
    noisy = [place for place, drop in enumerate(network.drop) if isinstance(drop, nn.Dropout)]
    assert noisy == places


def test_without_skips_it_is_smaller_and_paints_something_else() -> None:
    whole, severed = generator(), generator(skip=False)
    # the up-convolutions of levels 2, 1, 0 read 16, 8, 4 channels fewer, 4 x 4 taps each
    assert count(whole) - count(severed) == 16 * (16 * 8 + 8 * 4 + 4 * 1)
    image = torch.randn(1, 1, 16, 16)
    assert not torch.allclose(whole(image), severed(image))


@pytest.mark.parametrize("skip", [True, False])
def test_the_first_layer_learns_through_the_outermost_skip(skip: bool) -> None:
    network = generator(skip=skip, kind="instance")
    second: Any = network.down[1]
    nn.init.zeros_(second.weight)  # nothing comes through the depths
    network(torch.randn(1, 1, 16, 16)).sum().backward()
    first: Any = network.down[0]
    assert bool(first.weight.grad.any()) is skip


def test_initial_weights() -> None:
    network = generator(depth=5, features=32, kind="batch")
    inner: Any = network.down[3]
    scale: Any = network.down_norm[2]
    assert float(inner.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(scale.weight.detach().mean()) == pytest.approx(1, abs=0.01)
    assert not scale.bias.any()
