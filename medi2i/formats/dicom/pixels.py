"""Stored pixels as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, FormatError, UsageError
from medi2i.formats.dicom.apart import Apart
from medi2i.formats.dicom.frames import Frame
from medi2i.formats.dicom.stored import Stored, understood

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["read_pixels"]

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Unpacked when it was read."""
DECODERS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow")
"""In this order; each says what is wrong with a damaged stream. GDCM may take the process along."""


def read_pixels(
    frames: Sequence[Frame], name: str, *, max_voxels: int = 2**30
) -> NDArray[np.float32]:
    """The values of images of one matrix: stored values times slope plus intercept, of each image.

    Args:
        name: of the series, for messages.
        max_voxels: more are refused before any is read.

    Returns:
        (images, rows, columns).

    Raises:
        DimensionError: too many voxels.
        FormatError: damaged, in colour, or shown inverted.
        UsageError: the decoder of a compressed file is not installed.
    """
    columns, rows = frames[0].shape
    voxels = len(frames) * rows * columns
    if not 0 < voxels <= max_voxels:
        raise DimensionError(
            f"{name} has {columns} x {rows} x {len(frames)} voxels; 1 to {max_voxels} are read."
        )
    values = np.empty(0, np.float32)
    places: dict[Stored, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.stored, []).append(place)
    with Apart() as apart:
        for stored, taken in places.items():
            images = _images(stored, columns, rows, max_voxels, apart)
            if not values.size:  # once there are pixels: what a header claims takes no memory
                values = np.empty((len(frames), rows, columns), np.float32)
            for place in taken:
                frame = frames[place]
                image = images[frame.index]
                scaled = (frame.slope, frame.intercept) != (1, 0)
                with np.errstate(over="ignore", invalid="ignore"):  # Volume.of counts overflows
                    values[place] = image * frame.slope + frame.intercept if scaled else image
    return values


def _images(stored: Stored, columns: int, rows: int, max_voxels: int, apart: Apart) -> NDArray[Any]:
    """(images, rows, columns) of one file, as they are stored."""
    dataset = stored.read(pixels=True)
    with understood(f'"{stored}" is'):
        count = int(dataset.get("NumberOfFrames") or 1)
    if count * rows * columns > max_voxels:
        raise DimensionError(
            f'"{stored}" promises {count * rows * columns} voxels; at most {max_voxels} are read.'
        )
    images = _decoded(stored, dataset, apart)
    if images.size != count * rows * columns:
        raise FormatError(
            f'"{stored}" holds {images.size} voxels; {columns} x {rows} x {count} were due.'
        )
    return images.reshape(count, rows, columns)


def _decoded(stored: Stored, dataset: Dataset, apart: Apart) -> NDArray[Any]:
    """Stored values as they come, one sample each."""
    with understood(f'"{stored}" is'):
        photometric = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if photometric != "MONOCHROME2":
        raise FormatError(
            f'"{stored}" is stored as {photometric}; an image of one rising grey scale'
            " (MONOCHROME2) was expected."
        )
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:  # no file header: the oldest and plainest syntax
        from pydicom.uid import ImplicitVRLittleEndian

        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    with understood(f'The pixels of "{stored}" are'):
        if syntax is not None and syntax.is_compressed and syntax != DEFLATED:
            decoder = _decoder(stored, syntax)
            if decoder == "gdcm":
                return apart.pixels(dataset)
            dataset.pixel_array_options(decoding_plugin=decoder)
        return np.asarray(dataset.pixel_array)


def _decoder(stored: Stored, syntax: Any) -> str:
    """Who unpacks it."""
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise FormatError(
            f'"{stored}" is packed as "{syntax.name}", which is not read; convert it to an'
            " uncompressed transfer syntax."
        ) from error
    if not decoder.is_available:
        raise UsageError(
            f'"{stored}" is packed as "{syntax.name}", and what unpacks it is not installed:'
            " pip install medi2i[dicom]"
        )
    there = decoder.available_plugins
    return next((name for name in DECODERS if name in there), there[0])
