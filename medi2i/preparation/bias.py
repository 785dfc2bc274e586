"""Taking the receiving coil's sensitivity out of a scan.

N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908), by SimpleITK: the logarithm of the scan is
sharpened again and again, and what a smooth B-spline can explain of the change is the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import InputError, IntensityError
from medi2i.geometry import itk_image
from medi2i.normalise import fit_scaling, foreground
from medi2i.preparation.threads import one_thread
from medi2i.volume import Volume

__all__ = ["PARAMETERS", "Corrected", "correct_bias"]

SHRUNK_TO = 5.0  # mm: the field is smooth, so that little of the scan tells all of it
CONTROL_POINTS = 4
ITERATIONS = (40, 40, 40)  # a fourth, finer level starts to take anatomy for coil
THRESHOLD = 1e-3
LEAST = 200
PARAMETERS: Mapping[str, Any] = {
    "Method": "N4",
    "FittedAtMillimetres": SHRUNK_TO,
    "ControlPoints": CONTROL_POINTS,
    "SplineOrder": 3,
    "Iterations": list(ITERATIONS),
    "ConvergenceThreshold": THRESHOLD,
    "Mask": "foreground",
}
"""For side-cars."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """A scan and the field that was taken out of it.

    Attributes:
        volume: the scan, divided by the field.
        field: (X, Y, Z) float32, the coil's sensitivity; its geometric mean over tissue is 1.
        strength: standard deviation of the field's logarithm over tissue.
    """

    volume: Volume
    field: NDArray[np.float32]
    strength: float


def correct_bias(volume: Volume) -> Corrected:
    """Divide a scan by the sensitivity of its coil; 0 stays 0, and tissue its mean brightness.

    The same scan gives the same bytes.

    Raises:
        IntensityError: constant voxels, or tissue at or below 0, of which there is no logarithm.
        InputError: hardly any tissue is shown.
    """
    name = volume.name or "the scan"
    tissue = foreground(volume.voxels, scaling=fit_scaling(volume.voxels, name=name))
    if volume.voxels[tissue].min() <= 0:
        raise IntensityError(
            f'"{name}" has tissue at or below 0, so that its intensities were shifted after the '
            "scan: no factor can even them; leave the bias correction out"
        )
    log_field = _fitted(volume, tissue, name)
    inside = log_field[tissue]
    # Between the control points that no tissue holds, in air, the spline may go anywhere.
    log_field = np.clip(log_field, inside.min(), inside.max()) - inside.mean(dtype=np.float64)
    field = np.exp(log_field, dtype=np.float32)
    corrected = volume.like(volume.voxels / field)
    return Corrected(corrected, field, float(inside.std(dtype=np.float64)))


def _fitted(volume: Volume, tissue: NDArray[np.bool_], name: str) -> NDArray[np.float32]:
    """(X, Y, Z): the logarithm of the field."""
    import SimpleITK as sitk

    image = itk_image(volume.voxels, volume.affine)
    mask = itk_image(tissue.astype(np.float32), volume.affine)
    factors = [max(1, int(SHRUNK_TO / step)) for step in volume.spacing]
    fitter = sitk.N4BiasFieldCorrectionImageFilter()
    fitter.SetMaximumNumberOfIterations(ITERATIONS)
    fitter.SetNumberOfControlPoints([CONTROL_POINTS] * 3)
    fitter.SetConvergenceThreshold(THRESHOLD)
    with one_thread():
        small = sitk.BinShrink(image, factors)
        inside = sitk.BinShrink(mask, factors) > 0.5
        filled = int(sitk.GetArrayViewFromImage(inside).sum())
        if filled < LEAST:
            raise InputError(
                f'"{name}" shows too little tissue to fit a bias field to: {filled} voxels at '
                f"{SHRUNK_TO:g} mm, {LEAST} were expected; leave the bias correction out"
            )
        fitter.Execute(small, inside)
    fitted = fitter.GetLogBiasFieldAsImage(image)
    return np.asarray(sitk.GetArrayFromImage(fitted), np.float32).transpose(2, 1, 0)
