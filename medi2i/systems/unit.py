"""UNIT (Liu et al. 2017, arXiv:1703.00848; code mingyuliutw/UNIT).

Two variational autoencoders with one latent space: what the encoder of one domain has found, the
decoder of the other can draw, and the translation must have the same code. The code is a map with
noise of variance 1 in training, none at test time.

There are two generations of it, and `shared` chooses. The authors' master branch (False) is made
of MUNIT's blocks: nothing is shared between the domains, which only the way back ties together;
least squares at three scales. The paper's own (True, their branch version_02) shares the blocks
around the latent space and most of the discriminator; cross entropy. A round is theirs in both:
the discriminators, then the autoencoders, with new noise.

What differs from the authors' code, and why:
- The perceptual term of the master branch is left out: it needs the weights of VGG-16, and the
  authors do not use it below 512 voxels. The other discriminators of version_02 are, too.
- The divergence is their surrogate, the mean of the squared code, per domain. version_02 takes it
  over both domains at once and counts that twice, which is the same.
- Without `cycle` and `kl_cycle` the way back is not computed; their master branch then crashes.
- Added: 3-D (half the features, convolutions of 3 instead of 5 behind a doubling, replicated
  edges), weights of voxels, and neighbouring slices: a slab is encoded, its centre slice drawn,
  which goes back as a slab of itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.losses import absolute_error
from medi2i.losses.adversarial import Game
from medi2i.losses.multiscale import contested, deceived
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.munit import MultiScaleDiscriminator, cropped
from medi2i.networks.resnet import Edge
from medi2i.networks.unit import Autoencoder, PlainResidual, SharedJudge, first_look
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["UNIT"]


class UNIT(Translator):
    """Unpaired translation by one latent space.

    Args:
        shared: the paper's networks, whose blocks around the latent space serve both domains.
        features: channels of the first layer of all networks; None chooses 64 in 2-D, 32 in 3-D.
        blocks: residual blocks of each encoder and decoder; None chooses 4, or 3 beside a shared
            one.
        dropout: probability in the residual blocks; only with `shared` (0.5 in the authors'
            streets).
        layers, scales: of the discriminators; with `shared` the layers that both domains share,
            at one scale.
        gan, recon, cycle, kl, kl_cycle: weights; `recon` within a domain, `kl_cycle` of the code on
            the way back. None chooses the authors': 1, 10, 10, 0.01, 0.01, or 10, 100, 100, 0.1,
            0.1 with `shared`.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, or a contrast on demand.
    """

    paper = Paper("Liu et al. 2017, arXiv:1703.00848")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminators": ("discriminator_a", "discriminator_b", "discriminator_shared"),
        "generators": ("generator_a", "generator_b", "encoder_shared", "decoder_shared"),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        shared: bool = False,
        features: int | None = None,
        blocks: int | None = None,
        dropout: float = 0.0,
        layers: int = 4,
        scales: int = 3,
        gan: float | None = None,
        recon: float | None = None,
        cycle: float | None = None,
        kl: float | None = None,
        kl_cycle: float | None = None,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        flat = dims == 2
        features = features or (64 if flat else 32)
        edge: Edge = "reflect" if flat else "replicate"
        self.generator_a, self.generator_b = (
            Autoencoder(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                features=features,
                blocks=blocks or (3 if shared else 4),
                shared=shared,
                dropout=dropout,
                kernel=5 if flat else 3,
                edge=edge,
            )
            for _ in range(2)
        )
        self.encoder_shared, self.decoder_shared = (
            PlainResidual(dims, 4 * features, dropout) if shared else nn.Identity()
            for _ in range(2)
        )
        self.discriminator_a, self.discriminator_b = (
            first_look(dims, outputs, features)
            if shared
            else MultiScaleDiscriminator(
                dims=dims,
                inputs=outputs,
                features=features,
                layers=layers,
                scales=scales,
                edge=edge,
            )
            for _ in range(2)
        )
        self.discriminator_shared = (
            SharedJudge(dims=dims, inputs=2 * features, layers=layers) if shared else nn.Identity()
        )
        self.game: Game = "vanilla" if shared else "least-squares"
        self.gan = gan if gan is not None else (10.0 if shared else 1.0)
        self.recon = recon if recon is not None else (100.0 if shared else 10.0)
        self.cycle = cycle if cycle is not None else (100.0 if shared else 10.0)
        self.kl = kl if kl is not None else (0.1 if shared else 0.01)
        self.kl_cycle = kl_cycle if kl_cycle is not None else (0.1 if shared else 0.01)

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The discriminators move first, then the autoencoders, with new noise."""
        images = sides(self, batch)
        image_a, image_b = images.image_a, images.image_b
        with torch.no_grad():
            fake_a = self.drawn("a", noisy(self.code_of("b", images.b)), image_b)
            fake_b = self.drawn("b", noisy(self.code_of("a", images.a)), image_a)
        yield Turn(
            "discriminators",
            contest_a=self.gan * self.contested("a", image_a, fake_a),
            contest_b=self.gan * self.contested("b", image_b, fake_b),
        )

        code_a, code_b = self.code_of("a", images.a), self.code_of("b", images.b)
        heard_a, heard_b = noisy(code_a), noisy(code_b)
        again_a, again_b = self.drawn("a", heard_a, image_a), self.drawn("b", heard_b, image_b)
        fake_a, fake_b = self.drawn("a", heard_b, image_b), self.drawn("b", heard_a, image_a)
        losses = {
            "recon_a": self.recon * absolute_error(again_a, image_a, images.weight_a),
            "recon_b": self.recon * absolute_error(again_b, image_b, images.weight_b),
            "kl_a": self.kl * code_a.square().mean(),
            "kl_b": self.kl * code_b.square().mean(),
        }
        if self.cycle or self.kl_cycle:
            found_b = self.code_of("a", slab(fake_a, self.slices))
            found_a = self.code_of("b", slab(fake_b, self.slices))
            back_a = self.drawn("a", noisy(found_a), image_a)
            back_b = self.drawn("b", noisy(found_b), image_b)
            losses["kl_cycle_a"] = self.kl_cycle * found_a.square().mean()
            losses["kl_cycle_b"] = self.kl_cycle * found_b.square().mean()
            losses["cycle_a"] = self.cycle * absolute_error(back_a, image_a, images.weight_a)
            losses["cycle_b"] = self.cycle * absolute_error(back_b, image_b, images.weight_b)
        with frozen(self.discriminator_a, self.discriminator_b, self.discriminator_shared):
            losses["gan_a"] = self.gan * deceived(self.judged("a", fake_a), self.game)
            losses["gan_b"] = self.gan * deceived(self.judged("b", fake_b), self.game)
        yield Turn("generators", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of the code without noise, in domain b."""
        del target  # the task is fixed
        return self.drawn("b", self.code_of("a", source), source)

    def code_of(self, domain: str, image: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, 4 * features, *spatial / 4): the mean of the code.

        The far edge of other sizes is continued to a multiple of 4.
        """
        generator = self.generator_a if domain == "a" else self.generator_b
        padded, _ = pad_to_multiple(image, generator.multiple, least=2)
        code: Tensor = self.encoder_shared(generator.encoder(padded))
        return code

    def drawn(self, domain: str, code: Tensor, like: Tensor) -> Tensor:
        """The image of a code in a domain, of the spatial size of `like`."""
        generator = self.generator_a if domain == "a" else self.generator_b
        image: Tensor = generator.decoder(self.decoder_shared(code))
        return cropped(image, like)

    def judged(self, domain: str, image: Tensor) -> list[Tensor]:
        """A domain's logits for an image, per scale."""
        look = self.discriminator_a if domain == "a" else self.discriminator_b
        logits: list[Tensor] = self.discriminator_shared(look(image))
        return logits

    def contested(self, domain: str, real: Tensor, fake: Tensor) -> Tensor:
        """What a domain's discriminator minimises, over its scales."""
        return contested(self.judged(domain, real), self.judged(domain, fake), self.game)


def noisy(code: Tensor) -> Tensor:
    """A draw from the normal distribution of variance 1 around the code."""
    return code + torch.randn_like(code)
