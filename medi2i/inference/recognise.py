"""What the image itself says of a scan's contrast, beside its name, its side-car and the user."""

from __future__ import annotations

import numpy as np

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, DimensionError, ModelError
from medi2i.inference.glance import Glance, glance
from medi2i.volume import Volume

__all__ = ["ALIKE", "CONTRADICTED", "SURE", "against", "look", "recognise", "stripped"]

ALIKE = (Contrast.T1W, Contrast.T1CE)
"""One sequence, without and with contrast agent, of which a brain may show little: an image that
could be either is taken for the likelier of the two, and the sentence says so."""

SURE = 0.8
"""Probability from which a contrast is taken as recognised."""
BRAIN = 0.7
"""Share of the voxels that show something from which a scan counts as stripped: at least 0.86 in
15 stripped scans, at most 0.51 in 9 others."""
CONTRADICTED = 0.97
"""Probability of another contrast from which the one that was named is doubted."""


def recognise(volume: Volume, label: str) -> tuple[Contrast, str]:
    """The contrast of a scan that does not say it, and a sentence for the side-car.

    Args:
        label: what to call the scan in messages.

    Raises:
        ContrastError: the image leaves it open, or is no head; the message says what it looks like.
        ModelError: the network that looks is missing or was altered.
    """
    try:
        seen = glance(volume)
    except DimensionError as error:
        raise ContrastError(_question(label, str(error))) from error
    if not seen.is_head:
        raise ContrastError(_question(label, f"it does not look like {_head(seen)}"))
    if _share(seen, seen.contrast) < SURE:
        first, second = sorted(seen.probabilities.items(), key=lambda item: -item[1])[:2]
        likely = ", ".join(f"{contrast} ({share:.2f})" for contrast, share in (first, second))
        raise ContrastError(_question(label, f"its image leaves it open: {likely}"))
    others = [other for other in _alike(seen.contrast) if other is not seen.contrast]
    or_else = "".join(
        f"; or {other}, {seen.probabilities[other]:.2f}"
        for other in others
        if seen.confidence < SURE
    )
    told = f"{seen.contrast} ({seen.confidence:.2f}{or_else})"
    return seen.contrast, f"contrast recognised from the image: {told}"


def look(volume: Volume) -> Glance | str | None:
    """What a scan looks like; None where it shows too little, a sentence where nobody can look."""
    try:
        return glance(volume)
    except DimensionError:
        return None
    except ModelError as error:  # to look is not what was asked for
        return f'"{volume.name or "the scan"}" was not looked at: {error}'


def against(seen: Glance, name: str, contrast: Contrast | None, *, least: float = 0.0) -> list[str]:
    """Sentences on what in the image speaks against its being a head in this contrast.

    Args:
        contrast: None: it was recognised from the image.
        least: probability of the contrast below which it is doubted, whatever else is likely.
    """
    if not seen.is_head:
        return [f'"{name}" does not look like {_head(seen)}; what was made of it may mean nothing']
    if contrast is None:
        return []
    if contrast not in _alike(seen.contrast) and seen.confidence >= CONTRADICTED:
        looks = f"{seen.contrast} ({seen.confidence:.2f})"
        return [f'"{name}" is taken for {contrast}, but its image looks like {looks}']
    if (share := _share(seen, contrast)) < least:
        rivals = {k: v for k, v in seen.probabilities.items() if k not in _alike(contrast)}
        other = max(rivals, key=lambda one: rivals[one])
        likely = f"{contrast} ({share:.2f}), {other} ({rivals[other]:.2f})"
        return [f'"{name}" is taken for {contrast}, but its image leaves it open: {likely}']
    return []


def stripped(volume: Volume, seen: Glance | str | None) -> bool | None:
    """Whether a scan shows little but a brain; None where nobody can tell.

    Args:
        seen: what :func:`look` says of `volume`.
    """
    if seen is None or isinstance(seen, str) or not seen.is_head:
        return None
    voxels = volume.voxels
    air = np.median(np.concatenate([voxels[[0, -1]].ravel(), voxels[:, [0, -1]].ravel()]))
    shown = voxels != air
    return bool(shown.any()) and float(seen.brain_mask[shown].mean()) >= BRAIN


def _alike(contrast: Contrast) -> tuple[Contrast, ...]:
    return ALIKE if contrast in ALIKE else (contrast,)


def _share(seen: Glance, contrast: Contrast) -> float:
    """The probability of a contrast and of those that look like it."""
    return sum(seen.probabilities.get(one, 0.0) for one in _alike(contrast))


def _question(label: str, seen: str) -> str:
    return (
        f'which contrast is "{label}"? Neither its name nor a side-car says, and {seen}: '
        "give it with --from (in Python: source=)"
    )


def _head(seen: Glance) -> str:
    return f"the MRI of a head ({seen.head:.2f})"
