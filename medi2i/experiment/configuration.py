"""What a run is told, read from a YAML file and kept beside what it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from medi2i.config import build, read_yaml
from medi2i.contrasts import Contrast
from medi2i.data.settings import Data
from medi2i.errors import ConfigError
from medi2i.files import write_whole
from medi2i.systems.guidance import Guidance
from medi2i.task import Task, View
from medi2i.training.plan import Plan

__all__ = ["Config", "Validation", "begun_alike", "read_config", "remember"]


@dataclass(frozen=True)
class Validation:
    """Whole volumes of the split "val", scored as a reader of the paper would.

    Attributes:
        protocol: by name.
        volumes: of each translation, at most.
        better: the score that decides which weights are best.
    """

    protocol: str = "brain-3d"
    volumes: int = 2
    better: Literal["ssim", "psnr"] = "ssim"


@dataclass(frozen=True)
class Config:
    """One run, as its YAML file says it.

    Attributes:
        start: a model, by name or folder, whose weights it begins with instead of noise.
        guidance: holds neighbouring slices together; without it, no system is guided that does
            not do so by itself.
    """

    system: str
    task: Task
    arguments: Mapping[str, Any] = field(default_factory=dict)
    view: View = field(default_factory=View)
    data: Data = field(default_factory=Data)
    training: Plan = field(default_factory=Plan)
    validation: Validation = field(default_factory=Validation)
    guidance: Guidance = field(default_factory=lambda: Guidance(weight=0.0))
    start: str = ""
    name: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)


def read_config(path: Path, *, start: str | None = None, **changes: Any) -> Config:
    """Read a run's YAML file.

    Args:
        path: of the file.
        start: replaces the file's.
        changes: values of `training` that replace those in the file, e.g. rounds=100.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a wrong type.
    """
    content = read_yaml(path)
    where = f'"{path}"'
    task = content.get("task")
    if not isinstance(task, dict):
        raise ConfigError(f'{where} lacks the key "task" with its sources and targets')
    task = dict(task)
    for side in ("sources", "targets"):
        names = task.get(side)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{side} of task of {where} is {names!r}; a list of contrasts is due")
        task[side] = tuple(Contrast.parse(name) for name in names)
    training = content.get("training") or {}
    if not isinstance(training, dict):
        raise ConfigError(f"training of {where} is {training!r}; keys and values were expected")
    training = {**training, **{k: v for k, v in changes.items() if v is not None}}
    merged = {"name": path.stem, **content, "task": task, "training": training}
    if start is not None:
        merged["start"] = start
    return build(Config, merged, where=where)


def remember(config: Config, folder: Path) -> None:
    """Write the configuration beside the run; refuse to go on under another one.

    Raises:
        ConfigError: the folder holds a run with another configuration.
    """
    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    path = folder / "config.yaml"
    begun = (folder / "checkpoint.pt").is_file() and path.is_file()
    if (
        begun
        and path.read_text(encoding="utf-8") != text
        and _plain(read_config(path)) != yaml.safe_load(text)  # keys that came later have defaults
    ):
        raise ConfigError(
            f'"{folder}" holds a run with another configuration (see "{path}"); '
            "resume it with its own, or choose another folder"
        )
    write_whole(path, text)


def begun_alike(
    path: Path, settings: Mapping[str, Any], *, later: Mapping[str, Any] | None = None
) -> None:
    """Write down what makes runs comparable; refuse to go on with anything else.

    Args:
        path: of the JSON file; made the first time.
        settings: by name, compared as text.
        later: what files from before mean that do not say it.

    Raises:
        ConfigError: the file is there and says otherwise.
    """
    mine = {name: str(value) for name, value in settings.items()}
    there = {name: str(value) for name, value in (later or {}).items()}
    there = there | json.loads(path.read_text(encoding="utf-8")) if path.is_file() else mine
    if there != mine:
        unlike = ", ".join(f"{k} was {there.get(k)}" for k in mine if there.get(k) != mine[k])
        raise ConfigError(f'"{path.parent}" was begun otherwise ({unlike}); choose another folder')
    write_whole(path, json.dumps(mine, indent=2) + "\n")


def _plain(value: Any) -> Any:
    """Dataclasses and enumerations as plain YAML."""
    if isinstance(value, Contrast):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
