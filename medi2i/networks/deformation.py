"""Deformations of slices and volumes: warp, compose, integrate, measure. One convention.

A displacement is (B, dims, *spatial), dims 2 or 3, in voxels; component k moves along spatial axis
k, in the order of the tensor (never x, y, z reversed). It says where a voxel's value comes from::

    warp(image, u)(x) = image(x + u(x))

Voxel centres lie at whole numbers and the first and last of them are the volume's ends
(align_corners); outside, the border is repeated, so a constant field stays constant under
composition. All functions are differentiable; positions are computed in float32 at least, because
half precision would round them to whole voxels.

The exponential of a smooth velocity is a diffeomorphism whose inverse is the exponential of the
negated velocity (Arsigny et al. 2006, doi:10.1007/11866565_113).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.errors import DimensionError, UsageError

__all__ = [
    "Interpolation",
    "compose",
    "integrate",
    "invert",
    "jacobian_determinant",
    "leads_inside",
    "least_jacobian",
    "sample",
    "warp",
]

Interpolation = Literal["linear", "nearest"]

_MODES = {"linear": "bilinear", "nearest": "nearest"}  # torch says bilinear in 3-D too


def sample(image: Tensor, positions: Tensor, *, mode: Interpolation = "linear") -> Tensor:
    """Values of an image at positions in voxels.

    Args:
        image: (B, C, *spatial) of any type; integers and truth values only with "nearest".
        positions: (B, dims, *anywhere), floating; the border is repeated outside the image.
        mode: between voxels, interpolate or take the nearest.

    Returns:
        (B, C, *anywhere) in the image's type. No gradient reaches a position at or beyond the
        border along the axis concerned, and none with "nearest".

    Raises:
        DimensionError: shapes that do not belong together.
        UsageError: another mode, positions that are not floating, labels to be interpolated.
    """
    dims = image.dim() - 2
    if (
        dims not in (2, 3)
        or positions.dim() != image.dim()
        or positions.shape[:2] != (len(image), dims)
    ):
        raise DimensionError(
            f"the image has shape {tuple(image.shape)} and the positions {tuple(positions.shape)}; "
            "(B, C, *spatial) with 2 or 3 spatial axes and (B, 2 or 3, *spatial) were expected"
        )
    if mode not in _MODES:
        raise UsageError(f'the mode is "{mode}"; "linear" or "nearest" was expected')
    if not positions.is_floating_point():
        raise UsageError(f"positions of type {positions.dtype} came; a floating type was expected")
    if mode == "linear" and not image.is_floating_point():
        raise UsageError(
            f'an image of type {image.dtype} cannot be interpolated; use mode "nearest" for '
            "labels, or convert it to a floating type"
        )
    exact = torch.float32  # holds integers of two bytes; float64 those of four
    if image.dtype == torch.float64 or (not image.is_floating_point() and image.itemsize > 2):
        exact = torch.float64
    working = torch.promote_types(positions.dtype, exact)
    axes = [
        positions[:, axis].to(working) * (2 / max(image.shape[axis + 2] - 1, 1)) - 1
        for axis in reversed(range(dims))  # grid_sample wants the last axis first, in [-1, 1]
    ]
    values = functional.grid_sample(
        image.to(working),
        torch.stack(axes, dim=-1),
        mode=_MODES[mode],
        padding_mode="border",
        align_corners=True,
    )
    return values.to(image.dtype)


def warp(image: Tensor, displacement: Tensor, *, mode: Interpolation = "linear") -> Tensor:
    """The image x -> image(x + u(x)).

    Args:
        image: (B, C, *spatial), as for :func:`sample`.
        displacement: (B, dims, *spatial) in voxels.
        mode: as for :func:`sample`.

    Returns:
        (B, C, *spatial) in the image's type. A whole-voxel shift is exact up to the rounding of
        positions, about 1e-5 voxels in float32.

    Raises:
        DimensionError: shapes that do not belong together.
        UsageError: as for :func:`sample`.
    """
    _check(displacement)
    if image.shape[2:] != displacement.shape[2:]:
        raise DimensionError(
            f"the image has shape {tuple(image.shape)} and the displacement "
            f"{tuple(displacement.shape)}; the same spatial axes were expected"
        )
    return sample(image, _positions(displacement), mode=mode)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The displacement that warps at once as `first` and `then` do one after the other.

    ``warp(image, compose(first, then))`` is ``warp(warp(image, first), then)``, save that the image
    is interpolated once. As maps: x -> x + then(x), and from there by `first`.

    Args:
        first, then: (B, dims, *spatial) in voxels.

    Returns:
        (B, dims, *spatial), float32 at least.

    Raises:
        DimensionError: shapes that differ, or not fields of 2 or 3 dimensions.
    """
    _check(first)
    return _precise(then) + warp(_precise(first), then)


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """The exponential of a stationary velocity, by scaling and squaring.

    The velocity is divided by 2**steps, then the small displacement is composed with itself `steps`
    times. ``integrate(-velocity)`` is the inverse up to discretisation: hundredths of a voxel for
    fields that are smooth over several voxels. Rough velocities (slopes above about 3) may still
    fold: see :func:`least_jacobian`.

    Args:
        velocity: (B, dims, *spatial) in voxels per unit time.
        steps: squarings; 0 gives the velocity itself. 7 serve up to about ten voxels.

    Returns:
        (B, dims, *spatial) in voxels, float32 at least.

    Raises:
        DimensionError: not a field of 2 or 3 dimensions.
        UsageError: a negative number of steps.
    """
    _check(velocity)
    if steps < 0:
        raise UsageError(f"steps is {steps}; 0 or more squarings were expected, usually 7")
    displacement = _precise(velocity) * 0.5**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def invert(displacement: Tensor, steps: int = 12) -> Tensor:
    """The displacement of the way back: composed with the given one, nothing moves.

    By fixed-point iteration v(x) = -u(x + v(x)) (Chen et al. 2008, doi:10.1118/1.2816107), which
    converges where u changes by less than a voxel from voxel to voxel; elsewhere, and where u
    leads out of the image, v is only near.

    Args:
        displacement: (B, dims, *spatial) in voxels.
        steps: of the iteration; each shrinks what is missing by the steepest slope of u.

    Returns:
        (B, dims, *spatial) in voxels, float32 at least.

    Raises:
        DimensionError: not a field of 2 or 3 dimensions.
    """
    _check(displacement)
    u = _precise(displacement)
    back = -u
    for _ in range(steps):
        back = -warp(u, back)
    return back


def leads_inside(displacement: Tensor) -> Tensor:
    """Where x + u(x) lies in the image, no more than half a voxel beyond its outermost centres.

    Elsewhere :func:`warp` shows the border repeated.

    Args:
        displacement: (B, dims, *spatial) in voxels.

    Returns:
        (B, 1, *spatial) bool.

    Raises:
        DimensionError: not a field of 2 or 3 dimensions.
    """
    _check(displacement)
    positions = _positions(displacement)
    sizes = positions.new_tensor(displacement.shape[2:])
    ends = (sizes - 0.5).reshape(1, -1, *[1] * len(sizes))
    inside: Tensor = ((positions >= -0.5) & (positions <= ends)).all(1, keepdim=True)
    return inside


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """det(d(x + u)/dx) by central differences, one-sided at the border.

    1 where nothing changes, above 1 where the warped image shows its source smaller, negative where
    it folds. Central differences skip the voxel itself and so miss the smallest folds: to make sure
    that there are none use :func:`least_jacobian`.

    Args:
        displacement: (B, dims, *spatial) in voxels, at least 2 along every axis.

    Returns:
        (B, *spatial), float32 at least.

    Raises:
        DimensionError: not such a field.
    """
    _check(displacement, least=2)
    slopes = torch.gradient(
        _precise(displacement), dim=list(range(2, displacement.dim()))
    )  # slopes[k][:, i]: change of component i along axis k
    return _determinant(slopes)


def least_jacobian(displacement: Tensor) -> Tensor:
    """The smallest Jacobian determinant at the corners of the cells between voxels.

    From one-sided differences in all 2**dims combinations; above 0 the grid does not fold at any
    corner, which central differences cannot tell (Liu et al. 2024, arXiv:2212.06060). In 2-D it is
    the exact minimum over the linearly interpolated map; in 3-D the interior of a cell may lie
    a little lower.

    Args:
        displacement: (B, dims, *spatial) in voxels, at least 2 along every axis.

    Returns:
        (B,), float32 at least.

    Raises:
        DimensionError: not such a field.
    """
    _check(displacement, least=2)
    field = _precise(displacement)
    dims = field.shape[1]
    edges = [field.diff(dim=axis + 2) for axis in range(dims)]
    least = []
    for corner in product((0, 1), repeat=dims):
        slopes = []
        for axis, slope in enumerate(edges):
            for other, end in enumerate(corner):
                if other != axis:  # the edge that starts at this corner of the cell
                    slope = slope.narrow(other + 2, end, field.shape[other + 2] - 1)
            slopes.append(slope)
        least.append(_determinant(slopes).flatten(1).amin(1))
    return torch.stack(least).amin(0)


def _determinant(slopes: Sequence[Tensor]) -> Tensor:
    """det(I + J) from dims tensors (B, dims, *spatial), the columns of J."""
    m = [
        [column[:, row] + (1 if row == axis else 0) for row in range(len(slopes))]
        for axis, column in enumerate(slopes)
    ]
    if len(m) == 2:
        return m[0][0] * m[1][1] - m[0][1] * m[1][0]
    return (
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    )


def _positions(displacement: Tensor) -> Tensor:
    """Where every voxel's value comes from: x + u(x)."""
    u = _precise(displacement)
    dims = u.shape[1]
    moved = []
    for axis in range(dims):
        centres = torch.arange(u.shape[axis + 2], dtype=u.dtype, device=u.device)
        moved.append(u[:, axis] + centres.reshape([-1 if a == axis else 1 for a in range(dims)]))
    return torch.stack(moved, dim=1)


def _precise(field: Tensor) -> Tensor:
    """The field in float32 at least."""
    return field.to(torch.promote_types(field.dtype, torch.float32))


def _check(field: Tensor, *, least: int = 1) -> None:
    if field.dim() not in (4, 5) or field.shape[1] != field.dim() - 2:
        raise DimensionError(
            f"the field has shape {tuple(field.shape)}; (B, 2, X, Y) or (B, 3, X, Y, Z) was "
            "expected, one component for every spatial axis"
        )
    if min(field.shape[2:]) < least:
        raise DimensionError(
            f"the field has shape {tuple(field.shape)}; at least {least} voxels along every axis "
            "were expected, to take differences"
        )
