"""What a model has seen: voxel sizes, with skull or without; and scans that are none of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medi2i.inference.glance import Glance
from medi2i.inference.recognise import look, stripped
from medi2i.model import Model
from medi2i.volume import Volume, load_volume

__all__ = ["CARD", "beyond", "scope_of"]

CARD = "scans"
"""Where a model's card holds it."""
IN_PLANE, SLICES, SKULL = "in_plane_mm", "slices_mm", "skull"
TOLERANCE = 1.25
"""A size within this factor of what was seen is not worth a word."""
ENOUGH = 12
"""Scans, evenly spread, that are looked at."""


def scope_of(paths: Sequence[Path]) -> dict[str, Any]:
    """What a model saw that was trained on these scans: smallest and largest sizes, and skulls.

    Raises:
        InputError: a scan cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), ENOUGH)).round().astype(int))
    sizes, skull = [], set()
    for index in chosen:
        volume = load_volume(paths[index])
        sizes.append(_sizes(volume.spacing))
        if (bare := stripped(volume, look(volume))) is not None:
            skull.add("off" if bare else "on")
    in_plane, slices = zip(*sizes, strict=True) if sizes else ((), ())
    found: dict[str, Any] = {SKULL: sorted(skull)} if skull else {}
    for key, values in ((IN_PLANE, in_plane), (SLICES, slices)):
        if values:
            found[key] = [round(min(values), 4), round(max(values), 4)]
    return found


def beyond(model: Model, volume: Volume, seen: Glance | str | None) -> Iterator[str]:
    """Sentences where a scan is of a kind that the model has not seen, as far as its card tells.

    Finer voxels are no matter along axes that the model resamples.

    Args:
        seen: what :func:`~medi2i.inference.recognise.look` says of `volume`.
    """
    known = model.card.get(CARD)
    if not isinstance(known, Mapping):
        return
    name, resampled = volume.name or "the scan", model.view.spacing is not None
    in_plane, slices = _sizes(volume.spacing)
    for key, what, size, any_finer in (
        (IN_PLANE, "voxels in plane", in_plane, resampled),
        (SLICES, "slices", slices, resampled and model.view.dims == 3),
    ):
        match known.get(key):
            case [int() | float() as least, int() | float() as most]:
                finest = 0 if any_finer else least / TOLERANCE
                if not finest <= size <= most * TOLERANCE:
                    yield (
                        f'"{name}" has {what} of {size:.3g} mm; model "{model.name}" was trained '
                        f"on {least:g} to {most:g} mm, and may do worse here"
                    )
    match known.get(SKULL):
        case [str() as only]:
            bare = stripped(volume, seen)
            if bare is None or only == ("off" if bare else "on"):
                return
            has, saw = ("no skull", "heads") if bare else ("a skull", "bare brains")
            yield (
                f'"{name}" has {has}; model "{model.name}" was trained on {saw} alone, and may '
                "do worse here"
            )


def _sizes(spacing: tuple[float, float, float]) -> tuple[float, float]:
    """The larger edge in plane, and the slice, mm."""
    _, in_plane, slices = sorted(spacing)
    return float(in_plane), float(slices)
