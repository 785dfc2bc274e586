"""What stands side by side in a report, and how it is shown."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from PIL import Image

from medi2i.errors import IntensityError, UsageError
from medi2i.evaluation.scoring import unit_range
from medi2i.figures import Row, three_planes
from medi2i.volume import Volume

__all__ = [
    "Kind",
    "Panel",
    "aligned",
    "difference",
    "difference_panels",
    "picture",
    "thumbnail",
]

NOTE = "computed, not acquired: for research, not for diagnosis"
FITTED = (
    "difference: synthetic minus reference, once it has the gain and the offset that fit best; a "
    "share of the reference's range."
)
WIDTH = 1000
"""Pixels of a picture, about."""


class Kind(StrEnum):
    """How a volume is shown."""

    IMAGE = "image"
    """Grey."""
    DIFFERENCE = "difference"
    """Negative blue, 0 dark, positive orange."""
    MAP = "map"
    """From 0 upwards, dark to bright."""
    PROBABILITY = "probability"
    """A share from 0 to 1, of which the upper half is shown."""


@dataclass(frozen=True)
class Panel:
    """One volume of a report.

    Attributes:
        caption: what it is, "source T1w".
        volume: with its place in space.
        kind: how it is shown.
        note: a sentence for who does not know what it is.
    """

    caption: str
    volume: Volume
    kind: Kind = Kind.IMAGE
    note: str = ""

    def row(self) -> Row:
        """For a figure."""
        upright = self.volume.canonical()
        window = None
        if self.kind is Kind.MAP:
            largest = float(np.percentile(upright.voxels, 99.9)) or float(upright.voxels.max())
            window = (0.0, largest if largest > 0 else 1.0)
        elif self.kind is Kind.PROBABILITY:
            window = (0.5, 1.0)
        signed = self.kind is Kind.DIFFERENCE
        return Row(self.caption, upright.voxels, upright.spacing, window, signed)

    def window(self) -> tuple[float, float]:
        """The values at the two ends of its scale."""
        return self.row().limits()


def aligned(panels: Sequence[Panel]) -> list[Panel]:
    """All panels on the upright grid of the first one; what was resampled says so.

    Raises:
        UsageError: there are none.
    """
    if not panels:
        raise UsageError("A report of no volumes was asked for; give at least one.")
    first = panels[0].volume.canonical()
    result = []
    for panel in panels:
        upright = panel.volume.canonical()
        moved = upright.resampled_onto(first)
        said = "" if moved is upright else ", resampled"
        result.append(replace(panel, volume=moved, caption=panel.caption + said))
    return result


def difference(synthetic: Volume, reference: Volume, inside: Volume | None = None) -> Volume | None:
    """Synthetic minus reference, once the one has the gain and offset that fit the other best.

    As the protocol brain-3d sees them: a share of the reference's range, 0 outside.

    Args:
        synthetic, reference, inside: on one grid; scored where `inside`, by default the
            reference, is above 0.

    Returns:
        None where nothing can be fitted: nothing inside, or a constant reference.
    """
    mask = (reference if inside is None else inside).voxels > 0
    try:
        target = unit_range(reference.voxels, mask)
    except IntensityError:
        return None
    x, y = synthetic.voxels[mask].astype(np.float64), target[mask]
    spread = float(np.var(x))
    gain = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
    fitted = np.clip(gain * (synthetic.voxels - x.mean()) + y.mean(), 0.0, 1.0)
    return synthetic.like(np.where(mask, fitted - target, 0.0), name="")


def difference_panels(synthetic: Volume, real: Volume, inside: Volume | None) -> list[Panel]:
    """The difference on the synthetic scan's grid; nothing where none can be told.

    Args:
        inside: above 0 where to look; by default where `real` is.
    """
    upright = synthetic.canonical()
    found = difference(
        upright,
        real.canonical().resampled_onto(upright),
        None if inside is None else inside.canonical().resampled_onto(upright, linear=False),
    )
    return [] if found is None else [Panel("difference", found, Kind.DIFFERENCE, FITTED)]


def picture(
    panels: Sequence[Panel], *, at: tuple[int, int, int] | None = None, width: int = WIDTH
) -> bytes:
    """Three planes of panels on one grid, as PNG.

    Args:
        at: the voxel through which to cut, upright; by default about the middle of the head.
        width: pixels, about.
    """
    rows = [panel.row() for panel in panels]
    x, y, _ = (
        size * step for size, step in zip(rows[0].voxels.shape, rows[0].spacing, strict=True)
    )
    scale = min(2.0, max(0.2, width / (2 * x + y)))
    return _png(three_planes(rows, at=at, note=NOTE, scale=scale))


def thumbnail(panels: Sequence[Panel], *, side: int = 96, level: int | None = None) -> bytes:
    """An axial slice of the first two panels on one grid, as PNG.

    Args:
        side: pixels.
        level: which slice, upright; by default the one with most in it.
    """
    rows = [panel.row() for panel in panels[:2]]
    low, high = rows[0].limits()
    inside = rows[0].voxels > low + 0.12 * (high - low)
    z = int(inside.sum(axis=(0, 1)).argmax()) if level is None else level
    x, y = (
        size * step for size, step in zip(rows[0].voxels.shape[:2], rows[0].spacing, strict=False)
    )
    size = tuple(max(1, round(side * length / max(x, y))) for length in (x, y))
    sheet = Image.new("L", (len(rows) * (size[0] + 2), size[1]))
    for number, row in enumerate(rows):
        low, high = row.limits()
        share = np.clip((row.voxels[::-1, ::-1, z].T - low) / ((high - low) or 1.0), 0, 1)
        tile = Image.fromarray((share * 255).astype(np.uint8)).resize((size[0], size[1]))
        sheet.paste(tile, (number * (size[0] + 2), 0))
    return _png(sheet)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
