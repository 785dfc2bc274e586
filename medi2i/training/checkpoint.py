"""Everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medi2i.errors import TrainingError
from medi2i.files import atomic_write

__all__ = [
    "begin_random",
    "load_checkpoint",
    "random_states",
    "restore_random_states",
    "save_checkpoint",
]


def begin_random(seed: int) -> None:
    """Let every random generator begin where the seed says; libraries may draw from any."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - as below
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """The states of all random generators, in types that load without running code."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - libraries may draw from it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put every random generator back where :func:`random_states` found it."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    words = np.array(keys, np.uint32)
    np.random.set_state((kind, words, position, has_gauss, gauss))  # noqa: NPY002 - as above
    random.setstate(states["python"])


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write atomically: the old checkpoint stays whole until the new one is on disk."""
    atomic_write(path, lambda stream: torch.save(dict(content), stream), overwrite=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; runs no code that the file may hold.

    Raises:
        TrainingError: the file is damaged or was not written by :func:`save_checkpoint`.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content
    except Exception as error:
        raise TrainingError(
            f'checkpoint "{path}" cannot be read ({type(error).__name__}); '
            "start the run again in another folder"
        ) from error
