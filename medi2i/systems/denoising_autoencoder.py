"""Denoising autoencoder with coarse noise (Kascenas et al. 2022; code AntanasKascenas/DenoisingAE).

"Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI", MIDL 2022, PMLR
172:653-664. A U-Net learns from healthy images alone to take away noise that is as coarse as
lesions are: drawn at 16 x 16 for an image of 128 x 128, interpolated, and rolled to a random place.
What it takes away from a new scan, to which no noise is added, is what it takes for noise: a
lesion. Squared error, where there is tissue.

What differs from the authors' code, and why:
- Images span [-1, 1] here and [0, 1] there, so `noise` is doubled before it is added.
- The noise is weighted like the loss: with `data.background` 0 neither knows anything but tissue,
  as in the paper.
- The U-Net is the catalogue's: instance norm before LeakyReLU, maximum pooling. The authors' has
  the same stages with weight-standardised convolutions, Swish, group norm and mean pooling.
- One cosine of the learning rate, which in theirs comes back every hundred epochs; Adam without
  AMSGrad.
- Added: 3-D, and neighbouring slices, which get the same noise: noise of their own would be gone
  in their mean, and nothing would have to be learned about tissue.
- Added: learning from twins (`data.labels: twins`). The image to come back is then the same head
  without its lesions, and what is to be taken away are lesions beside the noise.
- Added: a head that leaves an image exactly as it is until it has learned what to change, and
  where it would change next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, squared_error
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.unet import UNet
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.systems.domains import one_domain, slab

__all__ = ["DenoisingAutoencoder", "coarse_noise"]


class DenoisingAutoencoder(Translator):
    """Gives images of one domain back, and images of others without what is strange there.

    Args:
        features: channels of each stage of the U-Net; None chooses 64, 128, 256, 512 in 2-D, half
            of that in 3-D.
        noise: standard deviation of the noise where it is drawn, as a share of an image's range.
            0 where windows are twins, or nothing is learned.
        grain: voxels between two draws.
        head: "image", the paper's; "exact": the image plus a change, which begins at zero.
        error: "squared", the paper's, or "absolute", which leaves more as it was.
        still: with head "exact", which change is none in new scans, as a share of an image's
            range; others get smaller by as much. Training does without: it would never begin.
        fold, refine: space folded into channels at the door (see `networks.unet.UNet`).

    The rest: see :class:`Translator`; as many `outputs` as `inputs`, one domain.

    Raises:
        UsageError: `inputs` and `outputs` differ, several conditions, negative noise or stillness.
    """

    paper = Paper("Kascenas et al. 2022, PMLR 172:653-664")
    pairing = Pairing.PAIRED
    reconstructs = True
    players = {"autoencoder": ("network",)}  # noqa: RUF012 - ClassVar in the base

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        features: Sequence[int] | None = None,
        noise: float = 0.2,
        grain: int = 8,
        head: Literal["image", "exact"] = "image",
        error: Literal["squared", "absolute"] = "squared",
        still: float = 0.0,
        fold: int = 1,
        refine: int = 0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        one_domain(self)
        if not noise >= 0 or grain < 1:
            raise UsageError(
                f"noise is {noise:g} and grain {grain}; at least 0 and at least 1 were expected"
            )
        if not still >= 0 or (still and head != "exact"):
            raise UsageError(
                f'still is {still:g} with head "{head}"; at least 0 was expected, and more than 0 '
                'only with head "exact", which gives a change'
            )
        self.network = UNet(
            dims=dims,
            inputs=self.channels,
            outputs=outputs,
            features=features or ((64, 128, 256, 512) if dims == 2 else (32, 64, 128, 256)),
            down="pool",
            fold_factor=fold,
            refine=refine,
        )
        self.noise = noise
        self.grain = grain
        self.exact = head == "exact"
        self.still = 2 * still  # of values that span 2
        self.error = {"absolute": absolute_error, "squared": squared_error}[error]
        if self.exact:
            self.network.rescale(torch.zeros(outputs), torch.zeros(outputs))

    def play(self, batch: Batch) -> Iterator[Turn]:
        """One turn: the image, or its healthy twin, back from the image with noise."""
        noise = coarse_noise(batch.target, grain=self.grain, std=2 * self.noise)
        if batch.weight is not None:
            noise = noise * batch.weight
        clean = self.translate(batch.source + slab(noise, self.slices))
        yield Turn("autoencoder", error=self.error(clean, batch.target, batch.weight))

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image without what is strange in it; nothing is added to the source."""
        del target  # there is one domain
        padded, crop = pad_to_multiple(source, self.network.multiple)
        found: Tensor = self.network(padded)[crop]
        if not self.exact:
            return found
        if self.still and not self.training:
            found = found - found.clamp(-self.still, self.still)
        return self.centre(source) + found


def coarse_noise(like: Tensor, *, grain: int, std: float) -> Tensor:
    """Gaussian noise with one draw every `grain` voxels or so, linear between, rolled at random.

    The paper's 16 draws along 128 voxels have a grain of 8. Between draws the noise is weaker: over
    all voxels its variance is about (2/3)^dims of that of the draws.

    Args:
        like: (B, C, *spatial): the shape and place of the noise; channels are independent.
        grain: voxels.
        std: standard deviation of the draws.
    """
    spatial = like.shape[2:]
    draws = [max(2, round(size / grain)) for size in spatial]
    drawn = std * torch.randn(*like.shape[:2], *draws, device=like.device, dtype=like.dtype)
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    noise = functional.interpolate(drawn, size=spatial, mode=mode, align_corners=True)
    shifts = [int(torch.randint(size, ())) for size in spatial]
    return noise.roll(shifts, dims=tuple(range(2, like.dim())))
