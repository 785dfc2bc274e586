"""Where one scan of a head lies in another: three shifts and three turns, by mutual information.

Mattes et al. 2003 (doi:10.1109/TMI.2003.809072), by SimpleITK, from coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medi2i.errors import InputError
from medi2i.geometry import itk_image
from medi2i.normalise import fit_scaling
from medi2i.preparation.threads import one_thread
from medi2i.resolution import resize
from medi2i.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["LARGEST_SHIFT", "LARGEST_TURN", "PARAMETERS", "Registration", "coarser", "register"]

LEVELS = ((4.0, 30_000), (2.0, 60_000), (1.0, 90_000))
"""Millimetres per voxel, and how many points are looked at."""
JUDGED = 2.0
"""Millimetres per voxel at which the result is judged."""
BINS = 32
SEED = 1
LARGEST_SHIFT = 60.0
"""Millimetres; who moved further between two scans did not stay in the scanner."""
LARGEST_TURN = 45.0
"""Degrees."""
ASIDE = 15.0
"""Millimetres to each side where the scans must agree less than where they were put."""
BETTER = 1.05
"""How many times less."""
PARAMETERS: Mapping[str, Any] = {
    "Method": "rigid",
    "Metric": "Mattes mutual information",
    "Bins": BINS,
    "LevelsMillimetres": [level for level, _ in LEVELS],
    "Points": [points for _, points in LEVELS],
    "Sampling": "regular",
    "Seed": SEED,
    "Optimiser": "regular step gradient descent",
}
"""For side-cars."""


@dataclass(frozen=True, eq=False)
class Registration:
    """How a scan moves.

    Attributes:
        transform: from points of the fixed scan to those of the moving one (LPS mm); resamples the
            moving scan onto the fixed one's grid.
        before, after: mutual information in nats, by the headers alone and with the transform.
        shift: mm, of the middle of the fixed head.
        turn: degrees.
    """

    transform: sitk.Euler3DTransform
    before: float
    after: float
    shift: float
    turn: float


def register(fixed: Volume, moving: Volume) -> Registration:
    """Find the rigid transform that lays a scan of a head over another scan of the same head.

    Started from the headers' coordinates and, where they differ, from the middles of the two
    heads; the better one counts. Equal input gives equal numbers.

    Raises:
        InputError: the two do not overlap; the best place is further than 60 mm or 45 degrees away,
            no better than what the headers say, or hardly better than one 15 mm aside.
        IntensityError: one of them is constant.
    """
    with one_thread():
        try:
            transform = _searched(fixed, moving)
            found = _judged(fixed, moving, transform)
        except RuntimeError as error:
            raise _failure(fixed, moving, "the two do not overlap enough to be compared") from error
    return found


def coarser(volume: Volume, spacing: float) -> Volume:
    """A volume over the same extent with at least about `spacing` mm per voxel, smoothed."""
    shape = [
        n if step >= spacing else max(2, round(n * step / spacing))
        for n, step in zip(volume.shape, volume.spacing, strict=True)
    ]
    voxels = torch.from_numpy(np.ascontiguousarray(volume.voxels))
    zoom = [before / after for before, after in zip(volume.shape, shape, strict=True)]
    onto = np.diag([*zoom, 1.0])
    onto[:3, 3] = [(z - 1) / 2 for z in zoom]  # the first voxel's middle, in old voxels
    return Volume.of(resize(voxels[None], shape)[0].numpy(), volume.affine @ onto, volume.name)


def _searched(fixed: Volume, moving: Volume) -> sitk.Euler3DTransform:
    import SimpleITK as sitk

    (coarsest, points), *finer = LEVELS
    pair = _image(fixed, coarsest), _image(moving, coarsest)
    middle, other = (_middle(volume) for volume in (fixed, moving))
    starts = [np.zeros(3)]
    if np.linalg.norm(other - middle) > coarsest:
        starts.append(other - middle)
    tried: list[tuple[float, int, sitk.Euler3DTransform]] = []
    for shift in starts:
        transform = sitk.Euler3DTransform()
        transform.SetCenter(middle.tolist())
        transform.SetTranslation(shift.tolist())
        try:
            tried.append((_descended(*pair, transform, points, coarsest), len(tried), transform))
        except RuntimeError:  # from there they do not overlap
            if shift is starts[-1] and not tried:
                raise
    _, _, transform = min(tried)
    finest = min(min(volume.spacing) for volume in (fixed, moving))
    for level, points in finer:
        if level >= 0.8 * finest:
            _descended(_image(fixed, level), _image(moving, level), transform, points, level)
    return transform


def _descended(
    fixed: sitk.Image,
    moving: sitk.Image,
    transform: sitk.Euler3DTransform,
    points: int,
    level: float,
) -> float:
    """Move `transform` downhill; returns minus the mutual information."""
    search = _metric(fixed, points)
    search.SetOptimizerAsRegularStepGradientDescent(
        learningRate=level / 2,
        minStep=0.005,
        numberOfIterations=100,
        relaxationFactor=0.5,
        gradientMagnitudeTolerance=1e-8,
    )
    search.SetOptimizerScalesFromPhysicalShift()
    search.SetInitialTransform(transform, True)
    search.Execute(fixed, moving)
    return float(search.GetMetricValue())


def _judged(fixed: Volume, moving: Volume, transform: sitk.Euler3DTransform) -> Registration:
    """What was found, if it can be right."""
    import SimpleITK as sitk

    pair = _image(fixed, JUDGED), _image(moving, JUDGED)

    def agreement(place: sitk.Euler3DTransform) -> float:
        metric = _metric(pair[0], LEVELS[1][1])
        metric.SetInitialTransform(place)
        try:
            return -float(metric.MetricEvaluate(*pair))
        except RuntimeError:  # they do not meet there
            return 0.0

    translation = np.array(transform.GetTranslation())
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    shift = float(np.linalg.norm(translation))
    turn = math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(matrix)) - 1) / 2))))
    if shift > LARGEST_SHIFT or turn > LARGEST_TURN:
        raise _failure(
            fixed,
            moving,
            f"the best place found is {shift:.0f} mm and {turn:.0f} degrees away, and at most "
            f"{LARGEST_SHIFT:.0f} mm and {LARGEST_TURN:.0f} degrees are believed",
        )
    before, after = agreement(sitk.Euler3DTransform()), agreement(transform)
    if after < 0.99 * before:
        raise _failure(
            fixed,
            moving,
            f"the mutual information fell from {before:.3f} to {after:.3f}; it should have risen",
        )
    elsewhere = []
    for axis in range(3):
        for side in (-ASIDE, ASIDE):
            place = sitk.Euler3DTransform(transform)
            place.SetTranslation((translation + side * np.eye(3)[axis]).tolist())
            elsewhere.append(agreement(place))
    if after < BETTER * max(elsewhere):
        raise _failure(
            fixed,
            moving,
            f"the mutual information is {after:.3f} in the best place found and "
            f"{max(elsewhere):.3f} at {ASIDE:.0f} mm from it, so that no place stands out",
        )
    return Registration(transform, before, after, shift, turn)


def _metric(fixed: sitk.Image, points: int) -> sitk.ImageRegistrationMethod:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, points / fixed.GetNumberOfPixels()), SEED)
    # Differences at the points themselves: closer than those of a smoothed gradient image.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _image(volume: Volume, level: float) -> sitk.Image:
    """A volume at one level, from air (-1) to bright tissue (1); what glares above it is cut off.

    The histogram's bins are spread from the darkest to the brightest voxel.
    """
    small = coarser(volume, level)
    values = fit_scaling(small.voxels, name=volume.name).apply(small.voxels)
    return itk_image(np.clip(values, -1.0, 1.2), small.affine)


def _middle(volume: Volume) -> NDArray[np.float64]:
    """The centre of a head's mass, LPS mm."""
    small = coarser(volume, LEVELS[0][0])
    weights = np.clip(fit_scaling(small.voxels, name=volume.name).apply(small.voxels) + 0.8, 0, 1)
    sums = [weights.sum(tuple(a for a in range(3) if a != axis), np.float64) for axis in range(3)]
    index = [float(np.average(np.arange(len(line)), weights=line)) for line in sums]
    ras: NDArray[np.float64] = (small.affine @ [*index, 1.0])[:3]
    return ras * [-1, -1, 1]


def _failure(fixed: Volume, moving: Volume, why: str) -> InputError:
    return InputError(
        f'"{moving.name or "the scan"}" could not be registered to '
        f'"{fixed.name or "the reference"}": {why}. Are both of one head? If their headers place '
        "them well, leave the registration out"
    )
