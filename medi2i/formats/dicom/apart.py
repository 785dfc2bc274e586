"""Decoding in a process of its own: GDCM ends the whole process when some streams are damaged.

It is the only one that unpacks lossless JPEG. The child runs this very file, which imports nothing
of medi2i, and answers as long as its input is open.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Apart"]

ELEMENTS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
)
"""What decoding needs to know."""
LENGTH = struct.Struct("<Q")


class Apart:
    """A process that decodes; it is started when it is needed and ends with the block."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *problem: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    def pixels(self, dataset: Dataset) -> NDArray[Any]:
        """What `dataset.pixel_array` is.

        Raises:
            ValueError: it cannot be decoded, or the process broke off.
        """
        from pydicom import Dataset

        small = Dataset()
        for word in ELEMENTS:
            if word in dataset:
                small.add(dataset[word])
        small.file_meta = dataset.file_meta
        content = io.BytesIO()
        small.save_as(content, enforce_file_format=False)
        child = self._started()
        try:
            _put(child.stdin, content.getvalue())
            refused = _take(child.stdout).decode()
            if refused:
                raise ValueError(refused)
            answer = _take(child.stdout)
        except (BrokenPipeError, EOFError):
            raise ValueError("GDCM, which unpacks them, broke off") from None
        pixels: NDArray[Any] = np.lib.format.read_array(io.BytesIO(answer), allow_pickle=False)
        return pixels

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._child = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-P", str(Path(__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child


def _put(stream: Any, content: bytes) -> None:
    stream.write(LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def _take(stream: Any) -> bytes:
    (length,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    return _exactly(stream, length)


def _exactly(stream: Any, length: int) -> bytes:
    content: bytes = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _answer(given: BinaryIO, taken: BinaryIO) -> None:
    """What the child does: decode what comes, until nothing comes any more."""
    from pydicom import dcmread

    while True:
        try:
            content = _take(given)
        except EOFError:
            return
        decoded = io.BytesIO()
        refused = ""
        try:
            pixels = dcmread(io.BytesIO(content), force=True).pixel_array
            np.lib.format.write_array(decoded, pixels, allow_pickle=False)
        except Exception as error:
            refused = str(error) or type(error).__name__
        _put(taken, refused.encode(errors="backslashreplace"))
        if not refused:
            _put(taken, decoded.getvalue())


if __name__ == "__main__":
    _answer(sys.stdin.buffer, sys.stdout.buffer)
