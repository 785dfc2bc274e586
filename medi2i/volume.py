"""A scan: voxels, where they lie in the body, and the header they came with.

Axes are only ever flipped and permuted here, never interpolated, except in
`Volume.resampled_onto`. The law: `v.canonical().oriented_as(v)` is `v`, and what
`save_volume` writes `load_volume` reads, voxels, affine and codes.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from medi2i import conversions, geometry, nifti
from medi2i.errors import (
    DimensionError,
    FormatError,
    GeometryError,
    InputError,
    IntensityError,
    MissingFileError,
    UsageError,
)
from medi2i.figures import Row, page_html, three_planes
from medi2i.files import GZIP_ERRORS, atomic_write, gunzip, gzipped
from medi2i.nifti import Header

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torchio
    from monai.data.meta_tensor import MetaTensor

__all__ = ["Volume", "load_volume", "save_volume"]

_DTYPES = ("uint8", "int8", "uint16", "int16", "int32", "float32", "float64")


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Volume:
    """A 3-D scan.

    Attributes:
        voxels: (X, Y, Z) float32, in memory order of the file (X fastest) when loaded.
        affine: (4, 4) float64, voxel index -> RAS millimetres.
        header: the header it came with; gives codes, zooms and units to `save_volume`.
        name: the file name, for messages; "" when made in memory.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    header: Header
    name: str = ""

    @classmethod
    def of(cls, voxels: ArrayLike, affine: ArrayLike | None = None, name: str = "") -> Volume:
        """A volume from an array; the default affine is 1 mm RAS with its origin at voxel 0.

        Raises:
            DimensionError: not 3-D, or one voxel thick.
            IntensityError: not real, or not finite.
            GeometryError: the affine is singular.

        >>> Volume.of(np.zeros((4, 5, 6)), np.diag([1, 1, 2, 1]))
        Volume(4 x 5 x 6 voxels of 1 x 1 x 2 mm, RAS)
        """
        array = np.asarray(voxels)
        matrix = np.array(np.eye(4) if affine is None else affine, dtype=np.float64)
        if array.ndim != 3 or min(array.shape) < 2:
            raise DimensionError(
                f"An array of shape {array.shape} was given; a 3-D volume of at least two voxels"
                " along each axis was expected."
            )
        if array.dtype.kind not in "buif":
            raise IntensityError(f"Voxels of type {array.dtype} were given; real ones are needed.")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        nifti.check_finite(array, name)
        nifti.check_affine(matrix, name)
        small = max(array.shape) < 1 << 15
        header: Header = nib.Nifti1Header() if small else nib.Nifti2Header()
        header.set_data_shape(array.shape)
        nifti.set_affine(header, matrix)
        header.set_xyzt_units("mm")
        return cls(array, matrix, header, name)

    @classmethod
    def from_image(cls, image: Any, name: str = "") -> Volume:
        """A volume from an image of nibabel, SimpleITK or torchio or a MetaTensor of MONAI.

        Raises:
            FormatError: it is none of these. DimensionError, IntensityError, GeometryError: as
            in :meth:`of`.
        """
        voxels, affine, header = conversions.taken(image)
        made = cls.of(voxels, affine, name)
        return made if header is None else cls(made.voxels, made.affine, header.copy(), name)

    def to_nibabel(self) -> nib.Nifti1Image:
        """As an image of nibabel, with the codes and units of the header."""
        return conversions.as_nibabel(self.voxels, self.affine, self.header)

    def to_simpleitk(self) -> sitk.Image:
        """As an image of SimpleITK, in LPS millimetres."""
        return conversions.as_simpleitk(self.voxels, self.affine)

    def to_torchio(self) -> torchio.ScalarImage:
        """As a ScalarImage of torchio."""
        return conversions.as_torchio(self.voxels, self.affine)

    def to_monai(self) -> MetaTensor:
        """As a MetaTensor of MONAI, (1, X, Y, Z)."""
        return conversions.as_metatensor(self.voxels, self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along each axis."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{length:.4g}" for length in self.spacing)
        axes = "".join(map(str, nib.aff2axcodes(self.affine)))
        name = f', "{self.name}"' if self.name else ""
        return f"Volume({shape} voxels of {spacing} mm, {axes}{name})"

    def _repr_html_(self) -> str:
        """What a notebook shows: three planes."""
        shown = self.canonical()
        return page_html(three_planes([Row(repr(self), shown.voxels, shown.spacing)]), repr(self))

    def like(self, voxels: ArrayLike, *, name: str | None = None) -> Volume:
        """Other voxels on this grid.

        Raises:
            DimensionError: the shapes differ.
        """
        array = np.asarray(voxels, dtype=np.float32)
        if array.shape != self.shape:
            raise DimensionError(
                f"Voxels of shape {array.shape} were given for a grid of shape {self.shape}."
            )
        return Volume(array, self.affine, self.header, self.name if name is None else name)

    def canonical(self) -> Volume:
        """The same voxels with the axes flipped and permuted to lie closest to R, A, S."""
        voxels = geometry.to_canonical(self.voxels, self.affine)
        _, affine = geometry.canonical_grid(self.shape, self.affine)
        return Volume(voxels, affine, self.header, self.name)

    def oriented_as(self, other: Volume) -> Volume:
        """This volume, which lies on the grid of `other.canonical()`, on the grid of `other`.

        Raises:
            GeometryError: it lies elsewhere.
        """
        shape, affine = geometry.canonical_grid(other.shape, other.affine)
        if not geometry.same_grid(self.shape, self.affine, shape, affine):
            raise GeometryError(
                f"A volume of shape {self.shape} cannot take the orientation of {other}: it does"
                f" not lie on that grid's canonical form {shape}."
            )
        voxels = geometry.from_canonical(self.voxels, other.affine)
        return Volume(voxels, other.affine, other.header, self.name)

    def resampled_onto(
        self, other: Volume, *, transform: sitk.Transform | None = None, linear: bool = True
    ) -> Volume:
        """This volume on the grid of `other`, by world coordinates; 0 outside the old grid.

        Args:
            transform: maps a point of `other`'s space (LPS mm, as SimpleITK has it) to the same
                anatomy in this volume's space. None: the two share one space.
            linear: False takes the nearest voxel, for label maps.

        Returns:
            self, untouched, when there is no transform and the grids are equal.
        """
        here, there = (self.shape, self.affine), (other.shape, other.affine)
        if transform is None and geometry.same_grid(*here, *there):
            return self
        voxels = geometry.resample(
            self.voxels, self.affine, *there, transform=transform, linear=linear
        )
        return other.like(voxels, name=self.name)


def load_volume(
    path: str | os.PathLike[str], *, volume: int | None = None, max_voxels: int = 2**30
) -> Volume:
    """Read a `.nii` or `.nii.gz` file.

    Args:
        volume: which 3-D volume of a 4-D file, counted from 0.
        max_voxels: a header that promises more, over all volumes, is refused before reading.

    Raises:
        MissingFileError: there is no such file.
        FormatError: not NIfTI, truncated, damaged, longer than its header says, RGB, complex.
        DimensionError: not a 3-D volume of at least two voxels along each axis; too large.
        GeometryError: zooms that are not positive, a singular affine.
        IntensityError: NaN or infinite voxels.
        UsageError: there is no such `volume`.
    """
    path = Path(path)
    name = str(path)
    if not path.is_file():
        what = "is a folder; a file was expected" if path.is_dir() else "does not exist"
        raise MissingFileError(f'"{name}" {what}.')
    packed = path.name.lower().endswith(".nii.gz")
    if not packed and path.suffix.lower() != ".nii":
        raise FormatError(f'"{name}" ends neither in .nii nor in .nii.gz; only NIfTI is read.')
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if zipped != packed:
                fact = "is gzip-compressed" if zipped else "is not gzip-compressed"
                raise FormatError(f'"{name}" {fact}, though its name says otherwise.')
            size = os.fstat(file.fileno()).st_size
            # deflate packs at most 1032 : 1, so that a bomb or a stump shows before inflating
            room = size * 1032 if packed else size
            stream = gunzip(file) if packed else file
            voxels, affine, header = nifti.read(
                stream, name, room=room, volume=volume, max_voxels=max_voxels
            )
    except GZIP_ERRORS as error:
        raise FormatError(f'"{name}" is truncated or damaged: {error}.') from error
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'"{name}" cannot be read: {error.strerror or error}.') from error
    return Volume(voxels, affine, header, path.name)


def save_volume(
    volume: Volume,
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    description: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a `.nii` or `.nii.gz` file, whole or not at all; equal input gives equal bytes.

    Kept from the header are its geometry and its version: sform, qform and both codes, zooms,
    units. All else is dropped, extensions too: they can hold patient data. Missing folders are
    made. Values are never scaled (scl_slope 1, scl_inter 0).

    Args:
        dtype: of the voxels in the file; integers are rounded.
        description: goes into `descrip`, cut after 79 bytes.

    Raises:
        UsageError: another file ending or dtype; values that do not fit the dtype.
        IntensityError: NaN or infinite voxels.
        OutputError: `path` exists and `overwrite` is False, or it cannot be written.
    """
    path = Path(path)
    packed = path.name.lower().endswith(".nii.gz")
    if not packed and path.suffix.lower() != ".nii":
        raise UsageError(f'"{path}" ends neither in .nii nor in .nii.gz; only NIfTI is written.')
    if dtype not in _DTYPES:
        raise UsageError(f'dtype "{dtype}" cannot be written; choose one of {", ".join(_DTYPES)}.')
    nifti.check_finite(volume.voxels, volume.name)
    kind = np.dtype(dtype)
    if kind.kind in "ui":
        low, high = float(volume.voxels.min()), float(volume.voxels.max())
        limits = np.iinfo(kind)
        if round(low) < limits.min or round(high) > limits.max:
            raise UsageError(
                f"Values from {low:g} to {high:g} do not fit {dtype}"
                f" ({limits.min} to {limits.max}); choose a wider dtype."
            )

    def write(stream: BinaryIO) -> None:
        with gzipped(stream) if packed else nullcontext(stream) as inner:
            nifti.write(
                inner,
                volume.header,
                volume.voxels,
                volume.affine,
                dtype=kind,
                description=description,
            )

    return atomic_write(path, write, overwrite=overwrite)
