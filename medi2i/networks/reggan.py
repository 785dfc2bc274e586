"""RegGAN's registration network (Kong et al. 2021, arXiv:2110.06465; code Kid-Liet/Reg-GAN).

A deep and narrow U-Net with a residual block on every level of the way in, which gives the
displacement itself: nothing is integrated, and only its training keeps it from folding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import check_dims, conv, max_pool, pad_to_multiple
from medi2i.networks.registration import Motion
from medi2i.networks.resnet import Edge, residual_function

__all__ = ["ResidualRegistration"]


class ResidualRegistration(nn.Module):
    """Two images -> a displacement; the identity, nearly, when fresh.

    2 058 018 parameters in 2-D with the authors' sizes.

    Args:
        dims: 2 or 3.
        channels: of each of the two images.
        levels: halvings; the authors' 7 leave two voxels of windows of 256.
        features: channels of the first level; twice as many on the others, and four times as many
            in the three residual blocks at the bottom.
        edge: padding of the residual blocks.

    Raises:
        UsageError: dims other than 2 or 3, or no level.
    """

    def __init__(
        self,
        dims: int,
        *,
        channels: int = 1,
        levels: int = 7,
        features: int = 32,
        edge: Edge = "reflect",
    ) -> None:
        super().__init__()
        check_dims(dims)
        if levels < 1:
            raise UsageError(f"levels is {levels}; at least 1 halving was expected")
        self.multiple = 2**levels
        widths = [features, *[2 * features] * (levels - 1)]
        self.pool = max_pool(dims)
        self.linear = "bilinear" if dims == 2 else "trilinear"

        self.down, self.down_blocks = nn.ModuleList(), nn.ModuleList()
        width = 2 * channels
        for wide in widths:
            self.down.append(conv(dims, width, wide, 3, padding=1))
            self.down_blocks.append(residual_function(dims, wide, wide, edge=edge))
            width = wide
        self.widen = conv(dims, width, 2 * width, 1)
        self.bottom = nn.ModuleList(
            residual_function(dims, 2 * width, 2 * width, edge=edge) for _ in range(3)
        )
        self.narrow = conv(dims, 2 * width, width, 1)
        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            self.up.append(conv(dims, width + widths[level], widths[level], 3, padding=1))
            width = widths[level]
        self.last_block = residual_function(dims, width, width, edge=edge)
        self.last = conv(dims, width, width, 1)
        self.head = conv(dims, width, dims, 3, padding=1)
        self._initialise()

    def forward(self, moving: Tensor, fixed: Tensor) -> Motion:
        """(B, channels, *spatial) each, of any size; ``warp(moving, displacement)`` like `fixed`.

        The velocity of the answer is the displacement.
        """
        # a residual block reflects, and a norm averages, over two voxels at the least
        x, crop = pad_to_multiple(torch.cat([moving, fixed], dim=1), self.multiple, least=2)
        skips: list[Tensor] = []
        for layer, block in zip(self.down, self.down_blocks, strict=True):
            x = _leaky(layer(x))
            x = x + block(x)
            skips.append(x)
            x = self.pool(x)
        x = _leaky(self.widen(x))
        for block in self.bottom:
            x = x + block(x)
        x = _leaky(self.narrow(x))
        for layer in self.up:
            x = functional.interpolate(x, scale_factor=2.0, mode=self.linear, align_corners=False)
            x = _leaky(layer(torch.cat([x, skips.pop()], dim=1)))
        x = x + self.last_block(x)
        displacement: Tensor = self.head(_leaky(self.last(x)))[crop]
        displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
        return Motion(displacement, displacement)

    def _initialise(self) -> None:
        """Kaiming normal for what follows, zero biases, and a head that moves nothing."""
        rectified = {
            layer
            for block in (*self.down_blocks, *self.bottom, self.last_block)
            for layer in block.modules()
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                slope = 0.0 if module in rectified else 0.2
                nn.init.kaiming_normal_(module.weight, a=slope)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, 0.0, 1e-5)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)
