"""DualGAN (Yi et al. 2017, arXiv:1704.02510; code duxingren14/DualGAN).

Two U-Nets and two critics, one of each for either side, and no pairs: a closed loop as CycleGAN's,
played as a Wasserstein game with a heavy absolute error of the way back. The critics move first;
the generators follow in every `n_critic`-th round against the critics that have just moved.

What differs from the authors' code, and why:
- By default a critic judges patches, not whole windows (`window` gives theirs): theirs fits one
  size of windows alone.
- The generated images of a round serve both players; they compute them twice. Where there is no
  dropout it is the same.
- Errors of the way back are weighted by the batch's weight of each voxel.
- Adam without momentum, betas (0, 0.9), takes the place of RMSProp with decay 0.9 in the
  configuration; the two differ in their first rounds.
- Their innermost map is normalised although it is a single voxel at 256, which leaves nothing of
  the image in it; that is kept, and `innermost_norm: false` lets it count.
- Added: 3-D (depth 4, 32 features), and neighbouring slices: a generator sees a slab and draws its
  centre slice, which goes back as a slab of itself.

Chance enters by dropout, which is off in the released code and when translating; `sample` keeps
it on, as the paper does at test time. The penalty differentiates twice, which compiled networks
cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive, gradient_penalty
from medi2i.networks.dualgan import DualGANCritic, DualGANGenerator
from medi2i.networks.layers import pad_to_multiple
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import Sides, sides, slab, two_sided

__all__ = ["DualGAN"]


class DualGAN(Translator):
    """Unpaired translation by dual learning, both directions at once.

    Args:
        depth: halvings of the generators; None chooses 8 in 2-D (256 to 1) and 4 in 3-D.
        features: channels of the generators' first stage; None chooses 64 in 2-D, 32 in 3-D.
        innermost_norm: False leaves the generators' innermost map as it is.
        dropout: probability behind the generators' three deepest doublings.
        critic_layers: strided layers of the critics.
        critic_features: channels of their first layer; None chooses as `features`.
        window: side of the training windows, each of which gets one value; 0 judges patches.
        game: "wgan-gp"; "wgan", which clips the critics' weights; or "classic", cross entropy, in
            which the generators move twice.
        n_critic: the generators move in every so-many-th round; the paper has 2 to 4.
        reconstruction: weight of the way back, from either side; the paper has 100 to 1000.
        penalty: weight of the gradient penalty ("wgan-gp").
        clip: largest weight of a critic ("wgan").

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, an unknown game, or a
            number out of range.
    """

    paper = Paper("Yi et al. 2017, arXiv:1704.02510")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "critics": ("critic_a", "critic_b"),
        "generators": ("a_to_b", "b_to_a"),
    }
    one_to_many = True  # by dropout

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        depth: int | None = None,
        features: int | None = None,
        innermost_norm: bool = True,
        dropout: float = 0.0,
        critic_layers: int = 5,
        critic_features: int | None = None,
        window: int = 0,
        game: Literal["wgan-gp", "wgan", "classic"] = "wgan-gp",
        n_critic: int = 1,
        reconstruction: float = 500.0,
        penalty: float = 10.0,
        clip: float = 0.01,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if game not in ("wgan-gp", "wgan", "classic"):
            raise UsageError(f'game is "{game}"; "wgan-gp", "wgan" or "classic" was expected')
        if n_critic < 1:
            raise UsageError(f"n_critic is {n_critic}; at least 1 was expected")
        if not clip > 0:
            raise UsageError(f"clip is {clip:g}; more than 0 was expected")
        flat = dims == 2
        width = 64 if flat else 32
        self.a_to_b, self.b_to_a = (
            DualGANGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                depth=depth or (8 if flat else 4),
                features=features or width,
                dropout=dropout,
                innermost_norm=innermost_norm,
            )
            for _ in range(2)
        )
        self.critic_a, self.critic_b = (
            DualGANCritic(
                dims=dims,
                inputs=outputs,
                layers=critic_layers,
                features=critic_features or width,
                window=window,
            )
            for _ in range(2)
        )
        self.one_to_many = dropout > 0  # a model of it may have no dropout
        self.game = game
        self.n_critic = n_critic
        self.reconstruction = reconstruction
        self.penalty = penalty
        self.clip = clip

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The critics move; in every `n_critic`-th round the generators follow."""
        both = sides(self, batch)
        generators_move = (int(self.rounds) + 1) % self.n_critic == 0
        with torch.set_grad_enabled(generators_move):
            fakes = self.fakes(both)
        yield Turn("critics", **self.criticism(both, *(fake.detach() for fake in fakes)))
        if self.game == "wgan":
            with torch.no_grad():
                for parameter in self.parameters_of("critics"):
                    parameter.clamp_(-self.clip, self.clip)
        if not generators_move:
            return
        yield Turn("generators", **self.persuasion(both, *fakes))
        if self.game == "classic":
            yield Turn("generators", **self.persuasion(both, *self.fakes(both)))

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One pass of the generator from the source's side to the target's."""
        del target  # the task is fixed
        return self.drawn(self.a_to_b, source)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The generator's image under one draw of dropout.

        The code is empty: chance comes from torch's random state.

        Raises:
            UsageError: this generator has no dropout.
        """
        del code
        if not self.one_to_many:
            raise UsageError(
                "this dualgan has no dropout and gives one image per scan; samples need one that "
                "was built with `dropout` above 0"
            )
        was_training = self.a_to_b.training
        self.a_to_b.train()
        try:
            return self.translate(source, target=target)
        finally:
            self.a_to_b.train(was_training)

    def fakes(self, both: Sides) -> tuple[Tensor, Tensor]:
        """Of side b and of side a."""
        return self.drawn(self.a_to_b, both.a), self.drawn(self.b_to_a, both.b)

    def criticism(self, both: Sides, fake_b: Tensor, fake_a: Tensor) -> dict[str, Tensor]:
        """What the critics minimise."""
        losses: dict[str, Tensor] = {}
        for name, critic, real, fake in (
            ("b", self.critic_b, both.image_b, fake_b),
            ("a", self.critic_a, both.image_a, fake_a),
        ):
            judged_real, judged_fake = critic(real), critic(fake)
            losses[f"critic_{name}"] = (
                contest(judged_real, judged_fake)
                if self.game == "classic"
                else judged_fake.mean() - judged_real.mean()
            )
            if self.game == "wgan-gp":
                losses[f"penalty_{name}"] = self.penalty * gradient_penalty(critic, real, fake)
        return losses

    def persuasion(self, both: Sides, fake_b: Tensor, fake_a: Tensor) -> dict[str, Tensor]:
        """What the generators minimise."""
        with frozen(self.critic_a, self.critic_b):
            judged_b, judged_a = self.critic_b(fake_b), self.critic_a(fake_a)
        back_a = self.drawn(self.b_to_a, slab(fake_b, self.slices))
        back_b = self.drawn(self.a_to_b, slab(fake_a, self.slices))
        classic = self.game == "classic"
        return {
            "gan_b": deceive(judged_b) if classic else -judged_b.mean(),
            "gan_a": deceive(judged_a) if classic else -judged_a.mean(),
            "reconstruction_a": self.reconstruction
            * absolute_error(back_a, both.image_a, both.weight_a),
            "reconstruction_b": self.reconstruction
            * absolute_error(back_b, both.image_b, both.weight_b),
        }

    def drawn(self, generator: DualGANGenerator, source: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, outputs, *spatial): an image of any size."""
        padded, crop = pad_to_multiple(source, generator.multiple)
        image: Tensor = generator(padded)
        return image[crop]
