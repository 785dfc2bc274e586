"""NIfTI-1 and NIfTI-2 single files as streams: read with suspicion, written with geometry alone.

Everything a header promises is checked before a voxel is read; the voxels then stream into one
float32 array, so that memory is that array plus one chunk. (The formats:
https://nifti.nimh.nih.gov; nibabel interprets the header's fields.)
"""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medi2i.errors import DimensionError, FormatError, GeometryError, IntensityError, UsageError

__all__ = ["Header", "check_affine", "check_finite", "read", "set_affine", "write"]

Header = nib.Nifti1Header  # and its subclass, Nifti2Header

_CHUNK = 1 << 22  # bytes
_REAL = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}  # u1 i2 i4 f4 f8 i1 u2 u4 i8 u8
_UNREAL = {
    1: "bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
_GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def read(
    stream: BinaryIO, name: str, *, room: int, volume: int | None = None, max_voxels: int = 2**30
) -> tuple[NDArray[np.float32], NDArray[np.float64], Header]:
    """Read one 3-D volume from `stream`, to its end.

    Args:
        name: of the file, for messages.
        room: bytes the stream can hold at most; a header that promises more is refused.
        volume: which one of a 4-D file, counted from 0.
        max_voxels: a header that promises more, over all volumes, is refused.

    Returns:
        Voxels (X, Y, Z) with X fastest in memory, scaled; affine (4, 4), voxel -> RAS mm; header.

    Raises:
        FormatError: not NIfTI, a header that cannot be true, more or fewer bytes than it promises.
        DimensionError: not a volume of at least two voxels along each of three axes, 4-D without
            `volume`, more than `max_voxels`.
        GeometryError: zooms or affine make no sense.
        IntensityError: voxels that are NaN, infinite or beyond float32.
        UsageError: there is no such `volume`.
    """
    header = _read_header(stream, name)
    start = _voxel_offset(header, name)
    shape, volumes = _shape(header, name)
    affine = _affine(header, name)
    dtype, slope, inter = _encoding(header, name)
    each = math.prod(shape) * dtype.itemsize
    promised = start + volumes * each
    if volumes * math.prod(shape) > max_voxels:
        raise DimensionError(
            f'The header of "{name}" promises {volumes * math.prod(shape)} voxels'
            f" {_dimensions(header)}; at most {max_voxels} are read."
        )
    chosen = _choose(header, volumes, volume, name)
    if promised > room:
        raise FormatError(
            f'"{name}" is truncated: its header promises {promised} bytes, more than it can hold.'
        )
    _skip(stream, start - header.sizeof_hdr + chosen * each, name)
    voxels = _read_voxels(stream, math.prod(shape), dtype, slope, inter, name)
    _skip(stream, (volumes - 1 - chosen) * each, name)
    if stream.read(1):  # reading past the end also makes gzip verify its checksum
        raise FormatError(f'"{name}" is longer than the {promised} bytes its header promises.')
    return voxels.reshape(shape, order="F"), affine, header


def write(
    stream: BinaryIO,
    header: Header,
    voxels: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    dtype: np.dtype[Any],
    description: str = "",
) -> None:
    """Write a single file with the geometry of `header`, and nothing else of it, to `stream`.

    sform, qform, codes, zooms and units stay as they are while they still give `affine`. No
    extensions; scl_slope 1, scl_inter 0; little endian. Integers are rounded.

    Args:
        voxels: (X, Y, Z).
        description: for `descrip`, cut after 79 bytes of UTF-8.
    """
    new: Header = type(header)(endianness="<")
    new.set_data_shape(voxels.shape)
    new.set_data_dtype(dtype)
    new["pixdim"][:4] = header["pixdim"][:4]
    for field in _GEOMETRY:
        new[field] = header[field]
    if not np.array_equal(np.float32(new.get_best_affine()), np.float32(affine)):
        set_affine(new, affine)
    new["vox_offset"] = new.sizeof_hdr + 4
    new["scl_slope"], new["scl_inter"] = 1, 0
    new["descrip"] = description.encode()[:79].decode(errors="ignore").encode()
    stream.write(new.binaryblock + b"\0\0\0\0")  # the four say: no extensions
    dtype = dtype.newbyteorder("<")
    for z in range(voxels.shape[2]):
        plane = np.rint(voxels[:, :, z]) if dtype.kind in "iu" else voxels[:, :, z]
        stream.write(plane.astype(dtype).tobytes(order="F"))


def set_affine(header: Header, affine: NDArray[np.float64]) -> None:
    """Put another affine into `header`; the codes that are set stay, and sform is set for sure."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_qform(affine, code=qform, strip_shears=True)
    header.set_sform(affine, code=sform or qform or 2)  # 2: aligned to something


def check_affine(affine: NDArray[np.float64], name: str) -> None:
    """Raise GeometryError unless `affine` (4, 4) maps distinct voxels to distinct points."""
    where = f'The affine of "{name}"' if name else "The affine"
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise GeometryError(f"{where} is not a 4 x 4 matrix of finite numbers.")
    if not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GeometryError(f"{where} ends with the row {affine[3].tolist()}, not 0 0 0 1.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise GeometryError(f"{where} is singular: its three axes do not span space.")


def check_finite(voxels: NDArray[np.float32], name: str) -> None:
    """Raise IntensityError when voxels are NaN or infinite."""
    flat = voxels.reshape(-1, order="A")
    parts = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    bad = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
    if bad:
        where = f' in "{name}"' if name else ""
        raise IntensityError(
            f"{bad} of the {voxels.size} voxels{where} are NaN, infinite or beyond float32;"
            " finite intensities were expected."
        )


def _read_header(stream: BinaryIO, name: str) -> Header:
    """The header, once its size field and its magic say that it is one."""
    block = stream.read(348)
    if len(block) < 348:
        raise FormatError(f'"{name}" ends after {len(block)} bytes; a NIfTI header has 348.')
    order = "<" if int.from_bytes(block[:4], "little") in (348, 540) else ">"
    size = int.from_bytes(block[:4], "little" if order == "<" else "big")
    if size == 348 and block[344:348] == b"n+1\0":
        return nib.Nifti1Header(block, endianness=order, check=False)
    if size == 348 and block[344:348] == b"ni1\0":
        raise FormatError(f'"{name}" is one half of a .hdr/.img pair; a single file was expected.')
    if size == 540 and block[4:12] == b"n+2\0\r\n\x1a\n":
        block += stream.read(540 - 348)
        if len(block) < 540:
            raise FormatError(f'"{name}" ends after {len(block)} bytes; a NIfTI-2 header has 540.')
        return nib.Nifti2Header(block, endianness=order, check=False)
    raise FormatError(
        f'"{name}" is not NIfTI: it does not start with the header of version 1 or 2.'
    )


def _voxel_offset(header: Header, name: str) -> int:
    offset, least = float(header["vox_offset"]), header.sizeof_hdr + 4
    if not least <= offset <= 1 << 28 or offset != int(offset):
        raise FormatError(
            f'The header of "{name}" puts the voxels at byte {offset:g}; {least} or somewhat later'
            " was expected."
        )
    return int(offset)


def _dimensions(header: Header) -> tuple[int, ...]:
    return tuple(int(size) for size in header["dim"][1 : int(header["dim"][0]) + 1])


def _shape(header: Header, name: str) -> tuple[tuple[int, int, int], int]:
    """The shape of one volume, and how many volumes there are."""
    if not 1 <= header["dim"][0] <= 7:
        raise FormatError(
            f'The header of "{name}" claims {header["dim"][0]} dimensions; 1 to 7 can be.'
        )
    shape = _dimensions(header)
    if min(shape) < 1:
        raise DimensionError(f'"{name}" is empty: its header gives the dimensions {shape}.')
    if len(shape) < 3 or min(shape[:3]) == 1:
        raise DimensionError(
            f'"{name}" holds a single slice {shape}; at least two voxels along each of three axes'
            " were expected."
        )
    return (shape[0], shape[1], shape[2]), math.prod(shape[3:])


def _affine(header: Header, name: str) -> NDArray[np.float64]:
    zooms = tuple(float(zoom) for zoom in header["pixdim"][1:4])
    if not all(math.isfinite(zoom) and zoom > 0 for zoom in zooms):
        raise GeometryError(
            f'The header of "{name}" gives the voxel size {zooms}; three positive numbers were'
            " expected."
        )
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f'The qform of "{name}" is not a rotation: {error}.') from error
    check_affine(affine, name)
    return affine


def _encoding(header: Header, name: str) -> tuple[np.dtype[Any], float, float]:
    """How voxels are stored, and the slope and intercept that scale them."""
    code = int(header["datatype"])
    if code not in _REAL:
        what = _UNREAL.get(code, f"data of the unknown type {code}")
        raise FormatError(f'"{name}" holds {what}; one real number per voxel was expected.')
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:  # the standard's way to say "not scaled"
        slope, inter = 1.0, 0.0
    if not math.isfinite(inter):
        raise FormatError(f'The header of "{name}" has scl_inter {inter}; it must be finite.')
    return np.dtype(header.get_data_dtype()), slope, inter


def _choose(header: Header, volumes: int, volume: int | None, name: str) -> int:
    if volume is None and volumes > 1:
        shape = _dimensions(header)
        raise DimensionError(
            f'"{name}" has {len(shape)} dimensions {shape}; a single 3-D volume was expected:'
            " choose one with --volume."
        )
    chosen = volume or 0
    if not 0 <= chosen < volumes:
        raise UsageError(f'"{name}" has no volume {chosen}; it holds {volumes}, counted from 0.')
    return chosen


def _read_voxels(
    stream: BinaryIO, count: int, dtype: np.dtype[Any], slope: float, inter: float, name: str
) -> NDArray[np.float32]:
    voxels = np.empty(count, np.float32)
    step = _CHUNK // dtype.itemsize
    for start in range(0, count, step):
        part = voxels[start : start + step]
        raw = np.frombuffer(_exactly(stream, part.size * dtype.itemsize, name), dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # check_finite counts what overflowed
            scaled = (slope, inter) != (1, 0)
            part[:] = raw.astype(np.float64) * slope + inter if scaled else raw
    check_finite(voxels, name)
    return voxels


def _skip(stream: BinaryIO, count: int, name: str) -> None:
    while count:
        count -= len(_exactly(stream, min(count, _CHUNK), name))


def _exactly(stream: BinaryIO, count: int, name: str) -> bytes:
    block = b""
    while len(block) < count:
        part = stream.read(count - len(block))
        if not part:
            raise FormatError(
                f'"{name}" is truncated: it ends before the voxels that its header promises.'
            )
        block = block + part if block else part
    return block
