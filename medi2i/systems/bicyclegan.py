"""BicycleGAN (Zhu et al. 2017, arXiv:1711.11586).

One image has many translations, and a short code says which: image to code to image (a
conditional variational autoencoder with a discriminator), and code to image to code (the code that
made an image must be found in it again), so that neither code nor image can ignore the other.
Networks, weights and the order of moves are those of the authors' code (junyanz/BicycleGAN):
generator and encoder together, then the discriminator of images from encoded codes, then the one
of images from random codes, both on the images from before the generator's step. The recovered
code teaches the generator alone: an encoder that learned from it could agree with the generator
on an invisible mark. The first half of a batch is translated; the second half only gives
`discriminator_random` its real images.

Different here: the encoder averages over whatever size is left, so that images need not be 256
(the same at 256); a batch of one gives both discriminators the same real image, and odd batches
are not skipped; one Adam moves generator and encoder, which is the same as two. The authors'
option of one discriminator for both fakes is left out. `translate` is the image of the code of
zeros, the prior's mean: a scan always translates to the same bytes; dropout is off at test time
here as there.

Added here: 3-D, neighbouring slices, several contrasts, voxel weights for the absolute error, and
a target contrast on demand, given as constant planes to the generator and to the discriminators
(which the authors leave unconditional: they would praise a convincing image of the wrong
contrast). The encoder sees the target image alone, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, kl_from_standard_normal
from medi2i.losses.adversarial import Game
from medi2i.losses.multiscale import contested, deceived
from medi2i.networks.bicyclegan import BicycleDiscriminator, BicycleGenerator, CodeEncoder
from medi2i.networks.layers import Norm, normal_sample
from medi2i.systems.base import Paper, Turn, frozen
from medi2i.systems.coded import CodedTranslator

__all__ = ["BicycleGAN"]

GAME: Game = "least-squares"


class BicycleGAN(CodedTranslator):
    """One-to-many translation of paired scans, with a code that is inferred and recovered.

    Args:
        code: numbers in the code.
        where: the code joins the input of "all" strided convolutions or of the first ("input").
        depth: halvings of the generator; None chooses 8 in 2-D (256 to 1) and 5 in 3-D.
        features: channels of the first stage of all networks.
        blocks: residual blocks of the encoder, each a halving; None chooses 4 in 2-D, 3 in 3-D.
        patch: strided layers of the discriminators; None chooses 3 in 2-D, 2 in 3-D.
        scales: resolutions that each discriminator looks at.
        conditional: True shows the source to the discriminators.
        norm: of all networks.
        up: "transpose" or "linear" (interpolation, then a convolution over mirrored edges).
        dropout: probability in the generator's deepest stages. The authors' option is off by
            default, and on in every script they trained with.
        gan, gan_random, l1, kl, recovery: weights. `kl` weighs a sum over batch and code.

    The rest: see :class:`Translator`.
    """

    paper = Paper("Zhu et al. 2017, arXiv:1711.11586")
    pairing = Pairing.PAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "generator": ("generator", "encoder"),
        "discriminator": ("discriminator",),
        "discriminator_random": ("discriminator_random",),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        code: int = 8,
        where: Literal["all", "input"] = "all",
        depth: int | None = None,
        features: int = 64,
        blocks: int | None = None,
        patch: int | None = None,
        scales: int = 2,
        conditional: bool = False,
        norm: Norm = "instance",
        up: Literal["transpose", "linear"] = "transpose",
        dropout: float = 0.5,
        gan: float = 1.0,
        gan_random: float = 1.0,
        l1: float = 10.0,
        kl: float = 0.01,
        recovery: float = 0.5,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        if code < 1:
            raise UsageError(f"code is {code}; at least 1 number was expected, or use pix2pix")
        flat = dims == 2
        self.generator = BicycleGenerator(
            dims=dims,
            inputs=self.channels + conditions,
            outputs=outputs,
            code=code,
            depth=depth or (8 if flat else 5),
            features=features,
            kind=norm,
            where=where,
            up=up,
            dropout=dropout,
        )
        self.encoder = CodeEncoder(
            dims=dims,
            inputs=outputs,
            code=code,
            features=features,
            blocks=blocks or (4 if flat else 3),
            kind=norm,
        )
        self.discriminator, self.discriminator_random = (
            BicycleDiscriminator(
                dims=dims,
                inputs=outputs + conditions + (self.channels if conditional else 0),
                layers=patch or (3 if flat else 2),
                features=features,
                scales=scales,
                kind=norm,
            )
            for _ in range(2)
        )
        self.code_size = code
        self.conditional = conditional
        self.gan = gan
        self.gan_random = gan_random
        self.l1 = l1
        self.kl = kl
        self.recovery = recovery

    def play(self, batch: Batch) -> Iterator[Turn]:
        """Generator and encoder move first, then each discriminator, on the images of before."""
        half = max(1, len(batch) // 2)
        source, planes = self.dressed(batch.source, batch.target_contrast)
        context = source if self.conditional else planes
        others = slice(half, None) if len(batch) > half else slice(None)
        others_real, others_context = batch.target[others], context[others]
        source, context, real = source[:half], context[:half], batch.target[:half]

        mean, log_variance = self.encoder(real)
        encoded = normal_sample(mean, log_variance)
        random = torch.randn_like(mean)
        fake_encoded = self.generated(source, encoded)
        fake_random = self.generated(source, random)
        with frozen(self.discriminator, self.discriminator_random):
            judged = self.judged(self.discriminator, context, fake_encoded)
            judged_random = self.judged(self.discriminator_random, context, fake_random)
        gan, gan_random = deceived(judged, GAME), deceived(judged_random, GAME)
        with frozen(self.encoder):
            recovered, _ = self.encoder(fake_random)  # the mean: steadier than a sample
        weight = None if batch.weight is None else batch.weight[:half]
        yield Turn(
            "generator",
            gan=self.gan * gan,
            gan_random=self.gan_random * gan_random,
            l1=self.l1 * absolute_error(fake_encoded, real, weight),
            kl=self.kl * kl_from_standard_normal(mean, log_variance),
            recovery=self.recovery * absolute_error(recovered, random),
        )
        yield Turn(
            "discriminator",
            contest=contested(
                self.judged(self.discriminator, context, real),
                self.judged(self.discriminator, context, fake_encoded.detach()),
                GAME,
            ),
        )
        yield Turn(
            "discriminator_random",
            contest=contested(
                self.judged(self.discriminator_random, others_context, others_real),
                self.judged(self.discriminator_random, context, fake_random.detach()),
                GAME,
            ),
        )

    def judged(self, judge: nn.Module, context: Tensor, candidate: Tensor) -> list[Tensor]:
        """A discriminator's logits for a candidate, per scale."""
        logits: list[Tensor] = judge(torch.cat([context, candidate], dim=1))
        return logits
