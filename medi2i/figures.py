"""Pictures of volumes: three planes through the head, one row per volume; or a sheet of slices.

Radiological convention, stated in every picture: the patient's right is on the left of axial and
coronal slices; the front is on the left of sagittal slices.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medi2i.errors import DimensionError, UsageError

__all__ = ["Row", "page_html", "sheet", "three_planes"]

_PLANES = ("axial", "coronal", "sagittal")
_EDGES = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))  # left right top bottom
_CONVENTION = "radiological display: the patient's right is on the left"

_PAGE, _TITLE, _TEXT, _MARK = (12, 13, 16), (240, 240, 240), (205, 208, 212), (120, 170, 200)
_MARGIN, _GAP, _BAR = 14, 6, 64  # pixels
_LONGEST = 4096  # pixels
_BELOW = (0.36, 0.72, 1.0)
_ABOVE = (1.0, 0.62, 0.22)
_BESIDE_MIDLINE = 4.0  # mm: there the sagittal slice shows cortex, not the gap between two
_CROWN_TO_MIDDLE = 75.0  # mm from the top of the head to the level of the basal ganglia

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Row:
    """One volume of a figure.

    Attributes:
        caption: written above its slices.
        voxels: (X, Y, Z) on canonical RAS axes, in any real unit.
        spacing: voxel size, mm.
        window: the values shown black and white; by default from the volume's own percentiles.
        signed: a difference: 0 is dark, negative values blue, positive ones orange, with a bar.
            The window is then symmetric: its larger side counts.
    """

    caption: str
    voxels: NDArray[np.floating | np.integer]
    spacing: tuple[float, float, float]
    window: tuple[float, float] | None = None
    signed: bool = False

    def limits(self) -> tuple[float, float]:
        """The values at the two ends of the scale."""
        values = self.voxels[np.isfinite(self.voxels)]
        if self.signed:
            ends = self.window or (0.0, float(np.percentile(np.abs(values), 99.5)))
            limit = max(abs(ends[0]), abs(ends[1])) or 1.0
            return -limit, limit
        if self.window is not None:
            return self.window
        low = float(np.percentile(values, 1))
        above = values[values > low]  # without the air, which may be most of the volume
        high = float(np.percentile(above, 99.5)) if above.size else low + 1.0
        return low, high


def page_html(page: Image.Image, title: str) -> str:
    """A picture as an element of HTML that needs no other file.

    >>> page_html(Image.new("L", (1, 1)), "<a>")[:33]
    '<img alt="&lt;a&gt;" src="data:im'
    """
    stream = io.BytesIO()
    page.save(stream, format="PNG")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _slices(voxels: NDArray[np.float32], at: tuple[int, int, int]) -> list[NDArray[np.float32]]:
    """Axial, coronal and sagittal slice as images: rows from top to bottom."""
    x, y, z = at
    axial, coronal, sagittal = voxels[:, :, z], voxels[:, y, :], voxels[x, :, :]
    return [
        axial[::-1, ::-1].T,  # right to the left, front to the top
        coronal[::-1, ::-1].T,  # right to the left, crown to the top
        sagittal[::-1, ::-1].T,  # front to the left, crown to the top
    ]


def _colours(share: NDArray[np.float32], *, signed: bool) -> NDArray[np.uint8]:
    """0..1 (grey) or -1..1 (diverging) to RGB."""
    if signed:
        amount = np.abs(share)[..., None]
        ends = np.where((share < 0)[..., None], np.asarray(_BELOW), np.asarray(_ABOVE))
        colour = 0.07 + amount * (ends - 0.07)
    else:
        colour = np.repeat(share[..., None], 3, axis=-1)
    return (colour * 255 + 0.5).astype(np.uint8)


def _middle(row: Row) -> tuple[int, int, int]:
    """The voxel through which to cut: about the middle of the head."""
    low, high = row.limits()
    if row.signed:
        low = 0.0
    inside = np.abs(row.voxels) > low + 0.12 * (high - low)
    if not inside.any():
        x, y, z = (n // 2 for n in row.voxels.shape)
        return x, y, z
    ends = []
    for axis in range(3):
        # Rows with next to nothing in them are noise, not head.
        counts = inside.sum(axis=tuple(i for i in range(3) if i != axis))
        filled = np.flatnonzero(counts > 0.02 * counts.max())
        ends.append((int(filled[0]), int(filled[-1])))
    x, y, z = ((first + last) // 2 for first, last in ends)
    level = ends[2][1] - round(_CROWN_TO_MIDDLE / row.spacing[2])
    aside = round(_BESIDE_MIDLINE / row.spacing[0])
    return min(x + aside, ends[0][1]), y, max(z, level)


def _number(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def _check(rows: Sequence[Row]) -> None:
    if not rows:
        raise UsageError("A figure of no volumes was asked for; give at least one.")
    shape = rows[0].voxels.shape
    for row in rows:
        if row.voxels.ndim != 3 or row.voxels.shape != shape:
            raise DimensionError(
                f'"{row.caption}" has shape {row.voxels.shape}; all volumes of a figure share one'
                f" 3-D grid, here {shape}."
            )


def three_planes(
    rows: Sequence[Row | tuple[str, NDArray[np.floating | np.integer], tuple[float, float, float]]],
    *,
    at: tuple[int, int, int] | None = None,
    title: str = "",
    note: str = "",
    scale: float = 1.6,
) -> Image.Image:
    """Axial, coronal and sagittal slices of volumes on one grid, a row for each.

    Args:
        rows: `Row`, or (caption, voxels, spacing); (X, Y, Z) on canonical RAS axes, all of one
            shape. Slices keep their proportions in millimetres.
        at: the voxel through which to cut; by default the middle of the first volume's head.
        title: above everything.
        note: a line below, beside the display convention.
        scale: pixels per mm; fewer where one axis would have over 4096.

    Raises:
        UsageError: no rows, or `at` outside of the grid.
        DimensionError: the volumes do not share one 3-D shape.

    >>> head = np.zeros((6, 8, 5), np.float32)
    >>> head[1:5, 1:7, 1:4] = 1
    >>> three_planes([("a box", head, (20.0, 20.0, 20.0))]).mode
    'RGB'
    """
    shown = [row if isinstance(row, Row) else Row(*row) for row in rows]
    _check(shown)
    shape = shown[0].voxels.shape
    cut = _middle(shown[0]) if at is None else at
    if any(not 0 <= i < n for i, n in zip(cut, shape, strict=True)):
        raise UsageError(f"The voxel {cut} lies outside of the grid {shape}.")

    text, small = ImageFont.load_default(15), ImageFont.load_default(11)
    lengths = [n * step for n, step in zip(shape, shown[0].spacing, strict=True)]
    scale = min(scale, _LONGEST / max(lengths))
    x, y, z = (max(1, round(length * scale)) for length in lengths)
    sizes = ((x, y), (x, z), (y, z))  # width and height of the three planes
    height = max(high for _, high in sizes)
    lefts = [_MARGIN, _MARGIN + x + _GAP, _MARGIN + 2 * (x + _GAP)]
    bar = _BAR if any(row.signed for row in shown) else 0
    width = max(lefts[2] + y + bar + _MARGIN, 420)
    top = _MARGIN + (26 if title else 0) + 18
    step = 22 + height + _GAP
    footer = [line for line in (note, _CONVENTION) if line]
    page = Image.new("RGB", (width, top + step * len(shown) + 16 * len(footer) + _MARGIN), _PAGE)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_MARGIN, _MARGIN - 4), title, _TITLE, ImageFont.load_default(19))
    for name, left, (wide, _) in zip(_PLANES, lefts, sizes, strict=True):
        draw.text((left + wide / 2, top - 9), name, _MARK, small, anchor="mm")

    for index, row in enumerate(shown):
        upper = top + index * step
        draw.text((_MARGIN, upper), row.caption, _TEXT, text)
        upper += 22
        low, high = row.limits()
        for image, left, (wide, tall), edges in zip(
            _slices(np.asarray(row.voxels, np.float32), cut), lefts, sizes, _EDGES, strict=True
        ):
            level = np.nan_to_num(image / high if row.signed else (image - low) / (high - low))
            share = np.clip(level, -1 if row.signed else 0, 1)
            tile = Image.fromarray(_colours(share, signed=row.signed))
            tile = tile.resize((wide, tall), Image.Resampling.BICUBIC)
            lowered = upper + (height - tall) // 2
            page.paste(tile, (left, lowered))
            for mark, place, anchor in zip(
                edges,
                (
                    (left + 3, lowered + tall / 2),
                    (left + wide - 3, lowered + tall / 2),
                    (left + wide / 2, lowered + 3),
                    (left + wide / 2, lowered + tall - 3),
                ),
                ("lm", "rm", "mt", "mb"),
                strict=True,
            ):
                draw.text(place, mark, _MARK, small, anchor=anchor)
        if row.signed:
            _draw_bar(page, (lefts[2] + y + 10, upper), height, high, small)

    for index, line in enumerate(footer):
        draw.text((_MARGIN, top + step * len(shown) + 16 * index), line, _MARK, small)
    return page


def _draw_bar(
    page: Image.Image, corner: tuple[int, int], height: int, limit: float, font: _Font
) -> None:
    """The colours of a difference, from +limit at the top to -limit at the bottom."""
    ramp = np.linspace(1, -1, height, dtype=np.float32)[:, None].repeat(10, axis=1)
    page.paste(Image.fromarray(_colours(ramp, signed=True)), corner)
    draw = ImageDraw.Draw(page)
    left, upper = corner
    for value, place, anchor in (
        (limit, upper, "lt"),
        (0.0, upper + height / 2, "lm"),
        (-limit, upper + height, "lb"),
    ):
        draw.text((left + 14, place), _number(value), _TEXT, font, anchor=anchor)


def sheet(
    slices: Mapping[str, NDArray[np.floating]],
    *,
    spacing: tuple[float, float] = (1.0, 1.0),
    across: int = 5,
    side: int = 192,
    note: str = "",
) -> Image.Image:
    """Axial slices side by side, row after row, each with its name above.

    Args:
        slices: (X, Y) by name, on canonical RAS axes, all of one shape; shown from 0 to 1.
        spacing: mm per voxel; slices keep their proportions.
        across: slices in a row.
        side: pixels of the longer side of a slice.
        note: a line below, beside the display convention.

    Raises:
        UsageError: no slices. DimensionError: they do not share one 2-D shape.

    >>> sheet({"dark": np.zeros((4, 8)), "bright": np.ones((4, 8))}, side=80).mode
    'RGB'
    """
    if not slices:
        raise UsageError("A sheet of no slices was asked for; give at least one.")
    shapes = {image.shape for image in slices.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise DimensionError(
            f"The shapes {sorted(shapes)} came; slices of one shape were expected."
        )
    lengths = [n * step for n, step in zip(next(iter(shapes)), spacing, strict=True)]
    wide, tall = (max(1, round(side * length / max(lengths))) for length in lengths)
    text, small = ImageFont.load_default(13), ImageFont.load_default(11)
    footer = [line for line in (note, _CONVENTION) if line]
    rows = -(-len(slices) // across)
    step_x, step_y = max(wide, 120) + _GAP, tall + 20 + _GAP
    width = max(2 * _MARGIN + min(across, len(slices)) * step_x - _GAP, 420)
    height = 2 * _MARGIN + rows * step_y + 16 * len(footer)
    page = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(page)
    for number, (name, image) in enumerate(slices.items()):
        left, upper = _MARGIN + number % across * step_x, _MARGIN + number // across * step_y
        draw.text((left, upper), name, _TEXT, text)
        share = np.clip(np.nan_to_num(np.asarray(image, np.float32)), 0, 1)
        tile = Image.fromarray(_colours(share[::-1, ::-1].T, signed=False))
        page.paste(tile.resize((wide, tall), Image.Resampling.BICUBIC), (left, upper + 20))
    for index, line in enumerate(footer):
        draw.text((_MARGIN, height - _MARGIN - 16 * (len(footer) - index)), line, _MARK, small)
    return page
