"""Guidance as a term that any slice-wise system takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour
from medi2i.errors import ConfigError, UsageError
from medi2i.networks.deformation import warp
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.base import Translator
from medi2i.systems.bicyclegan import BicycleGAN
from medi2i.systems.cut import CUT
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.guidance import Drawn, Guidance, Guide, agreement, drawn, ramped, translating
from medi2i.systems.pix2pix import Pix2pix
from medi2i.systems.unet import UNetRegression
from medi2i.training.trainer import Plan, Trainer

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


def batch_of(slices: int = 1, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)

    def image(channels: int) -> Tensor:
        return 2 * torch.rand(2, channels, 16, 24, generator=random) - 1

    def neighbour() -> Neighbour:
        return Neighbour(image(slices), image(2), (image(1) > 0).float())

    slab = image(slices)
    return Batch(
        image(slices),
        slab[:, slices // 2 :: slices],
        target_slab=slab,
        neighbour=neighbour(),
        target_neighbour=neighbour(),
    )


def trained(
    folder: Path, name: str, guidance: Guidance | None, rounds: int = 3, stop: int | None = None
) -> dict[str, Tensor]:
    system = build(name)

    def supply(start: int) -> Iterator[Batch]:
        for number in range(start, stop or rounds):
            yield batch_of(system.slices, number)
        raise KeyboardInterrupt

    guide = guidance and Guide(system, guidance, rounds)
    plan = Plan(rounds=rounds, checkpoint_every=1, validate_every=0, log_every=0)
    Trainer(system, supply, plan, folder, play=guide.play if guide else None).run()
    return system.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_term_joins_the_turns_of_those_who_translate(name: str) -> None:
    system = build(name)
    before = {n: v.clone() for n, v in system.state_dict().items()}
    state = torch.get_rng_state()
    guide = Guide(system, Guidance(weight=2.0, ramp=0.0), 10)
    assert torch.equal(state, torch.get_rng_state())
    assert same(before, system.state_dict())
    expected = SYSTEMS[name][2]
    assert set(guide.players) == expected or not expected
    system.train()
    for turn in guide.play(batch_of(system.slices)):
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


@pytest.mark.parametrize("name", ["cyclegan", "pix2pix"])
def test_without_weight_nothing_changes_and_with_it_a_run_resumes(
    name: str, tmp_path: Path
) -> None:
    plain = trained(tmp_path / "plain", name, None)
    assert same(plain, trained(tmp_path / "zero", name, Guidance(weight=0.0)))
    guided = trained(tmp_path / "guided", name, Guidance(weight=5.0, ramp=0.5))
    assert not same(plain, guided)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", name, Guidance(weight=5.0, ramp=0.5), stop=2)
    assert same(guided, trained(tmp_path / "parts", name, Guidance(weight=5.0, ramp=0.5)))


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
    neighbour = Neighbour(further, field, inside)

    def of(neighbour: Neighbour, *, confident: bool) -> float:
        pair = Drawn("", -smooth, -neighbour.slab, smooth, neighbour)
        return float(agreement(pair, neighbour.slab, confident=confident))

    assert of(neighbour, confident=False) < 0.01  # there exactly, back but for interpolation
    shuffled = replace(neighbour, slab=further.roll(1, 0))
    assert of(shuffled, confident=False) > 5 * of(neighbour, confident=False)
    assert of(shuffled, confident=True) < of(shuffled, confident=False)
    nothing = replace(neighbour, inside=0 * inside)
    assert of(nothing, confident=True) == 0


def test_no_gradient_reaches_the_field() -> None:
    system = build("unet", slices=1)
    batch = batch_of()
    assert batch.neighbour is not None
    field = batch.neighbour.field.requires_grad_()
    (pair,) = drawn(system, batch)
    loss = agreement(pair, batch.neighbour.slab, confident=True)
    loss.backward()
    assert field.grad is None
    assert all(p.grad is not None for p in system.parameters_of("regressor"))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="dims 3"):
        Guide(build("cyclegan", dims=3), Guidance(), 10)
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
