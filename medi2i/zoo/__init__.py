"""Models by name: those that ship with medi2i, and any folder that holds one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, ModelError
from medi2i.model import Model, read_model, read_task

__all__ = ["AIDS", "aid", "aids", "find_model", "folder_of", "load_model", "shipped"]

FOLDER = Path(__file__).parent
AIDS = ("glance",)
"""Networks that come with medi2i and translate nothing: they help those that do."""


def shipped() -> dict[str, Path]:
    """Name -> folder of every translator that comes with medi2i."""
    folders = [record.parent for record in sorted(FOLDER.glob("*/model.json"))]
    return {folder.name: folder for folder in folders if folder.name not in AIDS}


def aids() -> dict[str, Path]:
    """Name -> folder of every network that comes with medi2i and is no translator."""
    return {name: FOLDER / name for name in AIDS if (FOLDER / name / "model.json").is_file()}


def aid(name: str) -> Path:
    """The folder of one of `AIDS`.

    Raises:
        ModelError: it is not there.
    """
    if name not in (there := aids()):
        raise ModelError(f'network "{name}" does not come with this installation')
    return there[name]


def folder_of(name_or_folder: str | Path) -> Path:
    """Where a model lies: a shipped one by name, any other by its path.

    Raises:
        ModelError: neither a name nor a folder; the message names the nearest name.
    """
    known = shipped()
    folder = Path(name_or_folder)
    if str(name_or_folder) in known:
        return known[str(name_or_folder)]
    if not folder.exists() and len(folder.parts) == 1:
        near = difflib.get_close_matches(str(name_or_folder), known, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ModelError(
            f'model "{name_or_folder}" is neither a shipped model '
            f"({', '.join(known) or 'none'}) nor a folder{hint}"
        )
    return folder


def load_model(name_or_folder: str | Path) -> Model:
    """A shipped model by name, or any model folder by path.

    Raises:
        ModelError: there is none, or it is not a whole, unaltered model.
    """
    return read_model(folder_of(name_or_folder))


def find_model(sources: Sequence[Contrast], target: Contrast) -> str:
    """The name of the first shipped model that turns these contrasts into that one.

    Raises:
        ContrastError: there is none; the message says what there is.
    """
    can: list[str] = []
    for name, folder in shipped().items():
        task = read_task(folder)
        one = len(sources) == 1 and task.on_demand and sources[0] in task.sources
        same = not task.on_demand and set(sources) == set(task.sources)
        if (one or same) and target in task.targets:
            return name
        can.append(f"{name}: {task}")
    raise ContrastError(
        f"no shipped model turns {' + '.join(map(str, sources))} into {target}; there is "
        f"{'; '.join(can) or 'none'}. Train one, or name one with --model"
    )
