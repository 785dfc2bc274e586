"""BranchGAN (Zhou et al. 2019, IEEE Transactions on Multimedia 21(12); code yfzhoucs/BranchGAN).

One encoder for both domains and a decoder for each: the code of any scan can be drawn in its own
domain, which must give the scan itself, and in the other. Drawn images are encoded again and must
have the code that they were drawn from (encoding consistency, instead of a cycle of images). All
six images, drawn once or twice, in the own domain or the other, must deceive; the discriminators
learn from the two translations alone.

One step of the discriminators is followed by three of encoder and decoders, each with new scans.
A round brings one batch, so the discriminators move in every third round (`generator_rounds`),
before the generators, which move in each: the order of steps is the authors', and only the first
of the three generator steps looks at the scans that the discriminators have just seen.

What differs from the authors' code, and why:
- The residual blocks have instance norm, with a scale and a shift of its own per channel, as many
  numbers as batch norm has: their batch norm of a few scans is another one in training than
  afterwards, and their test script never leaves training mode. `block_norm: batch` is theirs.
- Least squares on logits: theirs are squashed by a sigmoid first (`game: sigmoid`), where an image
  that deceives nobody gets next to no gradient.
- The pool of earlier translations holds images, theirs whole batches.
- One optimiser for encoder and decoders, one for both discriminators; Adam does not know.
- Added: 3-D and neighbouring slices. A drawn slice is encoded as its own neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.networks.branchgan import branch, trunk
from medi2i.networks.layers import Norm, pad_to_multiple
from medi2i.networks.memory import ImagePool
from medi2i.networks.pix2pix import PatchDiscriminator, initialise_normal
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["BranchGAN"]


class BranchGAN(Translator):
    """Both directions between two domains by one encoder and two decoders.

    Args:
        features: channels of the outermost stage; None chooses 64 in 2-D and 32 in 3-D.
        blocks: residual blocks of the encoder, and of each decoder.
        block_norm: their norm, "instance" or the authors' "batch".
        patch: strided layers of the discriminators.
        patch_features: channels of their first stage.
        game: "least-squares", the authors' "sigmoid" before it, or "vanilla".
        generator_rounds: rounds of the generators for each of the discriminators.
        pool: translations remembered for the discriminators, per domain.
        same: weight of the voxel error of a scan drawn in its own domain.
        encoding: weight of the errors of codes.
        gan: weight of each of the six adversarial terms.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: a task on demand, `inputs` and `outputs` differ, or `generator_rounds` is less
            than 1.
    """

    paper = Paper("Zhou et al. 2019, IEEE Transactions on Multimedia 21(12)")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "discriminators": ("judge_a", "judge_b"),
        "generators": ("encoder", "decoder_a", "decoder_b"),
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
        blocks: int = 3,
        block_norm: Norm = "instance",
        patch: int = 2,
        patch_features: int = 64,
        game: Literal["least-squares", "sigmoid", "vanilla"] = "least-squares",
        generator_rounds: int = 3,
        pool: int = 100,
        same: float = 8.0,
        encoding: float = 10.0,
        gan: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if generator_rounds < 1:
            raise UsageError(f"generator_rounds is {generator_rounds}; at least 1 was expected")
        features = features or (64 if dims == 2 else 32)
        self.encoder = trunk(
            dims=dims, inputs=self.channels, features=features, blocks=blocks, kind=block_norm
        )
        self.decoder_a, self.decoder_b = (
            branch(dims=dims, outputs=outputs, features=features, blocks=blocks, kind=block_norm)
            for _ in range(2)
        )
        self.judge_a, self.judge_b = (
            PatchDiscriminator(
                dims=dims, inputs=outputs, layers=patch, features=patch_features, kind="instance"
            )
            for _ in range(2)
        )
        initialise_normal(self)
        self.pool_a, self.pool_b = ImagePool(pool), ImagePool(pool)
        self.squashed = game == "sigmoid"
        self.game: Game = "vanilla" if game == "vanilla" else "least-squares"
        self.generator_rounds = generator_rounds
        self.same = same
        self.encoding = encoding
        self.gan = gan

    def play(self, batch: Batch) -> Iterator[Turn]:
        """In every `generator_rounds`-th round the discriminators; in each the generators."""
        two = sides(self, batch)
        code_a, code_b = self.encode(two.a), self.encode(two.b)
        size_a, size_b = two.image_a.shape[2:], two.image_b.shape[2:]
        ab, ba = (
            self.decode(self.decoder_b, code_a, size_a),
            self.decode(self.decoder_a, code_b, size_b),
        )
        if int(self.rounds) % self.generator_rounds == 0:
            yield Turn(
                "discriminators",
                contest_a=2 * self.contest(self.judge_a, two.image_a, self.pool_a(ba)),
                contest_b=2 * self.contest(self.judge_b, two.image_b, self.pool_b(ab)),
            )
        aa, bb = (
            self.decode(self.decoder_a, code_a, size_a),
            self.decode(self.decoder_b, code_b, size_b),
        )
        code_ab, code_ba = self.encoded_again(ab), self.encoded_again(ba)
        aba = self.decode(self.decoder_a, code_ab, size_a)
        bab = self.decode(self.decoder_b, code_ba, size_b)
        losses = {
            "same_a": self.same * absolute_error(aa, two.image_a, two.weight_a),
            "same_b": self.same * absolute_error(bb, two.image_b, two.weight_b),
            "code_aa": self.encoding * absolute_error(self.encoded_again(aa), code_a.detach()),
            "code_bb": self.encoding * absolute_error(self.encoded_again(bb), code_b.detach()),
            "code_ab": self.encoding * absolute_error(code_ab, code_a.detach()),
            "code_ba": self.encoding * absolute_error(code_ba, code_b.detach()),
        }
        drawn_a = {"aa": aa, "ba": ba, "aba": aba}
        drawn_b = {"bb": bb, "ab": ab, "bab": bab}
        with frozen(self.judge_a, self.judge_b):
            for judge, drawn in ((self.judge_a, drawn_a), (self.judge_b, drawn_b)):
                for name, image in drawn.items():
                    losses[f"gan_{name}"] = self.gan * deceive(self.judged(judge, image), self.game)
        yield Turn("generators", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """A scan of domain A in domain B."""
        del target  # the task is fixed
        return self.decode(self.decoder_b, self.encode(source), source.shape[2:])

    def encode(self, x: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> the code of scans of either domain."""
        code: Tensor = self.encoder(pad_to_multiple(x, 4, least=2)[0])
        return code

    def encoded_again(self, image: Tensor) -> Tensor:
        """(B, outputs, *spatial), which were drawn -> their code."""
        return self.encode(slab(image, self.slices))

    def decode(self, decoder: nn.Module, code: Tensor, extent: tuple[int, ...]) -> Tensor:
        """A code as a scan of the decoder's domain: (B, outputs, *extent)."""
        image: Tensor = decoder(code)
        return image[(slice(None), slice(None), *(slice(0, size) for size in extent))]

    def judged(self, judge: nn.Module, image: Tensor) -> Tensor:
        """Logits, or shares where they are squashed."""
        logits: Tensor = judge(image)
        return torch.sigmoid(logits) if self.squashed else logits

    def contest(self, judge: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """What a discriminator minimises, each side weighing one half."""
        return contest(self.judged(judge, real), self.judged(judge, fake), self.game)
