"""Image-to-image translation with a conditional GAN (Hu, Yu & Yu 2018, a Stanford CS230 report).

The report has no arXiv number and no public code, and its text could not be read: only its subject
is known, a conditional GAN of pix2pix's kind. So this is no replication, and no number of it is to
be reported as theirs. It is the ablation that the title promises, around pix2pix (Isola et al.
2017, arXiv:1611.07004): one class whose switches lead from L1 regression over an unconditional and
a conditional GAN to their mixtures, so that what each part is worth on MRI can be measured. With
its defaults it is pix2pix, move by move. At a weight of 0 a part is not there at all: without `gan`
no discriminator is built, without `l1` no voxel error is computed.

The Wasserstein game adds what the pix2pix training step of the authors' code never calls, the
gradient penalty, and five moves of the critic for one of the generator. It refuses batch norm,
which would tie the slopes of a batch together. The residual generator takes a contrast on demand
as scales and shifts of its features; as a constant plane it would not survive the first norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error
from medi2i.losses.penalties import gradient_penalty
from medi2i.networks.layers import Norm, pad_to_multiple, tiled
from medi2i.networks.pix2pix import PatchDiscriminator, Pix2pixGenerator
from medi2i.networks.pix2pixhd import Pix2pixHDGenerator
from medi2i.systems.base import Paper, Translator, Turn, frozen, one_hot

__all__ = ["CGANHu2018"]


class CGANHu2018(Translator):
    """The conditional GAN as a grid of switches.

    Args:
        network: "unet", "encoder-decoder" (the same without skips) or "resnet".
        depth: halvings of the first two; None chooses 8 in 2-D (256 to 1) and 4 in 3-D.
        blocks: residual blocks of the last.
        features: channels of the first stage of both networks.
        patch: strided layers of the discriminator; 0, 1, 3, 5 see 1, 16, 70, 286 voxels.
        condition: how much of the source the discriminator sees: "none" (a plain GAN), the
            "centre" slice of each contrast, or "all" neighbouring slices.
        norm: of both networks.
        batch_statistics: with batch norm, normalise a test batch by itself, as pix2pix does,
            instead of by running statistics. Translate one window at a time then.
        dropout: probability in the deep stages of the U-Net or encoder-decoder; 0 for none.
        dropout_at_test: keep it on when translating.
        game: "vanilla", "least-squares" or "wasserstein".
        labels: what the discriminator is told of real and of fake images; (0.9, 0.0) is one-sided
            smoothing (Salimans et al. 2016, arXiv:1606.03498), (0.9, 0.1) two-sided. The
            generator's goal stays 1, and a Wasserstein critic has no labels.
        gan, l1: weights; 0 leaves a part out.
        penalty: weight of the critic's gradient penalty (Wasserstein).
        critic: its moves for each of the generator's (Wasserstein).

    The rest: see :class:`Translator`.
    """

    paper = Paper("Hu, Yu & Yu 2018 (CS230 report), after Isola et al. 2017, arXiv:1611.07004")
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
        network: Literal["unet", "encoder-decoder", "resnet"] = "unet",
        depth: int | None = None,
        blocks: int = 9,
        features: int = 64,
        patch: int = 3,
        condition: Literal["none", "centre", "all"] = "all",
        norm: Norm = "instance",
        batch_statistics: bool = False,
        dropout: float = 0.5,
        dropout_at_test: bool = False,
        game: Literal["vanilla", "least-squares", "wasserstein"] = "vanilla",
        labels: tuple[float, float] = (1.0, 0.0),
        gan: float = 1.0,
        l1: float = 100.0,
        penalty: float = 10.0,
        critic: int = 5,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        if not gan and not l1:
            raise UsageError(
                "gan and l1 are both 0; the generator would have nothing to learn from"
            )
        if game == "wasserstein" and norm == "batch":
            raise UsageError(
                "the Wasserstein game limits the critic's slope at each image, and batch norm ties "
                'the images of a batch together: set norm to "instance" or "none"'
            )
        if game == "wasserstein" and critic < 1:
            raise UsageError(f"critic is {critic}; at least 1 move was expected")
        self.network = network
        self.generator: nn.Module
        if network == "resnet":
            residual = Pix2pixHDGenerator(
                dims=dims,
                inputs=self.channels,
                outputs=outputs,
                features=features,
                halvings=2,
                blocks=blocks,
                kind=norm,
                conditions=conditions,
            )
            self.generator, self.multiple = residual, residual.multiple
        else:
            chain = Pix2pixGenerator(
                dims=dims,
                inputs=self.channels + conditions,
                outputs=outputs,
                depth=depth or (8 if dims == 2 else 4),
                features=features,
                kind=norm,
                dropout=dropout,
                skip=network == "unet",
            )
            self.generator, self.multiple = chain, chain.multiple
        seen = {"none": 0, "centre": inputs + conditions, "all": self.channels + conditions}
        if gan:
            self.discriminator = PatchDiscriminator(
                dims=dims,
                inputs=outputs + seen[condition],
                layers=patch,
                features=features,
                kind=norm,
            )
        else:  # nobody to play against
            self.players = {"generator": ("generator",)}  # type: ignore[misc]
        dropped = any(isinstance(module, nn.Dropout) for module in self.generator.modules())
        self.one_to_many = dropped  # a cell of the grid may have no dropout
        self.condition = condition
        self.batch_statistics, self.dropout_at_test = batch_statistics, dropout_at_test
        self.game, self.labels = game, labels
        self.gan, self.l1 = gan, l1
        self.penalty, self.critic = penalty, critic if game == "wasserstein" else 1

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The discriminator, if there is one, moves first; a Wasserstein critic several times."""
        condition = one_hot(batch.target_contrast, self.conditions, batch.source)
        real = batch.target
        fake = self.generated(batch.source, condition)
        losses = {}
        if self.gan:
            context = self.context(batch.source, condition)
            for _ in range(self.critic):
                yield Turn("discriminator", **self.contested(context, real, fake.detach()))
            with frozen(self.discriminator):
                losses["gan"] = self.gan * self.distance(self.judged(context, fake), 1.0)
        if self.l1:
            losses["l1"] = self.l1 * absolute_error(fake, real, batch.weight)
        yield Turn("generator", **losses)

    def contested(self, context: Tensor, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What the discriminator minimises."""
        of_real, of_fake = self.judged(context, real), self.judged(context, fake)
        if self.game != "wasserstein":
            for_real, for_fake = self.labels
            both = self.distance(of_real, for_real) + self.distance(of_fake, for_fake)
            return {"contest": 0.5 * both}
        slope = gradient_penalty(
            self.discriminator, torch.cat([context, real], dim=1), torch.cat([context, fake], dim=1)
        )
        return {
            "contest": 0.5 * (of_fake.mean() - of_real.mean()),
            "penalty": self.penalty * slope,
        }

    def distance(self, logits: Tensor, label: float) -> Tensor:
        """How far logits are from a label, in the game that is played."""
        if self.game == "wasserstein":
            return -logits.mean()
        labels = torch.full_like(logits, label)
        if self.game == "vanilla":
            return functional.binary_cross_entropy_with_logits(logits, labels)
        return functional.mse_loss(logits, labels)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The generator's image; another each time where `dropout_at_test` is set."""
        condition = one_hot(target, self.conditions, source)
        with as_in_training(
            self.generator, dropout=self.dropout_at_test, statistics=self.batch_statistics
        ):
            return self.generated(source, condition)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The generator's image under one draw of dropout; the code is empty.

        Raises:
            UsageError: this generator has no dropout.
        """
        del code
        if not self.one_to_many:
            raise UsageError(
                "this generator has no dropout and gives one image per scan; samples need a U-Net "
                "or encoder-decoder with `dropout` above 0 and a `depth` of 6 or more"
            )
        condition = one_hot(target, self.conditions, source)
        with as_in_training(self.generator, dropout=True, statistics=self.batch_statistics):
            return self.generated(source, condition)

    def generated(self, source: Tensor, condition: Tensor | None) -> Tensor:
        """The generator's image for a source of any size."""
        if condition is not None and self.network != "resnet":
            source = torch.cat([source, tiled(condition, source)], dim=1)
        padded, crop = pad_to_multiple(source, self.multiple)
        fake: Tensor
        if self.network == "resnet":
            fake = self.generator(padded, condition)
        else:
            fake = self.generator(padded)
        return fake[crop]

    def context(self, source: Tensor, condition: Tensor | None) -> Tensor:
        """What the discriminator sees beside a candidate."""
        if self.condition == "none":
            return source[:, :0]
        if self.condition == "centre":
            source = self.centre(source)
        return source if condition is None else torch.cat([source, tiled(condition, source)], dim=1)

    def judged(self, context: Tensor, candidate: Tensor) -> Tensor:
        """The discriminator's logits for a candidate."""
        logits: Tensor = self.discriminator(torch.cat([context, candidate], dim=1))
        return logits


@contextmanager
def as_in_training(network: nn.Module, *, dropout: bool, statistics: bool) -> Iterator[None]:
    """Within the block dropout, or batch statistics, or both, are as in training.

    What is not named stays as it is, and so do running statistics.
    """
    touched: list[tuple[nn.Module, bool]] = []
    for module in network.modules():
        batch_norm = isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)
        if (batch_norm and statistics) or (isinstance(module, nn.Dropout) and dropout):
            touched.append((module, module.training))
            module.train()
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.track_running_stats = False
    try:
        yield
    finally:
        for module, was_training in touched:
            module.train(was_training)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.track_running_stats = True
