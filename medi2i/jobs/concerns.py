"""What speaks against a translation: sentences for its side-car and its reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from medi2i.batch import Pairing
from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.geometry import canonical_grid, same_grid
from medi2i.model import Model
from medi2i.volume import Volume

__all__ = ["concerns"]

FINE = 200
"""A span of intensities that whole numbers can still show."""


def concerns(
    model: Model, volumes: Mapping[Contrast, Volume], result: Volume, dtype: str
) -> Iterator[str]:
    """Sentences on what `model` made of `volumes`.

    Args:
        dtype: in which `result` is written.
    """
    grids = {contrast: canonical_grid(v.shape, v.affine) for contrast, v in volumes.items()}
    first, reference = next(iter(grids.items()))
    for contrast, grid in grids.items():
        if not same_grid(*reference, *grid):
            yield (
                f"{contrast} was brought onto the grid of {first} by their headers alone: "
                "both must be of one position of the head"
            )
    if model.system.pairing is Pairing.UNPAIRED:
        yield from _displaced(volumes[first], result)
    span = float(result.voxels.max()) - float(result.voxels.min())
    if not dtype.startswith("float") and span < FINE:
        loss = f"intensities span {span:.3g} and were rounded to whole numbers ({dtype})"
        yield f"{loss}: much detail is lost; float32 keeps it"


def _displaced(source: Volume, result: Volume) -> Iterator[str]:
    """A sentence where a network that learned without pairs has moved tissue."""
    from medi2i.evaluation.structure import MOVED, structure_scores  # takes seconds to import

    before, after = source.canonical(), result.canonical()
    try:
        found = structure_scores(before.voxels, after.voxels, spacing=before.spacing)
    except UsageError as error:
        yield f"whether tissue moved is not known: {error}"
        return
    if found.moved:
        far = f"{found.displacement_95:.1f} mm at the 95th percentile of edges, over {MOVED:g} mm"
        yield f"tissue may have moved: {far}, by a registration between source and translation"
