"""One spoiled input of a kind and a seed: made, used within caps, and judged."""

from __future__ import annotations

import random
import shutil
import tempfile
import traceback
import warnings
import zlib
from pathlib import Path

from medi2i.errors import Medi2iError
from tests.soak.caps import Late, capped
from tests.soak.targets import KINDS

__all__ = ["LONGEST", "tried"]

LONGEST = 4000
"""Characters of a sentence that somebody shall read."""


def tried(kind: str, seed: int, folder: Path) -> tuple[str, str]:
    """What became of one input.

    Args:
        folder: an empty one; it is empty again afterwards, unless the input did harm.

    Returns:
        ("done", ""), ("refused", the error's class), or ("harm", what happened).
    """
    rng = random.Random(zlib.crc32(f"{kind} {seed}".encode()))  # noqa: S311 - not for secrets
    place, scratch = folder / "input", folder / "scratch"
    place.mkdir()
    scratch.mkdir()
    path = KINDS[kind].make(place, rng)
    before = {p: p.stat().st_mtime_ns for p in sorted(place.rglob("*")) if p.is_file()}
    usual, tempfile.tempdir = tempfile.tempdir, str(scratch)
    try:
        with capped(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the command line does not show them either
            KINDS[kind].use(path)
        end = ("done", "")
    except Medi2iError as error:
        end = _judged(error)
    except (Exception, Late):
        end = ("harm", traceback.format_exc(limit=-8))
    finally:
        tempfile.tempdir = usual
    after = {p: p.stat().st_mtime_ns for p in sorted(place.rglob("*")) if p.is_file()}
    if before != after and end[0] != "harm":
        end = ("harm", f"files before {list(before)}, after {list(after)}")
    if left := [p.name for p in scratch.iterdir() if "torchinductor" not in p.name]:
        end = ("harm", f"temporary files left: {left}")
    if end[0] != "harm":
        shutil.rmtree(place)
        shutil.rmtree(scratch)
    return end


def _judged(error: Medi2iError) -> tuple[str, str]:
    said = str(error)
    if not 15 < len(said) < LONGEST:
        return "harm", f"{type(error).__name__} with {len(said)} characters: {said[:300]}"
    try:
        said.encode()
    except UnicodeEncodeError:
        return "harm", f"{type(error).__name__} cannot be printed: {said!r}"
    return "refused", type(error).__name__
