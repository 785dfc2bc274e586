from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import halved
from medi2i.networks.pix2pixhd import FeatureDiscriminator, FeatureEncoder, Pix2pixHDGenerator


def generator(**changes: Any) -> Pix2pixHDGenerator:
    torch.manual_seed(0)
    given = {"dims": 2, "inputs": 1, "outputs": 1, "features": 4, "halvings": 2, "blocks": 2}
    return Pix2pixHDGenerator(**(given | changes))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---- the published sizes


def test_generator_parameters() -> None:
    with torch.device("meta"):
        plain: Any = {"dims": 2, "inputs": 1, "outputs": 1}
        assert count(Pix2pixHDGenerator(**plain)) == 182_430_721
        assert count(Pix2pixHDGenerator(**plain, halvings=3)) == 45_580_801
        assert count(Pix2pixHDGenerator(**plain, features=32, enhancers=1)) == 182_689_281
        assert count(Pix2pixHDGenerator(dims=2, inputs=3, outputs=3)) == 182_443_267


def test_discriminator_and_encoder_parameters() -> None:
    with torch.device("meta"):
        assert count(FeatureDiscriminator(dims=2, inputs=2)) == 5_527_426
        assert count(FeatureDiscriminator(dims=2, inputs=2, scales=3)) == 8_291_139
        assert count(FeatureEncoder(dims=2, inputs=1)) == 787_235


# ---- the networks, beside the layer list of the sheet


class Layers:
    """Applies the sheet's layers with a network's own weights, in their order."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = iter(network.parameters())

    def conv(self, x: Tensor, **how: Any) -> Tensor:
        return functional.conv2d(x, next(self.weights), next(self.weights), **how)

    def mirrored(self, x: Tensor, width: int) -> Tensor:
        return self.conv(functional.pad(x, [width] * 4, mode="reflect"))

    def stem(self, x: Tensor) -> Tensor:
        return functional.instance_norm(self.mirrored(x, 3)).relu()

    def half(self, x: Tensor) -> Tensor:
        return functional.instance_norm(self.conv(x, stride=2, padding=1)).relu()

    def residual(self, x: Tensor) -> Tensor:
        inner = functional.instance_norm(self.mirrored(x, 1)).relu()
        return x + functional.instance_norm(self.mirrored(inner, 1))

    def double(self, x: Tensor) -> Tensor:
        weight, bias = next(self.weights), next(self.weights)
        x = functional.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        return functional.instance_norm(x).relu()

    def head(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mirrored(x, 3))

    def trunk(self, x: Tensor, halvings: int, blocks: int) -> Tensor:
        x = self.stem(x)
        for _ in range(halvings):
            x = self.half(x)
        for _ in range(blocks):
            x = self.residual(x)
        for _ in range(halvings):
            x = self.double(x)
        return x


def test_the_global_generator_is_the_layer_list() -> None:
    network, image = generator(), torch.randn(2, 1, 16, 24)
    layers = Layers(network)
    torch.testing.assert_close(network(image), layers.head(layers.trunk(image, 2, 2)))
    assert next(layers.weights, None) is None


def test_the_local_generator_is_the_layer_list() -> None:
    network, image = generator(enhancers=1, local_blocks=3), torch.randn(2, 1, 16, 24)
    layers = Layers(network)
    smaller = functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
    features = layers.trunk(smaller, 2, 2)
    features = layers.half(layers.stem(image)) + features
    for _ in range(3):
        features = layers.residual(features)
    torch.testing.assert_close(network(image), layers.head(layers.double(features)))
    assert next(layers.weights, None) is None


def test_two_enhancers_halve_twice() -> None:
    network = generator(enhancers=2, features=2)
    assert network.multiple == 16
    first: Any = network.trunk.units[0]
    assert first.conv.out_channels == 2 * 2**2
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 1, 32, 32)


def test_the_encoder_is_the_layer_list() -> None:
    torch.manual_seed(0)
    network = FeatureEncoder(dims=2, inputs=2, outputs=3, features=2, halvings=3)
    layers, image = Layers(network), torch.randn(1, 2, 32, 48)
    torch.testing.assert_close(network(image), layers.head(layers.trunk(image, 3, 0)))


def test_the_discriminator_is_the_layer_list() -> None:
    torch.manual_seed(0)
    network = FeatureDiscriminator(dims=2, inputs=2, features=2)
    layers, image = Layers(network), torch.randn(1, 2, 64, 64)
    for maps in network(image):
        x = image
        for number, ours in enumerate(maps):
            x = layers.conv(x, stride=2 if number < 3 else 1, padding=2)
            x = functional.instance_norm(x) if 0 < number < 4 else x
            x = functional.leaky_relu(x, 0.2) if number < 4 else x
            torch.testing.assert_close(ours, x)
        image = functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False)


def test_maps_of_a_256_image() -> None:
    with torch.device("meta"):
        network = FeatureDiscriminator(dims=2, inputs=2)
        fine, coarse = network(torch.zeros(1, 2, 256, 256))
    shapes = [(64, 129), (128, 65), (256, 33), (512, 34), (1, 35)]
    assert [tuple(m.shape[1:]) for m in fine] == [(c, side, side) for c, side in shapes]
    assert [m.shape[-1] for m in coarse] == [65, 33, 17, 18, 19]


@pytest.mark.parametrize(("scale", "extent"), [(0, 70), (1, 141), (2, 283)])
def test_field_of_view_by_gradient(scale: int, extent: int) -> None:
    network = FeatureDiscriminator(dims=2, inputs=1, features=1, scales=3, kind="none")
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)  # so that nothing cancels
    image = torch.ones(1, 1, 512, 512, requires_grad=True)
    logits = network(image)[scale][-1]
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (extent, extent)


def test_sizes_that_do_not_fit_are_refused() -> None:
    network = generator(enhancers=1)
    for size in (20, 8):
        with pytest.raises(UsageError, match=f"{size}.* given; multiples of 8 from 16 on"):
            network(torch.zeros(1, 1, 16, size))
    with pytest.raises(UsageError, match="without a preview"):
        network.coarse(torch.zeros(1, 1, 16, 16))


def test_initial_weights() -> None:
    network = generator(features=32, halvings=1, blocks=1)
    for parameter in network.parameters():
        if parameter.dim() > 1 and parameter.numel() > 5000:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05)


# ---- laws


def test_mirrored_edges_hide_gain_and_offset_of_the_input() -> None:
    image = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    for edge in ("reflect", "replicate", "zeros"):
        network = generator(edge=edge).double()
        output = network(image)
        torch.testing.assert_close(network(3 * image), output, atol=1e-3, rtol=0)
        offset = (network(image + 0.5) - output).detach().abs().max()
        assert (float(offset) > 1e-3) is (edge == "zeros"), edge


def test_with_a_silent_branch_only_the_smaller_image_is_seen() -> None:
    network = generator(enhancers=1, features=8).eval()
    image = torch.randn(1, 1, 16, 16)
    unseen = torch.tensor([1.0, -1, 0, 1, 0, -1, 0, 1, 0, -1, 0, 1, 0, -1, 0, 1])[:, None]
    other = image + unseen
    torch.testing.assert_close(halved(image), halved(other))
    assert not torch.allclose(network(image), network(other))
    look: Any = network.enhancers[0]
    for unit in look.look:
        nn.init.zeros_(unit.conv.weight)
        nn.init.zeros_(unit.conv.bias)
    torch.testing.assert_close(network(image), network(other), atol=1e-4, rtol=1e-4)
