"""Consistent embedded GAN, in its style (after Xiong, Wang & Gao 2019, IEEE Access 7:126651).

There is no code of the authors, and their loss list, layers and tables could not be read. Known is
the idea: images and latent codes are tied in both directions, and the discriminator tells real from
fake in the encoded space, where redundancy and noise of an image weigh less. Everything else is a
reconstruction on BicycleGAN's parts (Zhu et al. 2017, arXiv:1711.11586) and replicates nothing:
call results of it CEGAN-style.

An encoder E embeds a target image as h and reads a code from h; the generator G turns source and
code into an image. E learns only to make G's image right (L1, the image discriminator, KL): were it
to answer to the latent critic it could make every image look alike, and the critic would have
nothing left to say. G learns in addition to embed like a real image (latent), like this one
(consistency), and so that its random code is found again (code). One backward pass into the code
serves E, one into the weights serves G, and each steps from the weights that both were computed
with. For the first rounds (`warmup`) there is L1 and KL alone: a critic of an untrained encoder's
embeddings means nothing.

E is nearly blind to position and gain, so the critic alone could not police anatomy: the voxel
error or the discriminator of images must be on, and both are by default. The latter is
unconditional, as BicycleGAN's, but for the planes that name a contrast on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive, kl_from_standard_normal
from medi2i.networks.bicyclegan import BicycleGenerator, initialise_xavier
from medi2i.networks.cegan import EmbeddingEncoder, latent_critic
from medi2i.networks.layers import normal_sample
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.systems.base import Paper, Turn, frozen
from medi2i.systems.coded import CodedTranslator

__all__ = ["CEGAN"]

GAME: Literal["least-squares"] = "least-squares"


class CEGAN(CodedTranslator):
    """One-to-many translation of paired scans, judged by what an encoder makes of the images.

    Args:
        code: numbers in the code.
        depth: halvings of the generator; None chooses 8 in 2-D (256 to 1) and 5 in 3-D.
        features: channels of the first stage of all networks.
        blocks: residual blocks of the encoder, each a halving; None chooses 4 in 2-D, 3 in 3-D.
        patch: strided layers of the discriminator of images; None chooses 3 in 2-D, 2 in 3-D.
        critic: what the latent critic sees: the "embedding", the "code" (its mean), or the
            embedding and that of the source ("both"), which an encoder of its own makes.
        moments: the embedding says how bright the image is, too.
        dropout: probability in the generator's deepest stages, in training.
        warmup: rounds with voxel error and KL alone.
        l1, kl, latent, recovery, consistency: weights. `kl` weighs a sum over batch and code,
            `recovery` the random code that is to be found again.
        gan: weight of the discriminator of images; 0 builds none.

    The rest: see :class:`Translator`.
    """

    paper = Paper("after Xiong et al. 2019 (CEGAN), IEEE Access 7:126651-126661")
    pairing = Pairing.PAIRED
    encoder: EmbeddingEncoder
    players = {  # noqa: RUF012 - ClassVar in the base
        "generator": ("generator",),
        "encoder": ("encoder",),
        "critic": ("critic",),
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
        code: int = 8,
        depth: int | None = None,
        features: int = 64,
        blocks: int | None = None,
        patch: int | None = None,
        critic: Literal["embedding", "code", "both"] = "embedding",
        moments: bool = False,
        dropout: float = 0.0,
        warmup: int = 2000,
        l1: float = 10.0,
        kl: float = 0.01,
        latent: float = 1.0,
        recovery: float = 0.5,
        consistency: float = 1.0,
        gan: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        if code < 1:
            raise UsageError(f"code is {code}; at least 1 number was expected, or use pix2pix")
        if not l1 and not gan:
            raise UsageError(
                "l1 and gan are both 0; the latent critic hardly sees where things are, so the "
                "anatomy would be free: switch one of them on"
            )
        flat = dims == 2
        dressed = self.channels + conditions
        self.generator = BicycleGenerator(
            dims=dims,
            inputs=dressed,
            outputs=outputs,
            code=code,
            depth=depth or (8 if flat else 5),
            features=features,
            dropout=dropout,
        )

        def encoder(channels: int) -> EmbeddingEncoder:
            return EmbeddingEncoder(
                dims=dims,
                inputs=channels,
                code=code,
                features=features,
                blocks=blocks or (4 if flat else 3),
                moments=moments,
            )

        self.encoder = encoder(outputs)
        width = self.encoder.width
        self.encoder_source: EmbeddingEncoder | None = None
        players = dict(self.players)
        if critic == "code":
            self.critic = latent_critic(code, 2 * features)
        elif critic == "embedding":
            self.critic = latent_critic(width, 4 * features)
        else:
            self.encoder_source = encoder(dressed)
            self.critic = latent_critic(width + self.encoder_source.width, 4 * features)
            del self.encoder_source.mean, self.encoder_source.log_variance  # it has no code
            players["critic"] = ("critic", "encoder_source")
        if gan:
            self.discriminator = PatchDiscriminator(
                dims=dims,
                inputs=outputs + conditions,
                layers=patch or (3 if flat else 2),
                features=features,
                kind="instance",
            )
            initialise_xavier(self.discriminator)
        else:
            del players["discriminator"]
        self.players = players  # type: ignore[misc]  # not every game has a discriminator of images
        self.sees_code = critic == "code"
        self.code_size = code
        self.warmup = warmup
        self.l1, self.kl, self.latent = l1, kl, latent
        self.recovery, self.consistency, self.gan = recovery, consistency, gan

    def play(self, batch: Batch) -> Iterator[Turn]:
        """Generator and encoder move together, then the latent critic, then that of images."""
        source, planes = self.dressed(batch.source, batch.target_contrast)
        real, warm = batch.target, int(self.rounds) >= self.warmup
        embedding = self.encoder.pooled(real)
        mean, log_variance = self.encoder.mean(embedding), self.encoder.log_variance(embedding)
        code = normal_sample(mean, log_variance)

        # the generator starts from a copy of the code, so that what it alone is to learn stays
        # with it; what the encoder is to learn reaches it through the slope at that copy
        copy = code.detach().requires_grad_()
        encoded = self.generated(source, copy)
        losses = {"l1": self.l1 * absolute_error(encoded, real, batch.weight)}
        if warm and self.gan:
            losses["gan"] = self.gan * self.deceived(planes, encoded)
        images = Turn("generator", **losses).objective
        (slope,) = torch.autograd.grad(images, copy, retain_graph=True)
        along = (slope * code).sum()  # its gradient is right, its value means nothing
        of_encoder = {
            "images": images.detach() + along - along.detach(),
            "kl": self.kl * kl_from_standard_normal(mean, log_variance),
        }
        if not warm:
            yield Turn("generator", **losses)
            yield Turn("encoder", **of_encoder)
            return

        random = torch.randn_like(mean)
        imagined = self.generated(source, random)
        with frozen(self.encoder, *self.critics()):
            of_encoded, of_random = (self.encoder.pooled(fake) for fake in (encoded, imagined))
            found = self.encoder.mean(of_random)  # the mean: steadier than a sample
            views = [self.view(h) for h in (embedding, of_encoded, of_random)]
            latent = [deceive(self.judged(source, view), GAME) for view in views[1:]]
        losses["latent"] = self.latent * torch.stack(latent).sum()
        losses["recovery"] = self.recovery * absolute_error(found, random)
        losses["consistency"] = self.consistency * absolute_error(of_encoded, embedding.detach())
        if self.gan:
            losses["gan_random"] = self.gan * self.deceived(planes, imagined)
        yield Turn("generator", **losses)
        yield Turn("encoder", **of_encoder)

        verdicts = [self.judged(source, view.detach()) for view in views]
        yield Turn("critic", contest=contested(verdicts))
        if self.gan:
            seen = [torch.cat([planes, x.detach()], dim=1) for x in (real, encoded, imagined)]
            verdicts = [self.discriminator(x) for x in seen]
            yield Turn("discriminator", contest=contested(verdicts))

    def view(self, embedding: Tensor) -> Tensor:
        """What the latent critic sees of an embedded image."""
        seen: Tensor = self.encoder.mean(embedding) if self.sees_code else embedding
        return seen

    def judged(self, dressed: Tensor, view: Tensor) -> Tensor:
        """(B, 1): the latent critic's logits for an embedded image."""
        if self.encoder_source is not None:
            view = torch.cat([view, self.encoder_source.pooled(dressed)], dim=1)
        logits: Tensor = self.critic(view)
        return logits

    def deceived(self, planes: Tensor, fake: Tensor) -> Tensor:
        """How far the discriminator of images is from taking a fake for real."""
        with frozen(self.discriminator):
            return deceive(self.discriminator(torch.cat([planes, fake], dim=1)), GAME)

    def critics(self) -> list[nn.Module]:
        """The networks of the latent critic."""
        return [self.critic] if self.encoder_source is None else [self.critic, self.encoder_source]


def contested(verdicts: list[Tensor]) -> Tensor:
    """Least squares: the real image's verdict to one; each fake's, at half weight, to zero."""
    real, *fakes = verdicts
    return torch.stack([contest(real, fake, GAME) for fake in fakes]).sum()
