"""Whether two slices that were drawn one by one fit the anatomy that lies between them.

The motion from a slice to the next is known from the source. A translated slice, moved by it, has
to look like the next translated slice. Anything that acts on each voxel alone passes, up to what
interpolation costs; flicker, noise, shifts and structures in one slice only do not. Blur, the
identity and constants pass too: this term needs another beside it that asks for realism.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["deformation_guidance", "trust"]


def trust(bent: Tensor, fixed: Tensor, inside: Tensor, softness: float = 0.05) -> Tensor:
    """How far a motion explains the step from one real slice to the next; constant to the gradient.

    exp(-|bent - fixed| / softness), the differences averaged over the contrasts.

    Args:
        bent: (B, C, *spatial) in [-1, 1]: a real slice, moved onto its neighbour.
        fixed: (B, C, *spatial): that neighbour.
        inside: (B, 1, *spatial): what counts at all, 0 to 1.
        softness: on images in [0, 1].

    Returns:
        (B, 1, *spatial) in [0, 1].
    """
    missed = (bent.detach().float() - fixed.detach().float()).abs().mean(1, keepdim=True) / 2
    return inside.detach() * torch.exp(-missed / softness)


def deformation_guidance(bent: Tensor, fixed: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of rho(bent - fixed), rho(e) = sqrt(e**2 + 1e-6).

    Args:
        bent: (B, C, *spatial) in [-1, 1]: a translated slice, moved onto its neighbour by a motion
            that is constant to the gradient.
        fixed: (B, C, *spatial): the neighbour, translated. Errors are those of images in [0, 1],
            half as large.
        weight: (B, 1, *spatial), such as :func:`trust`; it gets no gradient.

    Returns:
        Scalar, at least 0.001; but 0 where nothing has a weight.
    """
    wide = torch.promote_types(bent.dtype, torch.float32)
    error = (bent.to(wide) - fixed.to(wide)) / 2
    weight = weight.detach().to(wide).expand(error.shape)
    return (weight * (error.square() + 1e-6).sqrt()).sum() / weight.sum().clamp_min(1e-6)
