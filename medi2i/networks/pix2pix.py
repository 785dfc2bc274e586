"""The two networks of pix2pix (Isola et al. 2017, arXiv:1611.07004)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import Norm, check_dims, conv, conv_transpose, norm

__all__ = ["PatchDiscriminator", "Pix2pixGenerator", "initialise_normal"]


class Pix2pixGenerator(nn.Module):
    """Encoder-decoder that halves the image `depth` times; tanh output.

    The skips carry the normalised map before its activation; whoever reads it activates it.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        depth: halvings, at least 3; 8 takes 256 to 1 (the paper's), 3-D patches want 4 or 5.
        features: channels of the first stage; doubled up to 8 times that.
        kind: normalisation; none at the first and at the innermost convolution.
        dropout: probability in the (up to three) stages above the innermost one.
        skip: False gives the paper's plain encoder-decoder.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        depth: int = 8,
        features: int = 64,
        kind: Norm = "batch",
        dropout: float = 0.5,
        skip: bool = True,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if depth < 3:
            raise UsageError(f"depth is {depth}; at least 3 halvings were expected")
        self.multiple = 2**depth
        self.skip = skip
        bias = kind != "batch"
        widths = [features * min(2**level, 8) for level in range(depth)]

        self.down = nn.ModuleList()
        self.down_norm = nn.ModuleList()
        for level, wide in enumerate(widths):
            outermost, innermost = level == 0, level == depth - 1
            self.down.append(
                conv(
                    dims,
                    inputs if outermost else widths[level - 1],
                    wide,
                    4,
                    stride=2,
                    padding=1,
                    bias=bias,
                )
            )
            plain = outermost or innermost  # a 1x1 map has no variance to normalise by
            self.down_norm.append(
                norm("none" if plain else kind, dims, wide, affine=kind == "batch")
            )

        self.up = nn.ModuleList()
        self.up_norm = nn.ModuleList()
        self.drop = nn.ModuleList()
        for level in reversed(range(depth)):
            outermost, innermost = level == 0, level == depth - 1
            wide = outputs if outermost else widths[level - 1]
            doubled = 1 if innermost or not skip else 2
            self.up.append(
                conv_transpose(
                    dims,
                    doubled * widths[level],
                    wide,
                    4,
                    stride=2,
                    padding=1,
                    bias=bias or outermost,
                )
            )
            self.up_norm.append(
                norm("none" if outermost else kind, dims, wide, affine=kind == "batch")
            )
            above_innermost = depth - 1 - level
            deep = 1 <= above_innermost <= 3 and level >= 4
            self.drop.append(nn.Dropout(dropout) if deep and dropout else nn.Identity())
        initialise_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial); spatial sizes divide by 2**depth."""
        if any(size % self.multiple for size in x.shape[2:]):
            raise UsageError(
                f"spatial size {tuple(x.shape[2:])} given; multiples of {self.multiple} expected"
            )
        skips: list[Tensor] = []
        for level, (down, normed) in enumerate(zip(self.down, self.down_norm, strict=True)):
            x = normed(down(functional.leaky_relu(x, 0.2) if level else x))
            skips.append(x)
        x = skips.pop()
        for up, normed, drop in zip(self.up, self.up_norm, self.drop, strict=True):
            x = drop(normed(up(functional.relu(x))))
            if skips:
                below = skips.pop()
                x = torch.cat([below, x], dim=1) if self.skip else x
        return torch.tanh(x)


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches, not images: a map of logits.

    Args:
        dims: 2 or 3.
        inputs: channels (of source and candidate together where it is conditional).
        layers: strided convolutions; field of view 1, 16, 34, 70, 142, 286 for 0 to 5.
        features: channels of the first layer; doubled up to 8 times that.
        kind: normalisation from the second layer on.
    """

    def __init__(
        self, *, dims: int, inputs: int, layers: int = 3, features: int = 64, kind: Norm = "batch"
    ) -> None:
        super().__init__()
        check_dims(dims)
        bias = kind != "batch"
        slope = nn.LeakyReLU(0.2)
        if layers == 0:
            self.judge = nn.Sequential(
                conv(dims, inputs, features, 1),
                slope,
                conv(dims, features, 2 * features, 1, bias=bias),
                norm(kind, dims, 2 * features, affine=kind == "batch"),
                slope,
                conv(dims, 2 * features, 1, 1, bias=bias),
            )
        else:
            parts: list[nn.Module] = [conv(dims, inputs, features, 4, stride=2, padding=1), slope]
            width = features
            for level in range(1, layers + 1):
                wide = features * min(2**level, 8)
                stride = 2 if level < layers else 1
                parts += [
                    conv(dims, width, wide, 4, stride=stride, padding=1, bias=bias),
                    norm(kind, dims, wide, affine=kind == "batch"),
                    slope,
                ]
                width = wide
            self.judge = nn.Sequential(*parts, conv(dims, width, 1, 4, padding=1))
        initialise_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, 1, *patches) logits, high for real."""
        logits: Tensor = self.judge(x)
        return logits


def initialise_normal(network: nn.Module, deviation: float = 0.02) -> None:
    """Convolutions from N(0, 0.02), norm scales from N(1, 0.02), biases zero (DCGAN's habit)."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        nn.init.normal_(weight, 1.0 if weight.dim() == 1 else 0.0, deviation)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
