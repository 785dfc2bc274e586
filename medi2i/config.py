"""Checking what a person wrote in a configuration: unknown keys, wrong types, nearest names."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from medi2i.errors import ConfigError, MissingFileError

__all__ = ["build", "checked", "read_yaml", "unknown"]

T = TypeVar("T")

MOST = 100_000
"""Values in a file that a person wrote."""


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as a word, as YAML 1.1 had it; here it is the number it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        MissingFileError, ConfigError: no such file; not YAML; not a mapping.
    """
    if not path.is_file():
        raise MissingFileError(f'configuration "{path}" does not exist')
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f'"{path}" cannot be read: {error.strerror or error}') from error
    except RecursionError as error:
        raise ConfigError(f'"{path}" is not valid YAML: it is nested too deeply') from error
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        # the last four are PyYAML's own for a word that is no date, number, ... as its tag says
        raise ConfigError(f'"{path}" is not valid YAML: {error}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'"{path}" holds {type(content).__name__}; keys and values were expected')
    if _values(content, {}) > MOST:
        raise ConfigError(
            f'"{path}" says more than {MOST} things, or refers to itself: its aliases (*name) '
            "repeat too much; write out what is meant"
        )
    return content


def _values(value: Any, known: dict[int, int]) -> int:
    """How many values there are, written out; aliases can multiply a few lines to millions."""
    if not isinstance(value, dict | list | tuple):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST + 1  # met again on the way down, it holds itself
        parts = (*value, *value.values()) if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]


def build(make: Callable[..., T], given: Mapping[str, Any], *, where: str) -> T:
    """Call a constructor with checked arguments.

    Args:
        make: a class whose constructor's annotations say what is allowed; fields that are
            themselves dataclasses may be given as mappings.
        given: the arguments by name.
        where: for messages, e.g. 'training in "run.yaml"'.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing one, a wrong type.
    """
    return make(**checked(make, given, where=where))


def checked(make: Callable[..., Any], given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The arguments of `make`, each converted to its annotated type. See :func:`build`."""
    signature = inspect.signature(make)
    init: Any = make if inspect.isfunction(make) else make.__init__
    hints = get_type_hints(init)
    accepted = [name for name in signature.parameters if name != "self"]
    result = {}
    for key, value in given.items():
        if key not in accepted:
            raise ConfigError(unknown("key", str(key), accepted, where=where))
        result[key] = _converted(hints[key], value, f"{key} of {where}")
    for name, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in result:
            raise ConfigError(f'{where} lacks the key "{name}"')
    return result


def unknown(kind: str, name: str, known: Iterable[str], *, where: str) -> str:
    """A sentence that says what is not known and what may have been meant."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(known)}"
    return f'{where} has the unknown {kind} "{name}"{hint}'


def _converted(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, value, where=where)
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        kind = get_args(hint)[1]
        return {
            str(key): _converted(kind, item, f"{key} in {where}") for key, item in value.items()
        }
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    try:
        # By the strict rules for JSON "3" is no number and true is no 1, at any depth, but a list
        # may become a tuple and 1 a float.
        return adapter.validate_json(to_json(value), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{where} is {value!r}; {problem['msg']}") from None
    except PydanticSerializationError:
        raise ConfigError(f"{where} is {value!r}, which no configuration can hold") from None
