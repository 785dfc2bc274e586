"""Models that were trained with the authors' own code, brought along.

A checkpoint of theirs is read as tensors alone; no code in it runs. Which numbers the networks
were built with follows from the names and shapes of its tensors; every tensor of our network must
then find its counterpart, of the same shape, and none may be left over. What the file does not
hold (discriminators, encoders, the way back) stays fresh, and the card says so. The names of their
layers stand in `zoo.layouts` and the files beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medi2i.errors import MissingFileError, ModelError, UsageError
from medi2i.model import Model, build_system
from medi2i.networks.memory import Memory
from medi2i.systems import Translator
from medi2i.task import Task, View
from medi2i.zoo import layouts
from medi2i.zoo.layouts import STATISTICS, Layout, Origin, State
from medi2i.zoo.layouts_contrastive import CONTRASTIVE
from medi2i.zoo.layouts_munit import TWO_DOMAINS
from medi2i.zoo.layouts_unpaired import UNPAIRED

__all__ = ["ORIGINS", "import_official", "origin_named", "read_tensors"]

ORIGINS: Mapping[str, Origin] = {
    **UNPAIRED,
    **CONTRASTIVE,
    **TWO_DOMAINS,
    **layouts.ORIGINS,
}
"""Every code base that models can be brought from."""

UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What torch raises on files that are not tensors alone."""


def import_official(
    path: Path, origin: str, task: Task, *, slices: int = 1, name: str = ""
) -> Model:
    """A model with the weights of an official checkpoint, its own networks fresh beside them.

    Args:
        path: what the authors' training wrote, for example latest_net_G.pth.
        origin: the authors' code, a key of :data:`ORIGINS`.
        task: what the channels of the network are; on demand, the targets in the order of the
            labels of its training.
        slices: neighbouring slices among the input channels.
        name: of the model; the file's by default.

    Raises:
        MissingFileError: no such file.
        ModelError: code in the file, names or shapes that do not fit, an unsupported variant.
        UsageError: the task has another number of channels or domains than the network.
    """
    kind = origin_named(origin)
    state = _flat(read_tensors(path), kind, path)
    view = View(dims=2, slices=slices)
    layout = kind.read(state, task.inputs * slices)
    _check_task(layout, task, slices, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = build_system(kind.system, layout.arguments, task, view)
    _fill(system, state, layout, kind, path)
    fresh = [
        part
        for part, network in system.named_children()
        if part not in kind.networks and not isinstance(network, Memory) and network.state_dict()
    ]
    imported = ", ".join(kind.networks)
    card = {
        "origin": f"{origin} (medi2i models import)",
        "file": path.name,
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "networks": f"imported {imported}" + (f"; {', '.join(fresh)} fresh" if fresh else ""),
        "licence": "that of whoever trained the checkpoint; not known here",
        **({"note": layout.note} if layout.note else {}),
    }
    return Model(
        name=name or path.stem,
        system_name=kind.system,
        arguments=layout.arguments,
        task=task,
        view=view,
        system=system.eval(),
        card=card,
    )


def origin_named(name: str) -> Origin:
    """What is known of an official code base.

    Raises:
        UsageError: nothing; the message names the nearest.
    """
    if name not in ORIGINS:
        lowered = {known.lower(): known for known in ORIGINS}
        near = difflib.get_close_matches(name.lower(), lowered, n=1)
        hint = f'; did you mean "{lowered[near[0]]}"?' if near else ""
        raise UsageError(
            f'"{name}" is no code to import from; {", ".join(ORIGINS)} are known{hint}'
        )
    return ORIGINS[name]


def read_tensors(path: Path) -> dict[str, Any]:
    """The content of a file that torch.save wrote, without running any code in it.

    Raises:
        MissingFileError: no such file.
        ModelError: it holds more than tensors, is damaged, or is no dictionary.
    """
    if not path.is_file():
        raise MissingFileError(f'checkpoint "{path}" is not there; a file was expected')
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = named[1] if named else ""
        if what:
            raise ModelError(
                f'checkpoint "{path}" was refused: reading it would call {what}, and '
                "only tensors are read here, for code in a file could do anything; save the "
                "network's state_dict() alone"
            ) from error
        raise ModelError(
            f'checkpoint "{path}" cannot be read as tensors alone: it is damaged, or not what '
            "torch.save writes for a state_dict()"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f'checkpoint "{path}" holds {type(content).__name__}; a state_dict() was expected'
        )
    return content


def _flat(content: Mapping[str, Any], kind: Origin, path: Path) -> State:
    """One dictionary of tensors; with several networks, "network.name"."""
    groups = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    if not kind.together:
        if groups:
            raise ModelError(
                f'checkpoint "{path}" holds several networks ({_some(groups)}); the state_dict() '
                "of the generator alone was expected"
            )
        groups = {"": content}
    else:
        wanted = list(dict.fromkeys(kind.networks.values()))
        if lacking := [network for network in wanted if network not in groups]:
            raise ModelError(
                f'checkpoint "{path}" lacks the networks {", ".join(lacking)}; a file with '
                f"{', '.join(wanted)} was expected"
            )
        groups = {network: groups[network] for network in wanted}  # no optimisers, no critics
    state: dict[str, Tensor] = {}
    for group, tensors in groups.items():
        parallel = bool(tensors) and all(str(key).startswith("module.") for key in tensors)
        for key, value in tensors.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ModelError(
                    f'"{key}" in checkpoint "{path}" is {type(value).__name__}; names and tensors '
                    "were expected"
                )
            bare = key.removeprefix("module.") if parallel else key
            state[f"{group}.{bare}" if group else bare] = value
    return State(state, str(path))


def _check_task(layout: Layout, task: Task, slices: int, path: Path) -> None:
    """Refuse a task that the network has not the channels for."""
    found, wanted = (layout.inputs, layout.outputs), (task.inputs * slices, task.outputs)
    if found != wanted:
        raise UsageError(
            f'the generator in "{path}" has {found[0]} channels in and {found[1]} out, and '
            f"{task} with {slices} slices has {wanted[0]} and {wanted[1]}: medi2i translates scans "
            "of one channel each, so colour pictures have no meaning here; name one source and "
            "one target for each channel"
        )
    if not layout.domains:
        if task.on_demand:
            raise UsageError(f'the generator in "{path}" knows one target; leave out on demand')
        return
    served = task.conditions or 2
    if served != layout.domains:
        raise UsageError(
            f'the networks in "{path}" know {layout.domains} domains, and {task} has {served}: '
            f"name {layout.domains} targets, on demand, in the order of the labels of the training"
        )


def _fill(system: Translator, state: State, layout: Layout, kind: Origin, path: Path) -> None:
    """Put every tensor in its place; all of them must fit."""
    whole = system.state_dict()
    places = {layout.theirs(key): key for key in whole if key.partition(".")[0] in kind.networks}
    unknown = [
        key
        for key in state
        if key not in places
        and not (layout.drop_statistics and key.endswith(STATISTICS))
        and key not in layout.fixed
        and (not kind.together or key.partition(".")[0] in kind.networks.values())
    ]
    missing = [key for key in places if key not in state]
    if missing or unknown:
        said = [
            f"{what} {_some(keys)}"
            for what, keys in (("lacks", missing), ("has unknown", unknown))
            if keys
        ]
        raise ModelError(
            f'checkpoint "{path}" does not fit {kind.system}: it {" and ".join(said)}; the '
            "network was built with options that are not supported here, or by other code"
        )
    wrong = [
        f"{theirs} {tuple(state[theirs].shape)} instead of {tuple(whole[ours].shape)}"
        for theirs, ours in places.items()
        if state[theirs].shape != whole[ours].shape
    ]
    if wrong:
        raise ModelError(f'checkpoint "{path}" does not fit {kind.system}: {_some(wrong)}')
    system.load_state_dict({**whole, **{places[key]: state[key] for key in places}}, strict=True)


def _some(names: Any, most: int = 4) -> str:
    """The first few, and how many more."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
