"""DRIT (Lee et al. 2018, arXiv:1808.00948; DRIT++ 2020, arXiv:1905.01270; code HsinYingLee/DRIT).

An image is content, in a space that both domains share, and an attribute, a few numbers of its own
domain. A discriminator of contents tries to tell which domain they came from and the encoders let
it learn nothing. Translations swap the attributes of two images, and swapped back they must give
the images again; random attributes must be found in what was drawn with them, and two of them must
give two images. In two rounds of three only the content discriminator moves, with its gradient
clipped to norm 5. In the third: the discriminators of images, the content discriminator, encoders
and decoders together, and content encoder and decoder once more for the random attributes, a move
that leaves the attribute encoder where it is. The first half of a batch is encoded; the second
only gives the discriminators of random translations their real images.

What differs from the authors' code, and why:
- The second move of the encoders sees new content and images, computed with the weights that the
  first has left, for the same random attributes. Theirs goes back through images from before that
  move with weights from behind it, which current versions of PyTorch refuse.
- Where a batch is no pair it is split in halves; a single image serves both purposes.
- The distance between two attributes is kept from zero, by which mode seeking divides.
- The norms that the authors' options name in the discriminators are never applied there, so there
  are none.
- `translate` gives the image of the attribute zero, the prior's mean.
- Added: 3-D (half the features, a content discriminator of kernel 4, replicated edges), weights of
  voxels, and neighbouring slices: the content of a slab, the attribute of its centre slice; only
  the centre is drawn, and goes back as a slab of itself.

Use float32 or bfloat16 (see `systems.joint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, kl_from_standard_normal
from medi2i.losses.multiscale import contested, deceived
from medi2i.losses.seeking import mode_seeking
from medi2i.networks.drit import (
    ContentDiscriminator,
    Convolution,
    attribute_decoder,
    attribute_encoder,
    initialise_weights,
    leaky_content_encoder,
)
from medi2i.networks.layers import normal_sample, pad_to_multiple
from medi2i.networks.munit import MultiScaleDiscriminator, Residual, cropped
from medi2i.networks.resnet import Edge
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided
from medi2i.systems.joint import together
from medi2i.systems.unit import noisy

__all__ = ["DRIT"]

PAIRS = (("a", "b"), ("b", "a"))
"""Each domain, and the other one."""


class DRIT(Translator):
    """Diverse unpaired translation by a shared content and attributes of each domain.

    Args:
        code: numbers of an attribute.
        attribute: "concat" joins it to the channels, for domains that differ in appearance, and
            encodes a normal distribution; "transform" mixes it into residual blocks, for domains
            that differ in shape, and encodes a point.
        features: channels of the first layer of all networks; None chooses 64 in 2-D, 32 in 3-D.
        blocks: residual blocks of each content encoder and decoder.
        layers, scales: of the discriminators of images.
        spectral: spectral norm in these.
        content_layers, content_kernel: of the content discriminator; None chooses 3 layers of
            kernel 7 in 2-D, which windows of 216 to 256 are made for, and 2 of 4 in 3-D.
        every: all players move in every so-many-th round, the content discriminator in all.
        gan, content_gan, recon, cycle, kl, kl_content, regression, seeking: weights; `kl` weighs
            a sum over batch and code with "concat", a mean with "transform". Without `seeking` no
            second random attribute is drawn.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, `code` or `every` is less
            than 1, or `code` is odd and joins channels.
    """

    paper = Paper("Lee et al. 2020, arXiv:1905.01270")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "content_discriminator": ("judge_content",),
        "discriminators": ("judge", "judge_random"),
        "generators": ("content", "content_shared", "decoder", "decoder_shared"),
        "attributes": ("attribute",),
    }
    one_to_many = True

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        code: int = 8,
        attribute: Literal["concat", "transform"] = "concat",
        features: int | None = None,
        blocks: int = 3,
        layers: int = 4,
        scales: int = 3,
        spectral: bool = False,
        content_layers: int | None = None,
        content_kernel: int | None = None,
        every: int = 3,
        gan: float = 1.0,
        content_gan: float = 1.0,
        recon: float = 10.0,
        cycle: float = 10.0,
        kl: float = 0.01,
        kl_content: float = 0.01,
        regression: float = 10.0,
        seeking: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if code < 1 or every < 1:
            raise UsageError(f"code is {code} and every {every}; at least 1 was expected of each")
        flat, concat = dims == 2, attribute == "concat"
        features = features or (64 if flat else 32)
        edge: Edge = "reflect" if flat else "replicate"
        wide = 4 * features

        def judges() -> nn.Module:
            return MultiScaleDiscriminator(
                dims=dims,
                inputs=outputs,
                features=features,
                layers=layers,
                scales=scales,
                slope=0.01,
                edge=edge,
            )

        self.content = _each(
            lambda: leaky_content_encoder(dims, self.channels, features, blocks=blocks, edge=edge)
        )
        self.content_shared = Residual(dims, wide, edge)
        self.attribute = _each(
            lambda: attribute_encoder(dims, outputs, features, code, normal=concat, edge=edge)
        )
        self.decoder = _each(
            lambda: attribute_decoder(
                dims, wide, outputs, code, joined=concat, blocks=blocks, edge=edge
            )
        )
        self.decoder_shared = Residual(dims, wide, edge) if concat else nn.Identity()
        self.judge, self.judge_random = _each(judges), _each(judges)
        self.judge_content = ContentDiscriminator(
            dims=dims,
            channels=wide,
            layers=(3 if flat else 2) if content_layers is None else content_layers,
            kernel=content_kernel or (7 if flat else 4),
            edge=edge,
        )
        initialise_weights(self)
        for judge in (self.judge, self.judge_random) if spectral else ():
            for layer in list(judge.modules()):
                if isinstance(layer, Convolution):
                    parametrizations.spectral_norm(layer)
        self.code_size = code
        self.concat = concat
        self.every = every
        self.gan, self.content_gan = gan, content_gan
        self.recon, self.cycle = recon, cycle
        self.kl, self.kl_content = kl, kl_content
        self.regression, self.seeking = regression, seeking

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The content discriminator; in every `every`-th round all, critics before encoders."""
        images = sides(self, batch)
        half = max(1, len(batch) // 2)
        slabs = {"a": images.a[:half], "b": images.b[:half]}
        image = {"a": images.image_a, "b": images.image_b}
        real = {d: image[d][:half] for d in "ab"}
        all_move = (int(self.rounds) + 1) % self.every == 0
        with torch.set_grad_enabled(all_move):
            content = {d: noisy(self.content_of(d, slabs[d])) for d in "ab"}
        if not all_move:
            yield from self.content_turn(content)
            return

        found = {d: self.attribute_of(d, real[d]) for d in "ab"}
        crossed = {d: self.drawn(d, content[o], found[d][0], real[o]) for d, o in PAIRS}
        codes = list(
            batch.source.new_empty(2 if self.seeking else 1, half, self.code_size).normal_()
        )
        with torch.no_grad():
            random = {d: [self.drawn(d, content[o], z, real[o]) for z in codes] for d, o in PAIRS}
        losses = {}
        for d in "ab":
            judge, judge_random = self.judge[d], self.judge_random[d]
            fake = crossed[d].detach()
            losses[f"contest_{d}"] = contested(judge(real[d]), judge(fake), "vanilla")
            others = judge_random(image[d][half:] if len(batch) > half else real[d])
            contests = [contested(others, judge_random(fake), "vanilla") for fake in random[d]]
            losses[f"contest_random_{d}"] = torch.stack(contests).sum()
        yield Turn("discriminators", **losses)
        yield from self.content_turn(content)

        again = {d: slab(crossed[d], self.slices) for d in "ab"}
        found_content = {d: noisy(self.content_of(o, again[o])) for d, o in PAIRS}
        heavy = {"a": images.weight_a, "b": images.weight_b}
        weight = {d: None if w is None else w[:half] for d, w in heavy.items()}
        losses = {}
        with frozen(self.judge, self.judge_content):
            for d in "ab":
                own, _, divergence = found[d]
                found_own, *_ = self.attribute_of(d, crossed[d])
                recon = self.drawn(d, content[d], own, real[d])
                back = self.drawn(d, found_content[d], found_own, real[d])
                logits = self.judge_content(content[d])
                losses |= {
                    f"gan_{d}": self.gan * deceived(self.judge[d](crossed[d]), "vanilla"),
                    f"content_gan_{d}": self.content_gan * contest(logits, logits),  # towards 1/2
                    f"recon_{d}": self.recon * absolute_error(recon, real[d], weight[d]),
                    f"cycle_{d}": self.cycle * absolute_error(back, real[d], weight[d]),
                    f"kl_{d}": self.kl * divergence,
                    f"kl_content_{d}": self.kl_content * content[d].square().mean(),
                }
        yield from together(self, losses, "generators", "attributes")
        yield self.second_turn(slabs, real, codes)

    def content_turn(self, content: dict[str, Tensor]) -> Iterator[Turn]:
        """The content discriminator learns that a's contents are 0 and b's 1."""
        zero, one = (self.judge_content(content[d].detach()) for d in "ab")
        losses = {"contest": 2 * contest(one, zero)}
        return together(self, losses, "content_discriminator", clip=5.0)

    def second_turn(
        self, slabs: dict[str, Tensor], real: dict[str, Tensor], codes: list[Tensor]
    ) -> Turn:
        """Content encoder and decoder learn from images with random attributes."""
        content = {d: noisy(self.content_of(d, slabs[d])) for d in "ab"}
        losses = {}
        for d, o in PAIRS:
            fakes = [self.drawn(d, content[o], z, real[o]) for z in codes]
            with frozen(self.judge_random, self.attribute):
                judged = [self.judge_random[d](fake) for fake in fakes]
                gan = torch.stack([deceived(logits, "vanilla") for logits in judged])
                _, mean, _ = self.attribute_of(d, fakes[0])
            losses[f"gan_random_{d}"] = self.gan * gan.sum()
            losses[f"regression_{d}"] = self.regression * absolute_error(mean, codes[0])
            if self.seeking:
                losses[f"seeking_{d}"] = self.seeking * mode_seeking(*fakes, *codes)
        return Turn("generators", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of the attribute zero, the mean of the prior."""
        return self.sample(source, source.new_zeros(len(source), self.code_size), target=target)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of an attribute; see :meth:`Translator.sample`."""
        del target  # the task is fixed
        return self.drawn("b", self.content_of("a", source), code, source)

    def code_of(self, image: Tensor) -> Tensor:
        """(B, outputs, *spatial) -> (B, code): the attribute of a target image, to imitate it."""
        return self.attribute_of("b", image)[1]

    def content_of(self, domain: str, image: Tensor) -> Tensor:
        """The content of a slab of any size, without noise; its far edge is continued."""
        padded, _ = pad_to_multiple(image, 4, least=2)
        content: Tensor = self.content_shared(self.content[domain](padded))
        return content

    def attribute_of(self, domain: str, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """An image's attribute: a draw and the mean, (B, code), and the divergence, a scalar."""
        encoder = self.attribute[domain]
        if not self.concat:
            point = encoder(image)
            return point, point, point.square().mean()
        mean, log_variance = encoder(image)
        draw = normal_sample(mean, log_variance)
        return draw, mean, kl_from_standard_normal(mean, log_variance)

    def drawn(self, domain: str, content: Tensor, code: Tensor, like: Tensor) -> Tensor:
        """The image of content and attribute, of the spatial size of `like`."""
        image: Tensor = self.decoder[domain](self.decoder_shared(content), code)
        return cropped(image, like)


def _each(make: Callable[[], nn.Module]) -> nn.ModuleDict:
    """A network for each domain."""
    return nn.ModuleDict({domain: make() for domain in "ab"})
