"""The networks of BicycleGAN (Zhu et al. 2017, arXiv:1711.11586)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import (
    Norm,
    avg_pool,
    check_dims,
    conv,
    conv_transpose,
    halved,
    norm,
    tiled,
)
from medi2i.networks.pix2pix import PatchDiscriminator

__all__ = ["BicycleDiscriminator", "BicycleGenerator", "CodeEncoder", "initialise_xavier"]


class BicycleGenerator(nn.Module):
    """pix2pix's U-Net with a latent code beside the input of its convolutions; tanh output.

    Unlike the generator of `networks.pix2pix`, every convolution has a bias, and the decoder sees
    its own map before the skip's. The skip carries the normalised map without the code.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        code: numbers in the code; 0 for none.
        depth: halvings, at least 3; 8 takes 256 to 1 (the paper's).
        features: channels of the first stage; doubled up to 8 times that.
        kind: normalisation; none at the first and at the innermost convolution.
        where: the code joins the input of "all" strided convolutions or of the first ("input").
        up: "transpose" (4 taps, stride 2), or "linear" interpolation and a convolution of 3.
        dropout: probability in the stages that the authors give it to: of 8 times the features,
            above the innermost one.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        code: int = 8,
        depth: int = 8,
        features: int = 64,
        kind: Norm = "instance",
        where: Literal["all", "input"] = "all",
        up: Literal["transpose", "linear"] = "transpose",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if depth < 3:
            raise UsageError(f"depth is {depth}; at least 3 halvings were expected")
        self.multiple = 2**depth
        self.code = code
        self.where = where
        widths = [features * min(2**level, 8) for level in range(depth)]
        affine = kind == "batch"

        self.down = nn.ModuleList()
        self.down_norm = nn.ModuleList()
        for level, wide in enumerate(widths):
            outermost, innermost = level == 0, level == depth - 1
            given = inputs if outermost else widths[level - 1]
            joined = code if outermost or where == "all" else 0
            self.down.append(conv(dims, given + joined, wide, 4, stride=2, padding=1))
            plain = outermost or innermost  # a 1x1 map has no variance to normalise by
            self.down_norm.append(norm("none" if plain else kind, dims, wide, affine=affine))

        self.up = nn.ModuleList()
        self.up_norm = nn.ModuleList()
        self.drop = nn.ModuleList()
        for level in reversed(range(depth)):
            outermost, innermost = level == 0, level == depth - 1
            given = widths[level] if innermost else 2 * widths[level]
            wide = outputs if outermost else widths[level - 1]
            self.up.append(
                conv_transpose(dims, given, wide, 4, stride=2, padding=1)
                if up == "transpose"
                else _interpolated(dims, given, wide)
            )
            self.up_norm.append(norm("none" if outermost else kind, dims, wide, affine=affine))
            deep = not innermost and level >= 4
            self.drop.append(nn.Dropout(dropout) if deep and dropout else nn.Identity())
        initialise_xavier(self)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, inputs, *spatial), (B, code) -> (B, outputs, *spatial).

        Raises:
            UsageError: a spatial size is no multiple of 2**depth, or the code has another length.
        """
        if any(size % self.multiple for size in x.shape[2:]):
            raise UsageError(
                f"spatial size {tuple(x.shape[2:])} given; multiples of {self.multiple} expected"
            )
        if code.shape != (len(x), self.code):
            raise UsageError(
                f"a code of shape {tuple(code.shape)} given; {(len(x), self.code)} expected"
            )
        skips: list[Tensor] = []
        for level, (down, normed) in enumerate(zip(self.down, self.down_norm, strict=True)):
            if self.code and (level == 0 or self.where == "all"):
                x = torch.cat([x, tiled(code.to(x.dtype), x)], dim=1)
            x = normed(down(functional.leaky_relu(x, 0.2) if level else x))
            skips.append(x)
        x = skips.pop()
        for up, normed, drop in zip(self.up, self.up_norm, self.drop, strict=True):
            x = drop(normed(up(functional.relu(x))))
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
        return torch.tanh(x)


class CodeEncoder(nn.Module):
    """An image's latent code as a normal distribution: residual blocks, a mean, two linear heads.

    The authors' "resnet_256" has 4 blocks and averages the last 8 x 8 cells of a 256 image; here
    the average is over whatever is left, which is the same at that size.

    Args:
        dims: 2 or 3.
        inputs: channels of the image.
        code: numbers in the code.
        features: channels of the first stage; it grows by as much with each block, up to 4 times.
        blocks: each halves the image once more, after the first convolution has done so.
        kind: normalisation.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        code: int = 8,
        features: int = 64,
        blocks: int = 4,
        kind: Norm = "instance",
    ) -> None:
        super().__init__()
        check_dims(dims)
        widths = [features * min(4, number + 1) for number in range(blocks + 1)]
        self.least = 2 ** (blocks + 1)
        self.stem = conv(dims, inputs, features, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            _PreActivation(dims, widths[number], widths[number + 1], kind)
            for number in range(blocks)
        )
        self.mean = nn.Linear(widths[-1], code)
        self.log_variance = nn.Linear(widths[-1], code)
        initialise_xavier(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, *spatial) -> mean and logarithm of the variance, each (B, code).

        Raises:
            UsageError: the image is too small for the blocks.
        """
        pooled = self.pooled(image)
        return self.mean(pooled), self.log_variance(pooled)

    def pooled(self, image: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, width): what both heads see, the means of the features."""
        if min(image.shape[2:]) < self.least:
            raise UsageError(
                f"an image of size {tuple(image.shape[2:])} given; the encoder's blocks need "
                f"{self.least} along every axis: give it fewer blocks"
            )
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        return functional.leaky_relu(x, 0.2).flatten(2).mean(2)


class BicycleDiscriminator(nn.Module):
    """Two PatchGANs (or more): one sees the image, the next its half, with half the features.

    Args:
        dims: 2 or 3.
        inputs: channels.
        layers: strided convolutions of each; 3 see 70 voxels of their own image.
        features: channels of the first one's first layer.
        scales: how many; the authors divide the features by 2 for the second, by 4 more for the
            third.
        kind: normalisation.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        layers: int = 3,
        features: int = 64,
        scales: int = 2,
        kind: Norm = "instance",
    ) -> None:
        super().__init__()
        self.judges = nn.ModuleList()
        for scale in range(scales):
            features = max(1, round(features / 2**scale))
            self.judges.append(
                PatchDiscriminator(
                    dims=dims, inputs=inputs, layers=layers, features=features, kind=kind
                )
            )
        initialise_xavier(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, *spatial) -> one map of logits per scale, the finest first."""
        logits = []
        for scale, judge in enumerate(self.judges):
            x = halved(x) if scale else x
            logits.append(judge(x))
        return logits


def initialise_xavier(network: nn.Module, gain: float = 0.02) -> None:
    """Weights as Glorot and Bengio draw them, times 0.02; norm scales N(1, 0.02); biases zero."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if weight.dim() == 1:
            nn.init.normal_(weight, 1.0, 0.02)
        else:
            nn.init.xavier_normal_(weight, gain)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)


class _PreActivation(nn.Module):
    """A residual block that normalises and activates first, and halves by means at its end."""

    def __init__(self, dims: int, inputs: int, outputs: int, kind: Norm) -> None:
        super().__init__()
        slope = nn.LeakyReLU(0.2)
        affine = kind == "batch"
        self.conv = nn.Sequential(
            norm(kind, dims, inputs, affine=affine),
            slope,
            conv(dims, inputs, inputs, 3, padding=1),
            norm(kind, dims, inputs, affine=affine),
            slope,
            conv(dims, inputs, outputs, 3, padding=1),
            avg_pool(dims),
        )
        self.shortcut = nn.Sequential(avg_pool(dims), conv(dims, inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.conv(x) + self.shortcut(x)
        return both


def _interpolated(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Twice the size by interpolation, then a convolution over mirrored edges."""
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return nn.Sequential(
        nn.Upsample(scale_factor=2.0, mode="bilinear" if dims == 2 else "trilinear"),
        layer(inputs, outputs, 3, padding=1, padding_mode="reflect"),
    )
