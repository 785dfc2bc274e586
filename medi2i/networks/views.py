"""Random views of images: the same picture, somewhere else."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["random_view"]


def random_view(
    images: Tensor,
    *,
    turn: float = 20.0,
    shear: float = 10.0,
    resize: float = 0.1,
    shift: float = 0.1,
) -> Tensor:
    """Each image turned, sheared, resized, shifted and mirrored at random; its looks stay.

    Args:
        images: (B, C, *spatial), two or three spatial axes of about the same length.
        turn: degrees at most, in every plane.
        shear: degrees at most.
        resize: share by which each axis is stretched at most.
        shift: share of each axis at most.

    Returns:
        As `images`, the border repeated outside; float32. The first axis, left to right, is
        mirrored in half of the cases.
    """
    count, dims, device = len(images), images.dim() - 2, images.device

    def within(reach: float) -> Tensor:
        return (2 * torch.rand(count, device=device) - 1) * reach

    # sampling grids name the last axis first
    matrix = torch.eye(dims, device=device).repeat(count, 1, 1)
    for one, other in combinations(range(dims), 2):
        angle, slant = within(math.radians(turn)), within(math.tan(math.radians(shear)))
        plane = torch.eye(dims, device=device).repeat(count, 1, 1)
        plane[:, one, one] = plane[:, other, other] = angle.cos()
        plane[:, one, other], plane[:, other, one] = -angle.sin(), angle.sin()
        slanted = torch.eye(dims, device=device).repeat(count, 1, 1)
        slanted[:, one, other] = slant
        matrix = matrix @ plane @ slanted
    stretch = torch.stack([1 + within(resize) for _ in range(dims)], 1)
    stretch[:, -1] *= 1 - 2 * (torch.rand(count, device=device) < 0.5).float()
    offset = torch.stack([within(2 * shift) for _ in range(dims)], 1)
    theta = torch.cat([matrix * stretch[:, None], offset[..., None]], 2)
    with torch.autocast(device.type, enabled=False):
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(
            images.float(), grid, padding_mode="border", align_corners=False
        )
