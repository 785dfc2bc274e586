"""How the authors' code names the layers of networks that were trained without pairs.

CycleGAN: junyanz/pytorch-CycleGAN-and-pix2pix with --model cycle_gan. A file of theirs holds one
generator (latest_net_G_A.pth goes from their A to their B, latest_net_G_B.pth back), which becomes
the way from source to target; the way back and the discriminators stay fresh.
"""

from __future__ import annotations

from collections.abc import Mapping

from medi2i.errors import ModelError
from medi2i.zoo.layouts import NESTED_DOWN, Layout, Origin, State, by_module, nested

__all__ = ["UNPAIRED"]

HALVINGS = 2
"""Of CycleGAN's residual generators, which stand before their first block as after their last."""
NOTE = "one direction; instance norms use the image at hand, dropout is off"


def _cyclegan(state: State, expected: int) -> Layout:
    del expected
    if "model.model.0.weight" in state:
        return _unet(state)
    _refuse_batch_norm(state, "model.2.weight")
    features, inputs, *_ = state.shape("model.1.weight")
    first = 4 + 3 * HALVINGS
    # with dropout in a block, its second convolution stands one place later
    second = 6 if f"model.{first}.conv_block.6.weight" in state else 5
    blocks = len(state.matching(r"model\.\d+\.conv_block\.1\.weight"))
    head = first + blocks + 3 * HALVINGS + 1
    table = {"encoder.0": "model.1", "decoder.6": f"model.{head}"}
    for halving in range(HALVINGS):
        table[f"encoder.{3 + 3 * halving}"] = f"model.{4 + 3 * halving}"
        table[f"decoder.{3 * halving}"] = f"model.{first + blocks + 3 * halving}"
    for block in range(blocks):
        theirs = f"model.{first + block}.conv_block"
        table[f"blocks.{block}.0"] = f"{theirs}.1"
        table[f"blocks.{block}.3"] = f"{theirs}.{second}"
    return Layout(
        {"generator": "resnet", "features": features, "blocks": blocks},
        inputs,
        state.shape(f"model.{head}.weight")[0],
        by_module(table, "a_to_b"),
        note=NOTE,
    )


def _unet(state: State) -> Layout:
    _refuse_batch_norm(state, "model.model.1.model.2.weight")
    features, inputs, *_ = state.shape("model.model.0.weight")
    depth = len(state.matching(NESTED_DOWN))
    return Layout(
        {"generator": "unet", "features": features, "depth": depth},
        inputs,
        state.shape("model.model.3.weight")[1],
        by_module(nested(depth), "a_to_b"),
        note=NOTE,
    )


def _refuse_batch_norm(state: State, scale: str) -> None:
    if scale in state:
        raise ModelError(
            f'checkpoint "{state.path}" was trained with batch norm (it has "{scale}"); CycleGANs '
            "with --norm instance, the authors' default, are supported"
        )


UNPAIRED: Mapping[str, Origin] = {"CycleGAN": Origin("cyclegan", _cyclegan, {"a_to_b": ""})}
"""By the names of the methods; their repository has others, too."""
