"""The U-Net (Ronneberger et al. 2015, arXiv:1505.04597) in its classic and nnU-Net shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import UsageError
from medi2i.networks.layers import (
    Conditional,
    Norm,
    avg_pool,
    check_dims,
    conv,
    conv_transpose,
    fold,
    max_pool,
    norm,
    unfold,
)

__all__ = ["UNet"]

Down = Literal["stride", "pool"]
Encoder = Literal["plain", "residual"]
Up = Literal["transpose", "linear"]


class ConvNorm(nn.Module):
    """Convolution 3, normalisation, condition if there is one, LeakyReLU 0.01 if asked."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        kernel: int = 3,
        bias: bool = True,
        kind: Norm = "instance",
        conditions: int = 0,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = conv(
            dims, inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias
        )
        self.norm = norm(kind, dims, outputs)
        self.condition = Conditional(conditions, outputs) if conditions else None
        self.activation = activation

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norm(self.conv(x))
        if self.condition is not None:
            if condition is None:
                raise UsageError("this network was built with conditions; none was given")
            x = self.condition(x, condition)
        return functional.leaky_relu(x, 0.01, inplace=True) if self.activation else x


class Residual(nn.Module):
    """Two convolutions beside a skip (nnU-Net's BasicBlockD): the identity when fresh."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        bias: bool = True,
        kind: Norm = "instance",
        conditions: int = 0,
    ) -> None:
        super().__init__()
        self.first = ConvNorm(
            dims, inputs, outputs, stride=stride, bias=bias, kind=kind, conditions=conditions
        )
        self.second = ConvNorm(
            dims, outputs, outputs, bias=bias, kind=kind, conditions=conditions, activation=False
        )
        self.pool = avg_pool(dims) if stride > 1 else nn.Identity()
        self.project = (
            ConvNorm(dims, inputs, outputs, kernel=1, bias=False, kind=kind, activation=False)
            if inputs != outputs
            else None
        )

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        skip = self.pool(x)
        if self.project is not None:
            skip = self.project(skip, None)
        x = self.second(self.first(x, condition), condition)
        return functional.leaky_relu(x + skip, 0.01)


class Stage(nn.Module):
    """Blocks at one resolution, one after the other."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, condition)
        return x


class UNet(nn.Module):
    """Encoder, decoder, and a skip at every resolution; linear head.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        features: channels of each stage; every further stage has half the resolution.
        encoder_blocks, decoder_blocks: blocks per stage, one number or one for each stage.
            A plain block is one convolution, a residual one is two.
        encoder: "plain" convolutions, or "residual" blocks behind a one-convolution stem.
        decoder: likewise.
        down: "stride" (first convolution of a stage) or "pool" (maximum before it).
        up: "transpose" (kernel 2) or "linear" (interpolation, then a 1x1 convolution).
        bias: of the convolutions before a norm.
        kind: normalisation.
        conditions: length of the condition vector, 0 for none.
        fold_factor: space folded into channels at the door and unfolded at the exit, so that
            the first stage works at 1/factor of the resolution. 1 is the published network.
        refine: channels that leave the fold; one convolution 3 at full resolution then sees them
            beside the input and gives the output, so that no pattern of the fold remains. 0
            unfolds into the output itself.

    Every spatial size must be a multiple of :attr:`multiple`.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        features: Sequence[int],
        encoder_blocks: int | Sequence[int] = 2,
        decoder_blocks: int | Sequence[int] = 2,
        encoder: Encoder = "plain",
        decoder: Encoder = "plain",
        down: Down = "stride",
        up: Up = "transpose",
        bias: bool = True,
        kind: Norm = "instance",
        conditions: int = 0,
        fold_factor: int = 1,
        refine: int = 0,
    ) -> None:
        super().__init__()
        check_dims(dims)
        stages = len(features)
        self.fold_factor = fold_factor
        self.multiple = fold_factor * 2 ** (stages - 1)
        volume = fold_factor**dims

        def blocks(style: Encoder, count: int, width_in: int, width_out: int, stride: int) -> Stage:
            def block(n_in: int, step: int) -> nn.Module:
                if style == "residual":
                    return Residual(
                        dims,
                        n_in,
                        width_out,
                        stride=step,
                        bias=bias,
                        kind=kind,
                        conditions=conditions,
                    )
                return ConvNorm(
                    dims, n_in, width_out, stride=step, bias=bias, kind=kind, conditions=conditions
                )

            first = block(width_in, stride)
            return Stage([first, *(block(width_out, 1) for _ in range(count - 1))])

        per_stage = _each(encoder_blocks, stages)
        self.stem: ConvNorm | None = None
        width = inputs * volume
        if encoder == "residual":
            self.stem = ConvNorm(dims, width, features[0], bias=bias, kind=kind)
            width = features[0]
        self.pool = max_pool(dims) if down == "pool" else None
        self.encoder = nn.ModuleList()
        for level, wide in enumerate(features):
            stride = 2 if level and self.pool is None else 1
            self.encoder.append(blocks(encoder, per_stage[level], width, wide, stride))
            width = wide

        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        per_stage = _each(decoder_blocks, stages - 1)
        for level in reversed(range(stages - 1)):
            wide = features[level]
            self.up.append(
                conv_transpose(dims, width, wide, 2, stride=2)
                if up == "transpose"
                else conv(dims, width, wide, 1)
            )
            self.decoder.append(blocks(decoder, per_stage[level], 2 * wide, wide, 1))
            width = wide
        self.interpolation = {2: "bilinear", 3: "trilinear"}[dims] if up == "linear" else None
        self.head = conv(dims, width, (refine or outputs) * volume, 1)
        self.last = conv(dims, refine + inputs, outputs, 3, padding=1) if refine else None
        self._initialise()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial)."""
        return self.decode(x, self.encode(x, condition), condition)

    def encode(self, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """(B, inputs, *spatial) -> the features of every stage, finest first."""
        x = fold(x, self.fold_factor)
        if self.stem is not None:
            x = self.stem(x, condition)
        stages: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level and self.pool is not None:
                x = self.pool(x)
            x = stage(x, condition)
            stages.append(x)
        return stages

    def decode(
        self, scan: Tensor, stages: Sequence[Tensor], condition: Tensor | None = None
    ) -> Tensor:
        """The output for `scan`, of which `stages` is what :meth:`encode` gave."""
        *skips, x = stages
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = up(x)
            if self.interpolation is not None:
                x = functional.interpolate(
                    x, scale_factor=2.0, mode=self.interpolation, align_corners=False
                )
            x = stage(torch.cat([x, skips.pop()], dim=1), condition)
        x = unfold(self.head(x), self.fold_factor)
        if self.last is None:
            return x
        x = functional.leaky_relu(x, 0.01)
        output: Tensor = self.last(torch.cat([x, scan], dim=1))
        return output

    @torch.no_grad()
    def rescale(self, gain: Tensor, offset: Tensor) -> None:
        """Fold a gain and an offset for each output channel, (outputs,) each, into the head."""
        last = self.head if self.last is None else self.last
        copies = len(last.weight) // len(gain)  # of each output where space is folded
        gain, offset = gain.repeat_interleave(copies), offset.repeat_interleave(copies)
        last.weight.mul_(gain.reshape(-1, *[1] * (last.weight.dim() - 1)))
        if last.bias is not None:
            last.bias.mul_(gain).add_(offset)

    def _initialise(self) -> None:
        """Kaiming normal for slope 0.01, zero biases; a residual block starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Residual):
                weight = getattr(module.second.norm, "weight", None)
                if weight is not None:
                    nn.init.zeros_(weight)


def _each(count: int | Sequence[int], stages: int) -> list[int]:
    """One count for each stage."""
    return [count] * stages if isinstance(count, int) else list(count)
