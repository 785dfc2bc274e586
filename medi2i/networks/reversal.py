"""A layer that is nothing on the way in and turns the gradient round on the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["reversed_gradient"]


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


def reversed_gradient(x: Tensor, weight: float = 1.0) -> Tensor:
    """The same values; their gradient comes back with the opposite sign.

    What stands behind the layer minimises a loss, what stands before it maximises the loss, both
    in one backward pass (Ganin & Lempitsky 2015, arXiv:1409.7495, equation 18).

    Args:
        x: of any shape.
        weight: of the reversed gradient; 0 lets none through.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> reversed_gradient(x**2, 0.5).backward()
    >>> float(x.grad)
    -3.0
    """
    reversed_: Tensor = _Reversal.apply(x, weight)  # type: ignore[no-untyped-call]  # untyped in torch
    return reversed_
