"""The word SYNTHETIC in the pixels themselves, for viewers that show no header."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medi2i.errors import UsageError

__all__ = ["WORD", "burned"]

WORD = "SYNTHETIC"
SMALLEST = 8
"""Pixels: the height below which letters cannot be read."""
SHARE = 0.4
"""Of a slice's width that the word takes."""


def burned(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy with the word in the upper left corner of each slice: brightest on darkest.

    Args:
        voxels: (columns, rows, slices).

    Raises:
        UsageError: a slice is too small for the word.
    """
    columns, rows, _ = voxels.shape
    size = SMALLEST
    while _width(size + 1) <= SHARE * columns:
        size += 1
    label = _label(size)
    across, down = label.shape
    if across > columns or down > rows:
        raise UsageError(
            f"A slice of {columns} x {rows} voxels cannot hold the word {WORD}, which needs"
            f" {across} x {down}: leave --burn-in out."
        )
    marked = voxels.copy()
    low, high = voxels.min(), voxels.max()
    marked[:across, :down] = np.where(label, high, low)[:, :, None]
    return marked


def _label(size: int) -> NDArray[np.bool_]:
    """The word on a margin of two pixels: (columns, rows), True where ink is."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(WORD)
    picture = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(picture).text((2 - left, 2 - top), WORD, fill=255, font=font)
    return np.asarray(picture).T > 127


def _width(size: int) -> int:
    return len(_label(size))
