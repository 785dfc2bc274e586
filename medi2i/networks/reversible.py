"""A core that can be run backwards, and learns without remembering what passed through it.

Additive and affine coupling: Dinh et al. 2017, arXiv:1605.08803. Recomputing activations from
outputs: Gomez et al. 2017, arXiv:1707.04585. Between an encoder and a decoder of two domains:
van der Ouderaa & Worrall 2019, arXiv:1902.02729 (RevGAN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medi2i.errors import TrainingError, UsageError

__all__ = ["Coupling", "CouplingKind", "ReversibleCore"]

CouplingKind = Literal["additive", "affine"]


class Coupling(nn.Module):
    """One half of the channels changes by a function of the other half; that can be undone.

    Law: ``undo(do(base, terms), terms) == base`` up to rounding, whatever the function is.

    Args:
        function: of the half that stays; gives as many channels, twice as many where affine.
        kind: "additive", or "affine" with a scale between exp(-1/2) and exp(1/2).
    """

    def __init__(self, function: nn.Module, kind: CouplingKind = "additive") -> None:
        super().__init__()
        self.function = function
        self.kind = kind

    def terms(self, other: Tensor) -> tuple[Tensor, Tensor | None]:
        """Shift and logarithm of the scale, from the half that stays."""
        out: Tensor = self.function(other)
        if self.kind == "additive":
            return out, None
        shift, raw = out.chunk(2, dim=1)
        return shift, 0.5 * torch.tanh(raw)

    @staticmethod
    def do(base: Tensor, terms: tuple[Tensor, Tensor | None]) -> Tensor:
        """The changed half."""
        shift, log_scale = terms
        return base + shift if log_scale is None else base * log_scale.exp() + shift

    @staticmethod
    def undo(changed: Tensor, terms: tuple[Tensor, Tensor | None]) -> Tensor:
        """The half as it was."""
        shift, log_scale = terms
        return changed - shift if log_scale is None else (changed - shift) * (-log_scale).exp()


class Step(NamedTuple):
    """Which half changes, by which coupling, and whether that is done or undone."""

    coupling: Coupling
    half: int
    done: bool

    def forth(self, x: Tensor, terms: tuple[Tensor, Tensor | None]) -> Tensor:
        return (self.coupling.do if self.done else self.coupling.undo)(x, terms)

    def back(self, y: Tensor, terms: tuple[Tensor, Tensor | None]) -> Tensor:
        return (self.coupling.undo if self.done else self.coupling.do)(y, terms)


def walk(steps: Sequence[Step], x: Tensor) -> Tensor:
    """All steps, as any network would take them."""
    halves = list(x.chunk(2, dim=1))
    for step in steps:
        terms = step.coupling.terms(halves[1 - step.half])
        halves[step.half] = step.forth(halves[step.half], terms)
    return torch.cat(halves, dim=1)


class _Forgetful(torch.autograd.Function):
    """:func:`walk` that keeps its output alone and finds every earlier activation again.

    One function for all steps: going back, each coupling is evaluated once, which gives both the
    activations before it and the graph that its gradients come from.
    """

    @staticmethod
    def forward(ctx: Any, steps: Sequence[Step], x: Tensor, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            y = walk(steps, x)
        ctx.steps = steps
        ctx.versions = [p._version for p in parameters]
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        steps: Sequence[Step] = ctx.steps
        (y,) = ctx.saved_tensors
        lists = [list(step.coupling.parameters()) for step in steps]
        if [p._version for each in lists for p in each] != ctx.versions:
            raise TrainingError(
                "the weights of a reversible core changed between its forward and its backward"
                " pass, so its activations cannot be found again: step after the backward pass"
            )
        wanted = iter(ctx.needs_input_grad[2:])
        flags = [[next(wanted) for _ in each] for each in lists]
        halves = list(y.chunk(2, dim=1))
        gradients = list(gradient.chunk(2, dim=1))
        of_weights: list[list[Tensor | None]] = []
        with torch.autocast(y.device.type, enabled=False):
            for step, each, flag in reversed(list(zip(steps, lists, flags, strict=True))):
                learning = [p for p, is_wanted in zip(each, flag, strict=True) if is_wanted]
                with torch.enable_grad():
                    other = halves[1 - step.half].detach().requires_grad_()
                    terms = step.coupling.terms(other)
                    with torch.no_grad():
                        base = step.back(halves[step.half], terms)
                    base.requires_grad_()
                    again = step.forth(base, terms)
                found = torch.autograd.grad(again, [base, other, *learning], gradients[step.half])
                halves[step.half] = base.detach()
                gradients[step.half] = found[0]
                gradients[1 - step.half] = gradients[1 - step.half] + found[1]
                rest = iter(found[2:])
                of_weights.append([next(rest) if is_wanted else None for is_wanted in flag])
        of_input = torch.cat(gradients, dim=1) if ctx.needs_input_grad[1] else None
        return (None, of_input, *(g for each in reversed(of_weights) for g in each))


class ReversibleCore(nn.Module):
    """Couplings that take turns with the two halves of the channels; an exact inverse.

    Computes in float32 at least: in half precision the inverse would not find the way back.

    Args:
        couplings: the first changes the first half, the second the second, and so on.
        recompute: keep the output alone for the backward pass and recompute the rest, at the cost
            of one more evaluation of each coupling; False stores every activation.
    """

    def __init__(self, couplings: Sequence[Coupling], *, recompute: bool = True) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(couplings)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial), C even -> the same shape."""
        return self._run([Step(c, n % 2, True) for n, c in self._numbered()], x)

    def inverse(self, y: Tensor) -> Tensor:
        """What :meth:`forward` made `y` from."""
        return self._run([Step(c, n % 2, False) for n, c in reversed(self._numbered())], y)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Zero the last layer with weights of every coupling, whose terms then are zero."""
        for coupling in self.couplings:
            *_, last = (m for m in coupling.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
            for parameter in last.parameters():
                parameter.zero_()

    def _numbered(self) -> list[tuple[int, Coupling]]:
        return [(n, c) for n, c in enumerate(self.couplings) if isinstance(c, Coupling)]

    def _run(self, steps: Sequence[Step], x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise UsageError(f"{x.shape[1]} channels given; an even number was expected")
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            if not self.recompute or not torch.is_grad_enabled():
                return walk(steps, x)
            parameters = [p for step in steps for p in step.coupling.parameters()]
            result: Tensor = _Forgetful.apply(steps, x, *parameters)  # type: ignore[no-untyped-call]
            return result
