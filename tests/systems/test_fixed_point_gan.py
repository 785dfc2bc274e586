from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.stargan import StarGANGenerator
from medi2i.systems.fixed_point_gan import FixedPointGAN
from medi2i.systems.stargan import StarGAN

TINY: dict[str, Any] = {
    "conditions": 2,
    "features": 4,
    "blocks": 1,
    "discriminator_features": 4,
    "discriminator_layers": 2,
    "window": 16,
    "n_critic": 1,
}


def small(**changes: Any) -> FixedPointGAN:
    torch.manual_seed(0)
    return FixedPointGAN(**(TINY | changes))


def batch_of(slices: int = 1, dims: int = 2, seed: int = 0, inputs: int = 1) -> Batch:
    """Healthy and diseased images of four people, and images of the other domain of others."""
    random = torch.Generator().manual_seed(seed)
    source = 2 * torch.rand(4, inputs * slices, *[16] * dims, generator=random) - 1
    target = 2 * torch.rand(4, inputs, *[16] * dims, generator=random) - 1
    origin = torch.tensor([0, 1, 1, 0])
    return Batch(source, target, source_contrast=origin, target_contrast=1 - origin)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def losses_of(system: FixedPointGAN, batch: Batch) -> dict[str, dict[str, float]]:
    torch.manual_seed(1)
    return {
        turn.player: {name: float(loss.detach()) for name, loss in turn.losses.items()}
        for turn in system.play(batch)
    }


# ---- networks


def test_as_many_parameters_as_the_authors_networks() -> None:
    """Theirs have a label of one bit for two domains; ours is one-hot, one plane more."""
    with torch.device("meta"):
        grey, four = FixedPointGAN(conditions=2), FixedPointGAN(conditions=4)
        colour = FixedPointGAN(conditions=5, inputs=3, outputs=3)
    plane, logit = 64 * 7 * 7, 2048 * 4 * 4
    assert count(grey.generator) == 8_405_440 + plane
    assert count(grey.discriminator) == 44_751_808 + logit
    assert (count(four.generator), count(four.discriminator)) == (8_414_848, 44_850_112)
    assert count(colour.generator) == 8_430_528
    assert count(colour.discriminator) == 44_753_856 + 4 * logit


def test_the_critic_gives_the_authors_shapes() -> None:
    critic = FixedPointGAN(conditions=2, features=1, discriminator_features=1).discriminator
    judged, named = critic(torch.zeros(2, 1, 256, 256))
    assert (judged.shape, named.shape) == ((2, 1, 4, 4), (2, 2))


def test_the_generator_draws_a_change_without_bound_or_bias() -> None:
    generator = StarGANGenerator(dims=2, inputs=1, outputs=1, domains=2, features=4, bounded=False)
    convolutions = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(m.bias is None for m in convolutions)
    nn.init.constant_(convolutions[-1].weight, 5.0)
    change = generator(torch.randn(1, 1, 16, 16), torch.eye(2)[[0]])
    assert float(change.detach().abs().max()) > 1


# ---- heads


def test_a_change_of_zero_is_a_fixed_point_of_the_exact_head_alone() -> None:
    image = torch.linspace(-1, 1, 201).reshape(1, 1, 1, -1)
    nothing = torch.zeros_like(image)
    assert torch.equal(small().changed(image, nothing), image)
    off = (small(head="tanh").changed(image, nothing) - image).abs()
    assert float(off.max()) == pytest.approx(1 - math.tanh(1), abs=1e-6)  # 0.238
    assert float(off[..., 0]) == pytest.approx(float(off.max()))


@pytest.mark.parametrize(("within", "change"), [(0.1, -0.47), (0.01, -1.65), (0.001, -2.80)])
def test_the_tanh_head_must_work_to_keep_air(within: float, change: float) -> None:
    """The sheet's numbers: what has to be drawn to hold -1 within so much."""
    air = torch.tensor([-1.0])
    kept = small(head="tanh").changed(air, torch.tensor([change]))
    assert float(kept) + 1 == pytest.approx(within, rel=0.03)


def test_images_stay_in_their_range() -> None:
    source = 3 * torch.randn(2, 1, 13, 30)
    changes = 5 * torch.randn(2, 1, 13, 30)
    tanh = small(head="tanh").changed(source.clamp(-1, 1), changes)
    assert float(tanh.abs().max()) <= 1
    inside = source.clamp(-1, 1)
    exact = small().changed(inside, changes)
    assert float(exact.abs().max()) <= 1 + 1e-6
    # bright voxels of the scan itself are no mistake
    assert torch.equal(small().changed(source, 0 * changes), source)
    image = small().eval().translate(source, target=torch.tensor([0, 1]))
    assert image.shape == (2, 1, 13, 30)


def test_a_change_that_went_too_far_can_come_back() -> None:
    change = torch.full((1, 1, 2, 2), 9.0, requires_grad=True)
    image = small().changed(torch.zeros(1, 1, 2, 2), change)
    assert torch.equal(image.detach(), torch.ones(1, 1, 2, 2))
    image.sum().backward()
    assert torch.equal(change.grad, torch.ones(1, 1, 2, 2))  # type: ignore[arg-type]


def test_the_change_is_one_of_the_centre_slice_of_every_contrast() -> None:
    system = small(slices=3, inputs=2, outputs=2)
    nn.init.zeros_(system.generator.main[-1].weight)  # type: ignore[arg-type]
    source = torch.rand(2, 6, 16, 16)
    image = system.translate(source, target=torch.tensor([0, 1]))
    assert torch.equal(image, source[:, [1, 4]])


# ---- the game


def test_the_order_of_the_game_and_whose_gradients() -> None:
    system = small()
    turns = system.play(batch_of())
    turn = next(turns)
    assert (turn.player, set(turn.losses)) == (
        "discriminator",
        {"critic", "classification", "penalty"},
    )
    turn.objective.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    system.zero_grad(set_to_none=True)
    turn = next(turns)
    groups = {"gan", "classification", "cycle"}
    assert set(turn.losses) == groups | {f"{name}_same" for name in groups} | {"identity"}
    turn.objective.backward()
    assert all(p.grad is None for p in system.discriminator.parameters())
    for name, parameter in system.generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert next(turns, None) is None


def test_the_identity_reaches_the_generator_alone() -> None:
    system = small()
    turns = system.play(batch_of())
    next(turns)
    next(turns).losses["identity"].backward()
    assert all(p.grad is None for p in system.discriminator.parameters())
    assert system.generator.main[0].weight.grad is not None


def test_the_generator_moves_in_every_fifth_round() -> None:
    system, batch = small(n_critic=5), batch_of()
    moved = []
    for number in range(10):
        players = [turn.player for turn in system.play(batch)]
        if "generator" in players:
            moved.append(number)
        system.rounds += 1
    assert moved == [4, 9]


def test_the_critic_never_sees_an_image_that_stayed(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(), batch_of()
    asked: list[Tensor] = []
    real = system.generated

    def spy(source: Tensor, domain: Tensor) -> Tensor:
        asked.append(domain)
        return real(source, domain)

    monkeypatch.setattr(system, "generated", spy)
    turns = system.play(batch)
    next(turns)
    assert len(asked) == 1
    assert torch.equal(asked[0], torch.as_tensor(batch.target_contrast))
    next(turns)
    origin = torch.as_tensor(batch.source_contrast)
    assert len(asked) == 4  # there, back, here, back
    assert all(torch.equal(domain, origin) for domain in asked[1:])


def test_asked_for_the_own_domain_both_groups_are_one() -> None:
    batch = batch_of()
    stay = Batch(
        batch.source,
        batch.target,
        source_contrast=batch.source_contrast,
        target_contrast=batch.source_contrast,
    )
    losses = losses_of(small(), stay)["generator"]
    for name in ("gan", "classification", "cycle"):
        assert losses[name] == pytest.approx(losses[f"{name}_same"], rel=1e-6)


def test_a_generator_that_changes_nothing_pays_nothing_for_staying() -> None:
    system = small()
    nn.init.zeros_(system.generator.main[-1].weight)  # type: ignore[arg-type]
    losses = losses_of(system, batch_of())["generator"]
    assert losses["identity"] == losses["cycle"] == losses["cycle_same"] == 0
    paper = small(head="tanh")
    nn.init.zeros_(paper.generator.main[-1].weight)  # type: ignore[arg-type]
    losses = losses_of(paper, batch_of())["generator"]
    assert losses["identity"] > 0
    assert losses["cycle"] > 0


def test_weights_are_the_papers() -> None:
    batch = batch_of()
    once = losses_of(small(identity=0.1), batch)["generator"]
    hundred = losses_of(small(identity=10.0, cycle=20.0), batch)["generator"]
    assert hundred["identity"] == pytest.approx(100 * once["identity"], rel=1e-5)
    assert hundred["cycle"] == pytest.approx(2 * once["cycle"], rel=1e-5)
    assert hundred["gan"] == once["gan"]
    system = small()
    assert (system.identity, system.cycle, system.penalty, system.classification) == (
        0.1,
        10,
        10,
        1,
    )


def test_without_staying_it_is_stargan_with_another_head(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = small(head="tanh", staying=False, identity=0.0)
    torch.manual_seed(0)
    theirs = StarGAN(**TINY)
    theirs.load_state_dict(ours.state_dict())
    whole = nn.Sequential(*list(theirs.generator.main)[:-1])  # without its tanh

    def generated(source: Tensor, domain: Tensor) -> Tensor:
        planes = nn.functional.one_hot(domain, 2)[:, :, None, None].expand(-1, -1, 16, 16)
        return torch.tanh(source + whole(torch.cat([source, planes.to(source)], 1)))

    monkeypatch.setattr(theirs, "generated", generated)
    for system in (ours, theirs):
        optimisers = {
            player: torch.optim.Adam(system.parameters_of(player), 1e-3)
            for player in system.players
        }
        for number in range(3):
            torch.manual_seed(number)
            for turn in system.play(batch_of(seed=number)):
                optimisers[turn.player].zero_grad()
                turn.objective.backward(inputs=system.parameters_of(turn.player))
                optimisers[turn.player].step()
            system.rounds += 1
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_trained_to_stay_it_stays_and_going_changes_more() -> None:
    """Diseased images have a bright square; the game in miniature."""
    torch.manual_seed(0)
    system = small(identity=10.0)
    optimisers = {
        player: torch.optim.Adam(system.parameters_of(player), 5e-3, (0.5, 0.999))
        for player in system.players
    }

    def images(label: Tensor, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        image = 0.4 * torch.rand(len(label), 1, 16, 16, generator=random) - 0.8
        image[label == 1, :, 5:11, 5:11] += 1.2
        return image

    origin = torch.tensor([0, 1] * 2)
    for number in range(60):
        batch = Batch(
            images(origin, 2 * number),
            images(1 - origin, 2 * number + 1),
            source_contrast=origin,
            target_contrast=1 - origin,
        )
        for turn in system.play(batch):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            optimisers[turn.player].step()
        system.rounds += 1
    test = images(origin, 999)
    with torch.no_grad():
        stayed = (system.translate(test, target=origin) - test).abs()
        healed = (system.translate(test, target=torch.zeros_like(origin)) - test)[origin == 1]
    inside = healed[:, :, 5:11, 5:11].abs().mean()
    assert float(stayed.mean()) < 0.15
    assert float(healed[:, :, 5:11, 5:11].mean()) < -0.1  # darker, as healthy is
    assert float(inside) > 2 * float(stayed[origin == 1][:, :, 5:11, 5:11].mean())


def test_wrong_arguments() -> None:
    assert FixedPointGAN.pairing is Pairing.UNPAIRED
    with pytest.raises(UsageError, match="n_critic is 0"):
        small(n_critic=0)
    with pytest.raises(UsageError, match='head is "sigmoid"'):
        small(head="sigmoid")
    with pytest.raises(UsageError, match="not asked to stay"):
        small(staying=False)
    with pytest.raises(UsageError, match="1 and 2 were given"):
        small(outputs=2)


def test_three_dimensions() -> None:
    system = small(dims=3, window=0)
    losses = losses_of(system, batch_of(dims=3))
    assert all(math.isfinite(v) for player in losses.values() for v in player.values())
    image = system.translate(torch.randn(1, 1, 9, 17, 11), target=torch.tensor([0]))
    assert image.shape == (1, 1, 9, 17, 11)


def test_no_statistics_are_kept() -> None:
    system = small()
    source, asked = torch.randn(1, 1, 16, 16), torch.tensor([1])
    trained = system.train().translate(source, target=asked)
    assert torch.equal(trained, system.eval().translate(source, target=asked))
