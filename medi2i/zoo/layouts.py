"""How the authors' code names the layers of its networks, and what those say of their making.

pix2pix: junyanz/pytorch-CycleGAN-and-pix2pix; BicycleGAN: junyanz/BicycleGAN; pix2pixHD:
NVIDIA/pix2pixHD; StarGAN: yunjey/stargan; StarGAN v2: clovaai/stargan-v2.
"""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from medi2i.errors import ModelError

__all__ = [
    "NESTED_DOWN",
    "ORIGINS",
    "STATISTICS",
    "Layout",
    "Origin",
    "State",
    "by_module",
    "nested",
]

STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""Of instance norms, in which they must not be used."""


class State(UserDict[str, Tensor]):
    """The tensors of a checkpoint by the authors' names."""

    def __init__(self, tensors: Mapping[str, Tensor], path: str) -> None:
        super().__init__(tensors)
        self.path = path

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of the weight `key`, at least two numbers.

        Raises:
            ModelError: it is not there or has fewer.
        """
        if key not in self:
            raise ModelError(
                f'checkpoint "{self.path}" lacks "{key}", by which its kind is recognised; is '
                "--from the code that it was trained with?"
            )
        if self[key].dim() < 2:
            raise ModelError(
                f'"{key}" in checkpoint "{self.path}" has shape {tuple(self[key].shape)}; the '
                "weight of a layer was expected"
            )
        return tuple(self[key].shape)

    def matching(self, pattern: str) -> list[str]:
        """The names that the whole pattern matches."""
        return [key for key in self if re.fullmatch(pattern, key)]


@dataclass(frozen=True)
class Layout:
    """What a checkpoint says about its networks.

    Attributes:
        arguments: of the system.
        inputs, outputs: channels of the images.
        theirs: from our name of a tensor, "generator.stem.weight", to theirs.
        domains: labels that the networks know; 0 where there are none.
        drop_statistics: running statistics are left out.
        fixed: their names of tensors that never learn and that our networks have built in.
        note: what a user should know, for the card.
    """

    arguments: Mapping[str, Any]
    inputs: int
    outputs: int
    theirs: Callable[[str], str]
    domains: int = 0
    drop_statistics: bool = True
    fixed: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Origin:
    """An official code base.

    Attributes:
        system: of the catalogue.
        read: from the checkpoint, and the input channels expected, to its layout.
        networks: our networks that a checkpoint holds, and their names for them.
        together: the file holds all of them under these names, not one alone.
    """

    system: str
    read: Callable[[State, int], Layout]
    networks: Mapping[str, str] = field(default_factory=lambda: {"generator": ""})
    together: bool = False


def by_module(table: Mapping[str, str], network: str = "generator") -> Callable[[str], str]:
    """Renames the module in front of the last dot; names that are not in the table stay."""

    def theirs(key: str) -> str:
        module, _, leaf = key.removeprefix(f"{network}.").rpartition(".")
        return f"{table.get(module, module)}.{leaf}"

    return theirs


def nested(depth: int, *, linear: bool = False) -> dict[str, str]:
    """A U-Net in which every level is a Sequential around the next one."""
    table: dict[str, str] = {}
    place = "model.model"
    extra = 2 if linear else 0  # upsampling and padding stand before the convolution
    for level in range(depth):
        first, last = level == 0, level == depth - 1
        up = depth - 1 - level
        rise = (3 if first or last else 5) + extra
        table[f"down.{level}"] = f"{place}.{0 if first else 1}"
        table[f"down_norm.{level}"] = f"{place}.2"
        table[f"up.{up}" + (".1" if linear else "")] = f"{place}.{rise}"
        table[f"up_norm.{up}"] = f"{place}.{rise + 1}"
        place += ".1.model" if first else ".3.model"
    return table


NESTED_DOWN = r"model\.model(\.0|\.1\.model(\.3\.model)*\.1)\.weight"


def _pix2pix(state: State, expected: int) -> Layout:
    del expected
    if "model.1.weight" in state and "model.model.0.weight" not in state:
        raise ModelError(
            f'checkpoint "{state.path}" is of a residual generator (netG resnet_*); of pix2pix the '
            "U-Nets are supported (netG unet_128 or unet_256); CycleGAN's come by --from CycleGAN"
        )
    features, inputs, *_ = state.shape("model.model.0.weight")
    _, outputs, *_ = state.shape("model.model.3.weight")
    depth = len(state.matching(NESTED_DOWN))
    batch = "model.model.1.model.2.weight" in state
    return Layout(
        {
            "depth": depth,
            "features": features,
            "norm": "batch" if batch else "instance",
            "noisy": batch,
        },
        inputs,
        outputs,
        by_module(nested(depth)),
        drop_statistics=not batch,
        note="translates as the authors' test.py: statistics of the batch at hand, and dropout; "
        "noisy false in model.json is their --eval"
        if batch
        else "dropout is off, as with the authors' --eval",
    )


def _bicyclegan(state: State, expected: int) -> Layout:
    if "model.model.0.weight" in state:  # the code joins the first layer only
        features, joined, *_ = state.shape("model.model.0.weight")
        depth = len(state.matching(NESTED_DOWN))
        linear = "model.model.5.weight" in state
        code = joined - expected
        head = "model.model.5.weight" if linear else "model.model.3.weight"
        table = nested(depth, linear=linear)
        batch = "model.model.1.model.2.weight" in state
    else:
        features, joined, *_ = state.shape("model.down.0.weight")
        depth = len(state.matching(r"model(\.submodule)*\.down\.[01]\.weight"))
        linear = "model.up.3.weight" in state
        code = state.shape("model.submodule.down.1.weight")[1] - features
        rise = 3 if linear else 1
        head = f"model.up.{rise}.weight"
        table = {}
        for level in range(depth):
            place, up = "model" + ".submodule" * level, depth - 1 - level
            table[f"down.{level}"] = f"{place}.down.{1 if level else 0}"
            table[f"down_norm.{level}"] = f"{place}.down.2"
            table[f"up.{up}" + (".1" if linear else "")] = f"{place}.up.{rise}"
            table[f"up_norm.{up}"] = f"{place}.up.{rise + 1}"
        batch = "model.submodule.down.2.weight" in state
    if code < 1:
        raise ModelError(
            f'the generator in "{state.path}" takes no code ({joined} channels enter it, images '
            f"of {expected} were expected): it is none that BicycleGAN can sample from"
        )
    shape = state.shape(head)
    return Layout(
        {
            "code": code,
            "where": "input" if "model.model.0.weight" in state else "all",
            "depth": depth,
            "features": features,
            "norm": "batch" if batch else "instance",
            "up": "linear" if linear else "transpose",
        },
        joined - code,
        shape[0] if linear else shape[1],
        by_module(table),
        drop_statistics=not batch,
    )


def _pix2pixhd(state: State, expected: int) -> Layout:
    del expected
    if "model.2.weight" in state:
        raise ModelError(
            f'checkpoint "{state.path}" was trained with batch norm, which the authors run with '
            "the statistics of the test image; networks with --norm instance are supported"
        )
    wide, inputs, *_ = state.shape("model.1.weight")
    first = [int(k.split(".")[1]) for k in state.matching(r"model\.\d+\.conv_block\.1\.weight")]
    blocks, halvings = len(first), (min(first, default=4) - 4) // 3
    enhancers = len(state.matching(r"model\d+_1\.1\.weight"))
    table = {"trunk.units.0.conv": "model.1"}
    for i in range(halvings):
        table[f"trunk.units.{1 + i}.conv"] = f"model.{4 + 3 * i}"
        up = 4 + 3 * halvings + blocks + 3 * i
        table[f"trunk.units.{1 + halvings + blocks + i}.conv"] = f"model.{up}"
    for i in range(blocks):
        theirs = f"model.{4 + 3 * halvings + i}.conv_block"
        table[f"trunk.units.{1 + halvings + i}.first.conv"] = f"{theirs}.1"
        table[f"trunk.units.{1 + halvings + i}.second.conv"] = f"{theirs}.5"
    head, local = f"model.{5 + 6 * halvings + blocks}", 0
    for k in range(enhancers):
        look, refine = f"model{k + 1}_1", f"model{k + 1}_2"
        local = len(state.matching(rf"{refine}\.\d+\.conv_block\.1\.weight"))
        for i, place in enumerate((1, 4)):
            table[f"enhancers.{k}.look.{i}.conv"] = f"{look}.{place}"
        for i in range(local):
            table[f"enhancers.{k}.refine.{i}.first.conv"] = f"{refine}.{i}.conv_block.1"
            table[f"enhancers.{k}.refine.{i}.second.conv"] = f"{refine}.{i}.conv_block.5"
        table[f"enhancers.{k}.refine.{local}.conv"] = f"{refine}.{local}"
        head = f"{refine}.{local + 4}"
    table["head"] = head
    arguments: dict[str, Any] = {
        "features": wide // 2**enhancers,
        "halvings": halvings,
        "blocks": blocks,
    }
    if enhancers:
        arguments |= {"enhancers": enhancers, "local_blocks": local}
    return Layout(arguments, inputs, state.shape(f"{head}.weight")[0], by_module(table))


def _stargan(state: State, expected: int) -> Layout:
    del expected
    features, joined, *_ = state.shape("main.0.weight")
    blocks = len(state.matching(r"main\.\d+\.main\.0\.weight"))
    outputs = state.shape(f"main.{15 + blocks}.weight")[0]
    return Layout(
        {"features": features, "blocks": blocks, "discriminator_features": features},
        outputs,
        outputs,
        by_module({}),
        domains=joined - outputs,
        note="labels are one-hot here; attributes that go together in a label do not exist",
    )


V2_NETWORKS = {"generator": "generator", "mapping": "mapping_network", "encoder": "style_encoder"}
V2_NAMES = (
    (r"^stem\.", "from_rgb."),
    (r"^head\.", "to_rgb."),
    (r"^heads\.", "unshared."),
    (r"\.shortcut\.", ".conv1x1."),
    (r"\.(norm[12])\.condition\.scale_shift\.", r".\1.fc."),
)
"""From our names to theirs, in any of the networks."""


def _starganv2(state: State, expected: int) -> Layout:
    del expected
    features, inputs, *_ = state.shape("generator.from_rgb.weight")
    halvings = len(state.matching(r"style_encoder\.shared\.\d+\.conv1\.weight"))
    depth = len(state.matching(r"generator\.encode\.\d+\.conv1\.weight")) - 2
    if depth != halvings - 2 or state.matching(r"generator\.hpf\..*"):
        raise ModelError(
            f'checkpoint "{state.path}" is of a generator with a high-pass path (w_hpf above 0, '
            "key hpf, one halving more), whose masks are landmarks of faces; w_hpf 0 is supported"
        )
    hidden, code, *_ = state.shape("mapping_network.shared.0.weight")

    def theirs(key: str) -> str:
        network, _, rest = key.partition(".")
        for ours, name in V2_NAMES:
            rest = re.sub(ours, name, rest)
        return f"{V2_NETWORKS[network]}.{rest}"

    return Layout(
        {
            "size": 2 ** (halvings + 2),
            "features": features,
            "widest": state.shape(f"style_encoder.shared.{halvings + 2}.weight")[0],
            "code_size": code,
            "style_size": state.shape("mapping_network.unshared.0.6.weight")[0],
            "hidden": hidden,
        },
        inputs,
        state.shape("generator.to_rgb.2.weight")[0],
        theirs,
        domains=len(state.matching(r"mapping_network\.unshared\.\d+\.0\.weight")),
    )


ORIGINS: Mapping[str, Origin] = {
    "pytorch-CycleGAN-and-pix2pix": Origin("pix2pix", _pix2pix),
    "BicycleGAN": Origin("bicyclegan", _bicyclegan),
    "pix2pixHD": Origin("pix2pixhd", _pix2pixhd),
    "stargan": Origin("stargan", _stargan),
    "stargan-v2": Origin("starganv2", _starganv2, V2_NETWORKS, together=True),
}
"""By the names of the repositories."""
