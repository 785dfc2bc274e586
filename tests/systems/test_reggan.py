from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error
from medi2i.networks.reggan import ResidualRegistration
from medi2i.networks.registration import Motion
from medi2i.systems.base import Turn
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.reggan import RegGAN

TINY: dict[str, Any] = {
    "features": 4,
    "blocks": 1,
    "patch": 1,
    "patch_features": 4,
    "levels": 2,
    "registration_features": 4,
}


def small(**changes: Any) -> RegGAN:
    torch.manual_seed(0)
    return RegGAN(**(TINY | changes))


def batch_of(slices: int = 1, outputs: int = 1, dims: int = 2, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(2, count, *[16] * dims, generator=random) - 1 for count in (slices, outputs)
    )
    return Batch(source, target, torch.rand(2, 1, *[16] * dims, generator=random))


def first_turn(system: RegGAN, batch: Batch) -> Turn:
    return next(iter(system.play(batch)))


class Moves(nn.Module):
    """A registration network that always answers with one field."""

    def __init__(self, field: Tensor) -> None:
        super().__init__()
        self.field = nn.Parameter(field)

    def forward(self, moving: Tensor, fixed: Tensor) -> Motion:
        assert moving.shape == fixed.shape
        field = self.field.expand(len(moving), *self.field.shape[1:])
        return Motion(field, field)


def reached(system: RegGAN, loss: Tensor) -> set[str]:
    """The networks that a loss gives a gradient other than zero."""
    parameters = dict(system.named_parameters())
    slopes = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {
        name.partition(".")[0]
        for name, slope in zip(parameters, slopes, strict=True)
        if slope is not None and slope.any()
    }


def test_the_networks_are_the_papers() -> None:
    with torch.device("meta"):
        system, host = RegGAN(), CycleGAN()
    count = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in system.named_children()
    }
    assert count == {
        "generator": sum(p.numel() for p in host.a_to_b.parameters()),
        "discriminator": 2_762_689,
        "registration": 2_058_018,
    }
    assert system.pairing is Pairing.PAIRED
    with torch.device("meta"):
        other = RegGAN(registration="velocity")
    assert sum(p.numel() for p in other.registration.parameters()) == 109_170


@pytest.mark.parametrize("spatial", [(20, 33), (9, 16, 11), (3, 1)])
def test_a_fresh_registration_network_moves_nothing_at_any_size(spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = ResidualRegistration(len(spatial), levels=2, features=4, edge="replicate")
    motion = network(*torch.rand(2, 2, 1, *spatial))
    assert motion.displacement is motion.velocity
    assert motion.displacement.shape == (2, len(spatial), *spatial)
    assert 0 < float(motion.displacement.detach().abs().max()) < 1e-3
    with pytest.raises(UsageError, match="levels is 0"):
        ResidualRegistration(2, levels=0)


def test_who_learns_from_what() -> None:
    system, batch = small(), batch_of()
    turn = first_turn(system, batch)
    assert turn.player == "translator"
    assert reached(system, turn.losses["gan"]) == {"generator"}  # and never the registration
    # the motion is found from the drawn image, so its smoothness concerns who draws it
    for name in ("correction", "smoothness"):
        assert reached(system, turn.losses[name]) == {"generator", "registration"}
    turn.objective.backward()
    (_, turn) = system.play(batch)
    assert turn.player == "discriminator"
    assert reached(system, turn.objective) == {"discriminator"}


@pytest.mark.parametrize("dims", [2, 3])
def test_where_nothing_moves_it_is_20_times_the_absolute_error(dims: int) -> None:
    system, batch = small(dims=dims), batch_of(dims=dims)
    system.registration = Moves(torch.zeros(1, dims, *[16] * dims))
    losses = first_turn(system, batch).losses
    fake = system.translate(batch.source)
    expected = 20 * absolute_error(fake, batch.target, batch.weight)
    torch.testing.assert_close(losses["correction"], expected, rtol=1e-5, atol=0)
    assert float(losses["smoothness"].detach()) == 0
    scores = system.discriminator(fake).mean((1, *range(2, dims + 2)))
    torch.testing.assert_close(losses["gan"], (scores - 1).square().mean())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_error_is_taken_after_bending_and_slopes_are_summed_over_the_axes(dims: int) -> None:
    system, batch = small(dims=dims), batch_of(dims=dims)
    ramp = torch.arange(16.0).reshape(1, 1, 16, *[1] * (dims - 1)) * 0.5
    field = torch.zeros(1, dims, *[16] * dims)
    field[:, :1] = 1.0  # shifted by a voxel along the first axis
    system.registration = Moves(field)
    fake = system.translate(batch.source).detach()
    there = torch.cat([fake[:, :, 1:], fake[:, :, -1:]], dim=2)
    losses = first_turn(system, batch).losses
    expected = 20 * absolute_error(there, batch.target, batch.weight)
    torch.testing.assert_close(losses["correction"], expected, rtol=1e-4, atol=0)
    assert float(losses["smoothness"].detach()) == 0
    field[:, :1] = ramp
    system.registration = Moves(field)
    # one of `dims` components has the slope 1/2 along one axis
    assert float(first_turn(system, batch).losses["smoothness"].detach()) == pytest.approx(
        10 * 0.25 / dims
    )


def test_a_translation_at_another_place_costs_nothing_once_it_is_bent() -> None:
    """The target lies two voxels off what would be drawn: without R it would have to be blurred."""
    system, batch = small(), batch_of()
    fake = system.translate(batch.source).detach()
    shifted = torch.cat([fake[:, :, 2:], fake[:, :, -1:], fake[:, :, -1:]], dim=2)
    batch = Batch(batch.source, shifted)
    field = torch.zeros(1, 2, 16, 16)
    system.registration = Moves(field)
    assert float(first_turn(system, batch).losses["correction"].detach()) > 1
    field[:, 0] = 2.0
    system.registration = Moves(field)
    assert float(first_turn(system, batch).losses["correction"].detach()) < 1e-3


def test_the_discriminator_judges_what_the_moved_translator_draws() -> None:
    system, batch = small(), batch_of()
    turns = system.play(batch)
    next(turns)
    with torch.no_grad():
        for parameter in system.generator.parameters():
            parameter.mul_(1.5)
    contest = next(turns).losses["contest"]
    fake = system.translate(batch.source).detach()
    score, real = (system.discriminator(x).mean((1, 2, 3)) for x in (fake, batch.target))
    expected = score.square().mean() + (real - 1).square().mean()
    torch.testing.assert_close(contest, expected)


def test_translating_needs_the_generator_alone() -> None:
    system, batch = small(slices=3), batch_of(slices=3)
    before = system.translate(batch.source)
    for name in ("registration", "discriminator"):
        setattr(system, name, nn.Identity())
    assert torch.equal(system.translate(batch.source), before)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="serves no contrast on demand"):
        RegGAN(conditions=3)
    with pytest.raises(UsageError, match='registration is "demons"'):
        RegGAN(registration="demons")  # type: ignore[arg-type]
