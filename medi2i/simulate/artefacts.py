"""What a scanner does to an image on its way through k-space: ghosts, rings, blur, noise.

    signal -> fields.py -> motion_ghosts -> gibbs, point_spread -> sampling.py -> rician

Each function is one imperfection. Images are (X, Y, Z) float32, in any unit, and are not changed in
place; every random number comes from the generator that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from medi2i.errors import UsageError
from medi2i.simulate.fields import not_negative

__all__ = ["gibbs", "motion_ghosts", "point_spread", "rician"]

Field = NDArray[np.float32]


def motion_ghosts(
    image: Field, rng: np.random.Generator, strength: float, axis: int, *, shots: int = 1
) -> Field:
    """The head moves once or twice during the scan: copies smear along the phase encoding.

    Lines of k-space come from where the head is when they are read; the place at the central line
    is kept, so that the scan stays aligned with others (Shaw et al. 2019, MIDL; Reguig et al. 2022,
    arXiv:2204.03522).

    Args:
        strength: standard deviation of each shift, voxels, and of each turn, degrees.
        axis: of the phase encoding.
        shots: a turbo spin echo reads every shots-th line in one go: ghosts then lie apart instead
            of close to the edges. 1 reads them in order.

    Returns:
        The magnitude, as `image`.

    Raises:
        UsageError: a negative strength, another axis, fewer than one shot.
    """
    not_negative(strength=strength)
    if axis not in (0, 1, 2) or shots < 1:
        raise UsageError(
            f"axis is {axis} and shots is {shots}; 0, 1 or 2 and at least 1 were expected."
        )
    lines = image.shape[axis]
    moves = int(rng.integers(1, 3))
    instants = np.sort(rng.uniform(0, lines, moves))
    poses = strength * rng.standard_normal((moves + 1, 2, 3))
    order = np.lexsort((np.arange(lines), np.arange(lines) % shots))  # of reading
    when = np.empty(lines, int)
    when[order] = np.arange(lines)
    place = np.searchsorted(instants, when, side="right")
    stays = place[lines // 2]

    kspace = fft.fft(image, axis=axis, workers=1)
    place = fft.ifftshift(place)
    for moved in np.unique(place[place != stays]):
        copy = _moved(image, *(poses[moved] - poses[stays]))
        where = tuple(place == moved if a == axis else slice(None) for a in range(3))
        kspace[where] = fft.fft(copy, axis=axis, workers=1)[where]
    ghosts: Field = np.abs(fft.ifft(kspace, axis=axis, workers=1, overwrite_x=True))
    return ghosts


def gibbs(image: Field, keep: Sequence[float]) -> Field:
    """Only the inner part of k-space is read and the rest is zero: edges overshoot by 9 % and ring.

    Zero filling back to the grid, as scanners interpolate (Kellner et al. 2016, arXiv:1501.07758).

    Args:
        keep: part of the lines that is read, per axis, above 0 to 1. Slices of a 2-D scan are not
            encoded: keep 1 across them.

    Returns:
        As `image`; rings may be negative.

    Raises:
        UsageError: a part outside that range.
    """
    _per_axis(keep=keep)
    if not all(0 < part <= 1 for part in keep):
        raise UsageError(f"keep is {tuple(keep)}; three numbers above 0 and up to 1 were expected.")
    for axis, part in enumerate(keep):
        n = image.shape[axis]
        last = (round(part * n) - 1) // 2  # the outermost pair of lines that is kept
        if part < 1:
            kspace = fft.rfft(image, axis=axis, workers=1)
            kspace[(slice(None),) * axis + (slice(max(last, 0) + 1, None),)] = 0
            image = fft.irfft(kspace, n, axis=axis, workers=1, overwrite_x=True)
    return image


def point_spread(image: Field, fwhm_voxels: Sequence[float]) -> Field:
    """Blur, Gaussian: T2 decay during a train of echoes, filters, small movements.

    A decay along k-space is a blur along that axis (Constable and Gore 1992, MRM 28:9).

    Args:
        fwhm_voxels: full width at half maximum, per axis; 0 leaves an axis sharp.

    Raises:
        UsageError: a negative width.
    """
    _per_axis(fwhm_voxels=fwhm_voxels)
    not_negative(**{f"fwhm_voxels[{a}]": width for a, width in enumerate(fwhm_voxels)})
    sigma = [width / math.sqrt(8 * math.log(2)) for width in fwhm_voxels]
    blurred: Field = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0)
    return blurred


def rician(image: Field, sigma: float, rng: np.random.Generator) -> Field:
    """Magnitude of the signal with Gaussian noise in both channels of the receiver.

    Where there is no signal the mean is sigma sqrt(pi/2); where there is much, sqrt(S^2 + sigma^2)
    (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618).

    Args:
        sigma: standard deviation in each channel, in the unit of the image.

    Raises:
        UsageError: a negative sigma.
    """
    not_negative(sigma=sigma)
    real, imaginary = (rng.standard_normal(image.shape, np.float32) for _ in range(2))
    real *= np.float32(sigma)
    imaginary *= np.float32(sigma)
    real += image
    return np.hypot(real, imaginary, out=real)


def _moved(image: Field, shift: NDArray[np.float64], turn: NDArray[np.float64]) -> Field:
    """A head shifted (voxels) and turned (degrees) about the middle; voxels count as cubes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(turn)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[[a, b], [a, b]] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ one
    middle = (np.array(image.shape) - 1) / 2
    offset = middle - matrix @ (middle + shift)
    moved: Field = ndimage.affine_transform(image, matrix, offset, order=1, mode="constant")
    return moved


def _per_axis(**values: Sequence[float]) -> None:
    for name, value in values.items():
        if len(value) != 3:
            raise UsageError(f"{name} has {len(value)} numbers; one per axis, 3, was expected.")
