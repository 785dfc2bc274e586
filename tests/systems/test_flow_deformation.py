from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch, Neighbour, Pairing
from medi2i.errors import UsageError
from medi2i.networks.deformation import warp
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.flow_deformation import FlowDeformation
from medi2i.systems.guidance import Guidance, Guide, each_step
from tests.systems.test_alignflow import TINY, blobs, disturb, largest
from tests.systems.test_guidance import batch_of, same


def small(**changes: Any) -> FlowDeformation:
    torch.manual_seed(0)
    return FlowDeformation(**(TINY | {"ramp": 0} | changes))


def learn(system: AlignFlow, rounds: int = 2) -> dict[str, Tensor]:
    optimisers = {p: torch.optim.Adam(system.parameters_of(p), 1e-3) for p in system.players}
    torch.manual_seed(5)
    system.train()
    for number in range(rounds):
        for turn in system.play(batch_of(system.slices, number, system.dims)):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            optimisers[turn.player].step()
        system.rounds += 1
    return system.state_dict()


@pytest.mark.parametrize("dims", [2, 3])
def test_without_guidance_it_is_alignflow_to_the_last_bit(dims: int) -> None:
    torch.manual_seed(0)
    plain = AlignFlow(**(TINY | {"dims": dims}))
    expected = learn(plain)
    without = small(dims=dims, guidance=0.0, registration="learned")
    assert without.motion == ""
    assert same(expected, learn(without))
    assert not same(expected, learn(small(dims=dims)))
    unguided = learn(small(dims=dims, guidance=0.0), rounds=1)
    assert same(learn(small(dims=dims, ramp=10), rounds=1), unguided)


def test_the_way_back_is_exact_whatever_the_weights_are() -> None:
    system = small(slices=3).eval()
    disturb(system)
    a = blobs(2, 3, (16, 24), 3)
    assert largest(system.b_to_a(system.a_to_b(a)) - a) < 1e-4
    exact = system.double()
    assert largest(exact.b_to_a(exact.a_to_b(a.double())) - a.double()) < 1e-10


@pytest.mark.parametrize("registration", ["demons", "learned"])
def test_each_loss_reaches_its_own_networks_alone(registration: Any) -> None:
    system = small(registration=registration).train()
    assert system.motion == ("still" if registration == "learned" else "demons")
    turns = {turn.player: turn for turn in system.play(batch_of())}
    assert set(turns) == set(system.players)
    guided = turns["flows"].losses
    assert {"guidance", "guidance_back", "nats_a", "gan_b"} <= set(guided)
    flows = [*system.flow_a.parameters(), *system.flow_b.parameters()]

    def reached(loss: Tensor, parameters: Any) -> bool:
        slopes = torch.autograd.grad(loss, [*parameters], allow_unused=True, retain_graph=True)
        return any(slope is not None for slope in slopes)

    for name in ("guidance", "guidance_back"):
        assert reached(guided[name], flows)
    if registration == "learned":
        network = system.registration
        assert not reached(guided["guidance"] + guided["guidance_back"], network.parameters())
        own = turns["registration"].objective
        assert not reached(own, flows)
        assert reached(own, network.parameters())


def test_guidance_is_of_both_ways_and_has_its_weight() -> None:
    losses = {}
    for weight in (2.0, 6.0):
        (turn, *_) = small(guidance=weight, bins=0).train().play(batch_of())
        losses[weight] = {n: float(v.detach()) for n, v in turn.losses.items()}
    for name in ("guidance", "guidance_back"):
        assert losses[6.0][name] == pytest.approx(3 * losses[2.0][name], rel=1e-5)
    system = small(bins=0)
    (turn, *_) = system.train().play(replace(batch_of(), target_neighbour=None))
    assert "guidance_back" not in turn.losses


@pytest.mark.parametrize("registration", ["demons", "learned"])
def test_patches_are_guided_slice_by_slice(registration: Any) -> None:
    system = small(dims=3, registration=registration, pairs=True).train()
    judged: list[tuple[int, ...]] = []
    system.judge_pair_b.register_forward_hook(lambda _, x, __: judged.append(tuple(x[0].shape)))
    turns = {turn.player: turn for turn in system.play(batch_of(dims=3))}
    assert set(turns) == set(system.players)
    assert {"guidance", "guidance_back", "gan_pair_a", "gan_b"} <= set(turns["flows"].losses)
    assert judged == [(14, 2, 16, 16)] * 3, "seven pairs of eight slices, of two patches"
    if registration == "learned":
        field = system.moved(each_step(system, *sides(batch_of(dims=3)))).field
        assert field.shape == (14, 2, 16, 16)
        assert not field.requires_grad


def sides(batch: Batch) -> tuple[Tensor, Neighbour]:
    """The source and its neighbour."""
    assert batch.neighbour is not None
    return batch.source, batch.neighbour


def test_pairs_are_judged_by_discriminators_of_their_own() -> None:
    system = small(pairs=True, guidance=0.0, slices=3).train()
    assert system.motion == "still"
    seen: list[tuple[int, ...]] = []
    system.judge_pair_b.register_forward_hook(lambda _, x, __: seen.append(tuple(x[0].shape)))
    flows, judges = system.play(batch_of(3))
    assert {"gan_b", "gan_pair_a", "gan_pair_b"} <= set(flows.losses)
    assert "guidance" not in flows.losses
    assert {"contest_b", "contest_pair_a", "contest_pair_b"} <= set(judges.losses)
    assert seen == [(2, 2, 16, 24)] * 3, "the flows' pair; the real one, and the flows' again"
    slopes = torch.autograd.grad(judges.objective, list(system.judge_pair_a.parameters()))
    assert any(slope.any() for slope in slopes)
    with pytest.raises(UsageError, match="both sides"):
        list(system.play(replace(batch_of(3), target_neighbour=None)))
    with pytest.raises(UsageError, match="in the game"):
        small(pairs=True, adversarial=0.0)


def test_registration_learns_from_real_slices() -> None:
    system = small(registration="learned")
    image = blobs(4, 1, (32, 32), 1) + 0.3 * blobs(4, 1, (32, 32), 2).flip(2)
    shift = torch.zeros(4, 2, 32, 32)
    shift[:, 0] = 1.5
    neighbour = Neighbour(warp(image, shift), 0 * shift, torch.ones_like(image))
    batch = replace(batch_of(), source=image, neighbour=neighbour, target_neighbour=None)
    optimiser = torch.optim.Adam(system.parameters_of("registration"), 2e-3)
    found = []
    for _ in range(40):
        losses = system.registration_losses(batch)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        found.append(float(losses["unlike"].detach()))
    assert found[-1] < 0.6 * found[0]
    moved = system.moved(each_step(system, image, neighbour))
    assert not moved.field.requires_grad
    assert float((moved.field - shift)[..., 6:-6, 6:-6].abs().mean()) < 0.6


def test_what_it_is_and_what_is_refused() -> None:
    assert FlowDeformation.pairing is Pairing.UNPAIRED
    assert "reconstruction" in FlowDeformation.paper
    with pytest.raises(UsageError, match="registration is"):
        small(registration="magic")
    with pytest.raises(UsageError, match="none below"):
        small(guidance=-1.0)
    with pytest.raises(UsageError, match="among its arguments"):
        Guide(small(), Guidance(), 10)
    with pytest.raises(UsageError, match="brings none"):
        list(small().play(replace(batch_of(), neighbour=None)))


def test_parameters() -> None:
    with torch.device("meta"):
        system, plain = FlowDeformation(registration="learned"), AlignFlow()

    def count(network: torch.nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    assert count(system.registration) == 109_170
    assert count(system) == count(plain) + 109_170
