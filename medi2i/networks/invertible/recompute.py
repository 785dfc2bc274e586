"""A chain of invertible layers that learns without remembering what passed through it.

Gomez et al. 2017, arXiv:1707.04585. `networks.reversible` knows two halves of channels that change
in turn and no determinant, and so cannot hold a flow, whose layers also scale and mix all channels
and whose log-determinant has a gradient of its own. Here each layer is undone, then done again with
a graph: one evaluation more than there, in return for any layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medi2i.errors import TrainingError
from medi2i.networks.invertible.layers import Invertible

__all__ = ["through"]


def through(
    layers: Sequence[Invertible],
    x: Tensor,
    condition: Tensor | None = None,
    *,
    backwards: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """All layers, one after the other.

    Args:
        layers: in forward order.
        x: (B, C, *spatial).
        condition: (B, K, *spatial), the same for all layers, or None.
        backwards: the inverses, from the last layer to the first.
        recompute: keep the result alone for the backward pass and find the rest again from it.

    Returns:
        The result, and log |det| of the way taken, (B,), in nats.
    """
    if not recompute or not torch.is_grad_enabled():
        return _walk(layers, x, condition, backwards)
    parameters = [p for layer in layers for p in layer.parameters()]
    result: tuple[Tensor, Tensor] = _Forgetful.apply(  # type: ignore[no-untyped-call]
        layers, backwards, x, condition, *parameters
    )
    return result


def _walk(
    layers: Sequence[Invertible], x: Tensor, condition: Tensor | None, backwards: bool
) -> tuple[Tensor, Tensor]:
    total = x.new_zeros(len(x))
    for layer in reversed(layers) if backwards else layers:
        x, one = layer.inverse(x, condition) if backwards else layer(x, condition)
        total = total + one
    return x, total


class _Forgetful(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layers: Sequence[Invertible],
        backwards: bool,
        x: Tensor,
        condition: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            y, total = _walk(layers, x, condition, backwards)
        ctx.layers, ctx.backwards = layers, backwards
        ctx.versions = [p._version for p in parameters]  # ActNorm may just have set its own
        ctx.conditioned = condition is not None
        ctx.save_for_backward(y, *(() if condition is None else (condition,)))
        return y, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_total: Tensor) -> tuple[Tensor | None, ...]:
        layers: Sequence[Invertible] = ctx.layers
        y, *rest = ctx.saved_tensors
        condition: Tensor | None = rest[0] if ctx.conditioned else None
        if [p._version for layer in layers for p in layer.parameters()] != ctx.versions:
            raise TrainingError(
                "the weights of a flow changed between its forward and its backward pass, so its"
                " activations cannot be found again: step after the backward pass"
            )
        wanted = iter(ctx.needs_input_grad[4:])
        flags = [[next(wanted) for _ in layer.parameters()] for layer in layers]
        of_weights: list[list[Tensor | None]] = [[None] * len(flag) for flag in flags]
        of_condition = None
        order = range(len(layers)) if ctx.backwards else reversed(range(len(layers)))
        with torch.autocast(y.device.type, enabled=False):
            for place in order:
                layer, flag = layers[place], flags[place]
                learning = [p for p, use in zip(layer.parameters(), flag, strict=True) if use]
                with torch.no_grad():
                    back = layer(y, condition) if ctx.backwards else layer.inverse(y, condition)
                with torch.enable_grad():
                    x = back[0].detach().requires_grad_()
                    leaves = [x, *learning]
                    seen = condition
                    if condition is not None and ctx.needs_input_grad[3]:
                        seen = condition.detach().requires_grad_()
                        leaves.append(seen)
                    again = layer.inverse(x, seen) if ctx.backwards else layer(x, seen)
                pairs = [
                    (out, grad)
                    for out, grad in zip(again, (of_y, of_total), strict=True)
                    if out.requires_grad
                ]
                outs, grads = zip(*pairs, strict=True)
                found = list(torch.autograd.grad(outs, leaves, grads, allow_unused=True))
                y, of_y = x.detach(), found.pop(0)
                if len(leaves) > 1 + len(learning):
                    one = found.pop()
                    if one is not None:  # ActNorm and convolution do not look at it
                        of_condition = one if of_condition is None else of_condition + one
                given = iter(found)
                of_weights[place] = [next(given) if use else None for use in flag]
        of_x = of_y if ctx.needs_input_grad[2] else None
        return (None, None, of_x, of_condition, *(g for each in of_weights for g in each))
