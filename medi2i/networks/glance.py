"""A small 3-D network that looks at a whole scan at once: where the brain is, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from medi2i.networks.unet import UNet

__all__ = ["DEPTHS", "GlanceNet", "described"]

Field = NDArray[np.float32]

DEPTHS = (-8, -3, 0, 2, 3, 5, 8, 12, 30)
"""Voxels below the brain's surface between which layers lie; negative outside of it."""
BINS = 24
"""Classes of brightness, relative to the brain's middle, on a scale of ratios."""
DARKEST, BRIGHTEST = 0.08, 5.0
STEPS = 8
"""Parts of the brain's extent along each axis, whose shares of its volume tell its posture."""
SHAPE = 6 + 3 * STEPS
DEEP, UNSURE = 4.0, 2.0
"""Voxels below the surface that serve as the brain's middle; logits that count as undecided."""


class GlanceNet(nn.Module):
    """A U-Net for the brain's mask, and a small classifier of what the brain looks like.

    The classifier sees no image. It sees how bright the brain is at every depth below its surface
    (:func:`described`): fluid lies outermost and in the middle, grey matter under the surface,
    white matter below it, and which of them is brighter is what tells contrasts apart. Of place
    and posture it knows how the brain's volume is spread along each axis, which is what tells an
    head from another thing. So it needs no long training.

    Args:
        classes: contrasts, with one more for "none of them".
        features, encoder_blocks, decoder_blocks: as in :class:`~medi2i.networks.unet.UNet`.
        fold_factor: likewise; 2 looks at 2 mm voxels and computes at 4 mm.
        hidden: width of the classifier.

    Every spatial size must be a multiple of :attr:`multiple`.
    """

    def __init__(
        self,
        *,
        classes: int,
        features: Sequence[int] = (12, 24, 48, 64),
        encoder_blocks: Sequence[int] = (1, 2, 2, 2),
        decoder_blocks: int | Sequence[int] = 1,
        fold_factor: int = 2,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.network = UNet(
            dims=3,
            inputs=1,
            outputs=1,
            features=features,
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
            up="linear",
            bias=False,
            kind="batch",
            fold_factor=fold_factor,
        )
        self.multiple = self.network.multiple
        told = (len(DEPTHS) - 1) * (BINS + 1) + SHAPE
        self.trunk = nn.Sequential(
            nn.BatchNorm1d(told, affine=False),
            nn.Dropout(0.1),
            nn.Linear(told, hidden),
            nn.LeakyReLU(0.1),
            nn.Dropout(0.3),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.1),
        )
        self.contrast = nn.Linear(hidden, classes)
        self.head = nn.Linear(hidden, 1)

    def forward(self, scan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of a scan (B, 1, X, Y, Z) in [-1, 1.5].

        Returns:
            brain (B, 1, X, Y, Z); contrast (B, classes); whether it is a head (B,).
        """
        brain = self.network(scan)
        contrast, head = self.classified(described(scan, brain))
        return brain, contrast, head

    def classified(self, description: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) of :func:`described` -> logits of contrast (B, classes) and head (B,)."""
        told = self.trunk(description)
        return self.contrast(told), self.head(told).squeeze(1)


def described(scan: Tensor, brain: Tensor) -> Tensor:
    """What a brain looks like, whatever its place and size.

    Args:
        scan: (B, 1, X, Y, Z) from -1, which is air.
        brain: (B, 1, X, Y, Z) logits.

    Returns:
        (B, N), without gradient: for every layer above and below the brain's surface, roots of the
        shares of voxels by brightness, and how much brightness changes from voxel to voxel; then
        volume and extent of the brain, and its parts along each axis.
    """
    pairs = zip(scan.detach().cpu().float(), brain.detach().cpu().float(), strict=True)
    rows = [_one(one[0].numpy(), logits[0].numpy()) for one, logits in pairs]
    return torch.from_numpy(np.stack(rows)).to(scan.device)


def _one(scan: Field, logits: Field) -> Field:
    inside = logits > 0
    spans = [int(np.count_nonzero(inside.any(axes))) for axes in ((1, 2), (0, 2), (0, 1))]
    volume, layers = int(inside.sum()), len(DEPTHS) - 1
    unsure = np.count_nonzero(np.abs(logits) < UNSURE) / max(volume, 1)
    shape = [math.log1p(volume), *(n / 50 for n in spans), volume / max(math.prod(spans), 1)]
    shape.append(min(unsure, 3.0))
    for axis in range(3):
        area = inside.sum(tuple(a for a in range(3) if a != axis))
        within = np.trim_zeros(area) if volume else np.zeros(STEPS)
        shape += [float(part.sum()) / max(volume, 1) for part in np.array_split(within, STEPS)]
    if not volume:
        return np.array([0.0] * layers * (BINS + 1) + shape, np.float32)
    box = tuple(
        slice(max(0, found[0] + DEPTHS[0]), found[-1] - DEPTHS[0] + 1)
        for axes in ((1, 2), (0, 2), (0, 1))
        for found in [np.flatnonzero(inside.any(axes))]
    )
    inside, bright = inside[box], np.maximum(scan[box] + 1, 0)
    beyond = np.pad(inside, 1)  # the edge of the field of view is a surface, too
    depth = ndimage.distance_transform_edt(beyond)[1:-1, 1:-1, 1:-1]
    depth -= ndimage.distance_transform_edt(~inside)
    deep = bright[depth > DEEP] if (depth > DEEP).any() else bright[inside]
    reference = max(float(np.median(deep)), 0.05)
    steps = [np.diff(bright, axis=axis, append=bright.take([-1], axis)) for axis in range(3)]
    change = np.abs(steps).sum(0)
    scale = np.log(np.clip(bright / reference, DARKEST, BRIGHTEST) / DARKEST)
    classes = np.rint(scale * ((BINS - 1) / math.log(BRIGHTEST / DARKEST))).astype(np.intp)
    layer = np.digitize(depth, DEPTHS) - 1  # -1 and `layers` are too far
    near = (layer >= 0) & (layer < layers)
    layer, classes, change = layer[near], classes[near], change[near]
    counts = np.bincount(layer, minlength=layers).clip(1)[:, None]
    shares = np.bincount(layer * BINS + classes, minlength=layers * BINS).reshape(layers, BINS)
    changes = np.bincount(layer, change / (3 * reference), minlength=layers)[:, None]
    rows = np.hstack([np.sqrt(shares / counts), changes / counts])
    return np.array([*rows.ravel(), *shape], np.float32)
