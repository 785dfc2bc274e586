"""StarGAN (Choi et al. 2018, arXiv:1711.09020; code yunjey/stargan).

One generator for all pairs of domains, told by a label where to go; one critic that also names the
domain of an image. Wasserstein game with gradient penalty, classification, and the way back. The
critic moves in every round, the generator in every `n_critic`-th, on the same batch and against
the critic that has just moved.

What differs from the authors' code, and why:
- Domains are contrasts (see `systems.domains`), one-hot, so the classifier has one cross entropy.
- The real image beside a generated one is the batch's target: an image of the very domain that was
  asked for. The authors shuffle the labels of the batch; both ways, generated and real images of a
  round have the same labels. A contrast is never asked to become itself.
- The generated image of a round serves both players (they compute it twice, to the same values).
- Instance norm keeps no running statistics: the authors' must not be used at test time.
- Their learning rate hardly decays (100 steps down where 100000 were meant). The configuration
  follows the paper: constant for the first half, then linearly to zero.
- Added: 3-D (the classifier then looks at one position at a time), neighbouring slices, and `l1`:
  with scans of the same person at hand the error of the translation itself can count, which makes
  it a supervised any-to-any translator. Zero, as by default, is the paper's unpaired objective.

The penalty differentiates twice, which compiled networks cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, gradient_penalty
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.stargan import StarGANDiscriminator, StarGANGenerator
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import Crossing, asked_domain, crossing, domains_of, slab

__all__ = ["StarGAN"]


class StarGAN(Translator):
    """Any domain to any other by one generator and its way back.

    Args:
        features: channels of the generator's first layer; None chooses 64 in 2-D, 32 in 3-D.
        blocks: residual blocks.
        discriminator_features: channels of the critic's first layer; None chooses as above.
        discriminator_layers: strided layers; None chooses 6 in 2-D, 5 in 3-D.
        window: side of the training windows, which the classifier takes in at once; None chooses
            128 in 2-D, and 0, one position at a time, in 3-D. See `StarGANDiscriminator`.
        n_critic: the generator moves in every so-many-th round.
        classification, cycle, penalty: weights of the paper.
        l1: weight of the mean absolute error of the translation; 0 where two images are never of
            one person.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, or `n_critic` is less than 1.
    """

    paper = Paper("Choi et al. 2018, arXiv:1711.09020")
    pairing = Pairing.PAIRED
    one_list = True
    bounded: ClassVar[bool] = True
    """Whether the generator's last layer is a tanh."""
    usual_window: ClassVar[int] = 128
    """Side of the paper's images."""
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminator": ("discriminator",),
        "generator": ("generator",),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        features: int | None = None,
        blocks: int = 6,
        discriminator_features: int | None = None,
        discriminator_layers: int | None = None,
        window: int | None = None,
        n_critic: int = 5,
        classification: float = 1.0,
        cycle: float = 10.0,
        penalty: float = 10.0,
        l1: float = 0.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.domains = domains_of(self)
        if n_critic < 1:
            raise UsageError(f"n_critic is {n_critic}; at least 1 was expected")
        width = 64 if dims == 2 else 32
        self.generator = StarGANGenerator(
            dims=dims,
            inputs=self.channels,
            outputs=outputs,
            domains=self.domains,
            features=features or width,
            blocks=blocks,
            bounded=self.bounded,
        )
        self.discriminator = StarGANDiscriminator(
            dims=dims,
            inputs=outputs,
            domains=self.domains,
            features=discriminator_features or width,
            layers=discriminator_layers or (6 if dims == 2 else 5),
            window=window if window is not None else (self.usual_window if dims == 2 else 0),
        )
        self.n_critic = n_critic
        self.classification = classification
        self.cycle = cycle
        self.penalty = penalty
        self.l1 = l1

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The critic moves; in every `n_critic`-th round the generator follows."""
        images = crossing(self, batch)
        if self.l1 and batch.target_weight is not None:
            raise UsageError(
                f"l1 is {self.l1:g}, which compares images of one person, but source and target "
                "are two people: set it to 0"
            )
        generator_moves = (int(self.rounds) + 1) % self.n_critic == 0
        with torch.set_grad_enabled(generator_moves):
            fake = self.generated(images.source, images.asked)
        yield Turn("discriminator", **self.critic_losses(images, fake))
        if generator_moves:
            yield Turn("generator", **self.generator_losses(images, fake))

    def critic_losses(self, images: Crossing, fake: Tensor) -> dict[str, Tensor]:
        """Real from generated images, the domain of real ones, and how steep the critic is."""
        judged_real, named_real = self.discriminator(images.real)
        judged_fake, _ = self.discriminator(fake.detach())
        named = functional.cross_entropy(named_real, images.asked)
        steep = gradient_penalty(lambda x: self.discriminator(x)[0], images.real, fake)
        return {
            "critic": judged_fake.mean() - judged_real.mean(),
            "classification": self.classification * named,
            "penalty": self.penalty * steep,
        }

    def generator_losses(self, images: Crossing, fake: Tensor) -> dict[str, Tensor]:
        """Of the images that were drawn where they were asked for."""
        losses = self.drawing_losses(images, fake, images.asked)
        if self.l1:
            losses["l1"] = self.l1 * absolute_error(fake, images.real, images.weight)
        return losses

    def drawing_losses(
        self, images: Crossing, drawn: Tensor, domain: Tensor, name: str = ""
    ) -> dict[str, Tensor]:
        """The losses of images that were drawn in a domain: the game, its name, the way back.

        Args:
            images: what they were drawn of.
            name: behind the names of the losses.
        """
        with frozen(self.discriminator):
            judged, named = self.discriminator(drawn)
        back = self.generated(slab(drawn, self.slices), images.origin)
        return {
            f"gan{name}": -judged.mean(),
            f"classification{name}": self.classification * functional.cross_entropy(named, domain),
            f"cycle{name}": self.cycle * absolute_error(back, images.image, images.weight),
        }

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One pass of the generator with the label of the contrast asked for."""
        return self.generated(source, asked_domain(self, source, target))

    def generated(self, source: Tensor, domain: Tensor) -> Tensor:
        """The generator's image in the given domains (B,) for a source of any size."""
        padded, crop = pad_to_multiple(source, self.generator.multiple)
        label = functional.one_hot(domain, self.domains).to(source.dtype)
        fake: Tensor = self.generator(padded, label)
        return fake[crop]
