"""AlignFlow (Grover et al. 2020, arXiv:1905.12892; code ermongroup/alignflow).

Each domain has a normalising flow of its own into one latent space: a = f_A^-1(z), b = f_B^-1(z).
Translation is b = f_B^-1(f_A(a)), so the way back is exact whatever the weights are, and no loss
has to ask for it. Two objectives are blended by one knob, `adversarial`: a least-squares game in
either domain, and the likelihood of both domains under a standard normal latent. At 0 the two flows
share nothing but that latent, and nothing says that they mean the same by it; at 1 there is no
likelihood. The flows move first, then the discriminators, by images old and new.

A slab enters whole, on both sides: its k slices are channels, and so are the contrasts. A flow
cannot look at a neighbour without being able to give it back. Both flows map slabs to latents of
their size; `translate` gives the centre slices, discriminators see them, and the way back needs the
whole slab (`a_to_b`, `b_to_a`).

What differs from the authors' code, and why:
- The flow is a multi-scale Glow (ActNorm, 1x1 convolutions, bounded affine couplings, Haar
  wavelets) in place of their Real-NVP with checkerboard masks, batch norm and weight norm: batch
  norm breaks the inverse in training, and two scales see too little of a head.
- Both start from the same rotations, as the same map up to offset and gain of each wavelet band.
  A shared latent alone does not tie anatomy to anatomy; this start does.
- No logit, which has no value for the few voxels above 1, and no tanh on the way out, which is not
  the inverse of what went in: theirs loses 0.16 of [-1, 1] on the way back. Nothing is clamped.
- Dequantisation noise (a bin of 256) in training alone; their translation drew it too. It also
  keeps the density of constant background finite. It is added after padding, for the same reason.
- Likelihood in nats per dimension, so that its weight does not depend on the size of a window:
  their 1e-4 of a sum over 3 x 128 x 128 is 4.9 here, which is `adversarial` 0.17. A density has no
  voxels, so the batch's weight of each voxel is not used.
- Neither the clamping of the Jacobian (off there) nor their one-flow variant without a latent.
- Added: 3-D, slabs. Discriminators as CycleGAN's.

The way back is exact where every size is a multiple of 2**levels. Other sizes are padded by their
last voxels, and what becomes of these is cut off, so it is missed on the way back near that edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.networks.invertible import (
    Flow,
    FlowCoupling,
    Squeezing,
    bits_per_dimension,
    dequantised,
    log_standard_normal,
)
from medi2i.networks.layers import pad_to_multiple
from medi2i.networks.memory import ImagePool
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.domains import sides, two_sided

__all__ = ["AlignFlow"]


class AlignFlow(Translator):
    """Unpaired translation through a latent that two normalising flows share.

    Args:
        adversarial: share of the game in the objective, the rest is likelihood; 0 to 1.
        levels: of each flow; None chooses 4 in 2-D and 3 in 3-D.
        steps: of each level; None chooses 8 in 2-D and 4 in 3-D.
        width: hidden channels of the couplings; None chooses 128 in 2-D and 32 in 3-D.
        coupling, bound, squeeze: see :class:`medi2i.networks.invertible.Flow`.
        recompute: memory that does not grow with `steps`, for more time.
        alike: both flows start from the same rotations.
        bins: of [-1, 1], as wide as the dequantisation noise; 0 for no noise.
        patch: strided layers of the discriminators; None chooses 3 in 2-D, 2 in 3-D.
        patch_features: channels of their first layer.
        pool: generated images that are kept for either discriminator; 0 for none.
        game: "least-squares" or "vanilla".

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, a contrast on demand, or `adversarial` is not a
            share.
    """

    paper = Paper("Grover et al. 2020, arXiv:1905.12892")
    pairing = Pairing.UNPAIRED
    players = {  # noqa: RUF012 - ClassVar in the base
        "flows": ("flow_a", "flow_b"),
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
        adversarial: float = 0.17,
        levels: int | None = None,
        steps: int | None = None,
        width: int | None = None,
        coupling: FlowCoupling = "affine",
        bound: float = 1.0,
        squeeze: Squeezing = "haar",
        recompute: bool = False,
        alike: bool = True,
        bins: int = 256,
        patch: int | None = None,
        patch_features: int = 64,
        pool: int = 50,
        game: Game = "least-squares",
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        two_sided(self)
        if not 0 <= adversarial <= 1:
            raise UsageError(
                f"adversarial is {adversarial:g}; a share was expected, from 0 (likelihood alone) "
                "to 1 (the game alone)"
            )
        flat = dims == 2
        self.flow_a, self.flow_b = (
            Flow(
                dims=dims,
                channels=self.channels,
                levels=levels or (4 if flat else 3),
                steps=steps or (8 if flat else 4),
                width=width or (128 if flat else 32),
                kind=coupling,
                bound=bound,
                squeeze=squeeze,
                recompute=recompute,
            )
            for _ in range(2)
        )
        if alike:
            self.flow_b.start_as(self.flow_a)
        if adversarial:
            self.judge_a, self.judge_b = (
                PatchDiscriminator(
                    dims=dims,
                    inputs=outputs,
                    layers=(3 if flat else 2) if patch is None else patch,
                    features=patch_features,
                    kind="instance",
                )
                for _ in range(2)
            )
            self.pool_a, self.pool_b = ImagePool(pool), ImagePool(pool)
        else:  # nobody to play against
            self.players = {"flows": ("flow_a", "flow_b")}  # type: ignore[misc]
        self.adversarial = adversarial
        self.bins = bins
        self.game: Game = game

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The flows move first; then the discriminators, by images old and new."""
        both = sides(self, batch)
        a, crop_a = pad_to_multiple(both.a, self.flow_a.multiple)
        b, crop_b = pad_to_multiple(both.b, self.flow_b.multiple)
        latents_a, total_a = self.flow_a(dequantised(a, self.bins))
        latents_b, total_b = self.flow_b(dequantised(b, self.bins))
        losses = {}
        if self.adversarial < 1:
            share = 1 - self.adversarial
            density_a = log_standard_normal(latents_a) + total_a
            density_b = log_standard_normal(latents_b) + total_b
            losses["nats_a"] = -share * density_a.mean() / a[0].numel()
            losses["nats_b"] = -share * density_b.mean() / b[0].numel()
        if not self.adversarial:
            yield Turn("flows", **losses)
            return
        fake_b = self.centre(self.flow_b.inverse(latents_a)[0][crop_a])
        fake_a = self.centre(self.flow_a.inverse(latents_b)[0][crop_b])
        with frozen(self.judge_a, self.judge_b):
            losses["gan_b"] = self.adversarial * deceive(self.judge_b(fake_b), self.game)
            losses["gan_a"] = self.adversarial * deceive(self.judge_a(fake_a), self.game)
        yield Turn("flows", **losses)
        old_b, old_a = self.pool_b(fake_b), self.pool_a(fake_a)
        yield Turn(
            "discriminators",
            contest_b=contest(self.judge_b(both.image_b), self.judge_b(old_b), self.game),
            contest_a=contest(self.judge_a(both.image_a), self.judge_a(old_a), self.game),
        )

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The centre slices of what :meth:`a_to_b` gives."""
        del target  # the task is fixed
        return self.centre(self.a_to_b(source))

    @property
    def way_back(self) -> Callable[[Tensor], Tensor]:
        """The centre slices of what :meth:`b_to_a` gives."""
        return lambda target: self.centre(self.b_to_a(target))

    def bits(self, batch: Batch) -> dict[str, Tensor]:
        """Bits per dimension of either side, (B,) each, under its own flow: "a" and "b"."""
        both = sides(self, batch)
        found = {}
        for name, flow, image in (("a", self.flow_a, both.a), ("b", self.flow_b, both.b)):
            x, _ = pad_to_multiple(image, flow.multiple)
            latents, total = flow(dequantised(x, self.bins))
            density = log_standard_normal(latents) + total
            found[name] = bits_per_dimension(density, x, self.bins or 256)
        return found

    def there_and_back(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sources, and what both ways one after the other make of them."""
        a = sides(self, batch).a
        return a, self.b_to_a(self.a_to_b(a))

    def a_to_b(self, a: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> the same shape: f_B^-1(f_A(a)), not clamped."""
        return _through(self.flow_a, self.flow_b, a)

    def b_to_a(self, b: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> the same shape: f_A^-1(f_B(b)), not clamped.

        Law: ``b_to_a(a_to_b(a)) == a`` up to rounding, where every size is a multiple of
        2**levels.
        """
        return _through(self.flow_b, self.flow_a, b)


def _through(here: Flow, there: Flow, image: Tensor) -> Tensor:
    padded, crop = pad_to_multiple(image, here.multiple)
    latents, _ = here(padded)
    back, _ = there.inverse(latents)
    return back[crop]
