"""Regression by an encoder-decoder: the reference that every adversarial system must beat.

Ronneberger et al. 2015 (arXiv:1505.04597) for the network; Isensee et al. 2021
(doi:10.1038/s41592-020-01008-z) for its nnU-Net shapes; Longuefosse et al. 2024 (SASHIMI) for
using them to translate. Their fork trains with the mean absolute error and no augmentation, and
keeps heads for deep supervision that translation never uses; those are left out here, so the
parameter counts are smaller by exactly those heads. Added here: the SSIM term, a condition that
lets one network produce several contrasts, and space folded into channels for speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import (
    absolute_error,
    aligned,
    laplace,
    squared_error,
    structural_dissimilarity,
)
from medi2i.networks.layers import Norm, pad_to_multiple
from medi2i.networks.unet import UNet
from medi2i.systems.base import Paper, Translator, Turn, one_hot

__all__ = ["UNetRegression"]

Shape = Literal["classic", "plain", "residual-encoder", "residual"]

RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)
"""Residual blocks per encoder stage in nnU-Net's presets."""


class UNetRegression(Translator):
    """Supervised regression with a U-Net.

    Args:
        shape: "classic" (pooling, no bias), "plain" (nnU-Net: strided convolutions),
            "residual-encoder" (nnU-Net ResEnc: one convolution per decoder stage) or "residual"
            (residual blocks on both sides).
        features: channels per stage.
        norm: "instance" keeps no statistics; "batch" does not look at the rest of the slice at
            inference, so neighbouring slices are treated alike.
        up: "transpose" or "linear".
        fold, refine: space folded into channels at the door (see `networks.unet.UNet`).
        error: "absolute" or "squared".
        ssim: weight of 1 - SSIM beside the voxel error.
        anchor: None compares voxel by voxel as the papers do. A number compares the prediction
            under its best gain and offset (see `losses.aligned`), and weighs the plain error, which
            then only keeps the scale in place.
        conditioning: how one network serves several targets. "film": the condition scales and
            shifts every feature. "heads": one output channel per target, of which the condition
            picks one; a round then learns from every target that was acquired.
        spread: weight of a second set of outputs that learn how far the first are off, voxel by
            voxel (Laplace likelihood: Kendall and Gal 2017, arXiv:1703.04977; the image itself does
            not learn from it). 0 for none.

    The rest: see :class:`Translator`.
    """

    paper = Paper("Ronneberger et al. 2015, arXiv:1505.04597; Isensee et al. 2021 (nnU-Net)")
    pairing = Pairing.PAIRED
    players = {"regressor": ("network",)}  # noqa: RUF012 - ClassVar in the base

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        shape: Shape = "plain",
        features: Sequence[int] = (32, 64, 128, 256, 512),
        norm: Norm = "instance",
        up: Literal["transpose", "linear"] = "transpose",
        fold: int = 1,
        refine: int = 0,
        error: Literal["absolute", "squared"] = "absolute",
        ssim: float = 0.0,
        anchor: float | None = None,
        conditioning: Literal["film", "heads"] = "film",
        spread: float = 0.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.heads = bool(conditions) and conditioning == "heads"
        self.images = conditions if self.heads else outputs
        self.uncertain = spread > 0
        self.spread = spread
        self.network = UNet(
            dims=dims,
            inputs=self.channels,
            outputs=self.images * (2 if spread else 1),
            features=features,
            encoder_blocks=2 if shape in ("classic", "plain") else RESIDUAL_BLOCKS,
            decoder_blocks=1 if shape == "residual-encoder" else 2,
            encoder="residual" if shape in ("residual-encoder", "residual") else "plain",
            decoder="residual" if shape == "residual" else "plain",
            down="pool" if shape == "classic" else "stride",
            up=up,
            bias=shape != "classic",
            kind=norm,
            conditions=0 if self.heads else conditions,
            fold_factor=fold,
            refine=refine,
        )
        self.error = {"absolute": absolute_error, "squared": squared_error}[error]
        self.ssim = ssim
        self.anchor = anchor

    def play(self, batch: Batch) -> Iterator[Turn]:
        """One turn: the voxel error, 1 - SSIM and the spread where they have a weight."""
        target, weight = batch.target, batch.weight
        if self.heads:
            if batch.every is None or batch.known is None:
                raise UsageError("heads learn from `every` target; the batch brings none")
            target = batch.every
            acquired = batch.known.reshape(*batch.known.shape, *[1] * self.dims).to(target.dtype)
            weight = acquired if weight is None else weight * acquired
        predicted, spread = self.all_images(batch.source, batch.target_contrast)
        losses = {}
        if self.anchor is not None:
            losses["anchor"] = self.anchor * self.error(predicted, target, weight)
            predicted = aligned(predicted, target, weight)
        losses["error"] = self.error(predicted, target, weight)
        if self.ssim:
            losses["ssim"] = self.ssim * structural_dissimilarity(predicted, target, weight)
        if spread is not None:
            losses["spread"] = self.spread * laplace(predicted.detach(), target, spread, weight)
        yield Turn("regressor", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """See :meth:`Translator.translate`."""
        images, _ = self.all_images(source, target)
        return self.picked(images, target)

    def with_spread(self, source: Tensor, *, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`Translator.with_spread`."""
        images, spread = self.all_images(source, target)
        if spread is None:
            return super().with_spread(source, target=target)
        return self.picked(images, target), self.picked(spread, target).exp()

    def all_images(self, source: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Every image at once (with heads: one per target), and the logarithms of their spread."""
        condition = None if self.heads else one_hot(target, self.conditions, source)
        padded, crop = pad_to_multiple(source, self.network.multiple)
        output: Tensor = self.network(padded, condition)[crop]
        if not self.uncertain:
            return output, None
        images, spread = output.split(self.images, dim=1)
        return images, spread

    def picked(self, images: Tensor, target: Tensor | None) -> Tensor:
        """Of every head's image the one that was asked for."""
        if not self.heads:
            return images
        condition = one_hot(target, self.conditions, images)
        if condition is None:
            return images
        return (images * condition.reshape(*condition.shape, *[1] * self.dims)).sum(1, keepdim=True)
