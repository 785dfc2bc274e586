"""The two networks of DualGAN (Yi et al. 2017, arXiv:1704.02510).

Strided convolutions by 3 (the first and the last by 5) in TensorFlow's "SAME" padding: an image of
n voxels becomes one of ceil(n / 2), and where an odd number of voxels is missing the far edge gets
the larger share. What the authors' code calls batch norm is an instance norm with scale and shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import check_dims, conv, conv_transpose
from medi2i.networks.pix2pix import initialise_normal

__all__ = ["DualGANCritic", "DualGANGenerator"]

LEAK = 0.2


class DualGANGenerator(nn.Module):
    """A U-Net that normalises its innermost map as well; tanh output.

    At the paper's 256 voxels that map is a single voxel, which a norm of its own kind replaces by
    its shift: nothing of the image comes through there, and what does comes by the skips.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        depth: halvings, at least 2; the authors' 8 take 256 to 1.
        features: channels of the first stage; doubled up to 8 times that.
        dropout: probability behind the (up to three) stages above the innermost one.
        innermost_norm: False leaves the innermost map as it is, so that it counts.

    Every spatial size must be a multiple of :attr:`multiple`.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        depth: int = 8,
        features: int = 64,
        dropout: float = 0.0,
        innermost_norm: bool = True,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if depth < 2:
            raise UsageError(f"depth is {depth}; at least 2 halvings were expected")
        self.multiple = 2**depth
        widths = _widths(features, depth)
        self.down = nn.ModuleList(
            Halve(dims, inside, wide, 5 if level == 0 else 3)
            for level, (inside, wide) in enumerate(zip([inputs, *widths], widths, strict=False))
        )
        self.down_norm = nn.ModuleList(
            nn.Identity()
            if level == 0 or (level == depth - 1 and not innermost_norm)
            else InstanceNorm(wide)
            for level, wide in enumerate(widths)
        )
        rising = widths[-2::-1]
        self.up = nn.ModuleList(
            Double(dims, wide * (2 if stage else 1), above, 3)
            for stage, (wide, above) in enumerate(zip(widths[::-1], rising, strict=False))
        )
        self.up_norm = nn.ModuleList(InstanceNorm(wide) for wide in rising)
        self.drop = nn.ModuleList(
            nn.Dropout(dropout) if stage < 3 and dropout else nn.Identity()
            for stage in range(depth - 1)
        )
        self.head = Double(dims, 2 * features, outputs, 5)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial) in (-1, 1).

        Raises:
            UsageError: a spatial size is no multiple of 2**depth.
        """
        if any(size % self.multiple for size in x.shape[2:]):
            raise UsageError(
                f"spatial size {tuple(x.shape[2:])} given; multiples of {self.multiple} expected"
            )
        skips: list[Tensor] = []
        for level, (down, normed) in enumerate(zip(self.down, self.down_norm, strict=True)):
            x = normed(down(functional.leaky_relu(x, LEAK) if level else x))
            skips.append(x)
        x = skips.pop()
        for up, normed, drop in zip(self.up, self.up_norm, self.drop, strict=True):
            x = torch.cat([drop(normed(up(functional.relu(x)))), skips.pop()], dim=1)
        return torch.tanh(self.head(functional.relu(x)))


class DualGANCritic(nn.Module):
    """Values without bounds, high for real: one for each patch, or one for the whole window.

    Args:
        dims: 2 or 3.
        inputs: channels.
        layers: strided convolutions; the first has no norm.
        features: channels of the first; doubled up to 8 times that.
        window: side of the windows that get one value each (the authors' "globalgan"; no other
            size fits then); 0 for a map of values ("patchgan").
    """

    def __init__(
        self, *, dims: int, inputs: int, layers: int = 5, features: int = 64, window: int = 0
    ) -> None:
        super().__init__()
        check_dims(dims)
        if layers < 1:
            raise UsageError(f"layers is {layers}; at least 1 was expected")
        widths = _widths(features, layers)
        parts: list[nn.Module] = []
        for level, (inside, wide) in enumerate(zip([inputs, *widths], widths, strict=False)):
            normed = [InstanceNorm(wide)] if level else []
            parts += [Halve(dims, inside, wide, 3 if level else 5), *normed, nn.LeakyReLU(LEAK)]
        self.main = nn.Sequential(*parts)
        self.window = window
        left = -(-window // 2**layers)
        self.head = (
            nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * left**dims, 1))
            if window
            else Halve(dims, widths[-1], 1, 3)
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, 1, *patches), or (B, 1) for whole windows.

        Raises:
            UsageError: images of another size than `window`.
        """
        if self.window and any(size != self.window for size in x.shape[2:]):
            raise UsageError(
                f"this critic judges whole windows of {self.window} voxels a side and "
                f"{tuple(x.shape[2:])} came: give `window` the side of the training windows, or 0"
            )
        values: Tensor = self.head(self.main(x))
        return values


class Halve(nn.Module):
    """A strided convolution with "SAME" padding by zeros."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = conv(dims, inputs, outputs, kernel, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *ceil(spatial / 2))."""
        pads = []
        for size in reversed(x.shape[2:]):
            missing = max(2 * (-(-size // 2) - 1) + self.kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        halved: Tensor = self.conv(functional.pad(x, pads))
        return halved


class Double(nn.Module):
    """The transpose of :class:`Halve`, for images of an even size."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        # kernel - 2 voxels are missing at an even size, and less than half of them in front
        self.conv = conv_transpose(
            dims, inputs, outputs, kernel, stride=2, padding=(kernel - 2) // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *2 spatial)."""
        whole: Tensor = self.conv(x)
        each = slice(None)
        return whole[(each, each, *(slice(0, 2 * size) for size in x.shape[2:]))]


class InstanceNorm(nn.Module):
    """Instance norm with scale and shift; a voxel alone, which torch's refuses, gives the shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial), the same shape out."""
        if x.shape[2:].numel() == 1:
            x = x - x  # a voxel less itself: what rounding leaves would be magnified a thousandfold
        return torch.instance_norm(
            x, self.weight, self.bias, None, None, True, 0.0, 1e-6, torch.backends.cudnn.enabled
        )


def _widths(features: int, stages: int) -> Sequence[int]:
    return [features * min(2**stage, 8) for stage in range(stages)]


def _initialise(network: nn.Module) -> None:
    """Convolutions from a normal cut off at two deviations; the rest as DCGAN's."""
    initialise_normal(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.trunc_normal_(module.weight, 0.0, 0.02, -0.04, 0.04)
