"""A network that looks at two images and says how one must be bent to lie on the other.

VoxelMorph's U-Net (Balakrishnan et al. 2019, arXiv:1809.05231) gives a stationary velocity, whose
exponential is the displacement, so that smooth answers never fold (Dalca et al. 2019,
arXiv:1903.03545). Conventions are those of :mod:`medi2i.networks.deformation`: components in the
order of the axes, in voxels, the border repeated, ``warp(moving, displacement)`` like `fixed`.

What differs from the authors' code: the border is repeated in the squaring loop, which padding by
zeros would make shrink there; half resolution is taken between the voxel centres of both ends, so
that a shift stays what it is up to the last voxel; any size is padded, and the padding cut off
before it is integrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import DimensionError, UsageError
from medi2i.networks.deformation import integrate
from medi2i.networks.layers import check_dims, conv, max_pool, pad_to_multiple

__all__ = ["Motion", "RegistrationNetwork"]


class Motion(NamedTuple):
    """How an image must be bent; both (B, dims, *spatial) in voxels, float32 at least."""

    velocity: Tensor
    """Per unit time; negated and integrated it goes the other way."""
    displacement: Tensor
    """Where each voxel's value comes from: ``warp(moving, displacement)`` is like `fixed`."""


class RegistrationNetwork(nn.Module):
    """Two images -> a velocity and its exponential; the identity, nearly, when fresh.

    One convolution and LeakyReLU 0.2 per level, halved by the maximum, doubled by repeating voxels.
    109 170 parameters in 2-D and 327 331 in 3-D with the widths of the paper.

    Args:
        dims: 2 or 3.
        channels: of each of the two images.
        encoder: channels on the way in, one level each.
        decoder: channels on the way out, as many as levels; the first works at the coarsest size.
        last: channels of the convolutions at full size.
        steps: squarings; 5 serve below five voxels. 0 takes the velocity for the displacement.
        halved: integrate at half the resolution, which is quicker and asks for smoother answers.

    Raises:
        UsageError: dims other than 2 or 3, levels that do not fit, negative steps.
    """

    def __init__(
        self,
        dims: int,
        *,
        channels: int = 1,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        last: Sequence[int] = (32, 16, 16),
        steps: int = 7,
        halved: bool = False,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if not encoder or len(encoder) != len(decoder):
            raise UsageError(
                f"the encoder has {len(encoder)} levels and the decoder {len(decoder)}; the same "
                "number, at least 1, was expected"
            )
        if steps < 0:
            raise UsageError(f"steps is {steps}; 0 or more squarings were expected, usually 7")
        self.dims, self.channels = dims, channels
        self.steps, self.halved = steps, halved
        self.multiple = 2 ** len(encoder)

        def chain(width: int, widths: Sequence[int]) -> list[nn.Module]:
            edges = zip((width, *widths), widths, strict=False)
            return [conv(dims, one, two, 3, padding=1) for one, two in edges]

        self.encoder = nn.ModuleList(chain(2 * channels, encoder))
        self.pool = max_pool(dims)
        self.decoder = nn.ModuleList()
        width = encoder[-1]
        for wide, skip in zip(decoder, reversed(encoder), strict=True):
            self.decoder.append(conv(dims, width, wide, 3, padding=1))
            width = wide + skip
        self.last = nn.ModuleList(chain(width, last))
        self.head = conv(dims, last[-1] if last else width, dims, 3, padding=1)
        nn.init.normal_(self.head.weight, 0.0, 1e-5)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Motion:
        """How `moving` must be bent to lie on `fixed`.

        Args:
            moving, fixed: (B, channels, *spatial) of any size and the same range.

        Raises:
            DimensionError: shapes that differ, or another number of channels or axes.
        """
        if (
            moving.shape != fixed.shape
            or moving.dim() != self.dims + 2
            or moving.shape[1] != self.channels
        ):
            raise DimensionError(
                f"the images have shapes {tuple(moving.shape)} and {tuple(fixed.shape)}; two of "
                f"(B, {self.channels}, *spatial) with {self.dims} spatial axes were expected"
            )
        velocity = self.velocity(torch.cat([moving, fixed], dim=1))
        return Motion(velocity, self.exponential(velocity))

    def velocity(self, both: Tensor) -> Tensor:
        """(B, 2 * channels, *spatial), moving before fixed -> (B, dims, *spatial)."""
        x, crop = pad_to_multiple(both, self.multiple)
        skips: list[Tensor] = []
        for layer in self.encoder:
            x = functional.leaky_relu(layer(x), 0.2)
            skips.append(x)
            x = self.pool(x)
        for layer in self.decoder:
            x = functional.leaky_relu(layer(x), 0.2)
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = torch.cat([x, skips.pop()], dim=1)
        for layer in self.last:
            x = functional.leaky_relu(layer(x), 0.2)
        velocity: Tensor = self.head(x)[crop]
        return velocity.to(torch.promote_types(velocity.dtype, torch.float32))

    def exponential(self, velocity: Tensor) -> Tensor:
        """The displacement of a velocity, at half the resolution where `halved`.

        Args:
            velocity: (B, dims, *spatial) in voxels per unit time; negate it for the inverse.
        """
        if not self.halved:
            return integrate(velocity, self.steps)
        spatial = velocity.shape[2:]
        half = [max((size + 1) // 2, min(size, 2)) for size in spatial]
        return _resized(integrate(_resized(velocity, half), self.steps), spatial)


def _resized(field: Tensor, spatial: Sequence[int]) -> Tensor:
    """The field on another grid over the same extent, in voxels of that grid."""
    before = field.shape[2:]
    scale = [
        (new - 1) / (old - 1) if old > 1 else 1.0 for old, new in zip(before, spatial, strict=True)
    ]
    mode = "bilinear" if len(before) == 2 else "trilinear"
    resized = functional.interpolate(field, list(spatial), mode=mode, align_corners=True)
    return resized * resized.new_tensor(scale).reshape(1, -1, *[1] * len(before))
