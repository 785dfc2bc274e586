"""CUT, FastCUT and SinCUT (Park et al. 2020, arXiv:2007.15651).

One generator, one way. What keeps the content is a contrast of patches: the generator's own
encoder looks at an image and at its translation, and what it sees at a position of the translation
must be more like what it sees at that position of the image than like anything else in that image.
The discriminator moves first; then generator and projection together.

- cut: the contrast also for images of the target's side, which the generator shall leave alone.
- fastcut: no such identity, a tenfold weight, and images mirrored in half of the rounds, with what
  is seen mirrored back.
- sincut: each side a single image in crops of `size`; StyleGAN2's layers, the vanilla game with R1,
  one patch of each crop against those of all other crops, and an L1 identity.

What differs from the authors' code (taesungp/contrastive-unpaired-translation), and why:
- The projection is there from the beginning (they make it in the first round), and positions come
  from torch's random numbers, so that a run resumes exactly.
- Positions are drawn in proportion to the batch's weight of each voxel. Air is like air, and a
  false negative for it; `data.background: 1.0` makes all positions alike, as in the paper.
- A translated slice enters the encoder as a slab of itself, and for the contrast so does the slice
  it was drawn from: slice is compared with slice.
- Images are mirrored left to right, which is the first axis here. Windows should divide by 4, so
  that padding, which is at the far side, does not shift what is mirrored back.
- SinCUT's noise is for training; a translation has none. Its networks take any number of channels.
- The pixel identity of SinCUT (`l1`) can be switched on for all. Added: 3-D.

Do not expect pixels to stay: a contrast of patches matches what the target's side looks like, and
where one side has lesions more often than the other, it draws or removes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive, r1_penalty
from medi2i.losses.adversarial import Game
from medi2i.losses.contrastive import patch_contrast
from medi2i.networks.antialias import without_strides
from medi2i.networks.bicyclegan import initialise_xavier
from medi2i.networks.cut import PatchProjection, draw_positions
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.networks.resnet import Edge, ResnetGenerator
from medi2i.networks.sincut import SinCUTGenerator, TileDiscriminator
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["CUT"]

Variant = Literal["cut", "fastcut", "sincut"]


@dataclass(frozen=True)
class Recipe:
    """What makes a variant."""

    nce: float
    patches: int
    identity: bool = False
    mirrored: bool = False
    l1: float = 0.0
    r1: float = 0.0
    game: Game = "least-squares"


RECIPES: dict[Variant, Recipe] = {
    "cut": Recipe(1.0, 256, identity=True),
    "fastcut": Recipe(10.0, 256, mirrored=True),
    "sincut": Recipe(4.0, 1, identity=True, l1=1.0, r1=1.0, game="vanilla"),
}


class CUT(Translator):
    """One-sided translation by contrast of patches.

    Args:
        variant: "cut", "fastcut" or "sincut".
        features: channels of the generator at full size; None chooses 64 in 2-D and 32 in 3-D, for
            sincut 80 and 40.
        blocks: residual blocks; None chooses 9 in 2-D and 6 in 3-D, for sincut 3 on either side.
        antialiased: halve by blurs and double by interpolation; False is CycleGAN's generator and
            discriminator. Sincut always is.
        patch: strided layers of the discriminator; None chooses 3 in 2-D and 2 in 3-D.
        patch_features: channels of its first layer; None chooses 64, for sincut 32.
        size: side of the tiles that sincut's discriminator judges, a power of two.
        code: numbers by which patches are compared.
        temperature: by which their likenesses are divided.
        patches: positions that are compared in each layer; None chooses 256, for sincut 1 of each
            crop.
        nce: weight of the contrast; None chooses 1, for fastcut 10, for sincut 4.
        gan: weight of the adversarial term.
        l1: weight of the pixel identity; None chooses 0, for sincut 1.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, an unknown variant, or
            fewer than 1 patch.
    """

    paper = Paper("Park et al. 2020, arXiv:2007.15651")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminator": ("discriminator",),
        "generator": ("generator", "projection"),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        variant: Variant = "cut",
        features: int | None = None,
        blocks: int | None = None,
        antialiased: bool = True,
        patch: int | None = None,
        patch_features: int | None = None,
        size: int = 64,
        code: int = 256,
        temperature: float = 0.07,
        patches: int | None = None,
        nce: float | None = None,
        gan: float = 1.0,
        l1: float | None = None,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if variant not in RECIPES:
            raise UsageError(f'variant is "{variant}"; {", ".join(RECIPES)} are known')
        self.recipe = RECIPES[variant]
        self.patches = self.recipe.patches if patches is None else patches
        if self.patches < 1:
            raise UsageError(f"patches is {self.patches}; at least 1 was expected")
        self.nce = self.recipe.nce if nce is None else nce
        self.l1 = self.recipe.l1 if l1 is None else l1
        self.gan, self.temperature = gan, temperature
        self.across = variant == "sincut"
        flat = dims == 2
        self.generator: ResnetGenerator | SinCUTGenerator
        self.discriminator: nn.Module
        if variant == "sincut":
            self.generator = SinCUTGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                features=features or (80 if flat else 40),
                blocks=blocks or 3,
            )
            self.discriminator = TileDiscriminator(
                dims=dims, inputs=outputs, size=size, features=patch_features or 32
            )
            last = len(self.generator.widths) - 1
            self.looked_at = sorted({1, min(3, last)})
            widths = [self.channels, *(self.generator.widths[place] for place in self.looked_at)]
        else:
            edge: Edge = "reflect" if flat else "replicate"
            features, blocks = features or (64 if flat else 32), blocks or (9 if flat else 6)
            self.generator = ResnetGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                features=features,
                blocks=blocks,
                edge=edge,
                antialiased=antialiased,
            )
            judge = PatchDiscriminator(
                dims=dims,
                inputs=outputs,
                layers=(3 if flat else 2) if patch is None else patch,
                features=patch_features or 64,
                kind="instance",
            )
            if antialiased:
                judge.judge = without_strides(judge.judge, edge)
            self.discriminator = judge
            initialise_xavier(self)
            self.looked_at = sorted({0, min(4, blocks - 1)})
            widths = [self.channels, 2 * features, *[4 * features] * (1 + len(self.looked_at))]
        if self.nce:
            self.projection = PatchProjection(widths, code)
            initialise_xavier(self.projection)
        else:  # nothing to compare, so nothing that learns to
            self.players = {**self.players, "generator": ("generator",)}  # type: ignore[misc]

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The discriminator first, then generator and projection."""
        both = sides(self, batch)
        mirrored = self.recipe.mirrored and bool(torch.rand(()) < 0.5)
        compared = bool(self.nce) and self.recipe.identity
        source = torch.cat([both.a, both.b]) if compared or self.l1 else both.a
        drawn = self.generated(source.flip(2) if mirrored else source)
        fake, same = drawn[: len(batch)], drawn[len(batch) :]
        yield Turn("discriminator", **self.judged(both.image_b, fake))

        with frozen(self.discriminator):
            losses = {"gan": self.gan * deceive(self.discriminator(fake), self.recipe.game)}
        if self.nce:
            each = self.nce / 2 if self.recipe.identity else self.nce
            contrast = self.contrast(both.image_a, fake, both.weight_a, mirrored=mirrored)
            losses["nce"] = each * contrast
        if compared:
            losses["nce_identity"] = each * self.contrast(both.image_b, same, both.weight_b)
        if self.l1:
            same = same.flip(2) if mirrored else same
            losses["l1"] = self.l1 * absolute_error(same, both.image_b, both.weight_b)
        yield Turn("generator", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One pass of the generator."""
        del target  # the task is fixed
        return self.generated(source)

    def generated(self, source: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, outputs, *spatial): an image of any size."""
        padded, crop = pad_to_multiple(source, self.generator.multiple, least=2)
        image: Tensor = self.generator(padded)
        return image[crop]

    def judged(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What the discriminator minimises: both sides, and how steep it is at real images."""
        real = real.detach().requires_grad_(bool(self.recipe.r1))
        if not self.recipe.r1:
            logits, steep = self.discriminator(real), {}
        else:
            with torch.autocast(real.device.type, enabled=False):  # slopes need the digits
                logits = self.discriminator(real.float())
                steep = {"r1": self.recipe.r1 * r1_penalty(logits, real)}
        fakes = self.discriminator(fake.detach())
        return {"contest": contest(logits, fakes, self.recipe.game), **steep}

    def contrast(
        self, image: Tensor, drawn: Tensor, weight: Tensor | None, *, mirrored: bool = False
    ) -> Tensor:
        """How badly patches of `drawn` can be told by those of `image`: the mean over layers.

        Args:
            image, drawn: (B, C, *spatial); `image` gives the keys and gets no gradient.
            weight: (B, 1, *spatial): how likely a voxel is looked at, or None.
            mirrored: `drawn` was made of the mirrored image.
        """
        queries = self.seen(drawn)
        if mirrored:
            queries = [maps.flip(2) for maps in queries]
        with torch.no_grad():
            keys = self.seen(image)
            positions = draw_positions(keys, self.patches, weight)
            keys = self.projection(keys, positions)
        losses = [
            patch_contrast(query, key, temperature=self.temperature, across=self.across)
            for query, key in zip(self.projection(queries, positions), keys, strict=True)
        ]
        return torch.stack(losses).mean()

    def seen(self, image: Tensor) -> list[Tensor]:
        """(B, C, *spatial) -> what the generator's encoder makes of it, layer by layer."""
        padded, _ = pad_to_multiple(slab(image, self.slices), self.generator.multiple, least=2)
        return self.generator.taps(padded, self.looked_at)
