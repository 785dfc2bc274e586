"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593; code junyanz/pytorch-CycleGAN-and-pix2pix).

Two generators and two discriminators, one of each for either side, and no pairs: an image that
went to the other side and came back must be what it was, and an image that is already of the
target's side must be left alone. Least-squares game. The generators move first; then the
discriminators judge what was drawn before that move, mixed with images of earlier rounds.

What differs from the authors' code, and why:
- Both discriminators move in one turn, by the sum of their losses; they share one optimiser there
  too, and no parameter, so it is the same step.
- Errors of the way back and of the identity are weighted by the batch's weight of each voxel.
- Sizes that do not divide are padded by their last voxels. Instance norm takes its statistics from
  the image at hand, so padding and cropping change the image a little.
- Added: 3-D (32 features and 6 blocks, padded by replication), and neighbouring slices: a
  generator sees a slab and draws its centre slice, which goes back as a slab of itself.
- Added: discriminators that judge a slice together with the next one up, so that what does not fit
  together from slice to slice gives a drawn image away.

The residual generator is blind to the gain and offset of its input, its convolutions being padded
by reflection and normalised at once: how bright the source was cannot come through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.memory import ImagePool
from medi2i.networks.pix2pix import PatchDiscriminator, Pix2pixGenerator, initialise_normal
from medi2i.networks.resnet import ResnetGenerator
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["CycleGAN"]


class CycleGAN(Translator):
    """Unpaired translation by cycle consistency, both directions at once.

    Args:
        generator: "resnet", which the authors prefer where the two sides look alike, or "unet".
        features: channels of the generators' first stage; None chooses 64 in 2-D, 32 in 3-D.
        blocks: of the residual generator; None chooses 9 in 2-D (the authors' for windows of 256;
            6 for 128) and 6 in 3-D.
        depth: halvings of the U-Net; None chooses 8 in 2-D (256 to 1) and 4 in 3-D.
        patch: strided layers of the discriminators; None chooses 3 (70 voxels) in 2-D, 2 in 3-D.
        patch_features: channels of their first layer.
        pool: generated images that are kept for either discriminator; 0 for none.
        game: "least-squares" or "vanilla".
        cycle: weight of the way back, from either side.
        identity: share of `cycle` by which an image of the target's side must stay as it is.
        judged: neighbouring slices that the discriminators see at once: 1, the authors', or 2.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, an unknown generator, or
            slices to judge that are not 1 or 2, or of patches.
    """

    paper = Paper("Zhu et al. 2017, arXiv:1703.10593")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "generators": ("a_to_b", "b_to_a"),
        "discriminators": ("judge_a", "judge_b"),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        generator: Literal["resnet", "unet"] = "resnet",
        features: int | None = None,
        blocks: int | None = None,
        depth: int | None = None,
        patch: int | None = None,
        patch_features: int = 64,
        pool: int = 50,
        game: Game = "least-squares",
        cycle: float = 10.0,
        identity: float = 0.5,
        judged: int = 1,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if generator not in ("resnet", "unet"):
            raise UsageError(f'generator is "{generator}"; "resnet" or "unet" was expected')
        flat = dims == 2
        if judged not in (1, 2) or (judged == 2 and not flat):
            raise UsageError(
                f"judged is {judged} with dims {dims}; 1 was expected, or 2 for slices: patches "
                "hold their neighbouring slices"
            )
        features = features or (64 if flat else 32)

        def draws() -> ResnetGenerator | Pix2pixGenerator:
            if generator == "unet":
                return Pix2pixGenerator(
                    dims=dims,
                    inputs=self.channels,
                    outputs=outputs,
                    depth=depth or (8 if flat else 4),
                    features=features,
                    kind="instance",
                    dropout=0.0,
                )
            return ResnetGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                features=features,
                blocks=blocks or (9 if flat else 6),
                edge="reflect" if flat else "replicate",
            )

        self.a_to_b, self.b_to_a = draws(), draws()
        self.judge_a, self.judge_b = (
            PatchDiscriminator(
                dims=dims,
                inputs=judged * outputs,
                layers=(3 if flat else 2) if patch is None else patch,
                features=patch_features,
                kind="instance",
            )
            for _ in range(2)
        )
        initialise_normal(self)
        self.pool_a, self.pool_b = ImagePool(pool), ImagePool(pool)
        self.game: Game = game
        self.cycle = cycle
        self.identity = identity
        self.judged = judged
        self.motion = "still" if judged > 1 else ""  # batches bring the next slice; it may move

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The generators move first; then the discriminators, by images old and new."""
        both = sides(self, batch)
        fake_b, fake_a = self.drawn(self.a_to_b, both.a), self.drawn(self.b_to_a, both.b)
        next_a, next_b = batch.neighbour, batch.target_neighbour
        shown_b = self.with_next(fake_b, next_a, self.a_to_b)
        shown_a = self.with_next(fake_a, next_b, self.b_to_a)
        with frozen(self.judge_a, self.judge_b):
            losses = {
                "gan_b": deceive(self.judge_b(shown_b), self.game),
                "gan_a": deceive(self.judge_a(shown_a), self.game),
            }
        back_a = self.drawn(self.b_to_a, slab(fake_b, self.slices))
        back_b = self.drawn(self.a_to_b, slab(fake_a, self.slices))
        losses["cycle_a"] = self.cycle * absolute_error(back_a, both.image_a, both.weight_a)
        losses["cycle_b"] = self.cycle * absolute_error(back_b, both.image_b, both.weight_b)
        losses |= self.reconstruction_losses("a", both.image_a, back_a, both.weight_a)
        losses |= self.reconstruction_losses("b", both.image_b, back_b, both.weight_b)
        if self.identity:
            share = self.cycle * self.identity
            same_b, same_a = self.drawn(self.a_to_b, both.b), self.drawn(self.b_to_a, both.a)
            losses["identity_b"] = share * absolute_error(same_b, both.image_b, both.weight_b)
            losses["identity_a"] = share * absolute_error(same_a, both.image_a, both.weight_a)
        yield Turn("generators", **losses)
        old_b, old_a = self.pool_b(shown_b), self.pool_a(shown_a)
        real_b, real_a = self.with_next(both.image_b, next_b), self.with_next(both.image_a, next_a)
        yield Turn(
            "discriminators",
            contest_b=contest(self.judge_b(real_b), self.judge_b(old_b), self.game),
            contest_a=contest(self.judge_a(real_a), self.judge_a(old_a), self.game),
        )

    def with_next(
        self,
        image: Tensor,
        neighbour: Neighbour | None,
        generator: ResnetGenerator | Pix2pixGenerator | None = None,
    ) -> Tensor:
        """What a discriminator sees: (B, judged * C, *spatial), the image and the next slice up.

        Args:
            image: (B, C, *spatial).
            neighbour: of what it is, or was drawn from.
            generator: that drew it, and shall draw the next; None for a real image.

        Raises:
            UsageError: two are judged at once, and the batch brings no neighbours.
        """
        if self.judged == 1:
            return image
        if neighbour is None or neighbour.slab is None:
            raise UsageError(
                "two slices are judged at once, but this batch brings no neighbours: call `follow` "
                "on the windows"
            )
        slab = neighbour.slab
        following = self.drawn(generator, slab) if generator else self.centre(slab)
        return torch.cat([image, following], dim=1)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One pass of the generator from the source's side to the target's."""
        del target  # the task is fixed
        return self.drawn(self.a_to_b, source)

    @property
    def way_back(self) -> Callable[[Tensor], Tensor]:
        """One pass of the other generator."""
        return lambda target: self.drawn(self.b_to_a, target)

    def reconstruction_losses(
        self, side: Literal["a", "b"], image: Tensor, back: Tensor, weight: Tensor | None
    ) -> dict[str, Tensor]:
        """What else an image that came back to its side shall be like; CycleGAN asks no more."""
        del side, image, back, weight
        return {}

    def drawn(self, generator: ResnetGenerator | Pix2pixGenerator, source: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, outputs, *spatial): an image of any size."""
        # a residual block reflects, and a norm averages, over two voxels at the least
        least = 2 if isinstance(generator, ResnetGenerator) else 1
        padded, crop = pad_to_multiple(source, generator.multiple, least=least)
        image: Tensor = generator(padded)
        return image[crop]
