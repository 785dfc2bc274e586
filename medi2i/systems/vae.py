"""Variational autoencoder of healthy images (Kingma & Welling 2014; Baur et al. 2021 compare it).

Baur et al., "Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative
study", Medical Image Analysis 69:101952, 2021, arXiv:2004.03271; code
StefanDenn3r/Unsupervised_Anomaly_Detection_Brain_MRI. It learns from healthy images alone to bring
them through a narrow code that is kept near a standard normal; what does not come through, in a new
scan, is strange. The loss is the sum of absolute differences over an image and the divergence of
the code, both of an image whose range is 1.

What differs from the authors' code, and why:
- The code is spatial, as in their spatial variants, where their VAE has a dense one: 16 numbers at
  every 16th voxel, so that scans of any size go through. A tighter code forgets more.
- Differences count where there is tissue, with `data.background` 0: their scans are stripped.
- Doubling the size takes kernels of 4, where theirs are 5 and cut; no dropout.
- Added: 3-D (half the channels, kernels of 3) and neighbouring slices, of which the centre is
  given back.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import kl_from_standard_normal
from medi2i.networks.layers import conv, conv_transpose, norm, normal_sample, pad_to_multiple
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.systems.domains import one_domain

__all__ = ["VAE"]


class VAE(Translator):
    """Gives images of one domain back through a narrow code.

    Args:
        features: channels of the first layer, doubled by each halving up to four times as many;
            None chooses 32 in 2-D, 16 in 3-D.
        halvings: of the size, down to the code.
        code: numbers of the code at each of its places.
        kl: weight of the divergence.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`, one domain.

    Raises:
        UsageError: `inputs` and `outputs` differ, several conditions, or no code.
    """

    paper = Paper("Baur et al. 2021, arXiv:2004.03271; Kingma & Welling 2014, arXiv:1312.6114")
    pairing = Pairing.PAIRED
    reconstructs = True
    players = {"autoencoder": ("encoder", "decoder")}  # noqa: RUF012 - ClassVar in the base

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        features: int | None = None,
        halvings: int = 4,
        code: int = 16,
        kl: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        one_domain(self)
        if halvings < 1 or code < 1:
            raise UsageError(
                f"halvings is {halvings} and code {code}; at least 1 of each was expected"
            )
        first = features or (32 if dims == 2 else 16)
        kernel = 5 if dims == 2 else 3
        wide = [min(first * 2**level, 4 * first) for level in range(halvings)]
        parts: list[nn.Module] = []
        width = self.channels
        for channels in wide:
            half = conv(dims, width, channels, kernel, stride=2, padding=kernel // 2)
            parts += [half, norm("batch", dims, channels), nn.LeakyReLU(0.3)]
            width = channels
        self.encoder = nn.Sequential(*parts, conv(dims, width, 2 * code, 1))
        parts = [conv(dims, code, width, 1), norm("batch", dims, width), nn.ReLU()]
        for level in range(halvings):
            channels = max(4 * first // 2**level, first)
            double = conv_transpose(dims, width, channels, 4, stride=2, padding=1)
            parts += [double, norm("batch", dims, channels), nn.LeakyReLU(0.3)]
            width = channels
        self.decoder = nn.Sequential(*parts, conv(dims, width, outputs, 1))
        self.multiple = 2**halvings
        self.kl = kl

    def play(self, batch: Batch) -> Iterator[Turn]:
        """One turn: the image through a sample of its code, and the code's divergence."""
        padded, crop = pad_to_multiple(batch.source, self.multiple)
        mean, log_variance = self.code_of(padded)
        back = self.decoder(normal_sample(mean, log_variance))[crop]
        off = (back - self.centre(batch.source)).abs() / 2  # of a range of 1
        if batch.weight is not None:
            off = off * batch.weight
        yield Turn(
            "autoencoder",
            reconstruction=off.float().sum() / len(off),
            kl=self.kl * kl_from_standard_normal(mean, log_variance) / len(off),
        )

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image through the mean of its code."""
        del target  # there is one domain
        padded, crop = pad_to_multiple(source, self.multiple)
        mean, _ = self.code_of(padded)
        back: Tensor = self.decoder(mean)
        return back[crop]

    def code_of(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code, (B, code, *spatial / 2^halvings) each.

        Args:
            source: (B, inputs * slices, *spatial), divisible by `multiple`.
        """
        mean, log_variance = self.encoder(source).chunk(2, dim=1)
        return mean, torch.clamp(log_variance, -20.0, 20.0)
