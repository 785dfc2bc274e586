"""The three magnetic fields of a scanner, as uneven as they are: receive, transmit, static.

Each function gives one factor over the grid, (X, Y, Z) float32; every random number comes from the
generator that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from medi2i.errors import UsageError
from medi2i.simulate.shapes import Smooth

__all__ = ["bias_field", "not_negative", "susceptibility", "transmit_field"]

Field = NDArray[np.float32]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

MM: Spacing = (1.0, 1.0, 1.0)

_WAVELENGTH = 280.0  # mm; at 128 MHz in tissue of relative permittivity 70
_HERTZ_PER_TESLA = 42.577e6  # of protons
_AIR = 9.4e-6  # susceptibility of air minus that of tissue
_REACH = 32.0  # mm beyond the sinuses within which their field matters


def not_negative(**values: float) -> None:
    """Refuse numbers below 0, by name.

    Raises:
        UsageError: the first that is negative or not finite.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{name} is {value}; a number of 0 or more was expected.")


def bias_field(
    shape: Shape,
    rng: np.random.Generator,
    strength: float,
    scale_mm: float = 85.0,
    *,
    spacing: Spacing = MM,
) -> Field:
    """Sensitivity of the receiving coil, a factor whose geometric mean is 1.

    The logarithm is a smooth Gaussian field: sensitivities multiply, and are smooth where there are
    no wires (Sled et al. 1998, doi:10.1109/42.668698).

    Args:
        strength: standard deviation of the logarithm over the grid; 0 is an even coil.
        scale_mm: the shortest half wave of the field; 8 or more.
        spacing: of the grid, mm.

    Raises:
        UsageError: a negative strength, a scale below 8 mm.
    """
    not_negative(strength=strength)
    if not scale_mm >= 8:
        raise UsageError(f"scale_mm is {scale_mm}; a coil's field varies over 8 mm or more.")
    field: Field = np.exp(np.float32(strength) * _standard(shape, rng, scale_mm, spacing))
    return field


def transmit_field(
    shape: Shape, rng: np.random.Generator, strength: float, *, spacing: Spacing = MM
) -> Field:
    """Local flip angle relative to the nominal one (B1+): higher in the centre of the head.

    At 3 T half a wave of the transmitted field is hardly longer than the head: waves from all sides
    add up in its centre (Collins et al. 2005, JMRI 21:192). A standing spherical wave, sin(kr)/kr
    about a centre that varies, with a quarter as much of irregularity; calibrated, as scanners do,
    to a mean of 1 over the ellipsoid that fills the grid.

    Args:
        strength: excess in the centre: about 0.2 at 3 T and 0.05 at 1.5 T; below 0.3.

    Raises:
        UsageError: a strength outside 0 to 0.3.
    """
    not_negative(strength=strength)
    if strength >= 0.3:
        raise UsageError(f"strength is {strength}; less than 0.3 was expected.")
    axes = _axes(shape, spacing)
    half = [n * step / 2 for n, step in zip(shape, spacing, strict=True)]
    centre = rng.normal(0.0, 0.08, 3) * half
    away = _squared_radius([line - np.float32(c) for line, c in zip(axes, centre, strict=True)])
    inside = (
        _squared_radius([line / np.float32(h) for line, h in zip(axes, half, strict=True)]) <= 1
    )
    wave: Field = np.sinc(np.float32(2 / _WAVELENGTH) * np.sqrt(away))
    mean = wave[inside].mean()
    field: Field = (wave - mean) / (wave.max() - mean)
    uneven = _standard(shape, rng, 128.0, spacing)
    field += np.float32(0.25) * (uneven - uneven[inside].mean())
    field *= np.float32(strength)
    field += 1
    return field


def susceptibility(
    air: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    te: float,
    field: float = 3.0,
    spacing: Spacing = MM,
) -> Field:
    """What is left of a gradient echo near air-filled sinuses: a factor from 0 to 1.

    Air is less diamagnetic than tissue and bends the static field around it, in Fourier space by
    (1/3 - kz^2/k^2) of the difference (Salomir et al. 2003, doi:10.1002/cmr.b.10083; Marques and
    Bowtell 2005, doi:10.1002/cmr.b.20034). Where the field changes by f Hz from one voxel to the
    next, spins inside a voxel fan out and leave sinc(f TE) of the echo. A spin echo refocuses them.

    Args:
        air: (X, Y, Z), the sinuses; not the air around the head, which the shim takes care of.
        rng: tilts the head by about 8 degrees and varies the difference by 10 %.
        te: echo time, ms.
        field: static field along z, T.
        spacing: of the voxels in which the spins fan out, mm.

    Raises:
        UsageError: an echo time or field that is not positive.
    """
    if not (te > 0 and field > 0):
        raise UsageError(f"te is {te} ms and field {field} T; both must be greater than 0.")
    tilt = np.deg2rad(rng.normal(0.0, 8.0, 2))
    contrast = _AIR * rng.uniform(0.9, 1.1)
    left = np.ones(air.shape, np.float32)
    if not air.any():
        return left
    box = []
    for axis, step in enumerate(spacing):
        found = np.flatnonzero(air.any(tuple(a for a in range(3) if a != axis)))
        reach = math.ceil(_REACH / step)
        box.append(slice(max(0, int(found[0]) - reach), int(found[-1]) + 1 + reach))
    near = (box[0], box[1], box[2])
    upright = np.array([math.sin(tilt[0]), math.sin(tilt[1]), 1.0])
    shift = _field_shift(air[near], upright / np.linalg.norm(upright), spacing)
    shift *= np.float32(_HERTZ_PER_TESLA * field * contrast)
    for axis, n in enumerate(shift.shape):
        if n > 1:
            left[near] *= np.abs(np.sinc(np.gradient(shift, axis=axis) * np.float32(te / 1000)))
    return left


def _standard(shape: Shape, rng: np.random.Generator, scale_mm: float, spacing: Spacing) -> Field:
    """A smooth random field of mean 0 and standard deviation 1 over the grid."""
    smooth = Smooth(rng, 1 + max(1, round(256 / scale_mm)))
    x, y, z = _axes(shape, spacing)
    values = smooth(x, y, z).astype(np.float32, copy=False)
    values -= values.mean()
    values /= np.maximum(values.std(), np.float32(1e-6))
    return values


def _axes(shape: Shape, spacing: Spacing) -> list[Field]:
    """Coordinates along each axis, mm, 0 in the middle."""
    return [
        (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) * np.float32(step)
        for n, step in zip(shape, spacing, strict=True)
    ]


def _squared_radius(lines: Sequence[Field]) -> Field:
    """Sum of the squares of three axes, on the grid that they span."""
    x, y, z = (line * line for line in lines)
    total: Field = x[:, None, None] + y[:, None] + z
    return total


def _field_shift(air: NDArray[np.bool_], upright: NDArray[np.float64], spacing: Spacing) -> Field:
    """Change of the field along `upright` (a unit vector), relative to field times difference."""
    shape = [fft.next_fast_len(n, real=True) for n in air.shape]
    waves = [
        fft.fftfreq(shape[0], spacing[0]),
        fft.fftfreq(shape[1], spacing[1]),
        fft.rfftfreq(shape[2], spacing[2]),
    ]
    kx, ky, kz = (wave.astype(np.float32) for wave in waves)
    along = [k * np.float32(u) for k, u in zip((kx, ky, kz), upright, strict=True)]
    up = along[0][:, None, None] + along[1][:, None] + along[2]
    square = _squared_radius((kx, ky, kz))
    square[0, 0, 0] = 1  # the mean is the shim's
    kernel = np.float32(1 / 3) - up * up / square
    kernel[0, 0, 0] = 0
    spectrum = fft.rfftn(air.astype(np.float32), shape, workers=1)
    spectrum *= kernel
    x, y, z = air.shape
    shift: Field = fft.irfftn(spectrum, shape, workers=1, overwrite_x=True)[:x, :y, :z].copy()
    return shift
