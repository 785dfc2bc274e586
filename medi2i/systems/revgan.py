"""RevGAN (van der Ouderaa & Worrall 2019, arXiv:1902.02729).

One invertible core C between the encoders and decoders of two domains: B = Dec_B(C(Enc_A(a))) and
A = Dec_A(C^-1(Enc_B(b))), both directions trained at once, with pix2pix's losses where the scans
are paired and CycleGAN's where they are not. The activations of the core are found again from its
output, so that depth costs time and no memory; in 3-D that is what makes a deep network fit.

What differs from the authors' code: its recomputation restores inputs in place, which current
versions of PyTorch refuse for stacked blocks, and returns the two halves of the input gradient in
swapped order when the core runs backwards; here one autograd function spans the whole core and is
right both ways. Instance norm keeps no running statistics (theirs did, and used none of them).
The 3-D discriminators have instance norm too. No pool of earlier fakes in the unpaired game: it
would put pictures of patients into checkpoints and weights. The authors' gradient regulariser,
off by default there, and their second 3-D network (srcnn) are not here.

With k neighbouring slices domain A is the whole slab, in both directions; its cycle counts on the
centre slices, since one slice of B does not hold the neighbours. There is no target on demand: the
method has two domains, each with networks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.pix2pix import PatchDiscriminator, initialise_normal
from medi2i.networks.resnet import Edge, decoder, encoder, residual_function
from medi2i.networks.reversible import Coupling, CouplingKind, ReversibleCore
from medi2i.systems.base import Paper, Translator, Turn, frozen

__all__ = ["RevGAN"]


class RevGAN(Translator):
    """Both directions of a translation through one reversible core.

    Args:
        objective: "paired" (cross entropy, L1 to the other scan, discriminators that see source
            and candidate) or "unpaired" (least squares, cycle, identity).
        depth: reversible blocks; None chooses 9 in 2-D and 4 in 3-D.
        features: channels of the outermost stage; None chooses 64 in 2-D and 32 in 3-D.
        patch: strided layers of the discriminators; None chooses 3 in 2-D and 2 in 3-D.
        patch_features: channels of their first stage.
        coupling: "additive" or "affine".
        recompute: False stores the core's activations as any other network does.
        frugal: recompute inside the encoders and decoders as well; slower, smaller.
        l1: weight of the voxel error of each direction (paired).
        gan: weight of the adversarial terms.
        cycle: weight of each cycle (unpaired).
        identity: share of `cycle` by which a scan of the target domain must stay as it is
            (unpaired); None chooses 0.5 in 2-D where both sides have as many channels, else 0.

    The rest: see :class:`Translator`. `conditions` must be 0.
    """

    paper = Paper("van der Ouderaa & Worrall 2019, arXiv:1902.02729")
    pairing = Pairing.PAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "generators": ("encoder_a", "encoder_b", "core", "decoder_a", "decoder_b"),
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
        objective: Literal["paired", "unpaired"] = "paired",
        depth: int | None = None,
        features: int | None = None,
        patch: int | None = None,
        patch_features: int = 64,
        coupling: CouplingKind = "additive",
        recompute: bool = True,
        frugal: bool = False,
        l1: float = 100.0,
        gan: float = 1.0,
        cycle: float = 10.0,
        identity: float | None = None,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        if conditions:
            raise UsageError(
                "RevGAN knows two domains, each with networks of its own, and serves no contrast "
                "on demand: name one target, or take stargan, starganv2, unet or pix2pix"
            )
        alike = self.channels == outputs
        if identity and not alike:
            raise UsageError(
                f"identity is {identity:g}, but {self.channels} channels go in and {outputs} come "
                "out; a scan can stay as it is only where both numbers are the same: set it to 0"
            )
        if objective == "unpaired":
            self.pairing = Pairing.UNPAIRED  # type: ignore[misc]  # this instance's losses need no pairs
        flat = dims == 2
        depth, features = depth or (9 if flat else 4), features or (64 if flat else 32)
        halvings, kernel = (2, 7) if flat else (1, 5)
        edge: Edge = "reflect" if flat else "replicate"
        self.multiple = 2**halvings

        def enter(channels: int) -> nn.Sequential:
            return encoder(dims, channels, features, halvings=halvings, kernel=kernel, edge=edge)

        def leave(channels: int) -> nn.Sequential:
            return decoder(dims, features, channels, halvings=halvings, kernel=kernel, edge=edge)

        half = features * self.multiple // 2
        wide = half if coupling == "additive" else 2 * half
        self.encoder_a, self.encoder_b = enter(self.channels), enter(outputs)
        self.decoder_a, self.decoder_b = leave(self.channels), leave(outputs)
        self.core = ReversibleCore(
            [
                Coupling(residual_function(dims, half, wide, edge=edge, first=not flat), coupling)
                for _ in range(2 * depth)
            ],
            recompute=recompute,
        )
        both = self.channels + outputs
        paired = objective == "paired"
        self.judge_a, self.judge_b = (
            PatchDiscriminator(
                dims=dims,
                inputs=both if paired else channels,
                layers=(3 if flat else 2) if patch is None else patch,
                features=patch_features,
                kind="instance",
            )
            for channels in (self.channels, outputs)
        )
        initialise_normal(self)
        if not flat:
            self.core.start_as_identity()
        self.paired = paired
        self.game: Game = "vanilla" if paired else "least-squares"
        self.frugal = frugal
        self.l1, self.gan, self.cycle = l1, gan, cycle
        self.identity = identity if identity is not None else 0.5 * (flat and alike)

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The generators of both directions first, then both discriminators."""
        a, b = batch.source, batch.target
        fake_b, fake_a = self.a_to_b(a), self.b_to_a(b)
        with frozen(self.judge_a, self.judge_b):
            losses = {
                "gan_b": self.gan * deceive(self.judged_b(a, fake_b), self.game),
                "gan_a": self.gan * deceive(self.judged_a(fake_a, b), self.game),
            }
        if self.paired:
            losses["l1_b"] = self.l1 * absolute_error(fake_b, b, batch.weight)
            losses["l1_a"] = self.l1 * absolute_error(fake_a, a, batch.weight)
        else:
            again_a, again_b = self.b_to_a(fake_b), self.a_to_b(fake_a)
            losses["cycle_a"] = self.cycle * absolute_error(self.centre(again_a), self.centre(a))
            losses["cycle_b"] = self.cycle * absolute_error(again_b, b)
            if self.identity:
                weight = self.cycle * self.identity
                losses["identity_b"] = weight * absolute_error(self.a_to_b(b), b)
                losses["identity_a"] = weight * absolute_error(self.b_to_a(a), a)
        yield Turn("generators", **losses)
        fake_a, fake_b = fake_a.detach(), fake_b.detach()
        yield Turn(
            "discriminators",
            contest_b=contest(self.judged_b(a, b), self.judged_b(a, fake_b), self.game),
            contest_a=contest(self.judged_a(a, b), self.judged_a(fake_a, b), self.game),
        )

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """A scan of domain A in domain B."""
        del target  # the task is fixed
        return self.a_to_b(source)

    def a_to_b(self, a: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, outputs, *spatial): Dec_B(C(Enc_A(a)))."""
        padded, crop = pad_to_multiple(a, self.multiple)
        hidden = self.core(self._through(self.encoder_a, padded))
        return self._through(self.decoder_b, hidden)[crop]

    def b_to_a(self, b: Tensor) -> Tensor:
        """(B, outputs, *spatial) -> (B, inputs * slices, *spatial): Dec_A(C^-1(Enc_B(b)))."""
        padded, crop = pad_to_multiple(b, self.multiple)
        hidden = self.core.inverse(self._through(self.encoder_b, padded))
        return self._through(self.decoder_a, hidden)[crop]

    def judged_a(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits for a scan of domain A, seen beside its source where the scans are paired."""
        logits: Tensor = self.judge_a(torch.cat([b, a], dim=1) if self.paired else a)
        return logits

    def judged_b(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits for a scan of domain B, seen beside its source where the scans are paired."""
        logits: Tensor = self.judge_b(torch.cat([a, b], dim=1) if self.paired else b)
        return logits

    def _through(self, network: nn.Module, x: Tensor) -> Tensor:
        """Apply an encoder or decoder; remember what is inside, or not."""
        if self.frugal and torch.is_grad_enabled():
            # nothing in there is random, so there is no random state to keep
            y: Tensor = checkpoint(network, x, use_reentrant=False, preserve_rng_state=False)
        else:
            y = network(x)
        return y
