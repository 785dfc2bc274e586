"""The steps of a flow, which keep the size: ActNorm, 1x1 convolution, coupling.

Glow: Kingma & Dhariwal 2018, arXiv:1807.03039. Couplings: Dinh et al. 2017, arXiv:1605.08803.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.layers import conv

__all__ = [
    "ActNorm",
    "CouplingLayer",
    "FlowCoupling",
    "Invertible",
    "InvertibleConvolution",
    "for_each",
    "zero",
]

FlowCoupling = Literal["additive", "affine", "sigmoid"]

SMALLEST_DEVIATION = 1e-2
"""ActNorm blows up no channel that was nearly constant in its first batch, as background is."""


class Invertible(nn.Module, ABC):
    """A bijection of (B, C, *spatial).

    Laws: ``inverse(forward(x, c)[0], c)[0] == x`` up to rounding, and the two log-determinants add
    up to zero.
    """

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The image of `x`, and log |det| of the map at `x`: (B,), in nats."""

    @abstractmethod
    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `y` came from, and log |det| of the inverse map at `y`: (B,), in nats."""


class ActNorm(Invertible):
    """An offset and a gain per channel, so chosen that the first batch leaves with mean 0, sd 1.

    Several ranks take the statistics of all their first batches together. That it has happened is
    in a buffer, so that no resumed or reloaded network starts over.
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(channels))
        self.log_gain = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.uint8))
        self._known = False  # what the buffer says, without asking the device in every pass

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`; in training the first call sets offset and gain."""
        del condition
        if self.training and not self._ready():
            self._initialise(x)
        offset, log_gain = self._shaped(x)
        return (x + offset) * log_gain.exp(), for_each(self.log_gain.sum() * x[0, 0].numel(), x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`.

        Raises:
            UsageError: in training, before the first forward pass.
        """
        del condition
        if self.training and not self._ready():
            raise UsageError(
                "a flow in training was run backwards before it ever saw data; run it forward once"
            )
        offset, log_gain = self._shaped(y)
        return y * (-log_gain).exp() - offset, for_each(-self.log_gain.sum() * y[0, 0].numel(), y)

    def _ready(self) -> bool:
        self._known = self._known or bool(self.initialised)
        return self._known

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        flat = x.transpose(0, 1).flatten(1).double()
        moments = torch.stack([flat.mean(1), flat.square().mean(1)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments = moments / torch.distributed.get_world_size()
        mean, square = moments
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        self.offset.copy_(-mean)
        self.log_gain.copy_(-deviation.clamp_min(SMALLEST_DEVIATION).log())
        self.initialised.fill_(1)

    def _shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return self.offset.reshape(shape), self.log_gain.reshape(shape)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._known = False


class InvertibleConvolution(Invertible):
    """A 1x1 convolution W = P L (U + diag(sign exp(s))); starts as a random rotation.

    W and its inverse are composed in float64, and applied as a product of matrices, which GPUs do
    not round to fewer digits behind one's back as they do in convolutions.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # on the processor: where shapes alone are asked for, a factorisation loads the compiler
        start = torch.randn(channels, channels, dtype=torch.float64, device="cpu")
        rotation, _ = torch.linalg.qr(start)
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_scale = nn.Parameter(diagonal.abs().log().float())

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`."""
        del condition
        permutation, lower, upper = self.factors()
        weight = permutation @ lower @ upper
        return _mixed(weight, x), for_each(self.log_scale.sum() * x[0, 0].numel(), x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`."""
        del condition
        permutation, lower, upper = self.factors()
        half = torch.linalg.solve_triangular(lower, permutation.T, upper=False, unitriangular=True)
        weight = torch.linalg.solve_triangular(upper, half, upper=True)
        return _mixed(weight, y), for_each(-self.log_scale.sum() * y[0, 0].numel(), y)

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """P, L and U with its diagonal, (C, C) each, in float64."""
        one = torch.eye(len(self.sign), dtype=torch.float64, device=self.sign.device)
        diagonal = torch.diag(self.sign.double() * self.log_scale.double().exp())
        return (
            self.permutation.double(),
            self.lower.double().tril(-1) + one,
            self.upper.double().triu(1) + diagonal,
        )


class CouplingLayer(Invertible):
    """The second half of the channels is shifted, then scaled, by what the first half says.

    Args:
        dims: 2 or 3.
        channels: even.
        width: of the network: convolution 3, 1, 3 with ReLU between. The last begins at zero.
        kind: "additive"; "affine": scale exp(bound tanh r), the identity when fresh; "sigmoid":
            Glow's sigmoid(r + 2), which only contracts, by 0.88 when fresh.
        bound: of the logarithm of an affine scale. Large ones cost digits of the inverse.
        conditions: channels of the condition that the network sees beside the first half.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        width: int,
        *,
        kind: FlowCoupling = "affine",
        bound: float = 1.0,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        half = channels // 2
        last = conv(dims, width, half if kind == "additive" else 2 * half, 3, padding=1)
        zero(last)
        self.network = nn.Sequential(
            conv(dims, half + conditions, width, 3, padding=1),
            nn.ReLU(),
            conv(dims, width, width, 1),
            nn.ReLU(),
            last,
        )
        self.kind = kind
        self.bound = bound

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`."""
        stays, changes = x.chunk(2, dim=1)
        shift, log_scale = self.terms(stays, condition)
        changed = changes + shift
        if log_scale is None:
            return torch.cat([stays, changed], dim=1), for_each(x.new_zeros(()), x)
        return torch.cat([stays, changed * log_scale.exp()], dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`Invertible`."""
        stays, changed = y.chunk(2, dim=1)
        shift, log_scale = self.terms(stays, condition)
        if log_scale is None:
            return torch.cat([stays, changed - shift], dim=1), for_each(y.new_zeros(()), y)
        changes = changed * (-log_scale).exp() - shift
        return torch.cat([stays, changes], dim=1), -log_scale.flatten(1).sum(1)

    def terms(self, stays: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Shift and logarithm of the scale."""
        out: Tensor = self.network(
            stays if condition is None else torch.cat([stays, condition], dim=1)
        )
        if self.kind == "additive":
            return out, None
        shift, raw = out.chunk(2, dim=1)
        if self.kind == "sigmoid":
            return shift, nn.functional.logsigmoid(raw + 2)
        return shift, self.bound * torch.tanh(raw)


def for_each(value: Tensor, like: Tensor) -> Tensor:
    """The same number for every sample: (B,), in the type of the images."""
    return value.to(like.dtype).expand(len(like))


def _mixed(weight: Tensor, x: Tensor) -> Tensor:
    """(C, C) applied at every voxel."""
    mixed: Tensor = weight.to(x.dtype) @ x.flatten(2)
    return mixed.reshape(x.shape)


@torch.no_grad()
def zero(layer: nn.Conv2d | nn.Conv3d) -> None:
    """Weights and biases that give nothing yet."""
    for parameter in layer.parameters():
        parameter.zero_()
