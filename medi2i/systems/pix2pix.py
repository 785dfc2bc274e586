"""pix2pix (Isola et al. 2017, arXiv:1611.07004).

A U-Net generator and a PatchGAN that sees source and candidate together; cross entropy plus 100
times the mean absolute error. Order of moves as in the authors' PyTorch code: the generator runs
once, the discriminator learns, then the generator learns from the discriminator that has just
moved. Batch norm uses the statistics of the test batch and dropout stays on at test time when
`noisy` is set, as in the paper, and in `sample`; by default the norm is per instance, dropout is
off at test time and a scan always translates to the same bytes, because slices of one head must
agree. Neither way of translating moves running statistics, which in the authors' code it does.

Added here: 3-D, neighbouring slices, several contrasts, and a target contrast on demand (given to
both networks as constant planes; their zero-padded stride-2 stems let it through).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.networks.layers import Norm, pad_to_multiple
from medi2i.networks.pix2pix import PatchDiscriminator, Pix2pixGenerator
from medi2i.systems.base import Paper, Translator, Turn, frozen, one_hot

__all__ = ["Pix2pix"]


class Pix2pix(Translator):
    """Conditional adversarial translation of paired scans.

    Args:
        depth: halvings of the generator; None chooses 8 in 2-D (256 to 1) and 4 in 3-D.
        features: channels of the first stage of both networks.
        patch: strided layers of the discriminator; 3 sees 70 voxels, 0 sees one.
        skip: False is the paper's encoder-decoder without skips.
        conditional: False hides the source from the discriminator (the paper's ablation).
        norm: of both networks.
        dropout: probability in the generator's deepest stages.
        noisy: keep dropout and batch statistics on when translating, as the paper does.
        game: "vanilla" or "least-squares".
        l1, gan: weights.

    The rest: see :class:`Translator`.
    """

    paper = Paper("Isola et al. 2017, arXiv:1611.07004")
    pairing = Pairing.PAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "generator": ("generator",),
        "discriminator": ("discriminator",),
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
        features: int = 64,
        patch: int = 3,
        skip: bool = True,
        conditional: bool = True,
        norm: Norm = "instance",
        dropout: float = 0.5,
        noisy: bool = False,
        game: Game = "vanilla",
        l1: float = 100.0,
        gan: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.generator = Pix2pixGenerator(
            dims=dims,
            inputs=self.channels + conditions,
            outputs=outputs,
            depth=depth or (8 if dims == 2 else 4),
            features=features,
            kind=norm,
            dropout=dropout,
            skip=skip,
        )
        self.discriminator = PatchDiscriminator(
            dims=dims,
            inputs=outputs + (self.channels + conditions if conditional else 0),
            layers=patch,
            features=features,
            kind=norm,
        )
        dropped = any(isinstance(module, nn.Dropout) for module in self.generator.modules())
        self.one_to_many = dropped  # a model of it may have no dropout
        self.conditional = conditional
        self.noisy = noisy
        self.game: Game = game
        self.l1 = l1
        self.gan = gan

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The discriminator moves first, then the generator against the one that has moved."""
        source, real = self.dressed(batch.source, batch.target_contrast), batch.target
        fake = self.generated(source)
        yield Turn(
            "discriminator",
            contest=contest(
                self.judged(source, real), self.judged(source, fake.detach()), self.game
            ),
        )
        with frozen(self.discriminator):
            gan = self.gan * deceive(self.judged(source, fake), self.game)
        yield Turn("generator", gan=gan, l1=self.l1 * absolute_error(fake, real, batch.weight))

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The generator's image; a different one each time where `noisy` is set."""
        with _as_in_training(self.generator) if self.noisy else nullcontext():
            return self.generated(self.dressed(source, target))

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The generator's image under one draw of dropout, with the statistics of this batch.

        The paper's only source of chance, which it calls minor. The code is empty: chance comes
        from torch's random state.

        Raises:
            UsageError: this generator has no dropout.
        """
        del code
        if not self.one_to_many:
            raise UsageError(
                "this pix2pix has no dropout and gives one image per scan; samples need a "
                "generator with `dropout` above 0 and a `depth` of 6 or more"
            )
        with _as_in_training(self.generator):
            return self.generated(self.dressed(source, target))

    def dressed(self, source: Tensor, target: Tensor | None) -> Tensor:
        """The source with one constant plane per target contrast behind it."""
        condition = one_hot(target, self.conditions, source)
        if condition is None:
            return source
        planes = condition.reshape(*condition.shape, *[1] * self.dims)
        return torch.cat([source, planes.expand(-1, -1, *source.shape[2:])], dim=1)

    def generated(self, source: Tensor) -> Tensor:
        """The generator's image for a dressed source of any size."""
        padded, crop = pad_to_multiple(source, self.generator.multiple)
        fake: Tensor = self.generator(padded)
        return fake[crop]

    def judged(self, source: Tensor, candidate: Tensor) -> Tensor:
        """The discriminator's logits for a candidate."""
        seen = torch.cat([source, candidate], dim=1) if self.conditional else candidate
        judge: nn.Module = self.discriminator
        logits: Tensor = judge(seen)
        return logits


@contextmanager
def _as_in_training(network: nn.Module) -> Iterator[None]:
    """Within the block dropout and batch statistics are on; running statistics stay as they are."""
    was_training = network.training
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    network.train()
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        network.train(was_training)
        for module in norms:
            module.track_running_stats = True
