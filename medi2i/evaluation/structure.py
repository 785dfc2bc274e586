"""Whether a translation kept the anatomy where it was: scores that need no acquired target.

Networks that learn without pairs can move tissue and look perfect. What can be asked without the
other scan: do edges run the same way as the source's, does the one image tell of the other, and
how far would the translation have to be moved to lie on the source again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, UsageError
from medi2i.evaluation.pointwise import PointwiseMap
from medi2i.evaluation.scoring import unit_range
from medi2i.figures import Row, three_planes
from medi2i.files import atomic_write
from medi2i.metrics import bounding_box
from medi2i.volume import Volume

__all__ = ["MOVED", "StructureScores", "draw_displacement", "orientation", "structure_scores"]

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]

MOVED = 1.5
"""Displacement, mm, at the 95th percentile of edges from which tissue counts as moved."""
BINS = 64
COARSEST = 2.0
"""Millimetres per voxel at which the displacement is looked for, at most."""
LEVELS, ROUNDS, SMOOTHING = (2, 1), 40, 2.5
SOFT = 3
"""Voxels by which the brain is cut off the images that are registered."""


@dataclass(frozen=True, eq=False)
class StructureScores:
    """How well a translation keeps to its source.

    Attributes:
        orientation: agreement of the directions of edges, whichever side of them is brighter,
            where both images have some: 1 for the same, 1/3 by chance (1/2 for a single slice).
        mutual_information: normalised (Studholme et al. 1999, doi:10.1016/S0031-3203(98)00091-0):
            2 where each image can be told from the other, 1 where it tells nothing.
        displacement: mean distance, mm, between where edges are and where they were; the inside
            of a tissue cannot tell.
        displacement_95: its 95th percentile.
        field: (X, Y, Z, 3) the displacement, mm along each axis.
    """

    orientation: float
    mutual_information: float
    displacement: float
    displacement_95: float
    field: NDArray[np.float32] = field(repr=False)

    @property
    def moved(self) -> bool:
        """Whether tissue moved by more than a registration finds in a faithful translation."""
        return self.displacement_95 > MOVED

    def as_dict(self) -> dict[str, float]:
        """The numbers, by the names of the columns in a table."""
        return {
            "orientation": self.orientation,
            "mutual information": self.mutual_information,
            "displacement": self.displacement,
            "displacement 95": self.displacement_95,
        }


def structure_scores(
    source: Field,
    synthetic: Field,
    brain: Mask | None = None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> StructureScores:
    """Compare a translation with what it was made from.

    Args:
        source, synthetic: (X, Y, Z), one grid, any intensities.
        brain: where to look; source > 0 without it.
        spacing: mm.

    Raises:
        DimensionError: unlike shapes. UsageError: no brain, or an image constant in it.

    >>> x, y, z = np.meshgrid(*[np.linspace(0, 9, 24)] * 3, indexing="ij")
    >>> head = 2 + np.sin(x) * np.sin(y) * np.sin(z)
    >>> inverted = structure_scores(head, 5 - head)
    >>> round(inverted.orientation, 3), inverted.displacement < 0.2
    (1.0, True)
    """
    if source.shape != synthetic.shape or (brain is not None and brain.shape != source.shape):
        raise DimensionError(f"shapes {source.shape} and {synthetic.shape} came, not one grid")
    inside = source > 0 if brain is None else brain
    if not inside.any():
        raise UsageError("there is no brain to compare in: the source is nowhere above 0")
    for name, image in (("source", source), ("translation", synthetic)):
        if np.ptp(image[inside]) == 0:
            raise UsageError(f"the {name} is constant in the brain; there is nothing to compare")
    box = bounding_box(inside, 2)
    cut = (unit_range(source, inside)[box], unit_range(synthetic, inside)[box], inside[box])
    moved = np.zeros((*source.shape, 3), np.float32)
    moved[box] = _displacement(*cut, spacing)
    edges, cosine = _edges(*cut, spacing)
    distance = np.linalg.norm(moved[inside], axis=-1)
    order = np.argsort(distance)
    reached = np.searchsorted(np.cumsum(edges[order]), 0.95 * edges.sum())
    return StructureScores(
        float(np.average(cosine, weights=edges)),
        _mutual_information(cut[0][cut[2]], cut[1][cut[2]]),
        float(np.average(distance, weights=edges)),
        float(distance[order[min(int(reached), len(order) - 1)]]),
        moved,
    )


def orientation(
    source: Field,
    synthetic: Field,
    brain: Mask,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> float:
    """The first of the structure scores alone, which needs no registration.

    Args:
        source, synthetic: (X, Y, Z), one grid, any intensities.
        brain: where to look.
        spacing: mm.
    """
    box = bounding_box(brain, 2)
    images = [unit_range(image, brain)[box] for image in (source, synthetic)]
    edges, cosine = _edges(images[0], images[1], brain[box], spacing)
    return float(np.average(cosine, weights=edges))


def draw_displacement(
    path: Path, source: Volume, synthetic: Field, scores: StructureScores
) -> Path:
    """A PNG of the source, its translation and the displacement, cut where that is largest.

    Args:
        source: canonical.
        synthetic: (X, Y, Z) on its grid.
    """
    distance = np.linalg.norm(scores.field, axis=-1) * (source.voxels > 0)
    x, y, z = (int(i) for i in np.unravel_index(np.argmax(distance), distance.shape))
    picture = three_planes(
        [
            Row("source", source.voxels, source.spacing),
            Row("translation", synthetic, source.spacing),
            Row("displacement, mm", distance, source.spacing, window=(0.0, float(distance.max()))),
        ],
        at=(x, y, z),
        note=f"95th percentile at edges {scores.displacement_95:.1f} mm, "
        f"largest {distance.max():.1f} mm (white)",
    )
    return atomic_write(path, lambda stream: picture.save(stream, format="PNG"), overwrite=True)


def _edges(
    one: Field, other: Field, inside: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) each: how much both images have an edge there; squared cosine between the gradients.

    Normalised gradient fields: Haber and Modersitzki 2006, doi:10.1007/11866763_89.
    """
    axes = [axis for axis in range(3) if one.shape[axis] > 1]
    slopes = [
        np.stack([np.gradient(image, spacing[axis], axis=axis)[inside] for axis in axes])
        for image in (one, other)
    ]
    squares = [np.square(slope).sum(0) for slope in slopes]
    # noise has gradients, too: what is weaker than the mean hardly counts
    edges = [square / (square + square.mean() + 1e-12) for square in squares]
    cosine = np.square((slopes[0] * slopes[1]).sum(0)) / (squares[0] * squares[1] + 1e-20)
    return edges[0] * edges[1] + 1e-12, cosine


def _mutual_information(one: NDArray[Any], other: NDArray[Any]) -> float:
    joint, _, _ = np.histogram2d(one, other, BINS, ((0, 1), (0, 1)))
    shares = joint / joint.sum()

    def entropy(part: NDArray[Any]) -> float:
        filled = part[part > 0]
        return float(-(filled * np.log(filled)).sum())

    together = entropy(shares)
    apart = entropy(shares.sum(0)) + entropy(shares.sum(1))
    return apart / together if together > 0 else 2.0


def _displacement(
    source: Field, synthetic: Field, inside: Mask, spacing: Sequence[float]
) -> NDArray[np.float32]:
    """(X, Y, Z, 3) mm: symmetric demons between the translation and the source as it would look.

    The source's intensities are mapped to the translation's first, so that both show one contrast
    (Vercauteren et al. 2009, doi:10.1016/j.neuroimage.2008.10.040, for the registration).
    """
    import SimpleITK as sitk
    from scipy import ndimage

    expected = PointwiseMap.fit([(source[inside], synthetic[inside])]).apply(source)
    soft = ndimage.gaussian_filter(
        ndimage.binary_erosion(inside, iterations=SOFT, border_value=0).astype(np.float32), 1.0
    )
    scale = max(float(expected[inside].std()), 1e-6)
    images = []
    for voxels in (expected, synthetic):
        middle = float(np.median(voxels[inside]))
        image = sitk.GetImageFromArray(((voxels - middle) / scale * soft).T.astype(np.float32))
        image.SetSpacing([float(step) for step in spacing])
        factors = [max(1, round(COARSEST / step)) for step in spacing]
        images.append(sitk.BinShrink(image, factors))
    fixed, moving = images
    found: Any = None
    for level in LEVELS:
        shrink = [level if n >= 16 * level else 1 for n in fixed.GetSize()]
        here, there = (sitk.BinShrink(image, shrink) for image in (fixed, moving))
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(ROUNDS)
        demons.SetStandardDeviations(SMOOTHING)
        if found is None:
            found = demons.Execute(here, there)
        else:
            start = sitk.Resample(found, here, sitk.Transform(), sitk.sitkLinear, 0.0)
            found = demons.Execute(here, there, start)
    whole = sitk.GetImageFromArray(np.zeros(source.T.shape, np.float32))
    whole.SetSpacing([float(step) for step in spacing])
    found = sitk.Resample(found, whole, sitk.Transform(), sitk.sitkLinear, 0.0)
    vectors: NDArray[np.float32] = sitk.GetArrayFromImage(found).transpose(2, 1, 0, 3)
    return vectors.astype(np.float32)
