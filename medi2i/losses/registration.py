"""What a registration network minimises: unlike images, and motion that is not smooth."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["folding", "local_decorrelation", "roughness"]


def local_decorrelation(
    predicted: Tensor,
    reference: Tensor,
    weight: Tensor | None = None,
    *,
    window: int = 9,
    epsilon: float = 1e-6,
) -> Tensor:
    """1 - the squared local normalised cross-correlation.

    Blind to gain and offset within a window, and to their sign: brightness may drift and contrast
    may invert. Avants et al. 2008, doi:10.1016/j.media.2007.06.004; as a loss in VoxelMorph,
    arXiv:1809.05231. Computed in full precision.

    Args:
        predicted, reference: (B, C, *spatial).
        weight: (B, 1 or C, *spatial), of the voxel in a window's middle; None for the plain mean.
        window: voxels along each axis, odd; at the border its part inside the image counts.
        epsilon: added to the product of the two variances. Windows whose standard deviations lie
            below its fourth root (0.03; images in [-1, 1]) hold noise and hardly count as alike.

    Returns:
        Scalar in [0, 1]; near 0 where one image is linear in the other.
    """
    channels = predicted.shape[1]
    with torch.autocast(predicted.device.type, enabled=False):
        wide = torch.promote_types(predicted.dtype, torch.float32)
        x, y = predicted.to(wide), reference.to(wide)
        axes = tuple(range(2, x.dim()))
        x = x - x.detach().mean(axes, keepdim=True)  # nearer to zero, squares keep their digits
        y = y - y.detach().mean(axes, keepdim=True)
        moments = _means(torch.cat([x, y, x.square(), y.square(), x * y], dim=1), window)
        mean_x, mean_y, square_x, square_y, product = moments.split(channels, dim=1)
        covariance = product - mean_x * mean_y
        variance_x = (square_x - mean_x.square()).clamp_min(0)
        variance_y = (square_y - mean_y.square()).clamp_min(0)
        unlike: Tensor = 1 - covariance.square() / (variance_x * variance_y + epsilon)
    if weight is None:
        return unlike.mean()
    weight = weight.to(wide).expand(unlike.shape)
    return (unlike * weight).sum() / weight.sum().clamp_min(1e-6)


def roughness(field: Tensor) -> Tensor:
    """Mean squared difference between neighbours, averaged over the axes.

    0 for a constant; a slope of s along one axis of `dims` in every component gives s**2 / dims.

    Args:
        field: (B, C, *spatial), a velocity or a displacement. Axes one voxel long add nothing.
    """
    dims = field.dim() - 2
    slopes = [field.diff(dim=axis).square() for axis in range(2, 2 + dims)]
    there = [slope.mean() if slope.numel() else field.new_zeros(()) for slope in slopes]
    return torch.stack(there).mean()


def folding(determinant: Tensor) -> Tensor:
    """How much space is turned inside out: mean of -det where it is below zero.

    Args:
        determinant: of the Jacobian, of any shape, as `jacobian_determinant` gives it.
    """
    return functional.relu(-determinant).mean()


def _means(x: Tensor, window: int) -> Tensor:
    """Mean over the part of each window that lies inside the image, one axis after the other."""
    for axis in range(2, x.dim()):
        # as planes (length of the axis, all behind it): pooling in 3-D refuses short axes
        planes = x.reshape(1, math.prod(x.shape[:axis]), x.shape[axis], -1)
        pooled = functional.avg_pool2d(
            planes, (window, 1), stride=1, padding=(window // 2, 0), count_include_pad=False
        )
        x = pooled.reshape(x.shape)
    return x
