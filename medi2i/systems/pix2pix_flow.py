"""Pix2pix-flow (code yenchenlin/pix2pix-flow, 2018; on Glow, arXiv:1807.03039).

Two Glows, one for each domain, learn their domains by likelihood, and the latents of one person's
two scans are drawn together: b = f_B^-1(f_A(a)) then is the scan of domain B, and the way back is
exact. There is no paper; the authors' code is what is followed here, and one player has both flows.

A slab: domain A is its centre slice, and the neighbours are a condition of f_A's couplings, through
a small U-Net. They help f_A to find the latent that f_B gave the other scan, cost no likelihood of
their own, and need not be given back; whoever goes back to A must name them. f_B has no condition.

What differs from the authors' code, and why:
- Their pixel term rounds and so has no gradient; here it has one (absolute error in [-1, 1], by
  the batch's weight of each voxel). The latents of all levels are drawn together, each level
  counting alike, and not those of the coarsest alone: otherwise fine detail is free to differ.
- Each flow learned from its own likelihood and the shared code loss. The gradient of the sum of
  both likelihoods and one code loss is the same, so there is one turn and one objective.
- Couplings scale by exp(tanh), the identity when fresh, and not by sigmoid(r + 2), which is there
  as `coupling: sigmoid`; hidden layers have biases where Glow has ActNorm, and no channel that
  tells the padding. Haar wavelets in place of blocks of voxels. 1x1 convolutions by their LU parts,
  which cannot become singular. Both flows start from the same rotations.
- Dequantisation noise in training alone: translation is deterministic.
- Adam in place of Adamax; the data-dependent start takes the first batch, not 256 images.
- Added: 3-D, slabs. Not here: the conditional prior of DUAL-GLOW (arXiv:1908.08074), for contrasts
  that do not determine each other.

The way back is exact where every size is a multiple of 2**levels; see `alignflow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error
from medi2i.networks.invertible import (
    ConditionPyramid,
    Flow,
    FlowCoupling,
    Squeezing,
    bits_per_dimension,
    dequantised,
    log_standard_normal,
)
from medi2i.networks.layers import pad_to_multiple
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.systems.domains import two_sided

__all__ = ["Pix2pixFlow"]


class Pix2pixFlow(Translator):
    """Paired translation through the latents of two Glows.

    Args:
        levels: of each flow; None chooses 4 in 2-D and 3 in 3-D.
        steps: of each level; None chooses 8 in 2-D and 4 in 3-D.
        width: hidden channels of the couplings; None chooses 128 in 2-D and 32 in 3-D.
        coupling, bound, squeeze: see :class:`medi2i.networks.invertible.Flow`.
        recompute: memory that does not grow with `steps`, for more time.
        alike: both flows start from the same rotations.
        features: channels at each level of what the couplings are told of neighbouring slices.
        likelihood: weight of the bits per dimension of each domain.
        code: weight of the squared distance of the latents.
        codes: "all" levels, each alike, or the "last" (coarsest) as in the authors' code.
        pixels: weight of the absolute error of the translation; 0 for none, as in their code.
        bins: of [-1, 1], as wide as the dequantisation noise, and the unit of bits per dimension.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, or no bins.
    """

    paper = Paper("Chen 2018 (github.com/yenchenlin/pix2pix-flow); Glow: arXiv:1807.03039")
    pairing = Pairing.PAIRED
    players = {"flows": ("flow_a", "flow_b")}  # noqa: RUF012 - ClassVar in the base

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        levels: int | None = None,
        steps: int | None = None,
        width: int | None = None,
        coupling: FlowCoupling = "affine",
        bound: float = 1.0,
        squeeze: Squeezing = "haar",
        recompute: bool = False,
        alike: bool = True,
        features: int = 32,
        likelihood: float = 1.0,
        code: float = 1.0,
        codes: Literal["all", "last"] = "all",
        pixels: float = 5.0,
        bins: int = 256,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if bins < 1:
            raise UsageError(f"bins is {bins}; at least 1 was expected")
        if codes not in ("all", "last"):
            raise UsageError(f'codes is "{codes}"; "all" or "last" was expected')
        flat = dims == 2
        levels = levels or (4 if flat else 3)
        told = features if slices > 1 else 0
        self.flow_a, self.flow_b = (
            Flow(
                dims=dims,
                channels=outputs,
                levels=levels,
                steps=steps or (8 if flat else 4),
                width=width or (128 if flat else 32),
                kind=coupling,
                bound=bound,
                squeeze=squeeze,
                conditions=conditions_here,
                recompute=recompute,
            )
            for conditions_here in (told, 0)
        )
        if alike:
            self.flow_b.start_as(self.flow_a)
        self.neighbours: ConditionPyramid | None = None
        if told:
            self.neighbours = ConditionPyramid(
                dims=dims, inputs=inputs * (slices - 1), features=[features] * levels
            )
            self.players = {"flows": ("flow_a", "flow_b", "neighbours")}  # type: ignore[misc]
        self.likelihood, self.code, self.pixels = likelihood, code, pixels
        self.codes = codes
        self.bins = bins

    def play(self, batch: Batch) -> Iterator[Turn]:
        """One turn: both likelihoods, the distance of the latents, the error of the translation."""
        bits, latents_a, latents_b = self._coded(batch)
        losses = {f"bits_{side}": self.likelihood * bits[side].mean() for side in bits}
        losses["code"] = self.code * self.distance(latents_a, latents_b)
        if self.pixels:
            _, crop = pad_to_multiple(batch.target, self.flow_b.multiple)
            fake_b = self.flow_b.inverse(latents_a)[0][crop]
            losses["pixels"] = self.pixels * absolute_error(fake_b, batch.target, batch.weight)
        yield Turn("flows", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """f_B^-1(f_A(centre of the source)), not clamped; the same for the same scan."""
        del target  # the task is fixed
        padded, crop = pad_to_multiple(source, self.flow_a.multiple)
        latents, _ = self.flow_a(self.centre(padded), self.told(padded))
        image: Tensor = self.flow_b.inverse(latents)[0][crop]
        return image

    def bits(self, batch: Batch) -> dict[str, Tensor]:
        """Bits per dimension of source and target, (B,) each, under their flows: "a" and "b"."""
        bits, *_ = self._coded(batch)
        return bits

    def there_and_back(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The middle of the sources, and what both ways one after the other make of it."""
        back = self.b_to_a(self.translate(batch.source), batch.source)
        return self.centre(batch.source), back

    def b_to_a(self, b: Tensor, source: Tensor) -> Tensor:
        """The way back, f_A^-1(f_B(b)).

        Law: ``b_to_a(translate(source), source)`` is the centre of `source` up to rounding, where
        every size is a multiple of 2**levels.

        Args:
            b: (B, outputs, *spatial).
            source: (B, inputs * slices, *spatial), of which the neighbours alone are looked at.

        Returns:
            (B, inputs, *spatial).
        """
        padded, crop = pad_to_multiple(b, self.flow_b.multiple)
        latents, _ = self.flow_b(padded)
        told = self.told(pad_to_multiple(source, self.flow_a.multiple)[0])
        image: Tensor = self.flow_a.inverse(latents, told)[0][crop]
        return image

    def _coded(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """Bits of both sides, and the latents of either."""
        source, _ = pad_to_multiple(batch.source, self.flow_a.multiple)
        b, _ = pad_to_multiple(batch.target, self.flow_b.multiple)
        # noise after padding: repeated voxels would otherwise have an endless density
        a = self.centre(source)
        latents_a, total_a = self.flow_a(dequantised(a, self.bins), self.told(source))
        latents_b, total_b = self.flow_b(dequantised(b, self.bins))
        bits = {}
        for name, latents, total in (("a", latents_a, total_a), ("b", latents_b, total_b)):
            density = log_standard_normal(latents) + total
            bits[name] = bits_per_dimension(density, a, self.bins)
        return bits, latents_a, latents_b

    def distance(self, latents_a: Sequence[Tensor], latents_b: Sequence[Tensor]) -> Tensor:
        """Mean squared distance of latents: 0 for the same, 2 for independent standard normals."""
        pairs = list(zip(latents_a, latents_b, strict=True))
        chosen = pairs if self.codes == "all" else pairs[-1:]
        return torch.stack([(one - other).square().mean() for one, other in chosen]).mean()

    def told(self, source: Tensor) -> list[Tensor] | None:
        """What the couplings of f_A know of the neighbouring slices; None without any."""
        if self.neighbours is None:
            return None
        middle = self.slices // 2
        others = [n for n in range(self.channels) if n % self.slices != middle]
        features: list[Tensor] = self.neighbours(source[:, others])
        return features
