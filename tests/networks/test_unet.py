from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.unet import Residual, UNet

SIZES = {2: (16, 24), 3: (16, 8, 24)}


def small(dims: int = 2, **changes: Any) -> UNet:
    torch.manual_seed(0)
    given: dict[str, Any] = {"inputs": 2, "outputs": 1, "features": (4, 6, 8), **changes}
    return UNet(dims=dims, **given)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"down": "pool", "bias": False},
        {"up": "linear"},
        {"encoder": "residual", "encoder_blocks": (1, 2, 1)},
        {"encoder": "residual", "decoder": "residual", "decoder_blocks": 1, "kind": "batch"},
        {"fold_factor": 2},
    ],
    ids=str,
)
def test_the_output_is_as_large_as_the_input(dims: int, changes: dict[str, Any]) -> None:
    network = small(dims, outputs=3, **changes)
    assert network(torch.randn(2, 2, *SIZES[dims])).shape == (2, 3, *SIZES[dims])


def test_what_sizes_must_divide_by() -> None:
    assert small().multiple == 4
    assert small(fold_factor=2).multiple == 8
    with pytest.raises(RuntimeError, match="size"):
        small()(torch.randn(1, 2, 15, 16))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("level", [0, 1])
def test_every_skip_matters(dims: int, level: int) -> None:
    network = small(dims).eval()
    image = torch.randn(1, 2, *SIZES[dims])
    whole = network(image)
    wide = (4, 6)[level]

    def cut(module: torch.nn.Module, given: tuple[Tensor, Tensor | None]) -> tuple[Any, ...]:
        joined = given[0].clone()
        joined[:, wide:] = 0  # [from below, skip]
        return joined, given[1]

    handle = network.decoder[1 - level].register_forward_pre_hook(cut)
    assert not torch.allclose(network(image), whole)
    handle.remove()
    assert torch.equal(network(image), whole)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_output_voxel_sees_the_input_voxel(dims: int) -> None:
    image = torch.randn(1, 2, *SIZES[dims], requires_grad=True)
    place = (0, 0, *(size // 2 for size in SIZES[dims]))
    small(dims)(image)[place].backward()
    assert image.grad is not None
    assert image.grad[place] != 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["instance", "batch"])
@pytest.mark.parametrize("conditions", [0, 2])
def test_a_fresh_residual_block_is_the_identity(dims: int, kind: Any, conditions: int) -> None:
    network = small(dims, features=(4, 4, 4), encoder="residual", kind=kind, conditions=conditions)
    block = next(module for module in network.modules() if isinstance(module, Residual))
    image = torch.randn(2, 4, *SIZES[dims])
    condition = torch.eye(2) if conditions else None
    assert torch.equal(block(image, condition), functional.leaky_relu(image, 0.01))


def test_a_bottleneck_of_one_voxel_fails_loudly() -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        small()(torch.randn(1, 2, 4, 4))


def test_the_condition_reaches_the_output_once_it_is_trained() -> None:
    network = small(conditions=3).eval()
    image, asked = torch.randn(1, 2, 16, 16).expand(3, -1, -1, -1), torch.eye(3)
    fresh = network(image, asked)
    torch.testing.assert_close(fresh[0], fresh[1], rtol=0, atol=1e-6)
    for name, parameter in network.named_parameters():
        if "scale_shift.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    trained = network(image, asked)
    assert not torch.allclose(trained[0], trained[1], atol=1e-2)
    with pytest.raises(UsageError, match="conditions; none was given"):
        network(image)


def test_initial_weights_are_kaiming_for_slope_001() -> None:
    network = small(features=(64, 64))
    stage: Any = network.encoder[1]
    convolution = stage.blocks[1].conv
    expected = (2 / (1 + 0.01**2) / (64 * 9)) ** 0.5
    assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert not convolution.bias.any()


@pytest.mark.parametrize("fold_factor", [1, 2])
def test_rescaling_is_a_gain_and_an_offset_of_each_output(fold_factor: int) -> None:
    network = UNet(dims=2, inputs=1, outputs=2, features=(4, 8), fold_factor=fold_factor).eval()
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        before = network(x)
        network.rescale(torch.tensor([2.0, -0.5]), torch.tensor([0.25, 1.0]))
        after = network(x)
    torch.testing.assert_close(after[:, 0], 2 * before[:, 0] + 0.25)
    torch.testing.assert_close(after[:, 1], -0.5 * before[:, 1] + 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_refined_output_sees_the_scan_at_full_resolution(dims: int) -> None:
    torch.manual_seed(0)
    network = UNet(dims=dims, inputs=2, outputs=1, features=(4, 8), fold_factor=2, refine=3)
    assert network.last is not None
    x = torch.randn(1, 2, *[8] * dims)
    assert network(x).shape == (1, 1, *[8] * dims)
    with torch.no_grad():
        network.last.weight[:, :3] = 0  # the folded path is cut off
    x.requires_grad_()
    centre = (0, 0, *[3] * dims)
    (gradient,) = torch.autograd.grad(network(x)[centre], x)
    reached = gradient.abs().sum((0, 1)) > 0
    expected = torch.zeros([8] * dims, dtype=torch.bool)
    expected[(slice(2, 5),) * dims] = True
    assert torch.equal(reached, expected)


def test_rescaling_changes_the_output_as_said_with_and_without_refinement() -> None:
    for refine in (0, 3):
        torch.manual_seed(0)
        network = UNet(
            dims=2, inputs=1, outputs=2, features=(4, 8), fold_factor=2, refine=refine
        ).eval()
        x = torch.randn(1, 1, 16, 16)
        gain, offset = torch.tensor([2.0, -0.5]), torch.tensor([0.1, 3.0])
        expected = network(x) * gain.reshape(1, 2, 1, 1) + offset.reshape(1, 2, 1, 1)
        network.rescale(gain, offset)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
