"""How far a translation is from its reference, voxel by voxel and in structure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["absolute_error", "aligned", "laplace", "squared_error", "structural_dissimilarity"]


def absolute_error(predicted: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error; its minimum over constants is the median.

    Args:
        predicted, reference: (B, C, *spatial).
        weight: (B, 1 or C, *spatial) in [0, 1], or None for the plain mean.
    """
    return _mean((predicted - reference).abs(), weight)


def squared_error(predicted: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error; its minimum over constants is the mean. Shapes as above."""
    return _mean((predicted - reference).square(), weight)


def structural_dissimilarity(
    predicted: Tensor,
    reference: Tensor,
    weight: Tensor | None = None,
    *,
    data_range: float = 2.0,
    sigma: float = 1.5,
) -> Tensor:
    """1 - SSIM, Gaussian window of radius 3.5 sigma.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861.

    Args:
        predicted, reference: (B, C, *spatial), two or three spatial axes, each longer than the
            window (11 voxels for sigma 1.5).
        weight: (B, 1 or C, *spatial), or None. Voxels whose window leaves the image do not count.
        data_range: largest minus smallest possible value; 2 for [-1, 1].

    Returns:
        Scalar in [0, 2]; 0 for identical images.
    """
    radius = int(3.5 * sigma + 0.5)
    channels = predicted.shape[1]
    with torch.autocast(predicted.device.type, enabled=False):  # variances need the digits
        predicted, reference = predicted.float(), reference.float()
        moments = torch.cat(
            [predicted, reference, predicted.square(), reference.square(), predicted * reference],
            dim=1,
        )
        moments = _blur(moments, sigma, radius)
    mean_p, mean_r, square_p, square_r, product = moments.split(channels, dim=1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = product - mean_p * mean_r
    variances = square_p - mean_p.square() + square_r - mean_r.square()
    ssim = ((2 * mean_p * mean_r + c1) * (2 * covariance + c2)) / (
        (mean_p.square() + mean_r.square() + c1) * (variances + c2)
    )
    if weight is not None:
        inside = (slice(None), slice(None), *[slice(radius, -radius)] * (predicted.dim() - 2))
        weight = weight[inside]
    return _mean(1 - ssim, weight)


def aligned(predicted: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The prediction under the gain and offset that bring it closest to the reference.

    MRI has no unit and hospitals set their sequences differently, so how bright a target will be
    cannot be known from the source; where its structures lie can. A loss on the aligned prediction
    asks for the latter. Gain (kept in [1/4, 4]) and offset are the least-squares solution for each
    sample and channel, and constants to the gradient.

    Args:
        predicted, reference: (B, C, *spatial).
        weight: (B, 1 or C, *spatial), or None.
    """
    with torch.no_grad():
        p, r = predicted.float(), reference.float()
        w = torch.ones_like(p) if weight is None else weight.expand(p.shape).float()
        axes = tuple(range(2, p.dim()))
        total = w.sum(axes, keepdim=True).clamp_min(1e-6)
        mean_p = (w * p).sum(axes, keepdim=True) / total
        mean_r = (w * r).sum(axes, keepdim=True) / total
        variance = (w * (p - mean_p).square()).sum(axes, keepdim=True)
        covariance = (w * (p - mean_p) * (r - mean_r)).sum(axes, keepdim=True)
        gain = (covariance / variance.clamp_min(1e-6)).clamp(0.25, 4.0)
        offset = mean_r - gain * mean_p
    return predicted * gain + offset


def laplace(
    predicted: Tensor, reference: Tensor, log_spread: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Negative log likelihood of the reference under Laplace noise, less ln 2.

    |p - r| / b + ln b, smallest where the spread b is the expected absolute error
    (Kendall and Gal 2017, arXiv:1703.04977).

    Args:
        predicted, reference: (B, C, *spatial).
        log_spread: ln b, of the same shape; kept above ln 0.001.
        weight: (B, 1 or C, *spatial), or None.
    """
    log_spread = log_spread.clamp_min(-6.9)
    return _mean((predicted - reference).abs() * torch.exp(-log_spread) + log_spread, weight)


def _mean(error: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return error.mean()
    weight = weight.expand(error.shape)
    return (error * weight).sum() / weight.sum().clamp_min(1e-6)


def _blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Separable Gaussian over the spatial axes, valid part only."""
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    dims, channels = x.dim() - 2, x.shape[1]
    convolve = functional.conv2d if dims == 2 else functional.conv3d
    for axis in range(dims):
        shape = [1, 1, *(len(kernel) if i == axis else 1 for i in range(dims))]
        separable = kernel.reshape(shape).expand(channels, *shape[1:])
        x = convolve(x, separable, groups=channels)
    return x
