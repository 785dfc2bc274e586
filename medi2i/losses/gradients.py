"""How far the edges of two images are apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gradient_similarity_deviation"]


def gradient_similarity_deviation(
    predicted: Tensor,
    reference: Tensor,
    weight: Tensor | None = None,
    *,
    data_range: float = 2.0,
) -> Tensor:
    """How unevenly edges were kept: the deviation of the gradient magnitudes' similarity (GMSD).

    Xue et al. 2014, doi:10.1109/TIP.2013.2293423: Prewitt gradients at half the resolution, their
    similarity at each voxel, and its standard deviation over the image. An error that is the same
    everywhere costs nothing.

    Args:
        predicted, reference: (B, C, *spatial), two or three spatial axes of at least 6 voxels.
        weight: (B, 1 or C, *spatial), or None for all voxels alike.
        data_range: largest minus smallest possible value; 2 for [-1, 1].

    Returns:
        Scalar in [0, 0.5], the mean over batch and channels; 0 for identical images.
    """
    pool = functional.avg_pool2d if predicted.dim() == 4 else functional.avg_pool3d
    with torch.autocast(predicted.device.type, enabled=False):  # squares need the digits
        ours, theirs = (_magnitude(pool(x.float(), 2)) for x in (predicted, reference))
        stable = 170 / 255**2 * data_range**2
        similarity = (2 * ours * theirs + stable) / (ours.square() + theirs.square() + stable)
        share = torch.ones_like(similarity)
        if weight is not None:
            inside = (slice(None), slice(None), *[slice(1, -1)] * (predicted.dim() - 2))
            share = pool(weight.float(), 2)[inside].expand(similarity.shape)
        similarity, share = similarity.flatten(2), share.flatten(2)
        share = share / share.sum(2, keepdim=True).clamp_min(1e-6)
        mean = (share * similarity).sum(2, keepdim=True)
        variance = (share * (similarity - mean).square()).sum(2)
        # the root of a constant map's variance has no slope: a small constant goes in and out
        tiny = torch.full_like(variance, 1e-8)
        deviation: Tensor = (variance + tiny).sqrt() - tiny.sqrt()
        return deviation.mean()


def _magnitude(x: Tensor) -> Tensor:
    """Length of the Prewitt gradient, away from the edges: (B, C, *(spatial - 2))."""
    axes = range(2, x.dim())
    squares = torch.zeros(())
    for along in axes:
        slope = x
        for axis in axes:
            inner = x.shape[axis] - 2
            before, at, after = (slope.narrow(axis, start, inner) for start in range(3))
            slope = after - before if axis == along else (before + at + after) / 3
        squares = squares.to(x) + slope.square()
    return (squares + 1e-8).sqrt()  # a flat place, too, has a slope for the way back
