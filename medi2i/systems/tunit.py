"""TUNIT (Baek et al. 2020, arXiv:2006.06500; code clovaai/tunit).

One pile of images and no labels. A guiding network finds the domains: it sorts images into clusters
so that two views of an image agree (mutual information), and gives each a style that tells it from
others (contrast against a queue). A generator draws an image's content in the style of another; a
discriminator judges it by the cluster of that other. For `warmup` rounds the guiding network learns
alone. From then on a round has four moves: the guide by its own losses, a tenth as strong; the
discriminator; generator and guide together, so that translating shapes the clusters too.

Where the target domain comes from. Learning sees no contrast: both sides of a batch are one pile,
and the references are that pile, shuffled. But a translation asks for a contrast. So a table is
kept beside the game: for every contrast, how many of its images were put into each cluster of late
and the sum of their styles, in the eyes of the slow copy of the guide. To translate into a contrast
is to draw in the mean style of its images in the cluster where most of them are: the authors' mean
style of a domain. No loss reads the table. Where clusters and contrasts disagree, so will the
translation; `shares` says how far.

What differs from the authors' code, and why:
- Rounds, not epochs, separate the two parts (65 epochs of 1000 iterations there).
- The running average of the generator is the trainer's (`average: 0.999`). The slow copy of the
  guide is training's own and stays out of model folders.
- Views are made here, on the device: turned, sheared, resized by axis, shifted, mirrored. Their
  colour jitter is not: for contrasts, looks are the domain. `data.augmentation` of looks belongs at
  zero for the same reason.
- The discriminator's image is drawn before it moves and used again by the generator's turn, to the
  same values. Batches never end short, so none has to be dropped.
- Their RMSProp is Adam without its first moment in the configuration.
- Guide and discriminator see centre slices. Only the unsupervised mode. Added: 3-D.

R1 differentiates twice, which compiled networks cannot. Clusters that collapsed in the warm-up
stay collapsed: look at `shares` after it, and begin again with another seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, r1_penalty
from medi2i.losses.contrastive import mutual_information, queue_contrast
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.momentum import SlowCopy, VectorQueue
from medi2i.networks.tunit import AdaptiveDiscriminator, AdaptiveGenerator, GuidingNetwork
from medi2i.networks.views import random_view
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import asked_domain, domains_of, slab, weights_of
from medi2i.systems.joint import together

__all__ = ["TUNIT"]

RECENT = 0.99
"""Share of the table of contrasts and clusters that a round leaves."""

CALM = 0.1
"""Share of the guide's own losses once the generator learns."""


@dataclass(frozen=True)
class Pile:
    """Both sides of a batch, one after the other.

    Attributes:
        source: (N, C * k, *spatial): what goes into the generator.
        image: (N, C, *spatial): the centre slices.
        contrast: (N,) long; for the table alone.
        weight: (N, 1, *spatial), or None.
    """

    source: Tensor
    image: Tensor
    contrast: Tensor
    weight: Tensor | None


class TUNIT(Translator):
    """Translation between domains that it finds itself.

    Args:
        clusters: domains to look for; None chooses 2 for a fixed task, 10 on demand. Contrasts
            times scanners is a good guess; too many do less harm than too few.
        size: side of the training windows, a power of two from 16 on; None chooses 128 in 2-D, 64
            in 3-D.
        features: channels of generator and discriminator at full size; None chooses 64 in 2-D, 32
            from 256 on and in 3-D.
        widest: most channels of the discriminator; None chooses 1024 in 2-D, 256 in 3-D.
        guide_features: channels of the guide's first layer; None chooses 64 in 2-D, 32 in 3-D.
        style_size: numbers of a style.
        hidden: width of the network between a style and the generator's norms.
        queue: keys that styles are told from.
        warmup: rounds in which the guide learns alone.
        decay: of the slow copy of the guide.
        temperature: of the contrast.
        information, gan, reconstruction, style, r1: weights of the paper's code.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, fewer than 2 clusters, or a `size` that is no
            such power of two.
    """

    paper = Paper("Baek et al. 2020, arXiv:2006.06500")
    pairing = Pairing.UNPAIRED
    one_list = True
    players = {  # noqa: RUF012 - ClassVar in the base
        "guide": ("guide",),
        "discriminator": ("discriminator",),
        "generator": ("generator",),
    }

    counts: Tensor
    """(contrasts, clusters): images of each contrast in each cluster of late."""
    styles: Tensor
    """(contrasts, clusters, style): the sums of their styles."""

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        clusters: int | None = None,
        size: int | None = None,
        features: int | None = None,
        widest: int | None = None,
        guide_features: int | None = None,
        style_size: int = 128,
        hidden: int = 256,
        queue: int = 1024,
        warmup: int = 65_000,
        decay: float = 0.999,
        temperature: float = 0.07,
        information: float = 5.0,
        gan: float = 1.0,
        reconstruction: float = 0.1,
        style: float = 0.01,
        r1: float = 10.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        contrasts = domains_of(self)
        flat = dims == 2
        self.clusters = clusters if clusters is not None else (10 if conditions else 2)
        if self.clusters < 2:
            raise UsageError(f"clusters is {self.clusters}; at least 2 were expected")
        size = size or (128 if flat else 64)
        depth = size.bit_length() - 1
        if size < 16 or size != 2**depth:
            raise UsageError(f"size is {size}; a power of two, at least 16, was expected")
        features = features or (64 if flat and size < 256 else 32)
        self.guide = GuidingNetwork(
            dims=dims,
            inputs=outputs,
            clusters=self.clusters,
            style=style_size,
            features=guide_features or (64 if flat else 32),
        )
        self.generator = AdaptiveGenerator(
            dims=dims,
            inputs=self.channels,
            outputs=outputs,
            features=features,
            halvings=depth - 4,
            style=style_size,
            hidden=hidden,
            edge="reflect" if flat else "replicate",
        )
        self.discriminator = AdaptiveDiscriminator(
            dims=dims,
            inputs=outputs,
            clusters=self.clusters,
            halvings=depth - 2,
            features=features,
            widest=widest or (1024 if flat else 256),
        )
        self.slow = SlowCopy(self.guide, decay)
        self.queue = VectorQueue(style_size, queue)
        self.register_buffer("counts", torch.zeros(contrasts, self.clusters))
        self.register_buffer("styles", torch.zeros(contrasts, self.clusters, style_size))
        self.warmup = warmup
        self.temperature = temperature
        self.information, self.gan, self.reconstruction = information, gan, reconstruction
        self.style, self.r1 = style, r1

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The guide; after the warm-up the discriminator, then generator and guide together."""
        pile = self.pile(batch)
        joint = int(self.rounds) >= self.warmup
        view = random_view(pile.image)
        _, keys = self.slow(view)
        if not len(self.queue):
            self.queue.push(keys)
        logits, code = self.guide(pile.image)
        known = mutual_information(logits.softmax(1), self.guide(view)[0].softmax(1))
        share = CALM if joint else 1.0
        yield Turn(
            "guide",
            contrast=share * self.told(code, keys),
            information=-share * self.information * known,
        )
        if joint:
            yield from self.translated(pile)
        self.queue.push(keys)
        self.remember(pile)
        self.slow.follow(self.guide)

    def translated(self, pile: Pile) -> Iterator[Turn]:
        """The discriminator's move, and the joint one of generator and guide."""
        order = torch.randperm(len(pile.image)).to(pile.image.device)
        logits, code = self.guide(pile.image)
        cluster = logits.argmax(1)
        content, crop = self.content(pile.source)
        fake = self.generator.draw(content, code[order])[crop]
        yield Turn("discriminator", **self.judged(pile.image[order], fake, cluster[order]))

        again = self.generator.draw(content, code)[crop]
        with frozen(self.discriminator):
            pleased = [
                self.discriminator(image, asked).mean()
                for image, asked in ((fake, cluster[order]), (again, cluster))
            ]
        _, wanted = self.slow(pile.image[order])
        losses = {
            "gan": -self.gan * torch.stack(pleased).sum(),
            "reconstruction": self.reconstruction * absolute_error(again, pile.image, pile.weight),
            "style": self.style * self.told(self.guide(fake)[1], wanted),
        }
        yield from together(self, losses, "generator", "guide")

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image in the mean style of the contrast asked for, where most of it is."""
        best = self.counts.argmax(1)
        place = torch.arange(len(best), device=best.device)
        means = self.styles[place, best] / self.counts[place, best].clamp_min(1e-6)[:, None]
        return self.generated(source, means[asked_domain(self, source, target)])

    def generated(self, source: Tensor, style: Tensor) -> Tensor:
        """The generator's image in the given styles (B, style) for a source of any size."""
        content, crop = self.content(source)
        return self.generator.draw(content, style)[crop]

    def content(self, source: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
        """What the generator makes of a source of any size, and the index of its extent."""
        padded, crop = pad_to_multiple(source, self.generator.multiple, least=2)
        return self.generator.encode(padded), crop

    def shares(self) -> Tensor:
        """(contrasts, clusters): which part of each contrast's images lies in each cluster."""
        return self.counts / self.counts.sum(1, keepdim=True).clamp_min(1e-6)

    def told(self, query: Tensor, key: Tensor) -> Tensor:
        """How badly styles can be told from those of earlier rounds."""
        return queue_contrast(query, key, self.queue.vectors, temperature=self.temperature)

    def judged(self, real: Tensor, fake: Tensor, cluster: Tensor) -> dict[str, Tensor]:
        """What the discriminator minimises: the hinge of both, and R1, which has no half here."""
        real = real.detach().requires_grad_(True)
        with torch.autocast(real.device.type, enabled=False):  # slopes need the digits
            logits = self.discriminator(real.float(), cluster)
            steep = 2 * self.r1 * r1_penalty(logits, real)
        fakes = self.discriminator(fake.detach(), cluster)
        hinge = functional.relu(1 - logits).mean() + functional.relu(1 + fakes).mean()
        return {"contest": hinge, "r1": steep}

    def pile(self, batch: Batch) -> Pile:
        """Both sides of a batch as one.

        Raises:
            UsageError: a batch of a task on demand that does not name its contrasts.
        """
        slabs = slab(batch.target, self.slices) if batch.target_slab is None else batch.target_slab
        source = torch.cat([batch.source, slabs])
        here, there = batch.source_contrast, batch.target_contrast
        if not self.conditions:
            contrast = torch.arange(2, device=source.device).repeat_interleave(len(batch))
        elif here is not None and there is not None:
            contrast = torch.cat([here, there])
        else:
            raise UsageError("on demand a batch must name its contrasts; this one does not")
        one, other = weights_of(batch)
        weight = None if one is None or other is None else torch.cat([one, other])
        return Pile(source, self.centre(source), contrast, weight)

    @torch.no_grad()
    def remember(self, pile: Pile) -> None:
        """Enter into the table where the contrasts are now."""
        logits, code = self.slow(pile.image)
        place = pile.contrast * self.clusters + logits.argmax(1)
        seen = functional.one_hot(place, self.counts.numel()).to(self.counts.dtype).T
        self.counts.mul_(RECENT).add_(seen.sum(1).view_as(self.counts))
        self.styles.mul_(RECENT).add_((seen @ code.to(seen.dtype)).view_as(self.styles))
