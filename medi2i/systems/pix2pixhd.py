"""pix2pixHD (Wang et al. 2018, arXiv:1711.11585).

A residual generator without pooled detail (the global one), enhancers that work at the full size
around it, discriminators at several resolutions, and feature matching: the generator is to look
like the reference to every layer of them. Networks, weights and the order of moves are those of
the authors' code (NVIDIA/pix2pixHD, commit of September 2024): all terms come from one forward
pass, then the generator (and the feature encoder) moves, then the discriminators.

Different here, and why:

- Coarse to fine in one run. The authors train the global generator alone at half the size, then
  load it, hold it still for some epochs, then train everything. Here `coarse_rounds` and
  `held_rounds` say for how many rounds; the moments of Adam are kept between the stages, where the
  authors begin with new ones. Discriminators go on from stage to stage, as theirs do.
- No label or instance maps, hence no edge map: the scan itself is the input. The feature encoder
  pools per region, and the regions are equal parts of the intensity range of the first source
  contrast (centre slice): air, dark, middle, bright, which is the nearest thing to tissue that
  needs no segmentation. One region alone would be useless: its constant features do not survive
  the first normalisation. The authors run k-means over the features of all training images
  afterwards; here it runs along and its centres are buffers. `translate` uses the mean features,
  `sample` draws a centre per region. The authors' encoder is off by default, and so it is here.
- The perceptual term needs VGG-19 weights in a local file and is off without one. In 3-D it looks
  at one random slice across each axis.
- `l1` adds a voxel error; the paper has none (0). The generator cannot see the gain of its input,
  nor, with mirrored edges, its offset, and no other term holds a contrast's absolute brightness.
- A network that serves several contrasts on demand hears which one by a scale and a shift behind
  every normalisation; the discriminators by constant planes, which their zero edges let through.
- Odd sizes are padded at their far edges.

A constant image has nothing but rounding noise behind the first normalisation: do not train on
slices of air.

Added here: 3-D, neighbouring slices, several contrasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive, feature_matching, layered_distance
from medi2i.losses.adversarial import Game
from medi2i.networks.layers import Norm, halved, pad_to_multiple, tiled
from medi2i.networks.perceptual import LAYER_WEIGHTS, VGG19Features, grey_photographs
from medi2i.networks.pix2pixhd import (
    Edge,
    FeatureDiscriminator,
    FeatureEncoder,
    Pix2pixHDGenerator,
)
from medi2i.networks.regions import Clusters, intensity_regions, pooled, spread
from medi2i.systems.base import Paper, Translator, Turn, frozen, one_hot

__all__ = ["Pix2pixHD"]


class Pix2pixHD(Translator):
    """Conditional adversarial translation of paired scans from coarse to fine.

    Args:
        features: channels of the generator at full size; with one enhancer the authors take 32.
        halvings: of the global generator; None chooses 4 in 2-D (the authors'), 3 in 3-D.
        blocks: its residual blocks.
        enhancers: 0 is the authors' netG "global", 1 their "local".
        local_blocks: residual blocks of an enhancer.
        coarse_rounds: rounds in which the global generator learns alone, at reduced size.
        held_rounds: rounds after those in which it is held still while the enhancers learn.
        encoded: channels of the feature encoder (the authors: 3); 0 for none.
        encoder_features, encoder_halvings: its size.
        regions: parts of the intensity range that features are pooled in, at least 2.
        clusters: centres per region.
        patch: strided layers of the discriminators; None chooses 3 in 2-D, 2 in 3-D.
        patch_features: channels of their first layers.
        scales: how many discriminators.
        norm: of all networks.
        edge: "reflect" as the authors, "replicate", or "zeros", which lets the offset of the
            input in, at the border.
        game: "least-squares" or "vanilla".
        gan, matching, perceptual, l1: weights.
        vgg: path of VGG-19's weights (safetensors); None leaves the perceptual term out.
        vgg_standardise: show VGG-19 the range it was trained with; the authors do not.

    The rest: see :class:`Translator`.
    """

    paper = Paper("Wang et al. 2018, arXiv:1711.11585")
    pairing = Pairing.PAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "generator": ("generator", "encoder"),
        "discriminator": ("discriminator",),
    }
    one_to_many = True  # with the feature encoder

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        features: int = 64,
        halvings: int | None = None,
        blocks: int = 9,
        enhancers: int = 0,
        local_blocks: int = 3,
        coarse_rounds: int = 0,
        held_rounds: int = 0,
        encoded: int = 0,
        encoder_features: int = 16,
        encoder_halvings: int = 4,
        regions: int = 4,
        clusters: int = 10,
        patch: int | None = None,
        patch_features: int = 64,
        scales: int = 2,
        norm: Norm = "instance",
        edge: Edge = "reflect",
        game: Game = "least-squares",
        gan: float = 1.0,
        matching: float = 10.0,
        perceptual: float = 10.0,
        l1: float = 0.0,
        vgg: str | None = None,
        vgg_standardise: bool = False,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        if (coarse_rounds or held_rounds) and not enhancers:
            raise UsageError("coarse_rounds and held_rounds are for enhancers; there is none")
        if encoded and regions < 2:
            raise UsageError(f"regions is {regions}; features need at least 2 to be seen")
        self.generator = Pix2pixHDGenerator(
            dims=dims,
            inputs=self.channels + encoded,
            outputs=outputs,
            features=features,
            halvings=halvings or (4 if dims == 2 else 3),
            blocks=blocks,
            enhancers=enhancers,
            local_blocks=local_blocks,
            kind=norm,
            edge=edge,
            conditions=conditions,
            preview=coarse_rounds > 0,
        )
        self.encoder = (
            FeatureEncoder(
                dims=dims,
                inputs=outputs,
                outputs=encoded,
                features=encoder_features,
                halvings=encoder_halvings,
                kind=norm,
                edge=edge,
            )
            if encoded
            else torch.nn.Identity()
        )
        self.discriminator = FeatureDiscriminator(
            dims=dims,
            inputs=self.channels + conditions + outputs,
            layers=patch or (3 if dims == 2 else 2),
            features=patch_features,
            scales=scales,
            kind=norm,
        )
        self.clusters = (
            Clusters(max(1, conditions), regions, encoded, clusters) if encoded else None
        )
        self.one_to_many = bool(encoded)  # a model of it may have no encoder
        self.code_size = regions if encoded else 0
        self.regions = regions
        self.enhancers = enhancers
        self.coarse_rounds = coarse_rounds
        self.held_rounds = held_rounds
        self.game: Game = game
        self.gan = gan
        self.matching = matching
        self.perceptual = perceptual
        self.l1 = l1
        self.vgg = vgg
        self.vgg_standardise = vgg_standardise
        # in a list, so that it is neither saved nor trained; read when a round first needs it
        self._lens: list[VGG19Features] = []

    @property
    def stage(self) -> str:
        """What learns in this round: "coarse", "held" (all but the global generator), "whole"."""
        played = int(self.rounds) if self.coarse_rounds or self.held_rounds else 0
        if played < self.coarse_rounds:
            return "coarse"
        return "held" if played < self.coarse_rounds + self.held_rounds else "whole"

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The generator moves first, then the discriminators, all on the same images."""
        source, real, weight = batch.source, batch.target, batch.weight
        asked = batch.target_contrast
        codes = self.encoded(source, real, asked)
        with frozen(self.generator.trunk) if self.stage == "held" else nullcontext():
            fake = self.generated(source, codes, asked)
        if self.stage == "coarse":
            for _ in range(self.enhancers):
                source, real = halved(source), halved(real)
                weight = None if weight is None else halved(weight)
        seen_real = self.judged(source, real, asked)
        with frozen(self.discriminator):
            seen_fake = self.judged(source, fake, asked)
        losses = {
            "gan": self.gan * torch.stack([deceive(m[-1], self.game) for m in seen_fake]).sum(),
            "matching": self.matching
            * feature_matching([m[:-1] for m in seen_fake], [m[:-1] for m in seen_real]),
        }
        if self.vgg is not None:
            losses["perceptual"] = self.perceptual * self.perceived(fake, real)
        if self.l1:
            losses["l1"] = self.l1 * absolute_error(fake, real, weight)
        yield Turn("generator", **losses)
        seen_fake = self.judged(source, fake.detach(), asked)
        scales = [
            contest(r[-1], f[-1], self.game) for r, f in zip(seen_real, seen_fake, strict=True)
        ]
        yield Turn("discriminator", contest=torch.stack(scales).sum())

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image; with a feature encoder, that of the mean features of every region."""
        codes = None if self.clusters is None else self.clusters.mean(self._kinds(source, target))
        return self.whole(source, codes, target)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of one of the clusters of features per region, which `code` draws.

        Raises:
            UsageError: this model was built without a feature encoder.
        """
        if self.clusters is None:
            raise UsageError(
                "this pix2pixHD has no feature encoder and gives one image per scan; samples need "
                "one that was trained with `encoded: 3`"
            )
        if code.shape != (len(source), self.code_size):
            raise UsageError(
                f"a code of shape {tuple(code.shape)} given; {(len(source), self.code_size)} "
                "expected, one number per region"
            )
        return self.whole(source, self.clusters.pick(code, self._kinds(source, target)), target)

    def encoded(self, source: Tensor, real: Tensor, asked: Tensor | None) -> Tensor | None:
        """(B, regions, encoded): the target's features, pooled and remembered; None without."""
        if self.clusters is None or not isinstance(self.encoder, FeatureEncoder):
            return None
        padded, crop = pad_to_multiple(real, self.encoder.multiple, least=2)
        regions = self.regions_of(source)
        codes = pooled(self.encoder(padded)[crop], regions)
        self.clusters.learn(codes.detach(), regions.flatten(2).any(2), self._kinds(source, asked))
        return codes

    def regions_of(self, source: Tensor) -> Tensor:
        """(B, regions, *spatial), one hot, by the centre slice of the first source contrast."""
        centre = self.slices // 2
        return intensity_regions(source[:, centre : centre + 1], self.regions)

    def generated(self, source: Tensor, codes: Tensor | None, target: Tensor | None) -> Tensor:
        """The generator's image for a source of any size; a smaller one in the coarse stage."""
        if codes is not None:
            source = torch.cat([source, spread(codes, self.regions_of(source)).to(source.dtype)], 1)
        padded, crop = pad_to_multiple(source, self.generator.multiple, least=2)
        condition = one_hot(target, self.conditions, source)
        if self.stage != "coarse":
            fake: Tensor = self.generator(padded, condition)
            return fake[crop]
        inside = (slice(0, -(-size // 2**self.enhancers)) for size in source.shape[2:])
        return self.generator.coarse(padded, condition)[(slice(None), slice(None), *inside)]

    def whole(self, source: Tensor, codes: Tensor | None, target: Tensor | None) -> Tensor:
        """The generator's image at the source's size, whatever the stage."""
        fake = self.generated(source, codes, target)
        if fake.shape[2:] == source.shape[2:]:
            return fake
        smooth = "bilinear" if self.dims == 2 else "trilinear"
        return functional.interpolate(fake, size=source.shape[2:], mode=smooth)

    def judged(
        self, source: Tensor, candidate: Tensor, target: Tensor | None
    ) -> list[list[Tensor]]:
        """All that the discriminators see in a candidate, per scale; the logits last."""
        condition = one_hot(target, self.conditions, source)
        planes = source[:, :0] if condition is None else tiled(condition, source)
        maps: list[list[Tensor]] = self.discriminator(torch.cat([source, planes, candidate], 1))
        return maps

    def perceived(self, fake: Tensor, real: Tensor) -> Tensor:
        """The distance between two images in the eyes of VGG-19."""
        if not self._lens:
            path = Path(str(self.vgg))
            self._lens.append(VGG19Features.read(path, standardise=self.vgg_standardise))
        lens = self._lens[0].to(fake.device)
        at = [int(torch.randint(size, ())) for size in fake.shape[2:]] if self.dims == 3 else []
        views = zip(grey_photographs(fake, at), grey_photographs(real, at), strict=True)
        return torch.stack(
            [layered_distance(lens(ours), lens(theirs), LAYER_WEIGHTS) for ours, theirs in views]
        ).mean()

    def _kinds(self, source: Tensor, target: Tensor | None) -> Tensor:
        """(B,): whose clusters each image's codes belong to."""
        if self.conditions and target is not None:
            return target.to(source.device)
        return torch.zeros(len(source), dtype=torch.long, device=source.device)
