"""QGAN (Chen et al. 2019, arXiv:1903.06399; the authors published no code).

CycleGAN with a further term: each image and what comes back of it are compared by a measure of
image quality. A translation has no reference, its way back has one, so quality can be asked for
there. The measure is a classical one with full reference, or a distance between deep features of a
network that is part of the game anyway; in the paper the classical one did better.

Which measure and which weight the authors took could not be found out. What stands in for them:
- `ssim`, 1 - SSIM (Gaussian window of 11 voxels in 2-D and 7 in 3-D), the default; `gmsd`, the
  deviation of gradient magnitude similarity; `deep`, the mean absolute difference of the features
  behind each layer of the domain's own discriminator, which does not learn from it.
- Weight 1 beside CycleGAN's 1 for the game and 10 for the way back, from the first round on or
  rising over `ramp` rounds. Weight 0 is CycleGAN, to the bit.
- Classical measures count by the batch's weight of each voxel: background, which is alike on both
  sides, would dilute them.

A good way back proves nothing about the translation: generators can hide what they need for it.
Host, networks and recipe are `systems.cyclegan`'s; what is said there holds here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.losses import (
    gradient_similarity_deviation,
    layered_distance,
    structural_dissimilarity,
)
from medi2i.losses.adversarial import Game
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.systems.base import Paper, frozen
from medi2i.systems.cyclegan import CycleGAN

__all__ = ["QGAN"]


class QGAN(CycleGAN):
    """CycleGAN that asks for the quality of what comes back.

    Args:
        measure: "ssim", "gmsd" or "deep".
        quality: weight of the measure, in either direction.
        ramp: rounds over which that weight rises from 0; 0: it is there from the first round.

    The rest: see :class:`CycleGAN`.

    Raises:
        UsageError: as CycleGAN; an unknown measure; `ramp` is negative.
    """

    paper = Paper("Chen et al. 2019, arXiv:1903.06399")

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        generator: Literal["resnet", "unet"] = "resnet",
        features: int | None = None,
        blocks: int | None = None,
        depth: int | None = None,
        patch: int | None = None,
        patch_features: int = 64,
        pool: int = 50,
        game: Game = "least-squares",
        cycle: float = 10.0,
        identity: float = 0.5,
        measure: Literal["ssim", "gmsd", "deep"] = "ssim",
        quality: float = 1.0,
        ramp: int = 0,
    ) -> None:
        super().__init__(
            dims=dims,
            inputs=inputs,
            slices=slices,
            outputs=outputs,
            conditions=conditions,
            generator=generator,
            features=features,
            blocks=blocks,
            depth=depth,
            patch=patch,
            patch_features=patch_features,
            pool=pool,
            game=game,
            cycle=cycle,
            identity=identity,
        )
        if measure not in ("ssim", "gmsd", "deep"):
            raise UsageError(f'measure is "{measure}"; "ssim", "gmsd" or "deep" was expected')
        if ramp < 0:
            raise UsageError(f"ramp is {ramp}; 0 or more rounds were expected")
        self.measure = measure
        self.quality = quality
        self.ramp = ramp

    def reconstruction_losses(
        self, side: Literal["a", "b"], image: Tensor, back: Tensor, weight: Tensor | None
    ) -> dict[str, Tensor]:
        """The measure between an image and what came back of it; nothing where its weight is 0."""
        if not self.quality:
            return {}
        if self.measure == "deep":
            error = self.feature_distance(
                self.judge_a if side == "a" else self.judge_b, image, back
            )
        else:
            error = self.classical_distance(image, back, weight)
        return {f"quality_{side}": self.quality_weight() * error}

    def quality_weight(self) -> Tensor:
        """Scalar: rises linearly with the rounds played, from 0 to `quality`."""
        risen = (
            (self.rounds / self.ramp).clamp_max(1) if self.ramp else torch.ones_like(self.rounds)
        )
        return self.quality * risen

    def classical_distance(self, image: Tensor, back: Tensor, weight: Tensor | None) -> Tensor:
        """1 - SSIM or GMSD.

        Raises:
            UsageError: the images are too small for the measure's window.
        """
        least = 12 if self.dims == 2 else 8
        if min(image.shape[2:]) < least:
            raise UsageError(
                f"windows of {tuple(image.shape[2:])} voxels came; `measure: {self.measure}` needs "
                f"at least {least} along each side: raise data.size, or take `measure: deep`"
            )
        if self.measure == "gmsd":
            return gradient_similarity_deviation(back, image, weight)
        sigma = 1.5 if self.dims == 2 else 0.8  # 11 and 7 voxels
        return structural_dissimilarity(back, image, weight, sigma=sigma)

    def feature_distance(self, judge: PatchDiscriminator, image: Tensor, back: Tensor) -> Tensor:
        """Mean over layers and positions of the difference of a discriminator's features."""
        with torch.no_grad():
            theirs = _features(judge, image)
        with frozen(judge):
            ours = _features(judge, back)
        return layered_distance(ours, theirs, [1 / len(ours)] * len(ours))


def _features(judge: PatchDiscriminator, image: Tensor) -> list[Tensor]:
    """What a discriminator has seen behind each activation."""
    seen = []
    for layer in judge.judge:
        image = layer(image)
        if isinstance(layer, nn.LeakyReLU):
            seen.append(image)
    return seen
