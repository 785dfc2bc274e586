"""Networks that come with medi2i and translate nothing, as folders: weights and a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from medi2i.config import checked
from medi2i.errors import ModelError
from medi2i.files import write_whole
from medi2i.model import FORMAT, RECORD, WEIGHTS, read_record, read_weights

__all__ = ["KEYS", "read_aid", "write_aid"]

N = TypeVar("N", bound=nn.Module)

KEYS: Mapping[str, type] = {
    "format": int,
    "name": str,
    "arguments": dict,
    "sha256": str,
    "card": dict,
}
"""What their model.json must hold."""


def read_aid(folder: Path, kind: type[N]) -> N:
    """The network in a folder, in evaluation mode, without gradients.

    Raises:
        ModelError: a file is missing, altered, or of another kind.
    """
    record = read_record(folder, KEYS)
    weights = read_weights(folder, record["sha256"])
    where = f'arguments of network "{folder}"'
    try:
        net = kind(**checked(kind, record["arguments"], where=where))
        net.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f'weights of network "{folder}" cannot be used: {error}') from error
    return net.eval().requires_grad_(False)


def write_aid(
    net: nn.Module,
    folder: Path,
    arguments: Mapping[str, Any],
    card: Mapping[str, Any],
    **also: object,
) -> Path:
    """Write weights.safetensors and model.json; each is replaced in one step.

    Args:
        arguments: those that `net` was built with.
        card: what else is worth knowing: training data, scores, licence, limits.
        also: further entries of the record.

    Returns:
        The folder.
    """
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    weights = safetensors.torch.save(state)
    record = {
        "format": FORMAT,
        "name": folder.name,
        "arguments": dict(arguments),
        **also,
        "parameters": sum(p.numel() for p in net.parameters()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "card": dict(card),
    }
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return folder
