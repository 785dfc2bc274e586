"""How a prediction is scored: named, versioned records, printed and stored with every score.

PSNR and SSIM of one pair differ by 6 dB and 0.03 between common protocols, so a number without
its protocol says nothing. A change that moves any score is a new version, never an edit.
`brain-3d@1` is the default; the others repeat what other people publish with, number by number.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import DimensionError, IntensityError, UsageError
from medi2i.evaluation import scoring
from medi2i.evaluation.scoring import Pair, Scores, Spacing

__all__ = ["PROTOCOLS", "Protocol", "protocol"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Protocol:
    """A way of scoring, in words and as a function.

    Attributes:
        name, version: together the key, "brain-3d@1".
        description: one paragraph.
        dimension, mask, range, normalisation, crop, aggregation: the record in words, stored with
            every score.
        mask_role: what a mask means: the part that is scored, a lesion apart from the rest, or
            nothing, where the original scores whole volumes.
    """

    name: str
    version: int
    description: str
    dimension: str
    mask: str
    range: str
    normalisation: str
    crop: str
    aggregation: str
    mask_role: Literal["inside", "lesion", "none"]
    scorer: Callable[[Pair], Scores] = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """Name and version: "brain-3d@1"."""
        return f"{self.name}@{self.version}"

    def as_dict(self) -> dict[str, Any]:
        """The record in words, to be stored with the scores."""
        words = ("dimension", "mask", "range", "normalisation", "crop", "aggregation")
        record = {word: getattr(self, word) for word in words}
        return {"name": self.name, "version": self.version, **record}

    def score(
        self,
        predicted: Array,
        target: Array,
        *,
        mask: Array | None = None,
        spacing: Spacing = (1.0, 1.0, 1.0),
        source: Array | None = None,
    ) -> Scores:
        """Score one prediction.

        Args:
            predicted, target: (X, Y, Z) on one grid, any real intensities. Axial slices lie along
                the last axis.
            mask: same shape; above 0 is inside. Its meaning is `self.mask`.
            spacing: millimetres from voxel to voxel along each axis.
            source: same shape; the scan that `predicted` was made from.

        Raises:
            DimensionError: shapes differ or are too small. IntensityError: nothing to score, NaN,
                a constant target. UsageError: a mask where none belongs, or none where one must be.
        """
        shape = np.shape(target)
        if len(shape) != 3:
            raise DimensionError(f"The target has shape {shape}; a 3-D volume was expected.")
        for name, array in (
            ("prediction", predicted),
            ("mask", mask),
            ("source", source),
        ):
            if array is not None and np.shape(array) != shape:
                raise DimensionError(
                    f"The {name} has shape {np.shape(array)}, the target {shape};"
                    " they must lie on one grid."
                )
        if mask is not None and self.mask_role == "none":
            raise UsageError(f"{self.key} scores whole volumes: leave the mask out.")
        inside = None if mask is None else np.asarray(mask) > 0
        if inside is not None and not inside.any():
            raise IntensityError("The mask is empty: there is nothing to score.")
        for name, image in (("prediction", predicted), ("target", target)):
            if not np.isfinite(image).all():
                raise IntensityError(f"The {name} holds NaN or infinite values.")
        return self.scorer(
            Pair(self.key, np.asarray(predicted), np.asarray(target), inside, spacing, source)
        )


_RAW = "none: intensities as they are"
_TARGET_RANGE = "largest minus smallest voxel of the target"

PROTOCOLS: dict[str, Protocol] = {
    entry.key: entry
    for entry in (
        Protocol(
            name="brain-3d",
            version=1,
            description=(
                "The default. Only the brain counts, the intensity scale of the prediction does"
                " not: background inflates no score, and a contrast that is right up to gain and"
                " offset loses nothing. Stacks whose slices are over 3 times thicker than in plane"
                " (the thickest axis) are compared slice by slice, since neighbouring slices there"
                " are no neighbourhood."
            ),
            dimension="3-D; 2-D slices where one axis is over 3 times coarser than the others",
            mask="the given one, else source > 0",
            range="1",
            normalisation=(
                "target: own 0.5 and 99.5 percentiles in the mask to [0, 1], clipped; prediction:"
                " least-squares gain and offset onto it in the mask, clipped; both 0 outside"
            ),
            crop="none",
            aggregation=(
                "PSNR, MAE, NMSE over the mask; SSIM (gaussian, sigma 1.5, population covariance)"
                " averaged over the mask, or over each slice's mask and then over the slices that"
                " hold more than 1 % of the mask of the fullest slice"
            ),
            mask_role="inside",
            scorer=scoring.brain_3d,
        ),
        Protocol(
            name="skimage-3d",
            version=1,
            description=(
                "What most scripts do: scikit-image's peak_signal_noise_ratio and"
                " structural_similarity with their defaults on whole volumes."
            ),
            dimension="3-D",
            mask="none: the whole volume",
            range=_TARGET_RANGE,
            normalisation=_RAW,
            crop="SSIM leaves out 3 voxels at every face",
            aggregation="over all voxels; SSIM uniform 7, sample covariance",
            mask_role="none",
            scorer=scoring.skimage_3d,
        ),
        Protocol(
            name="wang2004",
            version=1,
            description=(
                "SSIM as Wang et al. 2004 (doi:10.1109/TIP.2003.819861) define it, on whole"
                " volumes: gaussian window, population covariance, complete neighbourhoods only."
                " Equal to MONAI's SSIMMetric and to scikit-image with gaussian_weights=True,"
                " sigma=1.5, use_sample_covariance=False."
            ),
            dimension="3-D",
            mask="none: the whole volume",
            range=_TARGET_RANGE,
            normalisation=_RAW,
            crop="SSIM leaves out 5 voxels at every face",
            aggregation="over all voxels; SSIM gaussian, sigma 1.5, population covariance",
            mask_role="none",
            scorer=scoring.wang2004,
        ),
        Protocol(
            name="torchmetrics",
            version=1,
            description=(
                "torchmetrics' peak_signal_noise_ratio and structural_similarity_index_measure"
                " with their defaults. Its SSIM keeps the mirrored border, which is easy to match,"
                " and takes as range the wider of the two images'."
            ),
            dimension="3-D",
            mask="none: the whole volume",
            range=f"PSNR: {_TARGET_RANGE}; SSIM: that of the prediction, if wider",
            normalisation=_RAW,
            crop="none; the border is mirrored",
            aggregation="over all voxels; SSIM gaussian, sigma 1.5, population covariance",
            mask_role="none",
            scorer=scoring.torchmetrics,
        ),
        Protocol(
            name="syndiff",
            version=1,
            description=(
                "The test script of SynDiff (Ozbey et al. 2023, arXiv:2207.08208): axial slices,"
                " each of the two divided by its own maximum. The peak of the PSNR is the maximum"
                " of the cropped prediction, as in that script. It prints no SSIM: here it is"
                " scikit-image's default with the cropped target's maximum as range, as"
                " the same group has it in SelfRDB."
            ),
            dimension="2-D, axial slices",
            mask="none: whole slices",
            range="PSNR: maximum of the prediction; SSIM: maximum of the target; per slice",
            normalisation="each slice divided by its own maximum",
            crop="padded to 256 x 256, then the middle 152 (left-right) x 256 (front-back)",
            aggregation="mean over the slices where neither image is empty",
            mask_role="none",
            scorer=scoring.syndiff,
        ),
        Protocol(
            name="brasyn",
            version=1,
            description=(
                "BraSyn, the synthesis task of BraTS 2023 (arXiv:2305.09011): each image scaled by"
                " its own percentiles, SSIM (torchmetrics' map) outside the tumour, and inside as"
                " `ssim_tumour`; the mask is the tumour. The published script stops with an error"
                " where it indexes the map; its stated purpose, the mean over the region, is done"
                " here. PSNR, MAE and NMSE, which it lacks, are of the same images outside the"
                " tumour."
            ),
            dimension="3-D",
            mask="the tumour; without it everything counts as outside",
            range="PSNR: 1; SSIM: the wider of the two, 0 outside the region",
            normalisation=(
                "each image: own 0.5 (at least 0) and 99.5 percentiles of the whole volume to"
                " [0, 1], clipped"
            ),
            crop="none; the border is mirrored",
            aggregation="over the region; SSIM gaussian, sigma 1.5, population covariance",
            mask_role="lesion",
            scorer=scoring.brasyn,
        ),
        Protocol(
            name="synthrad2023",
            version=1,
            description=(
                "The image metrics of SynthRAD 2023 (synthetic CT): Hounsfield units, a fixed"
                " range. Meant for CT; on MR intensities it says little. NMSE, which it lacks, is"
                " of the clipped images above -1024 in the mask."
            ),
            dimension="3-D",
            mask="the given one (the body), else the whole volume",
            range="4024 (-1024 to 3000)",
            normalisation="clipped to [-1024, 3000], except for MAE; SSIM: -1024 outside the mask",
            crop="SSIM leaves out 3 voxels at every face",
            aggregation="over the mask; SSIM uniform 7, sample covariance",
            mask_role="inside",
            scorer=scoring.synthrad2023,
        ),
    )
}
"""All protocols by key, "brain-3d@1"."""


def protocol(name: str) -> Protocol:
    """A protocol by name, "brain-3d" (its newest version), or by key, "brain-3d@1".

    Raises:
        UsageError: there is none; the nearest is named.

    >>> protocol("wang2004").key
    'wang2004@1'
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    versions = [entry for entry in PROTOCOLS.values() if entry.name == name]
    if versions:
        return max(versions, key=lambda entry: entry.version)
    known = [*PROTOCOLS, *(entry.name for entry in PROTOCOLS.values())]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
    raise UsageError(f'There is no protocol "{name}": {hint}Known: {", ".join(PROTOCOLS)}.')
