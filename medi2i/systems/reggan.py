"""RegGAN (Kong et al. 2021, arXiv:2110.06465; code Kid-Liet/Reg-GAN, its mode without cycle).

Pairs that do not quite lie on each other: a registration network bends the translation until it
lies on the target, and only then are the two compared. So the translator need not blur what it
cannot know, where each target lies. The discriminator, which looks for no place, judges the
translation before it is bent. Translator and registration network step together, by one sum of
losses; then the discriminator judges what the translator draws after its step. Translating needs
the translator alone.

What differs from the authors' code, and why:
- The discriminator begins with weights from N(0, 0.02), as wherever it serves here.
- Displacements are in voxels between the centres of the outermost voxels, and smoothness is summed
  over the axes as there, so that it weighs in 3-D by three terms.
- The error counts each voxel by the weight of the target, which stays in place.
- Sizes that do not divide are padded by their last voxels.
- The authors set the displacement's range by its smoothness alone. `registration: velocity`
  takes VoxelMorph's smaller network instead, whose displacements come from a velocity and do not
  fold; it is smoothness of the velocity that counts then.
- Added: 3-D (32 features and 6 blocks, 4 levels, padded by replication), neighbouring slices and
  several contrasts, whose targets are bent together. No contrast on demand: the residual translator
  is blind to constant planes.

How far the pairs of a run are thrown off each other on purpose is `data: misalignment`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive
from medi2i.losses.registration import roughness
from medi2i.networks.deformation import warp
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.networks.reggan import ResidualRegistration
from medi2i.networks.registration import Motion, RegistrationNetwork
from medi2i.networks.resnet import Edge, ResnetGenerator
from medi2i.systems.base import Paper, Translator, Turn, frozen

__all__ = ["RegGAN"]


class RegGAN(Translator):
    """Translation of pairs that lie only about on each other.

    Args:
        features: channels of the translator's first stage; None chooses 64 in 2-D, 32 in 3-D.
        blocks: of the translator; None chooses 9 in 2-D and 6 in 3-D.
        patch: strided layers of the discriminator; None chooses 3 in 2-D, 2 in 3-D.
        patch_features: channels of its first layer.
        registration: "residual" is the authors' network, which gives displacements; "velocity" is
            VoxelMorph's, whose displacements do not fold.
        levels: halvings of the residual network; None chooses 7 in 2-D (the authors' for windows
            of 256; 4 or 5 for 64) and 4 in 3-D.
        registration_features: channels of its first level.
        gan: weight of the game.
        correction: weight of the error after bending.
        smoothness: weight of the squared slopes of the motion, summed over the axes.

    The rest: see :class:`Translator`.

    Raises:
        UsageError: a contrast on demand, or an unknown registration network.
    """

    paper = Paper("Kong et al. 2021, arXiv:2110.06465")
    pairing = Pairing.PAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "translator": ("generator", "registration"),
        "discriminator": ("discriminator",),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        features: int | None = None,
        blocks: int | None = None,
        patch: int | None = None,
        patch_features: int = 64,
        registration: Literal["residual", "velocity"] = "residual",
        levels: int | None = None,
        registration_features: int = 32,
        gan: float = 1.0,
        correction: float = 20.0,
        smoothness: float = 10.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        if conditions:
            raise UsageError(
                "RegGAN's residual translator is blind to constant planes, so it serves no "
                "contrast on demand: name one target, or take pix2pix"
            )
        if registration not in ("residual", "velocity"):
            raise UsageError(
                f'registration is "{registration}"; "residual" (the authors\' network) or '
                '"velocity" (VoxelMorph\'s) was expected'
            )
        flat = dims == 2
        edge: Edge = "reflect" if flat else "replicate"
        self.generator = ResnetGenerator(
            dims=dims,
            inputs=self.channels,
            outputs=outputs,
            features=features or (64 if flat else 32),
            blocks=blocks or (9 if flat else 6),
            edge=edge,
        )
        self.discriminator = PatchDiscriminator(
            dims=dims,
            inputs=outputs,
            layers=(3 if flat else 2) if patch is None else patch,
            features=patch_features,
            kind="instance",
        )
        self.registration: nn.Module = (
            RegistrationNetwork(dims, channels=outputs)
            if registration == "velocity"
            else ResidualRegistration(
                dims,
                channels=outputs,
                levels=levels or (7 if flat else 4),
                features=registration_features,
                edge=edge,
            )
        )
        self.gan = gan
        self.correction = correction
        self.smoothness = smoothness

    def play(self, batch: Batch) -> Iterator[Turn]:
        """Translator and registration network together; then the discriminator, by a new image."""
        real = batch.target
        fake = self.translate(batch.source)
        motion: Motion = self.registration(fake, real)
        bent = warp(fake, motion.displacement)
        with frozen(self.discriminator):
            gan = self.gan * deceive(self.judged(fake), "least-squares")
        yield Turn(
            "translator",
            gan=gan,
            correction=self.correction * absolute_error(bent, real, batch.weight),
            smoothness=self.smoothness * self.dims * roughness(motion.velocity),
        )
        with torch.no_grad():
            fake = self.translate(batch.source)
        # the authors add up what others halve
        both = contest(self.judged(real), self.judged(fake), "least-squares")
        yield Turn("discriminator", contest=2 * self.gan * both)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One pass of the translator, which knows nothing of motion."""
        del target  # the task is fixed
        # a residual block reflects, and a norm averages, over two voxels at the least
        padded, crop = pad_to_multiple(source, self.generator.multiple, least=2)
        fake: Tensor = self.generator(padded)
        return fake[crop]

    def judged(self, image: Tensor) -> Tensor:
        """(B, outputs, *spatial) -> (B,): the discriminator's score, averaged over space."""
        logits: Tensor = self.discriminator(image)
        return logits.flatten(1).mean(1)
