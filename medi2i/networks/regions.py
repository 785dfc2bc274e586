"""Features pooled per region of an image, and a memory of those that training has seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Clusters", "intensity_regions", "pooled", "spread"]


def intensity_regions(image: Tensor, count: int) -> Tensor:
    """(B, 1, *spatial) -> (B, count, *spatial), one hot: equal parts of the range [-1, 1]."""
    place = ((image[:, 0] + 1) * (count / 2)).floor().clamp(0, count - 1).long()
    return nn.functional.one_hot(place, count).movedim(-1, 1).to(image.dtype)


def pooled(features: Tensor, regions: Tensor) -> Tensor:
    """The mean of features in each region.

    Args:
        features: (B, F, *spatial).
        regions: (B, R, *spatial), one hot.

    Returns:
        (B, R, F); zeros for a region that is nowhere.
    """
    inside = regions.flatten(2).to(features.dtype)
    total = inside @ features.flatten(2).mT
    return total / inside.sum(2, keepdim=True).clamp_min(1)


def spread(codes: Tensor, regions: Tensor) -> Tensor:
    """(B, R, F) -> (B, F, *spatial): to every voxel the code of its region."""
    everywhere = codes.mT @ regions.flatten(2).to(codes.dtype)
    return everywhere.reshape(*everywhere.shape[:2], *regions.shape[2:])


class Clusters(nn.Module):
    """The centres of the codes of each region and kind of image, found while training.

    MacQueen's sequential k-means: a code moves the nearest centre by one over how often that
    centre was met. Meetings fade as others come, so that centres follow an encoder that still
    learns, and a centre that is not met any more makes room for the next code. Everything is a
    buffer.

    Args:
        kinds: of images, counted apart.
        regions, features: of the codes.
        clusters: centres per kind and region.
        window: meetings after which an earlier one has faded to 1/e.
    """

    centres: Tensor
    met: Tensor

    def __init__(
        self, kinds: int, regions: int, features: int, clusters: int, window: int = 1000
    ) -> None:
        super().__init__()
        self.regions = regions
        self.fading = math.exp(-1 / window)
        self.register_buffer("centres", torch.zeros(kinds * regions, clusters, features))
        self.register_buffer("met", torch.zeros(kinds * regions, clusters))

    @torch.no_grad()
    def learn(self, codes: Tensor, present: Tensor, kinds: Tensor) -> None:
        """Move the centres towards the codes of a batch.

        Args:
            codes: (B, regions, features).
            present: (B, regions) bool; the codes of absent regions are left out.
            kinds: (B,) long.
        """
        each = torch.arange(self.regions, device=codes.device)
        first_free = torch.arange(-self.met.shape[1], 0, device=codes.device, dtype=torch.float32)
        for code, there, rows in zip(codes.float(), present, self._rows(kinds), strict=True):
            met = self.met[rows]
            met = torch.where(there[:, None], met * self.fading, met)
            met = met.masked_fill(self._free(met), 0.0)
            distance = (self.centres[rows] - code[:, None]).square().sum(2)
            nearest = torch.where(met == 0, first_free, distance).argmin(1)
            met[each, nearest] += there
            step = there / met[each, nearest].clamp_min(1)
            change = code - self.centres[rows, nearest]
            self.centres[rows, nearest] += step[:, None] * change
            self.met[rows] = met

    def mean(self, kinds: Tensor) -> Tensor:
        """(B,) -> (B, regions, features): the mean of the codes met; zeros before any was."""
        rows = self._rows(kinds)
        met = self.met[rows]
        share = met / met.sum(2, keepdim=True).clamp_min(1e-6)
        return (share[..., None] * self.centres[rows]).sum(2)

    def pick(self, normal: Tensor, kinds: Tensor) -> Tensor:
        """One centre per region, each as likely as any other.

        Args:
            normal: (B, regions) standard normal numbers, which alone decide.
            kinds: (B,) long.

        Returns:
            (B, regions, features); zeros before any code was met.
        """
        rows = self._rows(kinds)
        free = self._free(self.met[rows])
        count = (~free).sum(2)
        share = torch.special.ndtr(normal.float())
        wanted = (share * count).long().minimum(count - 1).clamp_min(0)
        order = free.to(torch.uint8).argsort(dim=2, stable=True)  # the centres first
        chosen = order.gather(2, wanted[..., None])
        return self.centres[rows, chosen.squeeze(2)] * (count > 0)[..., None]

    def _rows(self, kinds: Tensor) -> Tensor:
        """(B,) -> (B, regions): where the clusters of each region stand."""
        return kinds[:, None] * self.regions + torch.arange(self.regions, device=kinds.device)

    def _free(self, met: Tensor) -> Tensor:
        return met < 0.5
