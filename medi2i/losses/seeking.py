"""What asks that different codes give different images."""

from __future__ import annotations

from torch import Tensor

from medi2i.losses.reconstruction import absolute_error

__all__ = ["mode_seeking"]


def mode_seeking(one: Tensor, other: Tensor, code: Tensor, other_code: Tensor) -> Tensor:
    """How little two images differ for the difference of their codes.

    Mao et al. 2019 (MSGAN), arXiv:1903.05628, in the form that is minimised.

    Args:
        one, other: (B, C, *spatial), drawn with `code` and `other_code`.
        code, other_code: (B, numbers).

    Returns:
        Scalar, at most 1e5: the inverse of the ratio of both mean absolute differences, which are
        kept from zero.
    """
    apart = absolute_error(code, other_code).clamp_min(1e-5)
    return 1 / (absolute_error(one, other) / apart + 1e-5)
