"""XGAN (Royer et al. 2017, arXiv:1711.05139; the authors published no training code).

Two autoencoders, one for each domain, that share the end of the encoder and the beginning of the
decoder. A translation is the code of one domain, drawn by the other domain's decoder. What has to
come back is not the image but its code (semantic consistency), and a classifier that wants to know
of which domain a code is meets reversed gradients, so that codes of both become alike. A round has
two turns: everything that draws, with the classifier behind its reversal, then the critics.

What differs from the paper and from the third-party code that its sheet was read from, and why:
- A code is a map at a quarter of the size, as in UNIT (arXiv:1703.00848), not a vector of 1024: a
  vector keeps what a face looks like and loses where a sulcus runs. `code: vector` is the paper's.
- In the map a classifier, layer by layer the vector's, looks at each position by itself, and the
  critics are PatchGAN's; with the vector they are the small ones of the code read.
- Both domains have a critic, since both directions are to be used; the code read has one, of
  domain B (`critics: b`).
- The classifier learns with its full loss, and its reversed gradient is weighed by `dann`.
- The reconstruction error is the mean square over voxels; the code read divides by their number
  twice, which switches it off, and without it a constant code would be best.
- No teacher term: it needs a network that knows the subject beforehand.
- Weights of the paper are unknown; all are 1, as in the code read. The game is least squares.
- Added: 3-D and neighbouring slices. A drawn slice is encoded as its own neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive, squared_error
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.pix2pix import PatchDiscriminator, initialise_normal
from medi2i.networks.reversal import reversed_gradient
from medi2i.networks.xgan import DomainClassifier, SpatialParts, VectorParts
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, slab, two_sided

__all__ = ["XGAN"]


class XGAN(Translator):
    """Both directions between two domains by codes that mean the same in both.

    Args:
        code: "spatial", a map at a quarter of the size, or the paper's "vector".
        features: channels of the first stage; None chooses 64 in 2-D and 32 in 3-D for maps, 32
            for vectors.
        blocks: shared residual blocks of encoder and decoder (spatial).
        window: side of the training windows (vector), a multiple of 16; 16 itself leaves batch
            norm nothing to average over in batches of one.
        patch: strided layers of the critics (spatial); None chooses 3 in 2-D and 2 in 3-D.
        patch_features: channels of their first stage (spatial).
        critics: "both" domains have one, or "b" alone.
        reconstruction, dann, semantic, gan: weights.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: a task on demand, `inputs` and `outputs` differ, or `window` is none of these.
    """

    paper = Paper("Royer et al. 2017, arXiv:1711.05139")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "autoencoders": (
            *("encoder_a", "encoder_b", "shared_encoder"),
            *("shared_decoder", "decoder_a", "decoder_b", "classifier"),
        ),
        "critics": ("critics",),
    }

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        code: Literal["spatial", "vector"] = "spatial",
        features: int | None = None,
        blocks: int = 3,
        window: int = 64,
        patch: int | None = None,
        patch_features: int = 64,
        critics: Literal["both", "b"] = "both",
        reconstruction: float = 1.0,
        dann: float = 1.0,
        semantic: float = 1.0,
        gan: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if code == "vector" and (window < 16 or window % 16):
            raise UsageError(
                f"window is {window}; the vector takes windows of 16, 32, 48, 64, ... voxels"
            )
        parts: SpatialParts | VectorParts
        if code == "spatial":
            parts = SpatialParts(dims, features or (64 if dims == 2 else 32), blocks)
        else:
            parts = VectorParts(dims, window, features or 32)
        self.multiple, self.least = parts.multiple, parts.least
        self.smallest = window if code == "vector" else 1
        self.encoder_a = parts.own_encoder(self.channels)
        self.encoder_b = parts.own_encoder(self.channels)
        self.shared_encoder = parts.shared_encoder()
        self.shared_decoder = parts.shared_decoder()
        self.decoder_a = parts.own_decoder(outputs)
        self.decoder_b = parts.own_decoder(outputs)
        self.classifier = DomainClassifier(dims=dims, code=parts.code)
        self.critics = nn.ModuleDict(
            {
                side: parts.critic(outputs)
                if isinstance(parts, VectorParts)
                else PatchDiscriminator(
                    dims=dims,
                    inputs=outputs,
                    layers=(3 if dims == 2 else 2) if patch is None else patch,
                    features=patch_features,
                    kind="instance",
                )
                for side in ("a", "b")
                if side == "b" or critics == "both"
            }
        )
        initialise_normal(self)
        self.reconstruction = reconstruction
        self.dann = dann
        self.semantic = semantic
        self.gan = gan

    def play(self, batch: Batch) -> Iterator[Turn]:
        """Autoencoders and classifier against each other, then the critics."""
        two = sides(self, batch)
        if min(two.image_a.shape[2:]) < self.smallest:
            raise UsageError(
                f"training windows of {tuple(two.image_a.shape[2:])} voxels came; the vector was "
                f"laid out for at least {self.smallest} along each side: set `window` to data.size"
            )
        code_a, code_b = self.encode_a(two.a), self.encode_b(two.b)
        extent = two.image_a.shape[2:], two.image_b.shape[2:]
        again_a, again_b = self.decode_a(code_a, extent[0]), self.decode_b(code_b, extent[1])
        fakes = {"a": self.decode_a(code_b, extent[1]), "b": self.decode_b(code_a, extent[0])}
        named_a, named_b = (
            self.classifier(reversed_gradient(code, self.dann)) for code in (code_a, code_b)
        )
        losses = {
            "reconstruction_a": self.reconstruction
            * squared_error(again_a, two.image_a, two.weight_a),
            "reconstruction_b": self.reconstruction
            * squared_error(again_b, two.image_b, two.weight_b),
            "dann": contest(named_b, named_a),
            "semantic_a": self.semantic
            * absolute_error(self.encode_b(slab(fakes["b"], self.slices)), code_a),
            "semantic_b": self.semantic
            * absolute_error(self.encode_a(slab(fakes["a"], self.slices)), code_b),
        }
        with frozen(self.critics):
            for side, critic in self.critics.items():
                losses[f"gan_{side}"] = self.gan * deceive(critic(fakes[side]), "least-squares")
        yield Turn("autoencoders", **losses)

        real = {"a": two.image_a, "b": two.image_b}
        yield Turn(
            "critics",
            **{
                f"contest_{side}": contest(
                    critic(real[side]), critic(fakes[side].detach()), "least-squares"
                )
                for side, critic in self.critics.items()
            },
        )

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """A scan of domain A in domain B."""
        del target  # the task is fixed
        return self.decode_b(self.encode_a(source), source.shape[2:])

    def encode_a(self, a: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> the code of scans of domain A."""
        code: Tensor = self.shared_encoder(self.encoder_a(self._whole(a)))
        return code

    def encode_b(self, b: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> the code of scans of domain B."""
        code: Tensor = self.shared_encoder(self.encoder_b(self._whole(b)))
        return code

    def decode_a(self, code: Tensor, extent: tuple[int, ...]) -> Tensor:
        """A code as a scan of domain A: (B, outputs, *extent)."""
        return _cut(self.decoder_a(self.shared_decoder(code)), extent)

    def decode_b(self, code: Tensor, extent: tuple[int, ...]) -> Tensor:
        """A code as a scan of domain B: (B, outputs, *extent)."""
        return _cut(self.decoder_b(self.shared_decoder(code)), extent)

    def _whole(self, x: Tensor) -> Tensor:
        return pad_to_multiple(x, self.multiple, least=self.least)[0]


def _cut(image: Tensor, extent: tuple[int, ...]) -> Tensor:
    return image[(slice(None), slice(None), *(slice(0, size) for size in extent))]
