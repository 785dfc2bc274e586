"""How the authors' code names the layers of networks that were trained by contrast of patches.

CUT and FastCUT: taesungp/contrastive-unpaired-translation. Both have the same generator, in
latest_net_G.pth; nothing in the file says which of the two it is, nor does translating ask.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medi2i.errors import ModelError
from medi2i.zoo.layouts import Layout, Origin, State, by_module

__all__ = ["CONTRASTIVE"]

HALVINGS = 2
"""Of the residual generators."""


def _cut(state: State, expected: int) -> Layout:
    del expected
    if "encoder.convs.1.0.weight" in state or "model.model.0.weight" in state:
        raise ModelError(
            f'checkpoint "{state.path}" is of a StyleGAN2 generator (SinCUT, which knows three '
            "colours) or a U-Net; residual generators (netG resnet_*) are supported"
        )
    if "model.2.weight" in state:
        raise ModelError(
            f'checkpoint "{state.path}" was trained with batch norm; networks with --normG '
            "instance, the authors' default, are supported"
        )
    features, inputs, *_ = state.shape("model.1.weight")
    blocks = len(state.matching(r"model\.\d+\.conv_block\.1\.weight"))
    filters = state.matching(r"model\.\d+\.filt")
    # a blur behind each halving, an interpolation before each convolution on the way out
    step = 4 if "model.7.filt" in state else 3
    first = 4 + HALVINGS * step
    last = first + blocks
    rise = 4 if f"model.{last}.filt" in state else 3
    if step != rise:
        raise ModelError(
            f'checkpoint "{state.path}" was trained with only one of --no_antialias and '
            "--no_antialias_up; both or neither are supported"
        )
    wanted: dict[str, tuple[int, ...]] = {
        f"model.{7 + 4 * i}.filt": (1, 2, 1) for i in range(HALVINGS)
    }
    wanted |= {f"model.{last + 4 * i}.filt": (1, 3, 3, 1) for i in range(HALVINGS)}
    for key in filters:
        if key in wanted and not _is_outer(state[key], wanted[key]):
            raise ModelError(
                f'"{key}" in checkpoint "{state.path}" is another blur than the authors\' own, '
                f"{wanted[key]}; medi2i's networks have that one"
            )
    table = {"encoder.0": "model.1"}
    for i in range(HALVINGS):
        table[f"encoder.{3 + step * i}"] = f"model.{4 + step * i}"
        table[f"decoder.{rise * i + rise - 3}"] = f"model.{last + rise * i + rise - 3}"
    for i in range(blocks):
        theirs = f"model.{first + i}.conv_block"
        # with dropout in a block, its second convolution stands one place later
        second = 6 if f"{theirs}.6.weight" in state else 5
        table |= {f"blocks.{i}.0": f"{theirs}.1", f"blocks.{i}.3": f"{theirs}.{second}"}
    head = last + HALVINGS * rise + 1
    table[f"decoder.{HALVINGS * rise}"] = f"model.{head}"
    return Layout(
        {"features": features, "blocks": blocks, "antialiased": step == 4},
        inputs,
        state.shape(f"model.{head}.weight")[0],
        by_module(table),
        fixed=tuple(wanted) if step == 4 else (),
        note="CUT or FastCUT: the file does not say; instance norms use the image at hand",
    )


def _is_outer(found: Tensor, kernel: tuple[int, ...]) -> bool:
    """Whether every channel has this blur: the means halve, the interpolation keeps the sum."""
    row = torch.tensor(kernel, dtype=found.dtype)
    row = row * (2 if len(kernel) == 4 else 1) / row.sum()
    outer = torch.outer(row, row)
    return found.shape[1:] == (1, *outer.shape) and torch.allclose(found, outer.expand_as(found))


CONTRASTIVE: Mapping[str, Origin] = {"CUT": Origin("cut", _cut)}
"""By the names of the methods; their repository has others, too."""
