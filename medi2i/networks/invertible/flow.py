"""The multi-scale flow (Glow: Kingma & Dhariwal 2018, arXiv:1807.03039), in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.invertible.layers import (
    ActNorm,
    CouplingLayer,
    FlowCoupling,
    Invertible,
    InvertibleConvolution,
)
from medi2i.networks.invertible.likelihood import log_standard_normal, standard_normal
from medi2i.networks.invertible.recompute import through
from medi2i.networks.invertible.scales import FactorOut, Squeeze, Squeezing
from medi2i.networks.layers import check_dims

__all__ = ["Flow"]


class Flow(nn.Module):
    """A bijection between images and latents, whose density is known exactly.

    At each of `levels` levels space is squeezed into channels, and `steps` times ActNorm, a 1x1
    convolution and a coupling follow; then half of the channels leave as a latent, whitened by what
    the other half expects. At the coarsest level all leave, through one more ActNorm: which is the
    learned mean and deviation of Glow's top.

    Computes in float32 at least, and without the shortened products of TensorFloat-32: in fewer
    digits the inverse does not find the way back (bfloat16: errors of 0.01 to 0.1, and more).

    Args:
        dims: 2 or 3.
        channels: of an image.
        levels: halvings; every spatial size must be a multiple of :attr:`multiple`.
        steps: of each level.
        width: hidden channels of the couplings.
        kind, bound: of the couplings, see :class:`CouplingLayer`.
        squeeze: "haar" or "fold".
        conditions: channels of the condition at each level, one number for all or one for each; 0
            for none.
        expecting: False lets half of the channels leave as they are.
        recompute: find activations again from outputs instead of storing them.
    """

    def __init__(
        self,
        *,
        dims: int,
        channels: int = 1,
        levels: int = 3,
        steps: int = 8,
        width: int = 64,
        kind: FlowCoupling = "affine",
        bound: float = 1.0,
        squeeze: Squeezing = "haar",
        conditions: int | Sequence[int] = 0,
        expecting: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if levels < 1 or steps < 1:
            raise UsageError(f"levels {levels} and steps {steps} given; at least 1 was expected")
        self.multiple = 2**levels
        self.recompute = recompute
        told = [conditions] * levels if isinstance(conditions, int) else list(conditions)
        self.conditioned = any(told)
        self.squeeze = Squeeze(squeeze)
        self.levels = nn.ModuleList()
        self.leave = nn.ModuleList()
        self.widths: list[int] = []  # channels of each latent
        for level, condition in zip(range(levels), told, strict=True):
            channels *= 2**dims
            chain: list[Invertible] = []
            for _ in range(steps):
                chain += [
                    ActNorm(channels),
                    InvertibleConvolution(channels),
                    CouplingLayer(
                        dims, channels, width, kind=kind, bound=bound, conditions=condition
                    ),
                ]
            if level < levels - 1:
                self.leave.append(FactorOut(dims, channels, expecting=expecting))
                channels //= 2
            else:
                chain.append(ActNorm(channels))
            self.levels.append(nn.ModuleList(chain))
            self.widths.append(channels)

    def forward(
        self, x: Tensor, conditions: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Image -> latents.

        Args:
            x: (B, C, *spatial).
            conditions: one tensor for each level, finest (half the size) first.

        Returns:
            Latents, finest first, together as many numbers as `x`; log |det|, (B,), in nats.
        """
        with exact(x):
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            total = x.new_zeros(len(x))
            latents: list[Tensor] = []
            for chain, leave, condition in self._levels(conditions):
                x, _ = self.squeeze(x)
                x, one = through(chain, x, condition, recompute=self.recompute)
                total = total + one
                if leave is not None:
                    x, latent, one = leave(x)
                    total = total + one
                    latents.append(latent)
            return [*latents, x], total

    def inverse(
        self, latents: Sequence[Tensor], conditions: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents -> the image they came from, and log |det| of that way, (B,), in nats."""
        *finer, x = latents
        with exact(x):
            total = x.new_zeros(len(x))
            for chain, leave, condition in reversed(self._levels(conditions)):
                if leave is not None:
                    x, one = leave.inverse(x, finer.pop())
                    total = total + one
                x, one = through(chain, x, condition, backwards=True, recompute=self.recompute)
                total = total + one
                x, _ = self.squeeze.inverse(x)
            return x, total

    def start_as(self, other: Flow) -> None:
        """Take over the random rotations of a flow of the same shape.

        Fresh couplings do not depend on their hidden weights, so two fresh flows then are one.
        """
        for own, given in zip(self.modules(), other.modules(), strict=True):
            if isinstance(own, InvertibleConvolution):
                own.load_state_dict(given.state_dict())

    def log_density(self, x: Tensor, conditions: Sequence[Tensor] | None = None) -> Tensor:
        """(B,): log p(x) in nats, with standard normal latents."""
        latents, total = self(x, conditions)
        density: Tensor = log_standard_normal(latents) + total
        return density

    def shapes(self, count: int, spatial: Sequence[int]) -> list[tuple[int, ...]]:
        """Of the latents of `count` images of a spatial size."""
        return [
            (count, wide, *(size // 2 ** (level + 1) for size in spatial))
            for level, wide in enumerate(self.widths)
        ]

    @torch.no_grad()
    def draw(self, count: int, spatial: Sequence[int], *, temperature: float = 1.0) -> Tensor:
        """Images that the flow finds likely, from torch's random state.

        Args:
            count: how many.
            spatial: their size, multiples of :attr:`multiple`.
            temperature: deviation of the latents. Below 1 they are more likely and more alike, and
                the density is no longer the flow's.
        """
        like = next(self.parameters())
        shapes = self.shapes(count, spatial)
        image, _ = self.inverse(standard_normal(shapes, temperature=temperature, like=like))
        return image

    def _levels(
        self, conditions: Sequence[Tensor] | None
    ) -> list[tuple[list[Invertible], FactorOut | None, Tensor | None]]:
        if self.conditioned != (conditions is not None):
            raise UsageError("a flow has a condition at every level, or was built without any")
        chains = [
            [layer for layer in chain.children() if isinstance(layer, Invertible)]
            for chain in self.levels
        ]
        leaves = [leave for leave in self.leave if isinstance(leave, FactorOut)]
        told = [None] * len(chains) if conditions is None else conditions
        return list(zip(chains, [*leaves, None], told, strict=True))


@contextmanager
def exact(x: Tensor) -> Iterator[None]:
    """Within the block nothing is rounded to fewer digits than `x` has, float32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type != "cuda":
            yield
            return
        allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed
