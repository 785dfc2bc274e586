"""MUNIT (Huang et al. 2018, arXiv:1804.04732; code NVlabs/MUNIT).

An image is content, a map that both domains understand, and style, a few numbers that only its own
domain does. A translation keeps the content and takes a style of the other domain, drawn from
N(0, I) or found in an example. Both domains have an autoencoder and a discriminator of three
scales, and share nothing. A round is the authors': the discriminators against translations in
random styles, then the autoencoders with other random styles.

What differs from the authors' code, and why:
- The perceptual term is left out: it needs the weights of VGG-16, and the authors do not use it
  below 512 voxels.
- `cycle` is 10 by default, as with the authors' photographs and as advised for MRI, where a fixed
  content is the point; their drawings of shoes and bags have 0.
- `translate` gives the image of the style of zeros, the prior's mean; with `guided`, that of the
  mean style of the real targets of training, which is kept as a buffer.
- Their three-dimensional tensors of style are plain vectors, and AdaIN is not a batch norm in
  disguise: the same numbers.
- Added: 3-D (half the features, convolutions of 3 instead of 5 behind a doubling, replicated
  edges), weights of voxels, and neighbouring slices: the content of a slab, the style of its
  centre slice; only the centre is drawn, and goes back as a slab of itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error
from medi2i.losses.multiscale import contested, deceived
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.munit import MultiScaleDiscriminator, MUNITGenerator, cropped
from medi2i.networks.resnet import Edge
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["MUNIT"]


class MUNIT(Translator):
    """Diverse unpaired translation by content and style.

    Args:
        code: numbers of a style.
        features: channels of the first layer of all networks; None chooses 64 in 2-D, 32 in 3-D.
        halvings: of the content.
        blocks: residual blocks of each encoder and decoder.
        hidden: width of the perceptron that makes scales and shifts of a style.
        layers, scales: of the discriminators.
        gan, recon, content, style, cycle: weights of the paper; `recon` within a domain, `cycle`
            with the image's own style on the way back.
        guided: `translate` takes the mean style of the targets of training, not the prior's.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, or no number in the code.
    """

    paper = Paper("Huang et al. 2018, arXiv:1804.04732")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminators": ("discriminator_a", "discriminator_b"),
        "generators": ("generator_a", "generator_b"),
    }
    one_to_many = True

    mean_style: Tensor
    """(code,): running mean of the styles of real images of domain b."""

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        code: int = 8,
        features: int | None = None,
        halvings: int = 2,
        blocks: int = 4,
        hidden: int = 256,
        layers: int = 4,
        scales: int = 3,
        gan: float = 1.0,
        recon: float = 10.0,
        content: float = 1.0,
        style: float = 1.0,
        cycle: float = 10.0,
        guided: bool = False,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if code < 1:
            raise UsageError(f"code is {code}; at least 1 number was expected, or use unit")
        flat = dims == 2
        features = features or (64 if flat else 32)
        edge: Edge = "reflect" if flat else "replicate"
        self.generator_a, self.generator_b = (
            MUNITGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                features=features,
                halvings=halvings,
                blocks=blocks,
                style=code,
                hidden=hidden,
                kernel=5 if flat else 3,
                edge=edge,
            )
            for _ in range(2)
        )
        self.discriminator_a, self.discriminator_b = (
            MultiScaleDiscriminator(
                dims=dims,
                inputs=outputs,
                features=features,
                layers=layers,
                scales=scales,
                edge=edge,
            )
            for _ in range(2)
        )
        self.register_buffer("mean_style", torch.zeros(code))
        self.code_size = code
        self.gan = gan
        self.recon = recon
        self.content = content
        self.style = style
        self.cycle = cycle
        self.guided = guided

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The discriminators move first, then the autoencoders, with other random styles."""
        images = sides(self, batch)
        a, b, image_a, image_b = images.a, images.b, images.image_a, images.image_b
        with torch.no_grad():
            fake_a = self.drawn("a", self.content_of("b", b), self.random_styles(b), image_b)
            fake_b = self.drawn("b", self.content_of("a", a), self.random_styles(a), image_a)
        yield Turn(
            "discriminators",
            contest_a=self.gan * self.contested(self.discriminator_a, image_a, fake_a),
            contest_b=self.gan * self.contested(self.discriminator_b, image_b, fake_b),
        )

        content_a, content_b = self.content_of("a", a), self.content_of("b", b)
        own_a, own_b = self.generator_a.style(image_a), self.generator_b.style(image_b)
        self.remember(own_b.detach())
        style_a, style_b = self.random_styles(b), self.random_styles(a)
        fake_a = self.drawn("a", content_b, style_a, image_b)
        fake_b = self.drawn("b", content_a, style_b, image_a)
        found_b = self.content_of("a", slab(fake_a, self.slices))
        found_a = self.content_of("b", slab(fake_b, self.slices))
        again_a = self.drawn("a", content_a, own_a, image_a)
        again_b = self.drawn("b", content_b, own_b, image_b)
        losses = {
            "recon_a": self.recon * absolute_error(again_a, image_a, images.weight_a),
            "recon_b": self.recon * absolute_error(again_b, image_b, images.weight_b),
            "content_a": self.content * absolute_error(found_a, content_a),
            "content_b": self.content * absolute_error(found_b, content_b),
            "style_a": self.style * absolute_error(self.generator_a.style(fake_a), style_a),
            "style_b": self.style * absolute_error(self.generator_b.style(fake_b), style_b),
        }
        if self.cycle:
            back_a = self.drawn("a", found_a, own_a, image_a)
            back_b = self.drawn("b", found_b, own_b, image_b)
            losses["cycle_a"] = self.cycle * absolute_error(back_a, image_a, images.weight_a)
            losses["cycle_b"] = self.cycle * absolute_error(back_b, image_b, images.weight_b)
        with frozen(self.discriminator_a, self.discriminator_b):
            losses["gan_a"] = self.gan * deceived(self.discriminator_a(fake_a), "least-squares")
            losses["gan_b"] = self.gan * deceived(self.discriminator_b(fake_b), "least-squares")
        yield Turn("generators", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of the style of zeros, or of the mean style of real targets (`guided`)."""
        style = self.mean_style if self.guided else torch.zeros_like(self.mean_style)
        return self.sample(source, style.expand(len(source), -1), target=target)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of a style; see :meth:`Translator.sample`."""
        del target  # the task is fixed
        return self.drawn("b", self.content_of("a", source), code, source)

    def code_of(self, image: Tensor) -> Tensor:
        """(B, outputs, *spatial) -> (B, code): the style of a target image, to imitate it."""
        return self.generator_b.style(image)

    def content_of(self, domain: str, image: Tensor) -> Tensor:
        """The content of a slab of any size; its far edge is continued to a multiple."""
        generator = self._generator(domain)
        padded, _ = pad_to_multiple(image, generator.multiple, least=2)
        return generator.content(padded)

    def drawn(self, domain: str, content: Tensor, style: Tensor, like: Tensor) -> Tensor:
        """The image of content and style, of the spatial size of `like`."""
        image: Tensor = self._generator(domain)(content, style)
        return cropped(image, like)

    def random_styles(self, like: Tensor) -> Tensor:
        """(B, code) from N(0, I), for as many as there are in `like`."""
        return torch.randn(len(like), self.code_size, device=like.device)

    def contested(self, judge: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """What a discriminator minimises, over its scales."""
        return contested(judge(real), judge(fake), "least-squares")

    @torch.no_grad()
    def remember(self, styles: Tensor) -> None:
        """Take the styles of real targets into their mean: of all rounds, later of about 1000."""
        share = 1 / min(int(self.rounds) + 1, 1000)
        self.mean_style.lerp_(styles.mean(0).to(self.mean_style.dtype), share)

    def _generator(self, domain: str) -> MUNITGenerator:
        return self.generator_a if domain == "a" else self.generator_b
