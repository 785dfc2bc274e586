from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medi2i.networks.antialias import Halving, smoothed, without_strides
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.networks.resnet import ResnetGenerator


def test_halving_by_hand() -> None:
    row = torch.tensor([0.0, 4.0, 8.0, 0.0])
    image = row.expand(1, 1, 4, 4)
    # at 0 the mirrored 4, 0, 4 with weights 1, 2, 1; at 2: 4, 8, 0
    assert Halving()(image)[0, 0, 0].tolist() == [2.0, 5.0]
    assert Halving("replicate")(image)[0, 0, 0].tolist() == [1.0, 5.0]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_separable_blur_is_the_convolution_with_the_outer_product(dims: int) -> None:
    x = torch.randn(2, 3, *[9] * dims, dtype=torch.float64)
    row = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    kernel = torch.einsum("i,j->ij" if dims == 2 else "i,j,k->ijk", *[row] * dims)
    convolve = functional.conv2d if dims == 2 else functional.conv3d
    weight = 2.0**dims * kernel.expand(3, 1, *kernel.shape)
    expected = convolve(x, weight, stride=2, groups=3)
    torch.testing.assert_close(smoothed(x, (1, 3, 3, 1), stride=2, gain=2.0), expected)


def test_interpolation_is_the_fixed_filter_of_the_authors() -> None:
    """Replicated by one, spread by 1, 3, 3, 1 over eight in steps of two, twice as strong."""
    x = torch.randn(1, 2, 5, 6)
    row = torch.tensor([1.0, 3, 3, 1]) / 8 * 2
    weight = torch.outer(row, row).expand(2, 1, 4, 4)
    padded = functional.pad(x, [1] * 4, mode="replicate")
    spread = functional.conv_transpose2d(padded, weight, stride=2, padding=2, groups=2)
    torch.testing.assert_close(
        nn.Upsample(scale_factor=2, mode="bilinear")(x), spread[..., 1:-1, 1:-1]
    )


def test_strides_become_blurs_behind_the_activation() -> None:
    judge = PatchDiscriminator(dims=2, inputs=1, features=4, kind="instance")
    before = sum(p.numel() for p in judge.parameters())
    changed = without_strides(judge.judge)
    names = [type(layer).__name__ for layer in changed]
    assert names[:3] == ["Conv2d", "LeakyReLU", "Halving"]
    assert names[3:7] == ["Conv2d", "InstanceNorm2d", "LeakyReLU", "Halving"]
    assert names.count("Halving") == 3
    assert sum(p.numel() for p in changed.parameters()) == before
    assert changed(torch.zeros(1, 1, 256, 256)).shape == (1, 1, 30, 30)


def test_a_shift_by_one_voxel_moves_the_output_less() -> None:
    """What it is for: the strided generator sees another image, the blurred one nearly the same."""
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def change(antialiased: bool) -> float:
        torch.manual_seed(0)
        generator = ResnetGenerator(
            dims=2, inputs=1, outputs=1, features=8, blocks=1, antialiased=antialiased
        )
        with torch.no_grad():
            moved = generator(x.roll(1, 3)).roll(-1, 3)
            whole = generator(x)
        inside = (..., slice(16, -16), slice(16, -16))
        return float((moved - whole)[inside].abs().mean() / whole[inside].std())

    assert change(True) < 0.7 * change(False)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_taps_are_what_a_full_pass_goes_through(dims: int, antialiased: bool) -> None:
    generator = ResnetGenerator(
        dims=dims, inputs=2, outputs=1, features=4, blocks=4, antialiased=antialiased
    )
    passed: list[torch.Tensor] = []
    halving = [layer for layer in generator.encoder if isinstance(layer, nn.Conv2d | nn.Conv3d)]
    for layer in halving[1:]:
        layer.register_forward_hook(lambda m, i, out: passed.append(out))
    for block in generator.blocks[1:]:
        block.register_forward_pre_hook(lambda m, given: passed.append(given[0]))
    x = torch.randn(1, 2, *[16] * dims)
    generator(x)
    full, passed[:] = [*passed], []
    taps = generator.taps(x, (0, 2))
    assert len(passed) == 4, "two convolutions; blocks 1 and 2 were entered, the last was not"
    edged = taps.pop(0)
    assert edged.shape[2:] == (22,) * dims
    torch.testing.assert_close(edged[(slice(None), slice(None), *[slice(3, -3)] * dims)], x)
    torch.testing.assert_close(taps, [full[0], full[1], full[2], full[4]])
