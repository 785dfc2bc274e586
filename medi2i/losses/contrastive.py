"""Losses that tell things by their counterparts: contrast against others, shared information."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["mutual_information", "patch_contrast", "queue_contrast"]

MASKED = -10.0
"""The similarity that stands in for a vector's own counterpart among the others: none at all."""


def patch_contrast(
    query: Tensor, key: Tensor, *, temperature: float = 0.07, across: bool = False
) -> Tensor:
    """PatchNCE: each position of an image shall be most like the same position of another.

    Park et al. 2020, arXiv:2007.15651, equation 3. The other positions of the same image are the
    negatives; the diagonal is the positive.

    Args:
        query, key: (B, P, C) of unit length; `key` gets no gradient.
        temperature: by which similarities are divided.
        across: the positions of all images of the batch are negatives.

    Returns:
        Scalar: the mean cross entropy; ln P where all vectors are the same.
    """
    digits = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(digits), key.detach().to(digits)
    if across:
        query, key = query.flatten(0, 1)[None], key.flatten(0, 1)[None]
    with torch.autocast(query.device.type, enabled=False):  # a cross entropy needs the digits
        likeness = query @ key.transpose(1, 2)
    own = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
    positive = likeness.diagonal(dim1=1, dim2=2)[..., None]
    logits = torch.cat([positive, likeness.masked_fill(own, MASKED)], dim=2) / temperature
    return _first(logits.flatten(0, 1))


def queue_contrast(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float = 0.07
) -> Tensor:
    """InfoNCE against a queue of earlier keys (He et al. 2020, MoCo, arXiv:1911.05722, equation 1).

    Args:
        query, key: (B, C): each query has one key; `key` gets no gradient.
        queue: (N, C), of others; without gradient.
        temperature: by which products are divided.

    Returns:
        Scalar: the mean cross entropy; ln(1 + N) where all vectors are the same.
    """
    digits = torch.promote_types(query.dtype, torch.float32)
    query, key, queue = query.to(digits), key.detach().to(digits), queue.detach().to(digits)
    with torch.autocast(query.device.type, enabled=False):
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ queue.T], dim=1) / temperature
    return _first(logits)


def mutual_information(one: Tensor, other: Tensor, *, least: float = 1e-10) -> Tensor:
    """What two views of the same images know of each other (Ji et al. 2019, arXiv:1807.06653).

    Equation 3, with the joint distribution made symmetric.

    Args:
        one, other: (B, K) probabilities of K clusters, each row of the same image.
        least: probabilities are kept above.

    Returns:
        Scalar in nats, in [0, ln K]: ln K for sure, balanced and agreeing clusters; 0 where nobody
        can tell, or all images are in one cluster.
    """
    digits = torch.promote_types(one.dtype, torch.float32)
    with torch.autocast(one.device.type, enabled=False):
        joint = one.to(digits).T @ other.to(digits) / len(one)
    joint = ((joint + joint.T) / 2).clamp_min(least)
    joint = joint / joint.sum()
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    return (joint * (joint.log() - rows.log() - columns.log())).sum()


def _first(logits: Tensor) -> Tensor:
    """Cross entropy where the first column is the right one."""
    right = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return functional.cross_entropy(logits, right)
