"""A trained translator as one thing: networks, task, view, intensities, card; one folder."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from medi2i.config import build, checked
from medi2i.contrasts import Contrast
from medi2i.errors import ConfigError, Medi2iError, ModelError, out_of_memory
from medi2i.files import write_whole
from medi2i.networks.shapes import without_values
from medi2i.normalise import Normaliser
from medi2i.systems import Translator, system_named
from medi2i.task import Task, View

__all__ = [
    "Model",
    "build_system",
    "read_model",
    "read_record",
    "read_task",
    "read_weights",
    "write_model",
]

WEIGHTS, RECORD, CARD = "weights.safetensors", "model.json", "README.md"
UNUSUAL = 100
"""By this factor a count may exceed its default: networks of a billion layers are never done."""
FORMAT = 1
"""Version of model.json; a reader refuses one that it does not know."""
KEYS: Mapping[str, type] = {
    "format": int,
    "name": str,
    "system": str,
    "arguments": dict,
    "task": dict,
    "view": dict,
    "normaliser": str,
    "sha256": str,
    "card": dict,
}
"""What model.json must hold."""


@dataclass
class Model:
    """What `translate` needs to know about a network.

    Attributes:
        name: for people and provenance.
        system_name: of the catalogue.
        arguments: the system's constructor arguments.
        task, view: what it turns into what, and how it looks at a volume.
        normaliser: how intensities come to [-1, 1]; "none" leaves them alone.
        system: the networks, in evaluation mode.
        card: what else is worth knowing: training data, scores, licence, limits.
        sha256: of the weights file it was read from; "" if it never was in one.
    """

    name: str
    system_name: str
    arguments: Mapping[str, Any]
    task: Task
    view: View
    system: Translator
    normaliser: Normaliser = "robust"
    card: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def parameters(self) -> int:
        """How many numbers it learned."""
        return sum(p.numel() for p in self.system.parameters())

    def accepts(self, sources: tuple[Contrast, ...], target: Contrast) -> bool:
        """Whether it turns these contrasts into that one."""
        return any(i == sources and target in o for i, o in self.task.pairs())


def build_system(name: str, arguments: Mapping[str, Any], task: Task, view: View) -> Translator:
    """A fresh system of the catalogue for a task and a view.

    What follows from the task and the view (dims, slices, inputs, outputs, conditions) is filled
    in here and may not be given.

    Raises:
        ModelError: no such system. ConfigError: an argument that it does not know, or a value
            that no network can be built with.
    """
    kind = system_named(name)
    derived = {
        "dims": view.dims,
        "slices": view.slices,
        "inputs": task.inputs,
        "outputs": task.outputs,
        "conditions": task.conditions,
    }
    given = set(derived) & set(arguments)
    if given:
        raise ConfigError(
            f'arguments of system "{name}" give {", ".join(sorted(given))}, which follow from '
            "the task and the view: leave them out"
        )
    if kind.one_list and task.on_demand and task.sources != task.targets:
        raise ConfigError(
            f'system "{name}" has one list of domains, but {task} was given: name the same '
            "contrasts as sources and as targets, in the same order"
        )
    if kind.reconstructs != (len(task.domains) == 1):
        raise ConfigError(
            f'system "{name}" learns one domain and gives images back as they would be there, but '
            f"{task} was given: name one contrast as source and as target, and one domain"
            if kind.reconstructs
            else f'{task} has one domain, and system "{name}" goes from one to another: name at '
            "least two, or take denoising_autoencoder or vae"
        )
    if task.domains and not (kind.one_list or kind.reconstructs):
        raise ConfigError(
            f'system "{name}" knows contrasts, but {task} was given: domains need a system that '
            "learns one list of them, such as fixed_point_gan or stargan"
        )
    where = f'arguments of system "{name}"'
    wanted = checked(kind, {**arguments, **derived}, where=where)
    for key, parameter in inspect.signature(kind).parameters.items():
        most = UNUSUAL * max(10, _largest(parameter.default))
        if key in arguments and (found := _largest(wanted[key])) > most:
            raise ConfigError(f"{key} of {where} is {found}; at most {most} was expected")
    try:
        return kind(**wanted)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, Medi2iError) or out_of_memory(error):
            raise
        raise ConfigError(f"{where}, {dict(arguments)}, give no network: {error}") from error


def _largest(value: Any) -> int:
    """The largest whole number in an argument; 0 where there is none."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0


def write_model(model: Model, folder: Path) -> Path:
    """Write weights.safetensors and model.json; each is replaced in one step.

    Returns:
        The folder.
    """
    state = {name: tensor.contiguous() for name, tensor in model.system.lasting_state().items()}
    weights = safetensors.torch.save(state)
    record = {
        "format": FORMAT,
        "name": model.name,
        "system": model.system_name,
        "arguments": dict(model.arguments),
        "task": {
            "sources": [str(c) for c in model.task.sources],
            "targets": [str(c) for c in model.task.targets],
            "on_demand": model.task.on_demand,
            **({"domains": list(model.task.domains)} if model.task.domains else {}),
        },
        "view": asdict(model.view),
        "normaliser": model.normaliser,
        "parameters": model.parameters,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "card": dict(model.card),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / RECORD, text)
    return folder


def read_model(folder: Path) -> Model:
    """Read a model folder; the weights must be those that model.json vouches for.

    Raises:
        ModelError: a file is missing, altered or of an unknown format or system.
    """
    record = read_record(folder)
    weights = read_weights(folder, record["sha256"])
    where = f'"{folder / RECORD}"'
    task = _task(record, folder)
    try:
        view = build(View, record["view"], where=f"view in {where}")
        with without_values():  # first, as what does not fit may want any amount of memory
            shapes = build_system(record["system"], record["arguments"], task, view).lasting_state()
    except ModelError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{where} describes no model that can be built: {error}") from error
    state = _state(folder, weights, shapes, f'system "{record["system"]}"')
    system = build_system(record["system"], record["arguments"], task, view)
    system.load_lasting_state(state)
    return Model(
        name=record["name"],
        system_name=record["system"],
        arguments=record["arguments"],
        task=task,
        view=view,
        system=system.eval(),
        normaliser=record["normaliser"],
        card=record["card"],
        sha256=record["sha256"],
    )


def read_weights(folder: Path, sha256: str) -> bytes:
    """The weights file of a model folder; it must be the one that model.json vouches for.

    Raises:
        ModelError: it is missing or altered.
    """
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ModelError(f'model "{folder}" lacks {WEIGHTS}') from error
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        raise ModelError(
            f'weights of model "{folder}" have sha256 {found[:12]}..., {RECORD} promises '
            f"{sha256[:12]}...: the file was altered or cut short; fetch it again"
        )
    return weights


def _state(
    folder: Path, weights: bytes, shapes: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """The tensors of a weights file, which must be those that a network has."""
    wrong = f'weights of model "{folder}" do not fit {what}'
    try:
        state = safetensors.torch.load(weights)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"{wrong}: {WEIGHTS} cannot be read: {error}") from error
    for name in [*shapes, *state]:
        there, due = (
            tuple(by[name].shape) if name in by else "no such tensor" for by in (state, shapes)
        )
        if there != due:
            raise ModelError(f'{wrong}: "{name}" has {there}; the arguments give {due}')
        if state[name].dtype.is_floating_point != shapes[name].dtype.is_floating_point:
            kinds = f"{state[name].dtype}; {shapes[name].dtype} or the like was expected"
            raise ModelError(f'{wrong}: "{name}" holds {kinds}')
        if not torch.isfinite(state[name]).all():
            raise ModelError(f'{wrong}: "{name}" is not finite; fetch or train the model again')
    return state


def read_task(folder: Path) -> Task:
    """The task of a model, without its weights.

    Raises:
        ModelError: as :func:`read_model`.
    """
    return _task(read_record(folder), folder)


def read_record(folder: Path, keys: Mapping[str, type] = KEYS) -> dict[str, Any]:
    """model.json alone, checked for its keys.

    Args:
        keys: that it must hold, with their types; those of a translator by default.

    Raises:
        ModelError: as :func:`read_model`.
    """
    path = folder / RECORD
    if not path.is_file():
        what = "has no " + RECORD if folder.is_dir() else "does not exist"
        raise ModelError(f'model folder "{folder}" {what}; {WEIGHTS} and {RECORD} were expected')
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f'"{path}" is not valid JSON: {error}') from error
    if not isinstance(record, dict):
        raise ModelError(f'"{path}" holds {type(record).__name__}; an object was expected')
    if record.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f'"{path}" has format {record["format"]}; this version of medi2i reads {FORMAT}'
        )
    if lacking := [key for key in keys if key not in record]:
        raise ModelError(f'"{path}" lacks {", ".join(lacking)}')
    for key, kind in keys.items():
        if not isinstance(record[key], kind):
            raise ModelError(f'{key} in "{path}" is {record[key]!r}; {kind.__name__} was expected')
    if "normaliser" in keys and record["normaliser"] not in get_args(Normaliser):
        raise ModelError(
            f'normaliser in "{path}" is "{record["normaliser"]}"; '
            f"{' or '.join(get_args(Normaliser))} was expected"
        )
    return record


def _task(record: Mapping[str, Any], folder: Path) -> Task:
    where = f'"{folder / RECORD}"'
    try:
        return build(Task, record["task"], where=f"task in {where}")
    except ValueError as error:  # every error of medi2i that can come is one
        raise ModelError(f"{where} describes no model that can be built: {error}") from error
