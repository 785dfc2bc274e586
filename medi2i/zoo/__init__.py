"""Models by name: those that ship with medi2i, those that were installed, and any folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, ModelError
from medi2i.model import Model, read_model, read_task
from medi2i.task import Task

__all__ = [
    "AIDS",
    "CACHE",
    "PLACE",
    "aid",
    "aids",
    "cache_folder",
    "find_model",
    "folder_of",
    "installed",
    "load_model",
    "models_folder",
    "shipped",
]

FOLDER = Path(__file__).parent
AIDS = ("glance", "posture")
"""Networks that come with medi2i and translate nothing: they help those that do."""
PLACE = "MEDI2I_MODELS"
"""The environment variable that names another folder for installed models."""
CACHE = "MEDI2I_CACHE"
"""The environment variable that names another folder for what can be made again."""


def shipped() -> dict[str, Path]:
    """Name -> folder of every translator that comes with medi2i."""
    folders = [record.parent for record in sorted(FOLDER.glob("*/model.json"))]
    return {folder.name: folder for folder in folders if folder.name not in AIDS}


def aids() -> dict[str, Path]:
    """Name -> folder of every network that comes with medi2i and is no translator."""
    return {name: FOLDER / name for name in AIDS if (FOLDER / name / "model.json").is_file()}


def models_folder() -> Path:
    """Where installed models lie; it need not be there yet.

    What `PLACE` says; else medi2i/models in the user's data: $XDG_DATA_HOME, or
    %LOCALAPPDATA% on Windows, or ~/.local/share.
    """
    if given := os.environ.get(PLACE):
        return Path(given).expanduser()
    return _of_this_user("XDG_DATA_HOME", Path(".local", "share")) / "models"


def cache_folder() -> Path:
    """Where networks lie that were converted for this machine; it need not be there yet.

    What `CACHE` says; else medi2i in the user's cache: $XDG_CACHE_HOME or ~/.cache, and on
    Windows %LOCALAPPDATA%/medi2i/cache.
    """
    if given := os.environ.get(CACHE):
        return Path(given).expanduser()
    own = _of_this_user("XDG_CACHE_HOME", Path(".cache"))
    return own / "cache" if os.name == "nt" else own


def _of_this_user(variable: str, usual: Path) -> Path:
    """Our part of a folder that XDG gives each user for one kind of files."""
    folder = Path(os.environ.get("LOCALAPPDATA" if os.name == "nt" else variable, ""))
    if not folder.is_absolute():  # unset; and a relative one is to be ignored, says XDG
        folder = Path.home() / usual
    return folder / "medi2i"


def installed() -> dict[str, Path]:
    """Name -> folder of every model that was installed; a shipped one of that name goes first."""
    records = sorted(models_folder().glob("*/model.json"))
    folders = [record.parent for record in records if not record.parent.name.startswith(".")]
    taken = {*shipped(), *AIDS}
    return {folder.name: folder for folder in folders if folder.name not in taken}


def aid(name: str) -> Path:
    """The folder of one of `AIDS`.

    Raises:
        ModelError: it is not there.
    """
    if name not in (there := aids()):
        raise ModelError(f'network "{name}" does not come with this installation')
    return there[name]


def folder_of(name_or_folder: str | Path) -> Path:
    """Where a model lies: a shipped or an installed one by name, any other by its path.

    Raises:
        ModelError: neither a name nor a folder; the message names the nearest name.
    """
    known = {**installed(), **shipped()}
    folder = Path(name_or_folder)
    if str(name_or_folder) in known:
        return known[str(name_or_folder)]
    if not folder.exists() and len(folder.parts) == 1:
        near = difflib.get_close_matches(str(name_or_folder), known, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ModelError(
            f'model "{name_or_folder}" is neither a shipped model '
            f"({', '.join(shipped()) or 'none'}){_installed()} nor a folder{hint}"
        )
    return folder


def _installed() -> str:
    names = ", ".join(installed())
    return f", an installed one ({names})" if names else ""


def load_model(name_or_folder: str | Path) -> Model:
    """A shipped or installed model by name, or any model folder by path.

    Raises:
        ModelError: there is none, or it is not a whole, unaltered model.
    """
    return read_model(folder_of(name_or_folder))


def find_model(sources: Sequence[Contrast], target: Contrast) -> str:
    """The name of the first shipped model that turns these contrasts into that one.

    Installed models are taken only when they are named.

    Raises:
        ContrastError: there is none; the message says what there is.
    """
    tasks = {name: read_task(folder) for name, folder in shipped().items()}
    for name, task in tasks.items():
        if _serves(task, sources, target):
            return name
    own = [n for n, f in installed().items() if _serves(read_task(f), sources, target)]
    raise ContrastError(
        f"no shipped model turns {' + '.join(map(str, sources))} into {target}; there is "
        f"{'; '.join(f'{name}: {task}' for name, task in tasks.items()) or 'none'}. "
        + (
            f"Installed is {own[0]}, which does: --model {own[0]}"
            if own
            else "Train one, or name one with --model"
        )
    )


def _serves(task: Task, sources: Sequence[Contrast], target: Contrast) -> bool:
    one = len(sources) == 1 and task.on_demand and sources[0] in task.sources
    same = not task.on_demand and set(sources) == set(task.sources)
    return (one or same) and target in task.targets and not task.domains
