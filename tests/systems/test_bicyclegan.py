from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.networks.layers import normal_sample
from medi2i.systems.bicyclegan import BicycleGAN


def small(**changes: Any) -> BicycleGAN:
    torch.manual_seed(0)
    return BicycleGAN(**({"depth": 3, "features": 4, "blocks": 2, "patch": 1, "code": 3} | changes))


def batch_of(size: int = 4, channels: int = 1, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(size, count, 16, 24, generator=random) - 1 for count in (channels, 1)
    )
    return Batch(source, target)


def learning(network: nn.Module) -> list[bool]:
    """Which parameters have a gradient; biases before a normalisation never have an effect."""
    return [p.grad is not None and bool(p.grad.any()) for p in network.parameters() if p.dim() > 1]


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        flat, solid = BicycleGAN(), BicycleGAN(dims=3)
    assert (flat.generator.multiple, solid.generator.multiple) == (256, 32)
    assert (flat.gan, flat.gan_random, flat.l1, flat.kl, flat.recovery) == (1, 1, 10, 0.01, 0.5)
    assert flat.code_size == 8
    assert sum(parameter.numel() for parameter in flat.parameters()) == 64_288_277
    assert not flat.conditional
    noisy = [
        place for place, drop in enumerate(flat.generator.drop) if isinstance(drop, nn.Dropout)
    ]
    assert noisy == [1, 2, 3]


# ---- the code


@pytest.mark.parametrize("where", ["all", "input"])
def test_the_code_changes_the_image(where: Any) -> None:
    system = small(where=where).eval()
    source = batch_of().source
    one, other = torch.randn(2, 4, 3)
    assert not torch.allclose(system.sample(source, one), system.sample(source, other))
    assert torch.equal(system.sample(source, one), system.sample(source, one))
    code = torch.zeros(4, 3, requires_grad=True)
    system.sample(source, code).sum().backward()
    assert code.grad is not None
    assert code.grad.ne(0).all()


def test_the_image_follows_the_code_without_a_jump() -> None:
    system = small().eval()
    source = batch_of().source
    one, other = torch.randn(2, 4, 3)
    shares = torch.linspace(0, 1, 33).tolist()
    path = [system.sample(source, one + t * (other - one)) for t in shares]
    whole = (path[-1] - path[0]).abs().max()
    steps = [(after - before).abs().max() for before, after in pairwise(path)]
    assert max(steps) < whole / 4


def test_translation_is_the_image_of_the_mean_code() -> None:
    system = small(depth=5, dropout=0.5).eval()
    source = batch_of().source
    assert torch.equal(system.translate(source), system.sample(source, torch.zeros(4, 3)))
    assert torch.equal(system.translate(source), system.translate(source))


def test_a_certain_encoder_draws_its_mean() -> None:
    mean = torch.randn(5, 8)
    assert torch.equal(normal_sample(mean, torch.full((5, 8), -300.0)), mean)
    torch.manual_seed(0)
    sample = normal_sample(torch.ones(100_000), torch.full((100_000,), 2 * 0.6931472))
    assert float(sample.mean()) == pytest.approx(1, abs=0.03)
    assert float(sample.std()) == pytest.approx(2, abs=0.03)


def test_the_code_of_a_reference_image() -> None:
    system = small(outputs=2).eval()
    first: Any = system.encoder.stem
    assert first.in_channels == 2  # the target alone, not the source
    assert system.code_of(torch.randn(3, 2, 16, 24)).shape == (3, 3)


# ---- the game


def test_the_recovered_code_teaches_the_generator_alone() -> None:
    system = small()
    turn = next(system.play(batch_of()))
    turn.losses["recovery"].backward(retain_graph=True)
    assert all(p.grad is None for p in system.encoder.parameters())
    assert all(learning(system.generator))
    system.zero_grad(set_to_none=True)

    sum(turn.losses[name] for name in ("gan", "l1", "kl")).backward(retain_graph=True)  # type: ignore[union-attr]
    assert all(learning(system.encoder))
    assert all(learning(system.generator))
    system.zero_grad(set_to_none=True)

    turn.losses["kl"].backward(retain_graph=True)
    assert all(p.grad is None for p in system.generator.parameters())
    assert all(learning(system.encoder))
    system.zero_grad(set_to_none=True)

    turn.losses["gan_random"].backward()
    assert all(p.grad is None for p in system.encoder.parameters())
    assert all(p.grad is None for p in system.discriminator_random.parameters())
    assert all(learning(system.generator))


def test_order_of_turns() -> None:
    system = small()
    players = []
    for turn in system.play(batch_of()):
        turn.objective.backward(inputs=system.parameters_of(turn.player))
        players.append(turn.player)
    assert players == ["generator", "discriminator", "discriminator_random"]
    assert all(parameter.requires_grad for parameter in system.parameters())


def test_undecided_discriminators() -> None:
    """Logits of one half cost a discriminator 1 (two scales), and deceiving it one half."""
    system = small()
    for network in (system.discriminator, system.discriminator_random):
        for judge in network.judges:
            last: Any = judge.judge[-1]  # type: ignore[index]
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 0.5)
    generator, discriminator, discriminator_random = system.play(batch_of())
    assert float(discriminator.objective.detach()) == pytest.approx(1)
    assert float(discriminator_random.objective.detach()) == pytest.approx(1)
    assert float(generator.losses["gan"].detach()) == pytest.approx(0.5)
    assert float(generator.losses["gan_random"].detach()) == pytest.approx(0.5)


def losses_of(system: BicycleGAN, batch: Batch) -> dict[str, float]:
    torch.manual_seed(1)
    turns = list(system.play(batch))
    return {f"{t.player}/{n}": float(loss.detach()) for t in turns for n, loss in t.losses.items()}


def test_the_second_half_gives_real_images_to_one_discriminator() -> None:
    system, batch = small(), batch_of()
    before = losses_of(system, batch)
    other = batch_of(seed=9)
    source = torch.cat([batch.source[:2], other.source[2:]])
    assert losses_of(system, replace(batch, source=source)) == before
    target = torch.cat([batch.target[:2], other.target[2:]])
    after = losses_of(system, replace(batch, target=target))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"discriminator_random/contest"}


def test_weights_of_voxels_are_those_of_the_first_half() -> None:
    system, batch = small(), batch_of()
    weight = torch.ones(4, 1, 16, 24)
    weight[2:] = torch.nan
    before = losses_of(system, batch)
    assert losses_of(system, replace(batch, weight=weight)) == pytest.approx(before)


@pytest.mark.parametrize("size", [1, 3])
def test_odd_batches(size: int) -> None:
    losses = losses_of(small(), batch_of(size))
    assert len(losses) == 7
    assert all(torch.isfinite(torch.tensor(loss)) for loss in losses.values())


@pytest.mark.parametrize("conditional", [False, True])
def test_equals_a_loop_written_by_hand(conditional: bool) -> None:
    """The authors' update, with its two backward passes, ends with the same weights."""
    ours, theirs = (small(conditional=conditional).double() for _ in range(2))
    optimisers = {
        player: torch.optim.Adam(ours.parameters_of(player), 2e-4, (0.5, 0.999))
        for player in ours.players
    }
    networks = (
        theirs.generator,
        theirs.encoder,
        theirs.discriminator,
        theirs.discriminator_random,
    )
    g, e, d, d2 = networks
    optimiser_g, optimiser_e, optimiser_d, optimiser_d2 = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in networks
    )

    def mse(logits: list[Tensor], label: float) -> Tensor:
        return torch.stack([(one - label).square().mean() for one in logits]).sum()

    def seen(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1) if conditional else b

    for number in range(3):
        batch = batch_of(seed=number)
        batch = replace(batch, source=batch.source.double(), target=batch.target.double())
        torch.manual_seed(number)
        for turn in ours.play(batch):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()

        torch.manual_seed(number)
        a1, a2 = batch.source.split(2)
        b1, b2 = batch.target.split(2)
        mu, logvar = e(b1)
        z_encoded = mu + torch.randn(2, 3, dtype=torch.float64) * torch.exp(0.5 * logvar)
        z_random = torch.randn(2, 3, dtype=torch.float64)
        fake_encoded, fake_random = g(a1, z_encoded), g(a1, z_random)
        mu2, _ = e(fake_random)
        for network in (d, d2):
            network.requires_grad_(False)
        optimiser_e.zero_grad()
        optimiser_g.zero_grad()
        loss = mse(d(seen(a1, fake_encoded)), 1) + mse(d2(seen(a1, fake_random)), 1)
        loss = loss + 10 * (fake_encoded - b1).abs().mean()
        loss = loss - 0.5 * 0.01 * (1 + logvar - mu**2 - logvar.exp()).sum()
        loss.backward(retain_graph=True)
        e.requires_grad_(False)
        (0.5 * (mu2 - z_random).abs().mean()).backward()
        e.requires_grad_(True)
        optimiser_e.step()
        optimiser_g.step()
        for network in (d, d2):
            network.requires_grad_(True)
        optimiser_d.zero_grad()
        (mse(d(seen(a1, fake_encoded.detach())), 0) + mse(d(seen(a1, b1)), 1)).backward()
        optimiser_d.step()
        optimiser_d2.zero_grad()
        (mse(d2(seen(a1, fake_random.detach())), 0) + mse(d2(seen(a2, b2)), 1)).backward()
        optimiser_d2.step()
    # Adam turns the rounding noise of gradients that vanish into steps: those biases are left out
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if one.dim() > 1:
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0, msg=name)


# ---- added here


def test_the_asked_contrast_reaches_generator_and_discriminators() -> None:
    system = small(conditions=2, slices=3).eval()
    source, asked = torch.randn(1, 3, 16, 24).expand(2, -1, -1, -1), torch.tensor([0, 1])
    dressed, context = system.dressed(source, asked)
    assert (dressed.shape[1], context.shape[1]) == (5, 2)
    assert context.mean((2, 3)).tolist() == [[1, 0], [0, 1]]
    one, other = system.translate(source, target=asked)
    assert not torch.allclose(one, other)
    for logits in system.judged(system.discriminator, context, torch.zeros(2, 1, 16, 24)):
        assert not torch.allclose(logits[0], logits[1])
    seeing = small(conditions=2, slices=3, conditional=True)
    for logits in seeing.judged(seeing.discriminator, dressed, torch.zeros(2, 1, 16, 24)):
        assert not torch.allclose(logits[0], logits[1])


def test_a_code_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="code is 0"):
        small(code=0)


def test_images_too_small_for_the_encoder_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(16, 24\) given; .* need 32"):
        next(small(blocks=4).play(batch_of()))


def test_a_round_in_3d() -> None:
    system = small(dims=3, depth=None, features=2)
    source, target = torch.randn(2, 1, 16, 20, 16), torch.rand(2, 1, 16, 20, 16)
    for turn in system.play(Batch(source, target)):
        assert torch.isfinite(turn.objective)
    assert system.eval().sample(source, torch.randn(2, 3)).shape == target.shape
