"""Implicit pairs (Ginger et al. 2019, arXiv:1904.06913; the authors published no code).

Not a network but a way to feed one, here CycleGAN, which is the paper's main host: networks, losses
and their order are CycleGAN's own. What changes is who stands on the two sides. Some people of one
side may have their counterpart on the other; nobody is told, and both sides are drawn
independently, yet the map gets better. The share of such people is `data.implicit` in the
configuration (0: nobody is on both sides; 1: everybody is), so report it with every number.

Pseudo-pairs, the paper's second idea, are counterparts that are made in the direction that is easy:
for an image of the target's side, something like its source. With `pseudo` above 0 that share of
the sources is replaced by such images, made from targets of earlier rounds, so that an image and
what was made of it do not meet in one batch more often than by chance. No loss compares the two.
What is easy depends on the task:

- damped: structures that are brighter than their surroundings are brought down to them, as a scan
  before contrast agent is to the one after (ce-gad T1w -> T1w is easy, T1w -> ce-gad T1w is asked).
- suppressed: the brightest tissue turns dark, as fluid does from T2w to FLAIR (FLAIR -> T2w asked).
- blurred: blurred and noisy, as a scanner of low field sees (a sharp image is asked).

What differs from the paper, and why: these three rules are made for MRI and are not its own; they
are applied as images are needed, so that nothing has to be stored. Other hosts than CycleGAN are
not here. A critic takes a pseudo-image's systematic flaw for how a source looks: stay below one
half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses.adversarial import Game
from medi2i.networks.antialias import smoothed
from medi2i.networks.memory import Memory
from medi2i.systems.base import Paper, Turn
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.domains import sides, weights_of

__all__ = ["ImplicitPairs"]

Easy = Literal["damped", "suppressed", "blurred"]

KERNEL = (1, 6, 15, 20, 15, 6, 1)
"""A Gaussian of 1.2 voxels."""


class Earlier(Memory):
    """Images of earlier rounds with their weights, drawn alike.

    Args:
        size: images kept; a new one takes the place of the oldest.
    """

    images: Tensor
    """(N, C + 1, *spatial), N at most `size`: images, and their weights as the last channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.empty(0))

    def drawn(self, count: int) -> Tensor:
        """(count, C + 1, *spatial), each one of those kept."""
        return self.images[torch.randint(len(self.images), (count,)).to(self.images.device)]

    def keep(self, images: Tensor) -> None:
        """Put (B, C + 1, *spatial) behind the others; of another shape, they begin anew."""
        fresh = images.detach().float()
        if self.images.shape[1:] == fresh.shape[1:]:
            fresh = torch.cat([self.images, fresh])
        self.images = fresh[-self.size :]


class ImplicitPairs(CycleGAN):
    """CycleGAN among whose unpaired people some have both scans, or something like it.

    Args:
        pseudo: share of the sources that are made from targets, in [0, 1].
        easy: how: "damped", "suppressed" or "blurred".
        earlier: targets that are kept to be made sources of.
        generator, features, blocks, depth, patch, patch_features, pool, game, cycle, identity: see
            :class:`CycleGAN`.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: as of `CycleGAN`; `pseudo` is no share, or `easy` or `earlier` has no meaning.
    """

    paper = Paper("Ginger et al. 2019, arXiv:1904.06913")

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        pseudo: float = 0.0,
        easy: Easy = "damped",
        earlier: int = 50,
        generator: Literal["resnet", "unet"] = "resnet",
        features: int | None = None,
        blocks: int | None = None,
        depth: int | None = None,
        patch: int | None = None,
        patch_features: int = 64,
        pool: int = 50,
        game: Game = "least-squares",
        cycle: float = 10.0,
        identity: float = 0.5,
    ) -> None:
        host: dict[str, Any] = {
            "dims": dims,
            "inputs": inputs,
            "slices": slices,
            "outputs": outputs,
            "conditions": conditions,
            "generator": generator,
            "features": features,
            "blocks": blocks,
            "depth": depth,
            "patch": patch,
            "patch_features": patch_features,
            "pool": pool,
            "game": game,
            "cycle": cycle,
            "identity": identity,
        }
        super().__init__(**host)
        if not 0 <= pseudo <= 1:
            raise UsageError(f"pseudo is {pseudo:g}; a share between 0 and 1 was expected")
        if easy not in MADE:
            raise UsageError(f'easy is "{easy}"; {", ".join(MADE)} are known')
        if earlier < 1:
            raise UsageError(f"earlier is {earlier}; at least 1 image was expected")
        self.pseudo, self.easy = pseudo, easy
        self.earlier = Earlier(earlier)

    def play(self, batch: Batch) -> Iterator[Turn]:
        """CycleGAN's round, with some sources made from targets of earlier rounds."""
        yield from super().play(self.mixed(batch) if self.pseudo else batch)

    @torch.no_grad()
    def mixed(self, batch: Batch) -> Batch:
        """The batch with each source replaced by a pseudo-image, with chance `pseudo`."""
        both = sides(self, batch)
        here, there = weights_of(batch)
        ones = torch.ones_like(both.image_b[:, :1])
        mixed = batch
        if len(self.earlier.images):
            stored = self.earlier.drawn(len(batch))
            made, weight = MADE[self.easy](stored[:, :-1]), stored[:, -1:]
            chosen = torch.rand(len(batch)) < self.pseudo
            chosen = chosen.to(made.device).reshape(-1, *[1] * (made.dim() - 1))
            mixed = replace(
                batch,
                source=torch.where(chosen, made, both.a),
                weight=None if here is None else torch.where(chosen, weight, here),
                target_weight=there,
            )
        self.earlier.keep(torch.cat([both.b, ones if there is None else there], dim=1))
        return mixed


def damped(image: Tensor) -> Tensor:
    """What is brighter than its surroundings comes most of the way down to them."""
    return image - 0.8 * (image - blurred_alone(image, 4)).clamp_min(0)


def suppressed(image: Tensor) -> Tensor:
    """From 0.3 on, the brighter the darker: fluid, the brightest of T2w, goes black."""
    return torch.lerp(image, torch.full_like(image, -1.0), ((image - 0.3) / 0.4).clamp(0, 1))


def blurred(image: Tensor) -> Tensor:
    """Twice blurred, with noise of a fortieth of the range."""
    return blurred_alone(image, 2) + 0.05 * torch.randn_like(image)


def blurred_alone(image: Tensor, times: int) -> Tensor:
    """(B, C, *spatial) -> the same shape, the border repeated outside."""
    reach = len(KERNEL) // 2
    for _ in range(times):
        pads = [reach] * 2 * (image.dim() - 2)
        image = smoothed(functional.pad(image, pads, "replicate"), KERNEL)
    return image


MADE = {"damped": damped, "suppressed": suppressed, "blurred": blurred}
"""From an image of the target's side to one that looks like a source."""
