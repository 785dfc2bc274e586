"""What in a scan speaks against believing what a network makes of it: sentences for the side-car.

look -> head or not, contrast (recognise.py) -> posture.py · field.py · spoilt.py
model -> scope.py
"""

from __future__ import annotations

from medi2i.contrasts import Contrast
from medi2i.inference.glance import Glance
from medi2i.inference.guards.field import cut_off
from medi2i.inference.guards.posture import misplaced
from medi2i.inference.guards.scope import beyond, scope_of
from medi2i.inference.guards.spoilt import spoilt
from medi2i.inference.recognise import against
from medi2i.volume import Volume

__all__ = ["beyond", "guarded", "scope_of"]


def guarded(
    volume: Volume,
    seen: Glance | str | None,
    contrast: Contrast | None,
    *,
    least: float = 0.0,
) -> list[str]:
    """Sentences on a scan: whether it is a head in this contrast, lies as it should, is whole.

    None for a scan that shows too little to be judged.

    Args:
        seen: what :func:`~medi2i.inference.recognise.look` says of `volume`.
        contrast: what it is taken for; None: it was recognised from the image.
        least: probability of the contrast below which it is doubted, whatever else is likely.
    """
    if seen is None or isinstance(seen, str):
        return [seen] if seen else []
    name = volume.name or "the scan"
    found = against(seen, name, contrast, least=least)
    if seen.is_head and seen.marked.any():
        found += misplaced(name, seen)
        found += cut_off(name, seen)
        found += spoilt(name, volume, seen.marked_mask)
    return found
