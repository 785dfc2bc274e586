"""Flow-based translation with feature disentanglement (Kondo et al. 2019, NeurIPS: FUNS).

A normalising flow of the target whose latents know the source: z = f(x). Half of the channels of
each level, d, are normal around what a U-Net expects of the source c; the other half, n, are
standard normal whatever c is. At the best likelihood n then is independent of c, and everything in
x that c determines is in d. The likeliest image takes d = mean and n = 0; others are drawn.

No code of the authors was found, and the abstract and the first figure are all that is followed;
network, likelihood and weights below are ours:
- `told` = "prior": the flow does not see c, only the expectation of d does, and the split follows
  from likelihood alone. "couplings": they see c too. Sharper, but f may take c out of x by itself,
  so `independence` penalises the covariance of n with c over the batch.
- Their squeeze modules are a bottleneck of few numbers e(c) for each image. At the `squeezed`
  coarsest levels the expectation of d comes from them alone. None by default: in an image of
  anatomy the coarsest levels hold where things are, which no few numbers tell.
- `l1`: the likeliest image shall be near the target. Without it the mode of a density is drawn,
  which has no need to look like any of its samples.
- Deviations that the source predicts stay between exp(-3) and exp(3), for background's sake.

A slab: the neighbours are in the condition alone, and x is one slice, so that slabs cost the flow
nothing. The way back from d and n to x is exact. Noise is added in training alone, after padding;
the batch's weight of each voxel counts in `l1`, not in the density, which has no voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error
from medi2i.networks.invertible import (
    ConditionPyramid,
    Flow,
    FlowCoupling,
    Squeezing,
    bent,
    bits_per_dimension,
    dequantised,
    log_standard_normal,
)
from medi2i.networks.layers import check_dims, conv, pad_to_multiple, tiled
from medi2i.systems.base import Paper, Translator, Turn, one_hot

__all__ = ["FlowDisentangle"]


class FlowDisentangle(Translator):
    """A conditional flow whose latents are split into what the source determines and the rest.

    Args:
        told: "prior" (the expectation of d knows the source) or "couplings" (the flow does too).
        levels: None chooses 4 in 2-D and 3 in 3-D.
        steps: of each level; None chooses 8 in 2-D and 4 in 3-D.
        width: hidden channels of the couplings; None chooses 64 in 2-D and 32 in 3-D.
        coupling, bound, squeeze, recompute: see :class:`medi2i.networks.invertible.Flow`.
        features: channels of the U-Net of the source at each level, doubled up to 8 times.
        squeezed: how many of the coarsest levels expect by a code of few numbers alone.
        code: its numbers.
        l1: weight of the absolute error of the likeliest image.
        independence: weight of the squared covariance of n with the source; "couplings" alone.
        temperature: of samples.
        bins: of [-1, 1], as wide as the dequantisation noise, and the unit of bits per dimension.

    The rest: see :class:`Translator`.

    Raises:
        UsageError: more levels squeezed than there are, no bins, or an unknown `told`.
    """

    paper = Paper("Kondo et al. 2019, NeurIPS 32:4168-4178")
    pairing = Pairing.PAIRED
    players = {"flow": ("flow", "condition", "expectation")}  # noqa: RUF012 - ClassVar in the base
    one_to_many = True

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        told: Literal["prior", "couplings"] = "prior",
        levels: int | None = None,
        steps: int | None = None,
        width: int | None = None,
        coupling: FlowCoupling = "affine",
        bound: float = 1.0,
        squeeze: Squeezing = "haar",
        recompute: bool = False,
        features: int = 32,
        squeezed: int = 0,
        code: int = 16,
        l1: float = 1.0,
        independence: float = 1.0,
        temperature: float = 0.7,
        bins: int = 256,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        check_dims(dims)
        flat = dims == 2
        levels = levels or (4 if flat else 3)
        if told not in ("prior", "couplings"):
            raise UsageError(f'told is "{told}"; "prior" or "couplings" was expected')
        if not 0 <= squeezed <= levels:
            raise UsageError(f"squeezed is {squeezed}; 0 to {levels} (the levels) was expected")
        if bins < 1:
            raise UsageError(f"bins is {bins}; at least 1 was expected")
        widths = [features * min(2**level, 8) for level in range(levels)]
        self.condition = ConditionPyramid(
            dims=dims, inputs=self.channels, features=widths, conditions=conditions
        )
        self.flow = Flow(
            dims=dims,
            channels=outputs,
            levels=levels,
            steps=steps or (8 if flat else 4),
            width=width or (64 if flat else 32),
            kind=coupling,
            bound=bound,
            squeeze=squeeze,
            conditions=widths if told == "couplings" else 0,
            expecting=False,
            recompute=recompute,
        )
        self.expectation = nn.ModuleList(
            Expectation(dims, wide, channels // 2, code if level >= levels - squeezed else 0)
            for level, (wide, channels) in enumerate(zip(widths, self.flow.widths, strict=True))
        )
        self.told = told
        self.l1 = l1
        self.independence = independence if told == "couplings" else 0.0
        self.temperature = temperature
        self.bins = bins

    def play(self, batch: Batch) -> Iterator[Turn]:
        """One turn: bits of the target, the error of the likeliest image, independence."""
        x, crop = pad_to_multiple(batch.target, self.flow.multiple)
        noisy = dequantised(x, self.bins)
        features = self.known(batch.source, batch.target_contrast)
        codes, total = self.encode(noisy, features)
        density = log_standard_normal(codes) + total
        losses = {"bits": bits_per_dimension(density, x, self.bins).mean()}
        if self.l1:
            likeliest = self.decode([torch.zeros_like(z) for z in codes], features)[crop]
            losses["l1"] = self.l1 * absolute_error(likeliest, batch.target, batch.weight)
        if self.independence:
            losses["independence"] = self.independence * _covariance(codes, features)
        yield Turn("flow", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The likeliest image: d as expected, n = 0. The same for the same scan."""
        return self._drawn(source, target, 0.0)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """An image drawn at the system's temperature; the code is empty, see the base."""
        del code
        return self._drawn(source, target, self.temperature)

    def bits(self, batch: Batch) -> dict[str, Tensor]:
        """Bits per dimension of the target, given the source: (B,), by the name "b given a"."""
        x, _ = pad_to_multiple(batch.target, self.flow.multiple)
        features = self.known(batch.source, batch.target_contrast)
        codes, total = self.encode(dequantised(x, self.bins), features)
        density = log_standard_normal(codes) + total
        return {"b given a": bits_per_dimension(density, x, self.bins)}

    def there_and_back(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Targets, and what codes made of them give back: the way to the source is not learned."""
        x, crop = pad_to_multiple(batch.target, self.flow.multiple)
        features = self.known(batch.source, batch.target_contrast)
        return batch.target, self.decode(self.encode(x, features)[0], features)[crop]

    def known(self, source: Tensor, target: Tensor | None) -> list[Tensor]:
        """Features of the source, padded as its target is, at each level."""
        padded, _ = pad_to_multiple(source, self.flow.multiple)
        features: list[Tensor] = self.condition(padded, one_hot(target, self.conditions, source))
        return features

    def encode(self, x: Tensor, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Target -> whitened codes (d, then n, half of the channels each) of each level.

        Args:
            x: (B, outputs, *spatial), every size a multiple of 2**levels.
            features: what :meth:`known` gives.

        Returns:
            Codes, finest first, standard normal under the model, and log |det|, (B,), in nats.
        """
        latents, total = self.flow(x, features if self.told == "couplings" else None)
        codes = []
        for latent, expect, feature in zip(latents, self.expectation, features, strict=True):
            d, n = latent.chunk(2, dim=1)
            mean, log_deviation = expect(feature)
            codes.append(torch.cat([(d - mean) * (-log_deviation).exp(), n], dim=1))
            total = total - log_deviation.expand(d.shape).flatten(1).sum(1)
        return codes, total

    def decode(self, codes: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
        """Whitened codes -> the image, padded; the inverse of :meth:`encode`."""
        latents = []
        for code, expect, feature in zip(codes, self.expectation, features, strict=True):
            d, n = code.chunk(2, dim=1)
            mean, log_deviation = expect(feature)
            latents.append(torch.cat([d * log_deviation.exp() + mean, n], dim=1))
        image: Tensor
        image, _ = self.flow.inverse(latents, features if self.told == "couplings" else None)
        return image

    def _drawn(self, source: Tensor, target: Tensor | None, temperature: float) -> Tensor:
        features = self.known(source, target)
        _, crop = pad_to_multiple(source, self.flow.multiple)
        shapes = [
            (len(source), channels, *feature.shape[2:])
            for channels, feature in zip(self.flow.widths, features, strict=True)
        ]
        codes = [
            temperature * source.new_empty(shape).normal_()
            if temperature
            else source.new_zeros(shape)
            for shape in shapes
        ]
        return self.decode(codes, features)[crop]


class Expectation(nn.Module):
    """Mean and logarithm of the deviation of d, from features of the source; 0 and 0 when fresh.

    Args:
        dims: 2 or 3.
        features: channels of the features.
        outputs: channels of d.
        code: 0 for an expectation of every voxel; else one for the whole image, by so many numbers.
    """

    def __init__(self, dims: int, features: int, outputs: int, code: int = 0) -> None:
        super().__init__()
        self.squeeze: nn.Module | None = None
        self.head: nn.Module = conv(dims, features, 2 * outputs, 3, padding=1)
        if code:
            self.squeeze = nn.Sequential(
                nn.Linear(features, features), nn.SiLU(), nn.Linear(features, code)
            )
            self.head = nn.Linear(code, 2 * outputs)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """(B, features, *spatial) -> two of (B, outputs, *spatial)."""
        if self.squeeze is None:
            out = self.head(feature)
        else:
            out = tiled(self.head(self.squeeze(feature.flatten(2).mean(2))), feature)
        mean, raw = out.chunk(2, dim=1)
        return mean, bent(raw)


def _covariance(codes: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Mean squared covariance over the batch of n with the source's coarsest features."""
    source = features[-1].flatten(2).mean(2)
    rest = torch.cat([z.chunk(2, dim=1)[1].flatten(2).mean(2) for z in codes], dim=1)
    # a mean over N voxels of noise has deviation 1 / sqrt N: brought back to that of one voxel
    voxels = [z[0, 0].numel() for z in codes for _ in range(z.shape[1] // 2)]
    rest = rest * rest.new_tensor([math.sqrt(n) for n in voxels])
    source, rest = source - source.mean(0), rest - rest.mean(0)
    return (source.T @ rest / max(len(rest) - 1, 1)).square().mean()
