from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.systems.pix2pix import Pix2pix


def small(**changes: Any) -> Pix2pix:
    torch.manual_seed(0)
    return Pix2pix(**({"depth": 3, "features": 4, "patch": 1} | changes))


def batch_of(channels: int = 1, size: int = 16, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(2, count, size, size, generator=random) - 1 for count in (channels, 1)
    )
    return Batch(source, target)


def gradients(network: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters()]


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        flat, solid = Pix2pix(), Pix2pix(dims=3)
    assert (flat.generator.multiple, solid.generator.multiple) == (256, 16)
    assert (flat.l1, flat.gan, flat.game) == (100, 1, "vanilla")


def test_the_discriminator_moves_first_and_gradients_keep_to_the_player() -> None:
    system = small()
    turns = system.play(batch_of())
    turn = next(turns)
    assert turn.player == "discriminator"
    turn.objective.backward()
    assert all(gradient is None for gradient in gradients(system.generator))
    assert all(gradient is not None for gradient in gradients(system.discriminator))
    system.zero_grad(set_to_none=True)

    turn = next(turns)
    assert turn.player == "generator"
    turn.objective.backward()
    assert all(gradient is None for gradient in gradients(system.discriminator))
    for name, parameter in system.generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert next(turns, None) is None
    assert all(parameter.requires_grad for parameter in system.discriminator.parameters())


def test_an_undecided_discriminator_costs_ln_2_each_way() -> None:
    system = small(gan=1.0)
    last: Any = system.discriminator.judge[-1]
    nn.init.zeros_(last.weight)
    discriminator, generator = system.play(batch_of())
    assert float(discriminator.losses["contest"].detach()) == pytest.approx(math.log(2))
    assert float(generator.losses["gan"].detach()) == pytest.approx(math.log(2))


def test_the_voxel_error_weighs_a_hundred() -> None:
    system, batch = small(), batch_of()
    _, turn = system.play(batch)
    expected = 100 * (system.translate(batch.source) - batch.target).abs().mean()
    torch.testing.assert_close(turn.losses["l1"], expected)


@pytest.mark.parametrize("kind", ["instance", "batch"])
def test_equals_a_loop_written_by_hand(kind: Any) -> None:
    """The authors' optimize_parameters(), step by step, ends with the same weights, bit by bit."""
    ours, theirs = small(norm=kind), small(norm=kind)
    players = ("generator", "discriminator")
    optimisers = {p: torch.optim.Adam(ours.parameters_of(p), 2e-4, (0.5, 0.999)) for p in players}
    optimiser_g = torch.optim.Adam(theirs.generator.parameters(), 2e-4, (0.5, 0.999))
    optimiser_d = torch.optim.Adam(theirs.discriminator.parameters(), 2e-4, (0.5, 0.999))
    cross_entropy, l1 = nn.BCEWithLogitsLoss(), nn.L1Loss()
    for number in range(3):
        batch = batch_of(seed=number)
        for turn in ours.play(batch):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()

        real_a, real_b = batch.source, batch.target
        fake_b = theirs.generator(real_a)
        for parameter in theirs.discriminator.parameters():
            parameter.requires_grad_(True)
        optimiser_d.zero_grad()
        pred_real = theirs.discriminator(torch.cat((real_a, real_b), 1))
        pred_fake = theirs.discriminator(torch.cat((real_a, fake_b.detach()), 1))
        loss_real = cross_entropy(pred_real, torch.ones_like(pred_real))
        loss_fake = cross_entropy(pred_fake, torch.zeros_like(pred_fake))
        ((loss_real + loss_fake) * 0.5).backward()
        optimiser_d.step()
        for parameter in theirs.discriminator.parameters():
            parameter.requires_grad_(False)
        optimiser_g.zero_grad()
        pred_fake = theirs.discriminator(torch.cat((real_a, fake_b), 1))
        loss_gan = cross_entropy(pred_fake, torch.ones_like(pred_fake))
        (loss_gan + l1(fake_b, real_b) * 100).backward()
        optimiser_g.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_without_a_condition_the_discriminator_sees_the_candidate_alone() -> None:
    system = small(conditional=False, slices=3, conditions=2)
    first: Any = system.discriminator.judge[0]
    assert first.in_channels == 1
    whole: Any = small(slices=3, conditions=2).discriminator.judge[0]
    assert whole.in_channels == 1 + 3 + 2


def test_the_asked_contrast_reaches_both_networks() -> None:
    system = small(conditions=2, slices=3).eval()
    source, asked = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1), torch.tensor([0, 1])
    dressed = system.dressed(source, asked)
    assert dressed.shape == (2, 5, 16, 16)
    assert dressed[:, 3:].mean((2, 3)).tolist() == [[1, 0], [0, 1]]
    translated = system.translate(source, target=asked)
    assert not torch.allclose(translated[0], translated[1])
    judged = system.judged(dressed, torch.zeros(2, 1, 16, 16))
    assert not torch.allclose(judged[0], judged[1])


@pytest.mark.parametrize("noisy", [True, False])
def test_only_the_noisy_one_translates_differently_each_time(noisy: bool) -> None:
    system = small(depth=6, features=2, noisy=noisy).eval()
    source = torch.randn(1, 1, 50, 64)
    with torch.inference_mode():
        alike = torch.equal(system.translate(source), system.translate(source))
    assert alike is not noisy
    assert not system.generator.training, "the mode is put back"


def test_batch_statistics_of_the_test_batch_when_noisy() -> None:
    """A batch of one normalised by itself, as in the paper, is instance normalisation."""
    system = small(norm="batch", noisy=True).eval()
    source = torch.randn(1, 1, 16, 16) * 3 + 2
    noisy = system.translate(source)
    torch.testing.assert_close(noisy, system.generator.train()(source))
    quiet = small(norm="batch").eval().translate(source)
    assert not torch.allclose(noisy, quiet)


@pytest.mark.parametrize("kind", ["instance", "batch"])
def test_samples_differ_by_dropout_and_leave_the_network_as_it_was(kind: Any) -> None:
    system = small(depth=6, features=2, norm=kind).eval()
    source, no_code = torch.randn(2, 1, 50, 64), torch.zeros(2, system.code_size)
    assert (system.one_to_many, no_code.shape) == (True, (2, 0))
    state = {name: value.clone() for name, value in system.state_dict().items()}
    before = system.translate(source)
    with torch.inference_mode():
        torch.manual_seed(1)
        one, other = (system.sample(source, no_code) for _ in range(2))
        torch.manual_seed(1)
        again = system.sample(source, no_code)
    assert one.shape == source.shape
    assert not torch.allclose(one, other)
    assert torch.equal(one, again)
    assert not system.generator.training, "the mode is put back"
    assert all(torch.equal(value, state[name]) for name, value in system.state_dict().items())
    assert torch.equal(system.translate(source), before)
    trained = system.train().generated(source)
    assert torch.isfinite(trained).all()
    if kind == "batch":
        first: Any = system.generator.down_norm[1]
        assert int(first.num_batches_tracked) == 1, "training counts again"


def test_a_sample_has_the_statistics_of_its_batch() -> None:
    system = small(depth=6, features=2, norm="batch", dropout=1e-9).eval()
    source = torch.randn(1, 1, 64, 64) * 3 + 2
    sampled = system.sample(source, torch.zeros(1, 0))
    torch.testing.assert_close(sampled, system.generator.train()(source))


def test_without_dropout_there_is_one_image() -> None:
    for changes in ({"depth": 6, "dropout": 0.0}, {"dims": 3, "depth": 4}):
        system = small(**changes, features=1)
        assert not system.one_to_many
        with pytest.raises(UsageError, match="no dropout and gives one image"):
            system.sample(torch.zeros(1, 1, *(64,) * system.dims), torch.zeros(1, 0))


def test_least_squares_in_3d() -> None:
    system = small(dims=3, depth=None, features=2, game="least-squares")
    source, target = torch.randn(1, 1, 16, 20, 16), torch.rand(1, 1, 16, 20, 16)
    for turn in system.play(Batch(source, target)):
        assert torch.isfinite(turn.objective)
