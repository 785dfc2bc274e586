"""StarGAN v2 (Choi et al. 2020, arXiv:1912.01865; code clovaai/stargan-v2).

A generator that knows no domains, only styles; styles come from a random code by a mapping network
or from a reference image by a style encoder, each with a head for every domain; a discriminator
with one logit for every domain. A round has four moves, as in the authors' code: the discriminator
against styles from codes, and again against styles from references, each time with R1; generator,
mapping network and style encoder together, with styles from codes; the generator alone, with
styles from references. The diversity term fades linearly to nothing over `fade` rounds.

What differs from the authors' code, and why:
- Domains are contrasts (see `systems.domains`). Real images of the domain asked for come from the
  batch: the target is the discriminator's real image and the first reference, the same contrast of
  another person in the batch the second. Their loaders draw such images independently.
- No high-pass path: its masks are landmarks of faces.
- `translate` uses the mean style of the domain (their truncation psi = 0), over a fixed set of
  codes; `sample` the style of the code given.
- Style encoder and discriminator are laid out for windows of `size`; in larger ones every position
  counts alike.
- The running average of weights is the trainer's (`average: 0.999`).
- Added: 3-D, neighbouring slices, R1 in every `lazy`-th round only (with as much more weight), and
  `l1`: with scans of the same person at hand it weighs the error of the mean-style image, so that
  `translate` gives the likeliest image, and that of the image in the target's own style. Zero, as
  by default, is the paper's unpaired objective.

Use float32 or bfloat16: in float16 the gradients of the joint move are not scaled against
underflow. R1 differentiates twice, which compiled networks cannot.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive, r1_penalty
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.starganv2 import (
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
)
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import Crossing, asked_domain, crossing, domains_of, slab
from medi2i.systems.joint import together

__all__ = ["StarGANv2"]

CODES = 256
"""Codes whose styles are averaged for the mean style; each comes with its negative."""


class StarGANv2(Translator):
    """Diverse translation between domains by styles.

    Args:
        size: side of the training windows, a power of two from 16 on, which fixes the depth of all
            networks; None chooses 256 in 2-D, 64 in 3-D.
        features: channels at full size; None chooses 2**14 / size in 2-D, 32 in 3-D.
        widest: most channels of a layer; None chooses 512 in 2-D, 256 in 3-D.
        code_size: numbers of a random code.
        style_size: numbers of a style.
        hidden: width of the mapping network.
        style, diversity, cycle, r1: weights of the paper.
        fade: rounds after which the weight of diversity is zero.
        lazy: R1 is computed in every so-many-th round.
        l1: weight of the mean absolute error against the target.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, `size` is no such power of two, or `fade` or
            `lazy` is less than 1.
    """

    paper = Paper("Choi et al. 2020, arXiv:1912.01865")
    pairing = Pairing.PAIRED
    one_list = True
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminator": ("discriminator",),
        "generator": ("generator",),
        "mapping": ("mapping",),
        "encoder": ("encoder",),
    }
    one_to_many = True

    codes: Tensor
    """(CODES, code_size): the codes of the mean style."""

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        size: int | None = None,
        features: int | None = None,
        widest: int | None = None,
        code_size: int = 16,
        style_size: int = 64,
        hidden: int = 512,
        style: float = 1.0,
        diversity: float = 1.0,
        cycle: float = 1.0,
        r1: float = 1.0,
        fade: int = 100_000,
        lazy: int = 1,
        l1: float = 0.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.domains = domains_of(self)
        size = size or (256 if dims == 2 else 64)
        depth = size.bit_length() - 1
        if size < 16 or size != 2**depth:
            raise UsageError(f"size is {size}; a power of two, at least 16, was expected")
        if fade < 1 or lazy < 1:
            raise UsageError(f"fade is {fade} and lazy {lazy}; at least 1 was expected of each")
        features = features or (2**14 // size if dims == 2 else 32)
        widest = widest or (512 if dims == 2 else 256)
        self.code_size = code_size
        self.generator = StyleGenerator(
            dims=dims,
            inputs=self.channels,
            outputs=outputs,
            halvings=depth - 4,
            features=features,
            widest=widest,
            style=style_size,
        )
        self.mapping = MappingNetwork(
            domains=self.domains, code=code_size, style=style_size, hidden=hidden
        )
        self.encoder = StyleEncoder(
            dims=dims,
            inputs=outputs,
            domains=self.domains,
            halvings=depth - 2,
            features=features,
            widest=widest,
            style=style_size,
        )
        self.discriminator = DomainDiscriminator(
            dims=dims,
            inputs=outputs,
            domains=self.domains,
            halvings=depth - 2,
            features=features,
            widest=widest,
        )
        half = torch.randn(
            CODES // 2, code_size, generator=torch.Generator().manual_seed(0), device="cpu"
        )
        self.register_buffer("codes", torch.cat([half, -half]))
        self.style = style
        self.diversity = diversity
        self.cycle = cycle
        self.r1 = r1
        self.fade = fade
        self.lazy = lazy
        self.l1 = l1

    def play(self, batch: Batch) -> Iterator[Turn]:
        """Discriminator twice, then generator, mapping and encoder, then the generator alone."""
        images = crossing(self, batch)
        shape = (len(images.source), self.code_size)
        code, other_code = (torch.randn(shape, device=images.source.device) for _ in range(2))

        style = self.mapping(code, images.asked)
        fake = self.generated(images.source, style)
        yield Turn("discriminator", **self.judged(images, fake, "latent"))
        with torch.no_grad():
            referred = self.generated(images.source, self.encoder(images.real, images.asked))
        yield Turn("discriminator", **self.judged(images, referred, "reference"))

        with torch.no_grad():
            other = self.generated(images.source, self.mapping(other_code, images.asked))
        with frozen(self.discriminator):
            losses = self.pleased(images, fake, style, other, "latent")
        if self.l1:
            mean = self.generated(images.source, self.mean_styles()[images.asked])
            losses["latent_l1"] = self.l1 * absolute_error(mean, images.real, images.weight)
        yield from together(self, losses, "generator", "mapping", "encoder")

        with frozen(self.discriminator, self.encoder):
            style = self.encoder(images.real, images.asked)
            fake = self.generated(images.source, style)
            with torch.no_grad():
                other_style = self.encoder(images.other, images.asked)
                other = self.generated(images.source, other_style)
            losses = self.pleased(images, fake, style, other, "reference")
        if self.l1:
            losses["reference_l1"] = self.l1 * absolute_error(fake, images.real, images.weight)
        yield Turn("generator", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image in the mean style of the contrast asked for."""
        return self.generated(source, self.mean_styles()[asked_domain(self, source, target)])

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image in the style that the code (B, code_size) maps to."""
        return self.generated(source, self.mapping(code, asked_domain(self, source, target)))

    def generated(self, source: Tensor, style: Tensor) -> Tensor:
        """The generator's image in the given styles (B, style) for a source of any size."""
        padded, crop = pad_to_multiple(source, self.generator.multiple)
        fake: Tensor = self.generator(padded, style)
        return fake[crop]

    def mean_styles(self) -> Tensor:
        """(domains, style): the mean over the codes of the mapping network's styles."""
        styles: Tensor = self.mapping(self.codes)
        return styles.mean(0)

    def diversity_weight(self) -> Tensor:
        """Scalar: falls linearly with the rounds played, from `diversity` to zero."""
        return self.diversity * (1 - self.rounds / self.fade).clamp_min(0)

    def judged(self, images: Crossing, fake: Tensor, kind: str) -> dict[str, Tensor]:
        """What the discriminator minimises: both cross entropies, whole, and R1."""
        with_r1 = bool(self.r1) and int(self.rounds) % self.lazy == 0
        real = images.real.detach().requires_grad_(with_r1)
        with torch.autocast(real.device.type, enabled=False):  # slopes need the digits
            real_logits = self.discriminator(real.float(), images.asked)
            r1 = self.lazy * self.r1 * r1_penalty(real_logits, real) if with_r1 else None
        fake_logits = self.discriminator(fake.detach(), images.asked)
        losses = {f"{kind}_contest": 2 * contest(real_logits, fake_logits)}
        return losses if r1 is None else losses | {f"{kind}_r1": r1}

    def pleased(
        self, images: Crossing, fake: Tensor, style: Tensor, other: Tensor, kind: str
    ) -> dict[str, Tensor]:
        """What the others minimise; `other` is the same source in another style."""
        back = self.generated(slab(fake, self.slices), self.encoder(images.image, images.origin))
        found = self.encoder(fake, images.asked)
        return {
            f"{kind}_gan": deceive(self.discriminator(fake, images.asked)),
            f"{kind}_style": self.style * absolute_error(found, style),
            f"{kind}_diversity": -self.diversity_weight() * absolute_error(fake, other.detach()),
            f"{kind}_cycle": self.cycle * absolute_error(back, images.image, images.weight),
        }
