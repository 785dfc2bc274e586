"""Guidance as a term that any system takes, of slices or of patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour, Pairing
from medi2i.data.motion import slice_field
from medi2i.errors import ConfigError, UsageError
from medi2i.networks.deformation import warp
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.systems.bicyclegan import BicycleGAN
from medi2i.systems.cut import CUT
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.guidance import (
    Drawn,
    Guidance,
    Guide,
    Steps,
    agreement,
    drawn,
    ramped,
    translating,
)
from medi2i.systems.pix2pix import Pix2pix
from medi2i.systems.unet import UNetRegression
from medi2i.training.plan import Plan
from medi2i.training.trainer import Trainer
from tests.data.test_motion import head
from tests.losses.test_guidance import (
    FLOOR,
    Change,
    blurred,
    inverted,
    noisy,
    smooth_field,
    with_blob,
)

FLOW: dict[str, Any] = {"levels": 2, "steps": 1, "width": 4, "patch": 1, "patch_features": 4}
RESNET: dict[str, Any] = {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4}
SYSTEMS: dict[str, tuple[type[Translator], dict[str, Any], set[str]]] = {
    "alignflow": (AlignFlow, FLOW, {"flows"}),
    "bicyclegan": (BicycleGAN, {"depth": 3, "features": 4, "blocks": 2, "patch": 1}, set()),
    "cut": (CUT, RESNET | {"code": 4, "patches": 8}, {"generator"}),
    "cyclegan": (CycleGAN, RESNET, {"generators"}),
    "pix2pix": (Pix2pix, {"depth": 3, "features": 4, "patch": 1}, {"generator"}),
    "unet": (UNetRegression, {"features": (4, 8), "slices": 3}, {"regressor"}),
}


def build(name: str, **changes: Any) -> Translator:
    torch.manual_seed(0)
    kind, arguments, _ = SYSTEMS[name]
    return kind(**(arguments | changes))


def batch_of(slices: int = 1, seed: int = 0, dims: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    shape = (16, 24) if dims == 2 else (16, 16, 8)

    def image(channels: int) -> Tensor:
        return 2 * torch.rand(2, channels, *shape, generator=random) - 1

    def neighbour() -> Neighbour:
        if dims == 2:
            return Neighbour(image(slices), image(2), (image(1) > 0).float())
        return Neighbour(None, image(2)[..., 1:], (image(1)[..., 1:] > 0).float())

    slab = image(slices)
    return Batch(
        image(slices),
        slab[:, slices // 2 :: slices],
        target_slab=slab,
        neighbour=neighbour(),
        target_neighbour=neighbour(),
    )


def trained(
    folder: Path,
    name: str,
    guidance: Guidance | None,
    rounds: int = 3,
    stop: int | None = None,
    dims: int = 2,
) -> dict[str, Tensor]:
    system = build(name, dims=dims)

    def supply(start: int) -> Iterator[Batch]:
        for number in range(start, stop or rounds):
            yield batch_of(system.slices, number, dims)
        raise KeyboardInterrupt

    guide = guidance and Guide(system, guidance, rounds)
    plan = Plan(rounds=rounds, checkpoint_every=1, validate_every=0, log_every=0)
    Trainer(system, supply, plan, folder, play=guide.play if guide else None).run()
    return system.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "dims"), [*((name, 2) for name in SYSTEMS), ("alignflow", 3), ("pix2pix", 3)]
)
def test_the_term_joins_the_turns_of_those_who_translate(name: str, dims: int) -> None:
    system = build(name, dims=dims)
    before = {n: v.clone() for n, v in system.state_dict().items()}
    state = torch.get_rng_state()
    guide = Guide(system, Guidance(weight=2.0, ramp=0.0), 10)
    assert torch.equal(state, torch.get_rng_state())
    assert same(before, system.state_dict())
    expected = SYSTEMS[name][2]
    assert set(guide.players) == expected or not expected
    system.train()
    for turn in guide.play(batch_of(system.slices, dims=dims)):
        own = {"guidance"}
        if name in ("cyclegan", "alignflow"):
            own |= {"guidance_back"}
        assert own & set(turn.losses) == (own if turn.player in guide.players else set())
        assert torch.isfinite(turn.objective)
        if turn.player in guide.players:
            slopes = torch.autograd.grad(
                turn.losses["guidance"],
                system.parameters_of(turn.player),
                allow_unused=True,
                retain_graph=True,
            )
            assert any(slope is not None and slope.any() for slope in slopes)


@pytest.mark.parametrize(("name", "dims"), [("cyclegan", 2), ("pix2pix", 2), ("pix2pix", 3)])
def test_without_weight_nothing_changes_and_with_it_a_run_resumes(
    name: str, dims: int, tmp_path: Path
) -> None:
    plain = trained(tmp_path / "plain", name, None, dims=dims)
    assert same(plain, trained(tmp_path / "zero", name, Guidance(weight=0.0), dims=dims))
    strong = Guidance(weight=5.0, ramp=0.5)
    guided = trained(tmp_path / "guided", name, strong, dims=dims)
    assert not same(plain, guided)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", name, strong, stop=2, dims=dims)
    assert same(guided, trained(tmp_path / "parts", name, strong, dims=dims))


def test_the_weight_grows_over_the_first_rounds() -> None:
    assert [ramped(10.0, rounds, 4) for rounds in (0, 1, 4, 9)] == [0, 2.5, 10, 10]
    assert ramped(10.0, 0, 0) == 10
    system = build("unet")
    guide = Guide(system, Guidance(weight=10.0, ramp=0.2), 20)
    found = []
    for rounds in (0, 2, 4, 8):
        system.rounds.fill_(rounds)
        (turn,) = guide.play(batch_of(3))
        found.append(float(turn.losses.get("guidance", torch.zeros(())).detach()))
    assert found[0] == 0
    assert found[1] == pytest.approx(found[2] / 2, rel=1e-5)
    assert found[2] == pytest.approx(found[3], rel=1e-6)


def test_agreement_of_what_is_exact_is_the_floor_and_shuffled_slices_raise_it() -> None:
    smooth = torch.nn.functional.interpolate(
        torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0)), (32, 32), mode="bicubic"
    )
    field = torch.full((3, 2, 32, 32), 1.5)
    further = warp(smooth, field)
    inside = torch.zeros(3, 1, 32, 32)
    inside[..., 4:-4, 4:-4] = 1
    steps = Steps(smooth, further, field, inside)

    def of(steps: Steps, *, confident: bool) -> float:
        return float(agreement(Drawn("", -smooth, -steps.further, steps), confident=confident))

    assert of(steps, confident=False) < 0.01  # there exactly, back but for interpolation
    shuffled = steps._replace(further=further.roll(1, 0))
    assert of(shuffled, confident=False) > 5 * of(steps, confident=False)
    assert of(shuffled, confident=True) < of(shuffled, confident=False)
    nothing = steps._replace(inside=0 * inside)
    assert of(nothing, confident=True) == 0


def test_what_comes_from_beyond_the_window_does_not_count() -> None:
    wide = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    here, further = wide[..., 4:20], wide[..., 6:22]  # two voxels on: the window cuts both
    field = torch.zeros(1, 2, 16, 16)
    field[:, 1] = 2.0
    pair = Drawn("", here, further, Steps(here, further, field, torch.ones(1, 1, 16, 16)))
    assert float(agreement(pair, confident=False)) == pytest.approx(FLOOR, abs=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_no_gradient_reaches_the_field(dims: int) -> None:
    system = build("unet", slices=1, dims=dims)
    batch = batch_of(dims=dims)
    assert batch.neighbour is not None
    field = batch.neighbour.field.requires_grad_()
    (pair,) = drawn(system, batch)
    loss = agreement(pair, confident=True)
    loss.backward()
    assert field.grad is None
    assert all(p.grad is not None for p in system.parameters_of("regressor"))


# ---- patches


class Pointwise(Translator):
    """Inverts, or draws what it was given; and counts how often it was asked."""

    paper = Paper("nobody's")
    pairing = Pairing.PAIRED
    players: ClassVar[dict[str, tuple[str, ...]]] = {}
    given: Tensor | None = None
    asked = 0

    def play(self, batch: Batch) -> Iterator[Turn]:
        raise NotImplementedError

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        self.asked += 1
        return -source if self.given is None else self.given


def test_the_slices_of_a_patch_become_a_batch_in_order() -> None:
    patch = torch.arange(2 * 3 * 4 * 5 * 6.0).reshape(2, 3, 4, 5, 6)
    field, inside = patch[:, :2, ..., 1:], patch[:, :1, ..., 1:]
    system = Pointwise(dims=3, inputs=3, outputs=3)
    batch = Batch(patch, patch, neighbour=Neighbour(None, field, inside))
    (pair,) = drawn(system, batch)
    assert system.asked == 1, "the patch holds its neighbours"
    number = 0
    for person in range(2):
        for height in range(5):
            real, further = patch[person, ..., height], patch[person, ..., height + 1]
            found = pair.steps
            assert torch.equal(found.real[number], real)
            assert torch.equal(found.further[number], further)
            assert torch.equal(found.field[number], field[person, ..., height])
            assert torch.equal(found.inside[number], inside[person, ..., height])
            assert torch.equal(pair.first[number], -real)
            assert torch.equal(pair.second[number], -further)
            number += 1
    assert len(pair.first) == number


def test_a_known_shift_between_the_slices_of_a_patch_leaves_the_floor() -> None:
    wide = torch.rand(2, 1, 40, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    patch = torch.stack([wide[:, :, 2 * z : 2 * z + 24] for z in range(6)], dim=-1)
    field = torch.zeros(2, 2, 24, 16, 5)
    field[:, 0] = 2.0
    inside = torch.ones(2, 1, 24, 16, 5)

    def of(field: Tensor) -> float:
        batch = Batch(patch, patch, neighbour=Neighbour(None, field, inside))
        (pair,) = drawn(Pointwise(dims=3), batch)
        return float(agreement(pair, confident=False))

    assert of(field) == pytest.approx(FLOOR, abs=1e-5)
    assert of(0 * field) > 0.1
    assert of(-field) > 0.1, "the other way"
    assert of(field.flip(1)) > 0.1, "along the other axis"


def test_what_guidance_sees_in_a_patch_and_what_it_cannot() -> None:
    """The table of the design, as for slices, with one of six spoilt."""
    slices = [torch.from_numpy(head((96, 80)))[None, None]]
    random = torch.Generator().manual_seed(1)
    for _ in range(5):
        moved = warp(slices[-1], smooth_field((96, 80), 2.0))
        slices.append(torch.where(moved > 0.05, moved, 0))
    slices = [
        torch.where(s > 0, s + 0.01 * torch.randn(s.shape, generator=random), 0) for s in slices
    ]
    found = [
        torch.from_numpy(slice_field(one[0, 0].numpy(), other[0, 0].numpy()))
        for one, other in pairwise(slices)
    ]
    inside = [((one > 0) & (other > 0)).float() for one, other in pairwise(slices)]
    patch = torch.stack(slices, dim=-1)
    neighbour = Neighbour(None, torch.stack(found, dim=-1)[None], torch.stack(inside, dim=-1))

    def of(translate: Change, spoilt: Change = lambda x: x, every: Change = lambda x: x) -> float:
        drawn_slices = [translate(s) for s in slices]
        drawn_slices[3] = spoilt(drawn_slices[3])
        image = torch.stack([every(s) for s in drawn_slices], dim=-1)
        system = Pointwise(dims=3)
        system.given = 2 * image - 1
        (pair,) = drawn(system, Batch(2 * patch - 1, patch, neighbour=neighbour))
        return float(agreement(pair, confident=True))

    true = of(inverted)
    seen = {
        "blob": of(inverted, with_blob),
        "flicker": of(inverted, lambda x: 1.05 * x),
        "shift": of(inverted, lambda x: x.roll(3, 2)),
        "noise": of(inverted, every=noisy),
    }
    assert min(seen.values()) > 1.3 * true, (true, seen)
    assert seen["noise"] > 2 * true
    assert seen["shift"] > 4 * true
    assert of(lambda x: x) == pytest.approx(true, rel=1e-3), "no translation at all"
    assert of(inverted, every=blurred) < 1.1 * true
    assert of(lambda x: 0.3 + 0 * x) == pytest.approx(FLOOR, rel=1e-3), "a constant image"


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight"):
        Guidance(weight=-1.0)
    with pytest.raises(ConfigError, match="share"):
        Guidance(ramp=2.0)
    system = build("unet", slices=1)
    bare = replace(batch_of(), neighbour=None)
    with pytest.raises(UsageError, match="brings none"):
        list(Guide(system, Guidance(ramp=0.0), 10).play(bare))
    for parameter in system.parameters():
        parameter.requires_grad_(False)
    assert translating(system) == ()
    with pytest.raises(UsageError, match="cannot reach"):
        Guide(system, Guidance(), 10)
