"""Building blocks that know their number of dimensions: one name for 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError

__all__ = [
    "Conditional",
    "Norm",
    "avg_pool",
    "check_dims",
    "conv",
    "conv_transpose",
    "dropout",
    "fold",
    "halved",
    "max_pool",
    "norm",
    "normal_sample",
    "pad_to_multiple",
    "tiled",
    "unfold",
]

Norm = Literal["instance", "batch", "none"]


def check_dims(dims: int) -> None:
    """Raise UsageError unless `dims` is 2 or 3."""
    if dims not in (2, 3):
        raise UsageError(f"dims is {dims}; 2 (slices and slabs) or 3 (patches) was expected")


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
) -> nn.Conv2d | nn.Conv3d:
    """A convolution in `dims` dimensions."""
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)


def conv_transpose(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int,
    padding: int = 0,
    bias: bool = True,
) -> nn.ConvTranspose2d | nn.ConvTranspose3d:
    """A transposed convolution in `dims` dimensions."""
    layer = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    return layer(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)


def norm(kind: Norm, dims: int, channels: int, *, affine: bool = True) -> nn.Module:
    """A normalisation layer; "instance" keeps no running statistics."""
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(channels, affine=affine)
    return (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(channels, affine=affine)


def max_pool(dims: int) -> nn.MaxPool2d | nn.MaxPool3d:
    """Halve every spatial axis by the maximum."""
    return (nn.MaxPool2d if dims == 2 else nn.MaxPool3d)(2)


def avg_pool(dims: int) -> nn.AvgPool2d | nn.AvgPool3d:
    """Halve every spatial axis by the mean."""
    return (nn.AvgPool2d if dims == 2 else nn.AvgPool3d)(2)


def halved(x: Tensor) -> Tensor:
    """Half the size by means over 3 voxels each way, as the pyramids of multi-scale networks do."""
    pool = functional.avg_pool2d if x.dim() == 4 else functional.avg_pool3d
    return pool(x, 3, stride=2, padding=1, count_include_pad=False)


def tiled(vector: Tensor, like: Tensor) -> Tensor:
    """(B, C) -> (B, C, *spatial): one constant plane per number, of the spatial size of `like`."""
    spatial = like.shape[2:]
    return vector.reshape(*vector.shape, *[1] * len(spatial)).expand(-1, -1, *spatial)


def dropout(dims: int, probability: float) -> nn.Module:
    """Element-wise dropout, as image-to-image networks use it (not channel-wise)."""
    del dims  # element-wise dropout is the same in any number of dimensions
    return nn.Dropout(probability)


def normal_sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample of a normal distribution, through which gradients pass to its parameters."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


class Conditional(nn.Module):
    """A scale and a shift per channel that depend on a condition (FiLM, arXiv:1709.07871).

    Put behind a normalisation, it is the one place where a constant condition survives that
    normalisation. Both start at zero, so a fresh layer changes nothing.
    """

    def __init__(self, conditions: int, channels: int) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(conditions, 2 * channels)
        nn.init.zeros_(self.scale_shift.weight)
        nn.init.zeros_(self.scale_shift.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (B, C, *spatial); condition: (B, conditions)."""
        both = self.scale_shift(condition).reshape(len(x), -1, *[1] * (x.dim() - 2))
        scale, shift = both.chunk(2, dim=1)
        return torch.addcmul(x + shift, x, scale)


def fold(x: Tensor, factor: int) -> Tensor:
    """(B, C, *spatial) -> (B, C * factor**dims, *spatial / factor): space into channels."""
    if factor == 1:
        return x
    if x.dim() == 4:
        return functional.pixel_unshuffle(x, factor)
    b, c, *spatial = x.shape
    split = [n for size in spatial for n in (size // factor, factor)]
    x = x.reshape(b, c, *split).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * factor**3, *(size // factor for size in spatial))


def unfold(x: Tensor, factor: int) -> Tensor:
    """The inverse of :func:`fold`."""
    if factor == 1:
        return x
    if x.dim() == 4:
        return functional.pixel_shuffle(x, factor)
    b, c, *spatial = x.shape
    x = x.reshape(b, c // factor**3, factor, factor, factor, *spatial)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // factor**3, *(size * factor for size in spatial))


def pad_to_multiple(
    x: Tensor, multiple: int, *, least: int = 1
) -> tuple[Tensor, tuple[slice, ...]]:
    """Replicate the far edges of x (B, C, *spatial) until every spatial axis divides.

    Args:
        x: (B, C, *spatial).
        multiple: what every spatial size shall be divisible by.
        least: how many multiples it shall hold at least.

    Returns:
        The padded tensor, and the index that cuts the original extent out of it again.
    """
    spatial: Sequence[int] = x.shape[2:]
    missing = [max(-size % multiple, least * multiple - size) for size in spatial]
    crop = (slice(None), slice(None), *(slice(0, size) for size in spatial))
    if not any(missing):
        return x, crop
    pads = [n for extra in reversed(missing) for n in (0, extra)]
    return functional.pad(x, pads, mode="replicate"), crop
