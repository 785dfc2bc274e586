"""Deformation-guided AlignFlow: our reconstruction after Bui et al. 2020, not their method.

Bui, Nguyen, Le and Luu (MICCAI 2020, doi:10.1007/978-3-030-59713-9_70, arXiv:2012.01777) translate
slices by invertible networks, unpaired, and let the deformation between consecutive slices guide
them, so that translated slices are realistic and fit together. Neither their loss, its weights nor
code are public. This is what we make of the idea; results of theirs do not apply to it.

AlignFlow's game and likelihood (see `systems.alignflow`), and on both ways one term more: the
motion from a slice to the next is known from the real slices, and the translated slices have to
move alike (see `systems.guidance` and `losses.guidance`). With `guidance` 0 a round is AlignFlow's
to the last bit.

What is ours:
- Motion comes from diffeomorphic demons, estimated once per scan; or from a registration network
  that learns in a turn of its own, from real slices of both sides alone (local correlation and
  smoothness, VoxelMorph's weights), so that it cannot agree with the flows on a wrong motion.
- The term is a robust mean of what is missed, there and back, weighed by how far the motion
  explains the real slices. It grows from 0, because young flows draw nothing worth guiding.
- Optionally, discriminators of their own see each slice with the next one, real or translated, so
  that the step between them has to be realistic too (`pairs`).
- Guided images are drawn without dequantisation noise, which no motion could explain.

Patches hold the neighbours of their slices: what is said here of a slice and the next holds for
each of theirs, in the plane. The learned network and the judges of pairs see them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses import contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.losses.registration import local_decorrelation, roughness
from medi2i.networks.deformation import warp
from medi2i.networks.invertible import FlowCoupling, Squeezing
from medi2i.networks.pix2pix import PatchDiscriminator
from medi2i.networks.registration import RegistrationNetwork
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.base import Paper, Turn, frozen
from medi2i.systems.guidance import Drawn, Steps, drawn, each_step, held_together, ramped

__all__ = ["FlowDeformation"]

FROM_DATA = ("demons", "tvl1", "still")
"""Motion that batches bring with them."""


class FlowDeformation(AlignFlow):
    """AlignFlow whose slices are held together by the motion between the real ones.

    Args:
        guidance: weight of the term on images in [0, 1]; 0 leaves AlignFlow.
        ramp: rounds over which the weight grows from 0.
        confidence: count less where the motion does not explain the real slices.
        registration: where motion comes from: "demons", "tvl1" or "still" (none) from the data, or
            "learned" by a network of this system.
        smoothness: weight of the squared slopes of the learned velocity.
        pairs: two discriminators more, in the same turn, judge a slice and the next together.
        adversarial to game: see :class:`AlignFlow`.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: a negative weight or ramp, an unknown registration, pairs without a game, and
            as :class:`AlignFlow`.
    """

    paper = Paper("after Bui et al. 2020, arXiv:2012.01777 (our reconstruction)")

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        guidance: float = 10.0,
        ramp: int = 20_000,
        confidence: bool = True,
        registration: Literal["demons", "tvl1", "still", "learned"] = "demons",
        smoothness: float = 1.0,
        pairs: bool = False,
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
            dims=dims,
            inputs=inputs,
            slices=slices,
            outputs=outputs,
            conditions=conditions,
            adversarial=adversarial,
            levels=levels,
            steps=steps,
            width=width,
            coupling=coupling,
            bound=bound,
            squeeze=squeeze,
            recompute=recompute,
            alike=alike,
            bins=bins,
            patch=patch,
            patch_features=patch_features,
            pool=pool,
            game=game,
        )
        if not guidance >= 0 or ramp < 0 or not smoothness >= 0:
            raise UsageError(
                f"guidance is {guidance:g}, ramp {ramp} and smoothness {smoothness:g}; none below "
                "0 was expected"
            )
        if registration not in (*FROM_DATA, "learned"):
            raise UsageError(
                f'registration is "{registration}"; {", ".join(FROM_DATA)} or learned was expected'
            )
        if pairs and not adversarial:
            raise UsageError(
                "pairs are judged in the game, but adversarial is 0, which plays none: give it a "
                "share, or leave pairs out"
            )
        self.guidance = guidance
        self.ramp = ramp
        self.confidence = confidence
        self.smoothness = smoothness
        self.learned = bool(guidance) and registration == "learned"
        self.pairs = pairs
        if guidance or pairs:
            self.motion = registration if guidance and not self.learned else "still"
        if pairs:
            self.judge_pair_a, self.judge_pair_b = (
                PatchDiscriminator(
                    dims=2,
                    inputs=2 * outputs,
                    layers=3 if patch is None else patch,
                    features=patch_features,
                    kind="instance",
                )
                for _ in range(2)
            )
            judges = (*self.players["discriminators"], "judge_pair_a", "judge_pair_b")
            self.players = {**self.players, "discriminators": judges}  # type: ignore[misc]
        if self.learned:
            self.registration = RegistrationNetwork(2, channels=self.inputs)
            self.players = {**self.players, "registration": ("registration",)}  # type: ignore[misc]

    def play(self, batch: Batch) -> Iterator[Turn]:
        """AlignFlow's round, guidance in the flows' turn; then, if it learns, registration."""
        weight = ramped(self.guidance, int(self.rounds), self.ramp)
        both: list[Drawn] = []
        for turn in super().play(batch):
            losses = dict(turn.losses)
            if turn.player == "flows" and (weight or self.pairs):
                both = [p._replace(steps=self.moved(p.steps)) for p in drawn(self, batch)]
                if weight:
                    held = held_together(both, confident=self.confidence)
                    losses |= {name: weight * loss for name, loss in held.items()}
            if self.pairs:
                losses |= self.pair_losses(turn.player, both)
            yield Turn(turn.player, **losses)
        if self.learned:
            yield Turn("registration", **self.registration_losses(batch))

    def pair_losses(self, player: str, both: list[Drawn]) -> dict[str, Tensor]:
        """The game over slices with their next ones; `both` ways as the flows drew them.

        Raises:
            UsageError: the batch brings the neighbours of one side alone.
        """
        if len(both) < 2:
            raise UsageError("pairs are judged on both sides, and this batch brings one neighbour")
        losses: dict[str, Tensor] = {}
        sides = (("b", self.judge_pair_b), ("a", self.judge_pair_a))
        of_a, of_b = (torch.cat([p.steps.real, p.steps.further], dim=1) for p in both)
        for (side, judge), pair, true in zip(sides, both, (of_b, of_a), strict=True):
            fake = torch.cat([pair.first, pair.second], dim=1)
            if player == "flows":
                with frozen(judge):
                    losses[f"gan_pair_{side}"] = self.adversarial * deceive(judge(fake), self.game)
            else:
                losses[f"contest_pair_{side}"] = contest(
                    judge(true), judge(fake.detach()), self.game
                )
        return losses

    def moved(self, steps: Steps) -> Steps:
        """The steps with the motion that was learned, as a constant; as they are where none is."""
        if not self.learned:
            return steps
        with torch.no_grad():
            return steps._replace(field=self.registration(steps.real, steps.further).displacement)

    def registration_losses(self, batch: Batch) -> dict[str, Tensor]:
        """What is missed between real slices, and rough motion; over both sides.

        Raises:
            UsageError: the batch brings no neighbours.
        """
        unlike, rough = [], []
        slab = batch.target if batch.target_slab is None else batch.target_slab
        for real, neighbour in (
            (batch.source, batch.neighbour),
            (slab, batch.target_neighbour),
        ):
            if neighbour is not None:
                steps = each_step(self, real, neighbour)
                motion = self.registration(steps.real, steps.further)
                bent = warp(steps.real, motion.displacement)
                unlike.append(local_decorrelation(bent, steps.further, steps.inside))
                rough.append(self.smoothness * roughness(motion.velocity))
        if not unlike:
            raise UsageError(
                "registration learns from neighbouring slices, and this batch brings none: call "
                "`follow` on the windows"
            )
        return {"unlike": torch.stack(unlike).mean(), "rough": torch.stack(rough).mean()}
