"""DiscoGAN (Kim et al. 2017, arXiv:1703.05192; code SKTBrain/DiscoGAN).

Two generators without skips and two discriminators, one of each for either side, and no pairs.
Next to the adversarial term each generator is to give a batch of images the same mean features
(those that the discriminator sees on its way) as real images have, and each image has to be found
again from its translation. The discriminators move in one round of three, the generators in the
other two, each round with images of its own.

What differs from the authors' code, and why:
- Networks and losses see intensities in [0, 1], as theirs do; medi2i's [-1, 1] is changed at the
  door. The discriminators give logits instead of saturated probabilities, and maps of them where
  windows are larger than 64.
- A round computes what its own player needs. They compute everything in every round, detach
  nothing and step one side; the same gradients, but their running statistics also see the way back
  in the discriminators' rounds.
- Translating uses the running statistics of batch norm, so that a scan does not depend on its
  neighbours in the batch; they sample with those of the batch. In training the statistics gather
  real images and images on their way back alike. With fewer than about 8 images in a batch, take
  `norm: instance`.
- Errors of the way back are weighted by the batch's weight of each voxel.
- Added: 3-D, neighbouring slices (a generator sees a slab and draws its centre slice, which goes
  back as a slab of itself), other depths, and both players in every round (`generator_rounds` 0).
  The paper's ablations, which train one direction, are not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import contest, deceive, squared_error
from medi2i.networks.discogan import DiscoGANDiscriminator, DiscoGANGenerator
from medi2i.networks.layers import Norm, pad_to_multiple
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["DiscoGAN", "mean_feature_distance"]


class DiscoGAN(Translator):
    """Unpaired translation by two coupled adversarial pairs and matched mean features.

    Args:
        depth: halvings of all networks; windows must have at least 4 times 2**depth voxels a side.
        features: channels of their first stage.
        norm: of all networks.
        code: channels of the authors' `extra_layers`, off by default here and there; see
            `DiscoGANGenerator`.
        generator_rounds: the discriminators move in one round, the generators in this many after
            it; 0: both move in every round, the discriminators first.
        gan, matching: weights of the adversarial term and of the mean features.
        rate: share of the way back in the generators' losses; the rest is for the two above.
        early_rate: the share in the first `early_rounds` rounds.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, or a number out of range.
    """

    paper = Paper("Kim et al. 2017, arXiv:1703.05192")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminators": ("judge_a", "judge_b"),
        "generators": ("a_to_b", "b_to_a"),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        depth: int = 4,
        features: int = 64,
        norm: Norm = "batch",
        code: int = 0,
        generator_rounds: int = 2,
        gan: float = 0.1,
        matching: float = 0.9,
        rate: float = 0.5,
        early_rate: float = 0.01,
        early_rounds: int = 10_000,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        for name, share in (("rate", rate), ("early_rate", early_rate)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} is {share:g}; a share from 0 to 1 was expected")
        for name, number in (
            ("generator_rounds", generator_rounds),
            ("early_rounds", early_rounds),
        ):
            if number < 0:
                raise UsageError(f"{name} is {number}; 0 or more was expected")
        self.a_to_b, self.b_to_a = (
            DiscoGANGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                depth=depth,
                features=features,
                kind=norm,
                code=code,
            )
            for _ in range(2)
        )
        self.judge_a, self.judge_b = (
            DiscoGANDiscriminator(
                dims=dims, inputs=outputs, depth=depth, features=features, kind=norm
            )
            for _ in range(2)
        )
        self.generator_rounds = generator_rounds
        self.gan = gan
        self.matching = matching
        self.rate = rate
        self.early_rate = early_rate
        self.early_rounds = early_rounds

    def play(self, batch: Batch) -> Iterator[Turn]:
        """One side moves, whose round it is."""
        both = sides(self, batch)
        slab_a, slab_b, a, b = map(_unit, (both.a, both.b, both.image_a, both.image_b))
        begins = int(self.rounds) % (self.generator_rounds + 1) == 0
        follow = not begins or self.generator_rounds == 0
        with torch.set_grad_enabled(follow):
            fake_b, fake_a = self.drawn(self.a_to_b, slab_a), self.drawn(self.b_to_a, slab_b)
        if begins:
            yield Turn(
                "discriminators",
                contest_b=contest(self.judge_b(b)[0], self.judge_b(fake_b.detach())[0]),
                contest_a=contest(self.judge_a(a)[0], self.judge_a(fake_a.detach())[0]),
            )
        if not follow:
            return
        share = self.rate if int(self.rounds) >= self.early_rounds else self.early_rate
        back_a = self.drawn(self.b_to_a, slab(fake_b, self.slices))
        back_b = self.drawn(self.a_to_b, slab(fake_a, self.slices))
        losses = {
            "reconstruction_a": share * squared_error(back_a, a, both.weight_a),
            "reconstruction_b": share * squared_error(back_b, b, both.weight_b),
        }
        with frozen(self.judge_a, self.judge_b):
            for name, judge, real, fake in (
                ("b", self.judge_b, b, fake_b),
                ("a", self.judge_a, a, fake_a),
            ):
                judged, seen = judge(fake)
                matching = mean_feature_distance(seen, judge(real)[1])
                losses[f"gan_{name}"] = (1 - share) * self.gan * deceive(judged)
                losses[f"matching_{name}"] = (1 - share) * self.matching * matching
        yield Turn("generators", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One pass of the generator from the source's side to the target's."""
        del target  # the task is fixed
        return 2 * self.drawn(self.a_to_b, _unit(source)) - 1

    def drawn(self, generator: DiscoGANGenerator, source: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, outputs, *spatial) of any size, in [0, 1]."""
        padded, crop = pad_to_multiple(source, generator.multiple, least=generator.least)
        image: Tensor = generator(padded)
        return image[crop]


def mean_feature_distance(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """How far two batches are in their mean features.

    Args:
        fake, real: maps (B, C, *spatial) of the same layers; the batches may differ in length.

    Returns:
        Scalar: the sum over layers of the mean squared difference of the batch means.
    """
    return torch.stack(
        [
            (ours.mean(dim=0) - theirs.mean(dim=0)).square().mean()
            for ours, theirs in zip(fake, real, strict=True)
        ]
    ).sum()


def _unit(image: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (image + 1) / 2
