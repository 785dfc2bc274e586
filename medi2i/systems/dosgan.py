"""DosGAN (Lin et al. 2019, arXiv:1902.03782; code linjx-ustc1106/DosGAN-PyTorch).

What a domain looks like is not learnt along with the translation but read off a network that knows
the domains: a classifier is trained first, and never moves again. Its last feature describes the
domain, so the encoder can leave the domain out, and the decoder draws any content with any feature.
A critic that tells the feature of an image from its voxels holds the drawn images to theirs.

A run begins with `pretraining` rounds in which the classifier alone learns to name domains. Then
the game begins: the critic in every round, encoder and decoder in every `n_critic`-th, on the same
batch and against the critic that has just moved. To translate into a domain is to draw with its
centroid, the mean feature of its images, which is kept with the weights.

What differs from the authors' code, and why:
- Domains are contrasts (see `systems.domains`). A few contrasts are easy to tell apart, so that
  their classifier gets 10 000 rounds; the authors' for 531 faces had 160 000.
- They compute the centroids from the whole training set before the game; here they are running
  means over all images that the game has seen, which change ever less and need no second pass.
- The feature scales and shifts the maps behind each norm (FiLM). Theirs draws a map by a linear
  layer of up to 270 million numbers that fits one image size (`injection: linear`).
- 64 numbers in a feature instead of 1024: contrasts are fewer than faces.
- The critic's real image is the batch's target, of the very domain that was asked for; theirs are
  the sources, and the domains asked for those of the batch in another order.
- No gradients are computed for the classifier in the game (theirs are, and not used).
- Their learning rate hardly decays (100 steps down where 100000 were meant); the configuration
  keeps it constant for the first half and takes it linearly to zero.
- Added: 3-D and neighbouring slices. Features are read off drawn or centre slices.

The penalty differentiates twice, which compiled networks cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, gradient_penalty
from medi2i.networks.dosgan import ContentEncoder, DomainClassifier, FeatureDecoder, Injection
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.stargan import StarGANDiscriminator
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import Crossing, asked_domain, crossing, domains_of, slab

__all__ = ["DosGAN"]


class DosGAN(Translator):
    """Any domain to any other by the features of a classifier that knows them.

    Args:
        features: channels of the first layers of all networks; None chooses 64 in 2-D, 32 in 3-D.
        blocks: residual blocks of the encoder, and of the decoder.
        layers: strided layers of classifier and critic; None chooses 6 in 2-D, 5 in 3-D.
        window: side of the training windows, which classifier and critic take in at once; None
            chooses 128 in 2-D, and 0, one position at a time, in 3-D.
        feature_size: numbers in a domain feature.
        injection: "film" or the authors' "linear", see `FeatureDecoder`.
        code: what drawn images are to look like: the "centroid" of the domain asked for, or the
            "image" that the batch has of it (the authors' DosGAN-c).
        pretraining: rounds of the classifier alone.
        n_critic: encoder and decoder move in every so-many-th round.
        reconstruction: weight of the image drawn with its own feature, at once and on the way back.
        feature, penalty: weights of the paper.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, `n_critic` is less than 1, `pretraining` is
            negative, or `window` does not fit a linear layer.
    """

    paper = Paper("Lin et al. 2019, arXiv:1902.03782")
    pairing = Pairing.UNPAIRED
    one_list = True
    players = {  # noqa: RUF012 - ClassVar in the base
        "classifier": ("classifier",),
        "discriminator": ("discriminator",),
        "generator": ("encoder", "decoder"),
    }

    lessons: Tensor
    """Rounds of the classifier so far."""
    centroids: Tensor
    """(domains, feature_size): the mean feature of each domain's images."""
    seen: Tensor
    """(domains,): how many images that is."""

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        features: int | None = None,
        blocks: int = 3,
        layers: int | None = None,
        window: int | None = None,
        feature_size: int = 64,
        injection: Injection = "film",
        code: Literal["centroid", "image"] = "centroid",
        pretraining: int = 10_000,
        n_critic: int = 5,
        reconstruction: float = 10.0,
        feature: float = 5.0,
        penalty: float = 10.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.domains = domains_of(self)
        if n_critic < 1 or pretraining < 0:
            raise UsageError(
                f"n_critic is {n_critic} and pretraining {pretraining}; at least 1 and at least 0 "
                "were expected"
            )
        flat = dims == 2
        features = features or (64 if flat else 32)
        layers = layers or (6 if flat else 5)
        window = window if window is not None else (128 if flat else 0)
        self.classifier = DomainClassifier(
            dims=dims,
            inputs=outputs,
            domains=self.domains,
            feature=feature_size,
            features=features,
            layers=layers,
            window=window,
        )
        self.discriminator = StarGANDiscriminator(
            dims=dims,
            inputs=outputs,
            domains=feature_size,
            features=features,
            layers=layers,
            window=window,
        )
        self.encoder = ContentEncoder(
            dims=dims, inputs=self.channels, features=features, blocks=blocks
        )
        self.decoder = FeatureDecoder(
            dims=dims,
            outputs=outputs,
            feature=feature_size,
            features=features,
            blocks=blocks,
            injection=injection,
            window=window,
        )
        self.register_buffer("lessons", torch.zeros((), dtype=torch.long))
        self.register_buffer("centroids", torch.zeros(self.domains, feature_size))
        self.register_buffer("seen", torch.zeros(self.domains))
        self.by_image = code == "image"
        self.pretraining = pretraining
        self.n_critic = n_critic
        self.reconstruction = reconstruction
        self.feature = feature
        self.penalty = penalty

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The classifier alone at first; then the critic, and now and then the generator."""
        images = crossing(self, batch)
        if int(self.lessons) < self.pretraining:
            _, named = self.classifier(torch.cat([images.image, images.real]))
            truth = torch.cat([images.origin, images.asked])
            yield Turn("classifier", classification=functional.cross_entropy(named, truth))
            self.lessons += 1
            return
        own, real = self.described(images)
        wanted = real if self.by_image else self.centroids[images.asked]

        generator_moves = (int(self.rounds) + 1) % self.n_critic == 0
        with torch.set_grad_enabled(generator_moves):
            content, crop = self.encoded(images.source)
            fake = self.decoder(content, wanted)[crop]
        judged_real, told_real = self.discriminator(images.real)
        judged_fake, _ = self.discriminator(fake.detach())
        yield Turn(
            "discriminator",
            critic=judged_fake.mean() - judged_real.mean(),
            feature=self.feature * functional.l1_loss(told_real, real),
            penalty=self.penalty
            * gradient_penalty(lambda x: self.discriminator(x)[0], images.real, fake),
        )
        if not generator_moves:
            return
        with frozen(self.discriminator):
            judged, told = self.discriminator(fake)
        again = self.decoder(content, own)[crop]
        back = self.generated(slab(fake, self.slices), own)
        yield Turn(
            "generator",
            gan=-judged.mean(),
            feature=self.feature * functional.l1_loss(told, wanted),
            same=self.reconstruction * absolute_error(again, images.image, images.weight),
            cycle=self.reconstruction * absolute_error(back, images.image, images.weight),
        )

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The scan drawn with the centroid of the contrast asked for."""
        return self.generated(source, self.centroids[asked_domain(self, source, target)])

    def generated(self, source: Tensor, feature: Tensor) -> Tensor:
        """A source of any size drawn with the given features (B, feature_size)."""
        content, crop = self.encoded(source)
        image: Tensor = self.decoder(content, feature)[crop]
        return image

    def encoded(self, source: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
        """The content of a source, and the index that cuts its extent out of what is drawn."""
        padded, crop = pad_to_multiple(source, self.encoder.multiple, least=2)
        return self.encoder(padded), crop

    @torch.no_grad()
    def described(self, images: Crossing) -> tuple[Tensor, Tensor]:
        """Features of the images and of the real ones (B, feature_size); centroids learn of both.

        The centroids are sums in disguise: c becomes c + (sum of features - n c) / count.
        """
        features: Tensor = self.classifier(torch.cat([images.image, images.real]))[0].float()
        truth = torch.cat([images.origin, images.asked])
        member = functional.one_hot(truth, self.domains).to(features)
        new = member.sum(0)
        total = (member.unsqueeze(2) * features.unsqueeze(1)).sum(0)
        self.seen += new
        change = (total - new.unsqueeze(1) * self.centroids) / self.seen.clamp_min(1).unsqueeze(1)
        self.centroids += change
        own, real = features.chunk(2)
        return own, real
