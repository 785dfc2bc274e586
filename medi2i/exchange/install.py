"""Models on their way in: from a folder, an archive or an address to a name.

A model takes its name when it is known to be whole: the archive is the one that was asked for,
holds nothing that leads out of it, describes a network of this catalogue, and its weights are those
that its record vouches for and fit that network. Nothing of it is ever run.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch

from medi2i.config import build
from medi2i.errors import FormatError, MissingFileError, ModelError, OutputError, UsageError
from medi2i.exchange.archives import Contents, check_zip, opened
from medi2i.exchange.fetch import check_sha256, digest_of, fetch, is_address
from medi2i.exchange.layout import (
    BUNDLED_CARD,
    BUNDLED_RECORD,
    CHECKPOINT,
    OPTIONAL,
    PREFIX,
    body_of,
)
from medi2i.exchange.licences import LICENCE
from medi2i.files import whole_folder, write_whole
from medi2i.model import CARD, RECORD, WEIGHTS, Model, build_system, read_model, read_record
from medi2i.networks.shapes import without_values
from medi2i.task import Task, View
from medi2i.zoo import AIDS, installed, models_folder, shipped
from medi2i.zoo.official import read_tensors

__all__ = ["MAX_BYTES", "install_model", "remove_model"]

MAX_BYTES = 500_000_000
"""Of an archive, packed and unpacked, unless more is allowed."""
_SMALL = 1 << 22
"""Bytes of what is not weights."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


class _Layout(NamedTuple):
    """Where a model's files lie within what was given."""

    record: str
    weights: str
    others: Mapping[str, str]
    bundled: bool


def install_model(
    given: str | Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    max_bytes: int = MAX_BYTES,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[str, Model]:
    """Put a model among the installed ones, from where it is known by its name.

    Args:
        given: a model folder, a folder in one of the forms of `medi2i models export`, a zip or
            tar archive of one, or the https address of an archive.
        name: by default the one in its record.
        sha256: of the archive; checked before anything in it is looked at.
        max_bytes: of what is fetched, and of what an archive holds.
        tell: called with lines for people.

    Returns:
        Its name, and the model as it was read back.

    Raises:
        UsageError: an address that is not fetched, a name that cannot be one or is taken.
        MissingFileError: nothing is there. FormatError: no archive of a model, or another one.
        ModelError: the model is not whole, or its weights do not fit.
        InputError, OutputError: it cannot be fetched, or not be kept.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower()):
        raise UsageError(f'"{sha256}" is no sha256; 64 digits of 0-9 and a-f were expected')
    if is_address(text := str(given)):
        path = fetch(text, sha256=sha256, max_bytes=max_bytes, tell=tell)
    else:
        path = Path(given)
    if path.is_dir():
        if sha256 is not None:
            raise UsageError(
                f'"{path}" is a folder, and --sha256 that of an archive; the weights of a folder '
                "are vouched for by its model.json"
            )
        return _take(path, None, name, max_bytes)
    if not path.is_file():
        raise MissingFileError(f'"{path}" does not exist; a file, folder or address was expected')
    with path.open("rb") as file:  # what is checked is what is read: one and the same open file
        if sha256 is not None:
            check_sha256(str(path), digest_of(file), sha256)
        return _take(path, file, name, max_bytes)


def remove_model(name: str) -> Path:
    """Take an installed model away.

    Returns:
        Where it was.

    Raises:
        UsageError: it comes with medi2i, or none of that name is installed.
        OutputError: it cannot be removed.
    """
    if name not in (there := installed()):
        why = (
            "comes with medi2i and stays"
            if name in (*shipped(), *AIDS)
            else f"is not installed; there is {', '.join(there) or 'none'}"
        )
        raise UsageError(f'model "{name}" {why}')
    folder = there[name]
    try:
        if folder.is_symlink():
            folder.unlink()
            return folder
        away = folder.with_name(f".medi2i-{name}-removed")
        shutil.rmtree(away, ignore_errors=True)
        folder.replace(away)  # gone in one step, whatever happens after
        shutil.rmtree(away)
    except OSError as error:
        raise OutputError(f'"{folder}" cannot be removed: {error.strerror}') from error
    return folder


def _take(path: Path, file: BinaryIO | None, name: str | None, limit: int) -> tuple[str, Model]:
    """Install from a folder, or from an archive that is open."""
    with opened(path, file, limit) as contents:
        layout = _layout(contents)
        record = contents.read(layout.record, _SMALL)
        chosen = _chosen(record, name, contents.where)
        earlier = models_folder() / chosen
        if (earlier / RECORD).is_file() and (earlier / RECORD).read_bytes() == record:
            return chosen, read_model(earlier)  # the record vouches for the weights: the same
        if earlier.exists():
            raise UsageError(
                f'another model "{chosen}" is installed; choose another name with --name, or take '
                f"that one away first: medi2i models remove {chosen}"
            )
        with whole_folder(earlier) as stage:
            write_whole(stage / RECORD, record)
            for own, theirs in layout.others.items():
                write_whole(stage / own, contents.read(theirs, _SMALL))
            if (card := stage / CARD).is_file():
                text = body_of(card.read_text(encoding="utf-8", errors="replace"))
                write_whole(card, text)
            try:
                weights = contents.read(layout.weights)
                if layout.bundled:
                    weights = _unbundled(weights, stage, limit)
                write_whole(stage / WEIGHTS, weights)
                _check_size(stage, len(weights))
                model = read_model(stage)
            except ModelError as error:
                raise ModelError(str(error).replace(str(stage), contents.where)) from error
    return chosen, model


def _layout(contents: Contents) -> _Layout:
    """Find the one model, as a model folder or as a bundle."""
    records = [
        path
        for path in map(PurePosixPath, contents.sizes)
        if path.name == RECORD or path.as_posix().endswith(BUNDLED_RECORD)
    ]
    if len(records) != 1:
        held = ", ".join(map(str, records[:3])) or "none"
        raise FormatError(
            f'"{contents.where}" holds {len(records)} models ({held}); one was expected: '
            f"{RECORD} and {WEIGHTS}, or a bundle that medi2i exported"
        )
    bundled = records[0].name != RECORD
    root = records[0].parent.parent if bundled else records[0].parent
    weights = str(root / (CHECKPOINT if bundled else WEIGHTS))
    if weights not in contents.sizes:
        raise ModelError(f'model "{contents.where}" lacks {weights}')
    theirs = {CARD: BUNDLED_CARD, LICENCE: LICENCE} if bundled else {one: one for one in OPTIONAL}
    others = {own: str(root / other) for own, other in theirs.items()}
    there = {own: other for own, other in others.items() if other in contents.sizes}
    return _Layout(str(records[0]), weights, there, bundled)


def _chosen(record: bytes, name: str | None, where: str) -> str:
    """The name that a model gets, if it can have it."""
    if name is None:
        try:
            name = json.loads(record)["name"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelError(f'{RECORD} in "{where}" is not valid, or has no name') from error
        if not isinstance(name, str):
            raise ModelError(f'{RECORD} in "{where}" has no name')
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of an installed model; choose one with --name, of "
            "letters, digits, dots, - and _"
        )
    if name in (*shipped(), *AIDS):
        raise UsageError(f'a model "{name}" comes with medi2i; choose another name with --name')
    return name


def _unbundled(checkpoint: bytes, stage: Path, limit: int) -> bytes:
    """The tensors of a bundle's checkpoint, as a model folder has them."""
    check_zip(io.BytesIO(checkpoint), CHECKPOINT, limit)
    place = write_whole(stage / "model.pt", checkpoint)
    tensors = read_tensors(place)
    place.unlink()
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > limit:
        raise ModelError(f'{CHECKPOINT} in "{stage}" holds tensors larger than itself')
    if foreign := [name for name in tensors if not str(name).startswith(PREFIX)]:
        raise ModelError(f'{CHECKPOINT} in "{stage}" holds {foreign[0]!r}; no such was expected')
    state = {name.removeprefix(PREFIX): one.contiguous() for name, one in tensors.items()}
    return safetensors.torch.save(state)


def _check_size(stage: Path, weights: int) -> None:
    """Raise ModelError for a record that asks for a network far beyond its weights.

    Before such a network is built, which could take all the memory there is.
    """
    record: dict[str, Any] = read_record(stage)
    try:
        task = build(Task, record["task"], where=f"task of {RECORD}")
        view = build(View, record["view"], where=f"view of {RECORD}")
        with without_values():
            system = build_system(record["system"], record["arguments"], task, view)
    except ModelError:
        raise
    except RuntimeError:  # a network that cannot be without values: reading it is the judge
        return
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f'"{stage / RECORD}" describes no model: {error}') from error
    wanted = sum(one.numel() * one.element_size() for one in system.lasting_state().values())
    if wanted > weights:
        raise ModelError(
            f'"{stage / RECORD}" describes a network of {wanted / 1e6:.1f} MB, and its weights '
            f'are {weights / 1e6:.1f} MB: they do not fit system "{record["system"]}"'
        )
