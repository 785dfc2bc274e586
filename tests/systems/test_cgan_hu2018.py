from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses.penalties import gradient_penalty
from medi2i.systems.cgan_hu2018 import CGANHu2018
from medi2i.systems.pix2pix import Pix2pix

SMALL: dict[str, Any] = {"depth": 3, "features": 4, "patch": 1, "blocks": 1}


def small(**changes: Any) -> CGANHu2018:
    torch.manual_seed(0)
    return CGANHu2018(**(SMALL | changes))


def batch_of(channels: int = 1, size: int = 16, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(2, count, size, size, generator=random) - 1 for count in (channels, 1)
    )
    return Batch(source, target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def undecided(system: CGANHu2018) -> CGANHu2018:
    """Logits of zero whatever the discriminator sees."""
    last: Any = system.discriminator.judge[-1]
    nn.init.zeros_(last.weight)
    return system


def played(system: Any, rounds: int = 3) -> None:
    adam = {
        p: torch.optim.Adam(system.parameters_of(p), 2e-4, (0.5, 0.999)) for p in system.players
    }
    for number in range(rounds):
        for turn in system.play(batch_of(seed=number)):
            adam[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            adam[turn.player].step()


# ---- the factors and their sizes


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"norm": "batch"}, 54_407_809),
        ({}, 54_403_457),
        ({"network": "encoder-decoder", "norm": "batch"}, 39_071_361),
        ({"network": "encoder-decoder"}, 39_067_009),
        ({"network": "resnet"}, 11_365_633),
        ({"network": "resnet", "blocks": 6}, 7_825_153),
    ],
)
def test_generator_parameters(arguments: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count(CGANHu2018(**arguments).generator) == parameters


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"patch": 0, "norm": "batch"}, 8_768),
        ({"patch": 1, "norm": "batch"}, 135_489),
        ({"patch": 3, "norm": "batch"}, 2_764_609),
        ({"patch": 5, "norm": "batch"}, 11_155_265),
        ({"condition": "none", "norm": "batch"}, 2_763_585),
        ({"condition": "none"}, 2_762_689),
    ],
)
def test_discriminator_parameters(arguments: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count(CGANHu2018(**arguments).discriminator) == parameters


def test_each_channel_of_the_condition_costs_one_kernel() -> None:
    sizes = {}
    for condition in ("none", "centre", "all"):
        with torch.device("meta"):
            system = CGANHu2018(inputs=2, slices=3, condition=condition)
        sizes[condition] = count(system.discriminator)
    assert sizes["centre"] - sizes["none"] == 2 * 1024
    assert sizes["all"] - sizes["none"] == 6 * 1024


# ---- the corners


def test_with_its_defaults_it_is_pix2pix() -> None:
    ours = small()
    torch.manual_seed(0)
    theirs = Pix2pix(depth=3, features=4, patch=1)
    played(ours)
    played(theirs)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_without_a_game_it_is_plain_regression() -> None:
    """The same weights as those of a loop with nothing but L1, bit by bit."""
    ours, theirs = small(gan=0.0), small(gan=0.0).generator
    assert not hasattr(ours, "discriminator")
    assert set(ours.players) == {"generator"}
    assert set(CGANHu2018.players) == {"generator", "discriminator"}, "the others keep theirs"
    played(ours)
    adam = torch.optim.Adam(theirs.parameters(), 2e-4, (0.5, 0.999))
    for number in range(3):
        batch = batch_of(seed=number)
        adam.zero_grad()
        (100 * (theirs(batch.source) - batch.target).abs().mean()).backward()
        adam.step()
    for one, other in zip(ours.generator.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_voxel_error_the_game_is_all() -> None:
    _, turn = small(l1=0.0).play(batch_of())
    assert set(turn.losses) == {"gan"}


@pytest.mark.parametrize("network", ["unet", "encoder-decoder", "resnet"])
def test_gradients_keep_to_the_player(network: Any) -> None:
    system = small(network=network)
    turns = system.play(batch_of())
    next(turns).objective.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    assert all(p.grad is not None for p in system.discriminator.parameters())
    system.zero_grad(set_to_none=True)
    next(turns).objective.backward()
    assert all(p.grad is None for p in system.discriminator.parameters())
    assert all(p.grad is not None for p in system.generator.parameters())
    assert next(turns, None) is None


def test_skips_are_what_the_encoder_decoder_lacks() -> None:
    """With the bottleneck cut, the U-Net still hears its first stage; the other hears nothing."""
    for network, hears in (("unet", True), ("encoder-decoder", False)):
        system = small(network=network).eval()
        generator: Any = system.generator
        nn.init.zeros_(generator.down[-1].weight)
        source = batch_of().source
        change = system.translate(source) - system.translate(-source)
        assert bool(change.abs().max() > 1e-6) is hears


# ---- what the discriminator sees


def test_the_source_reaches_the_verdict_only_through_the_condition() -> None:
    one, other = batch_of(3, seed=0), batch_of(3, seed=1).source
    centre = other.clone()
    centre[:, 1] = one.source[:, 1]
    differs = {}
    for condition in ("none", "centre", "all"):
        system = small(slices=3, condition=condition)
        verdicts = [
            system.judged(system.context(source, None), one.target)
            for source in (one.source, centre, other)
        ]
        differs[condition] = [not torch.equal(verdicts[0], verdict) for verdict in verdicts[1:]]
    assert differs == {"none": [False, False], "centre": [False, True], "all": [True, True]}


def test_an_unconditional_game_reaches_the_source_through_the_generator_alone() -> None:
    batch = batch_of()
    source = batch.source.requires_grad_()
    for condition, reached in (("none", False), ("all", True)):
        system = small(condition=condition)
        context = system.context(source, None)
        verdict = system.judged(context, batch.target).sum()
        assert verdict.requires_grad
        (gradient,) = torch.autograd.grad(verdict, source, allow_unused=True)
        assert (gradient is not None and bool(gradient.any())) is reached


@pytest.mark.parametrize("network", ["unet", "resnet"])
def test_the_asked_contrast_reaches_both_networks(network: Any) -> None:
    system = small(network=network, conditions=2, slices=3, condition="centre").eval()
    for name, parameter in system.generator.named_parameters():
        if "scale_shift" in name:  # the identity to begin with
            nn.init.normal_(parameter)
    source, asked = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1), torch.tensor([0, 1])
    translated = system.translate(source, target=asked)
    assert not torch.allclose(translated[0], translated[1])
    context = system.context(source, nn.functional.one_hot(asked, 2).float())
    assert context.shape == (2, 1 + 2, 16, 16)
    assert context[:, 1:].mean((2, 3)).tolist() == [[1, 0], [0, 1]]


# ---- the games


def test_an_undecided_discriminator() -> None:
    """ln 2 each way; 1/4 each way for least squares that say 1/2."""
    for labels in ((1.0, 0.0), (0.9, 0.1)):  # at zero smoothing changes nothing
        discriminator, generator = undecided(small(labels=labels)).play(batch_of())
        assert float(discriminator.objective.detach()) == pytest.approx(math.log(2))
        assert float(generator.losses["gan"].detach()) == pytest.approx(math.log(2))
    system = undecided(small(game="least-squares"))
    last: Any = system.discriminator.judge[-1]
    nn.init.constant_(last.bias, 0.5)
    discriminator, generator = system.play(batch_of())
    assert float(discriminator.objective.detach()) == pytest.approx(0.25)
    assert float(generator.losses["gan"].detach()) == pytest.approx(0.25)


def test_smoothed_labels_can_never_be_met() -> None:
    """The least cross entropy with a label of 0.9 is that label's own entropy, 0.3251."""
    system = small(labels=(0.9, 0.1))
    logits = torch.linspace(-6, 6, 10_001)
    least = min(float(system.distance(logit, 0.9)) for logit in logits[::20])
    assert least == pytest.approx(0.3251, abs=1e-4)
    best = float(system.distance(torch.tensor(math.log(9.0)), 0.9))
    assert best == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))


def test_the_labels_reach_the_discriminator_and_not_the_generator() -> None:
    system = small(labels=(0.9, 0.0))
    last: Any = undecided(system).discriminator.judge[-1]
    nn.init.constant_(last.bias, 2.0)  # probability 0.8808
    discriminator, generator = system.play(batch_of())
    for_one, for_zero = math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))
    expected = 0.5 * (0.9 * for_one + 0.1 * for_zero + for_zero)
    assert float(discriminator.objective.detach()) == pytest.approx(expected)
    assert float(generator.losses["gan"].detach()) == pytest.approx(for_one)


class Linear(nn.Module):
    """A critic with the same slope everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1)


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (0.0, 10.0), (3.0, 40.0)])
def test_the_penalty_of_a_linear_critic(slope: float, expected: float) -> None:
    """10 (slope - 1)^2: nothing for a slope of one, 10 for a constant critic."""
    system, batch = small(game="wasserstein"), batch_of()
    weight = torch.randn(1, 2, 16, 16)
    system.discriminator = Linear(slope * weight / weight.norm())  # type: ignore[assignment]
    losses = system.contested(batch.source, batch.target, -batch.target)
    assert float(losses["penalty"]) == pytest.approx(expected, abs=1e-9)


def test_the_wasserstein_game_written_out() -> None:
    system, batch = small(game="wasserstein"), batch_of()
    turns = list(system.play(batch))
    assert [turn.player for turn in turns] == ["discriminator"] * 5 + ["generator"]
    fake = system.translate(batch.source).detach()
    of_real, of_fake = system.judged(batch.source, batch.target), system.judged(batch.source, fake)
    expected = 0.5 * (of_fake.mean() - of_real.mean())
    torch.testing.assert_close(turns[0].losses["contest"], expected)
    torch.testing.assert_close(turns[-1].losses["gan"], -of_fake.mean())
    torch.manual_seed(1)
    losses = system.contested(batch.source, batch.target, fake)
    torch.manual_seed(1)
    pairs = [torch.cat([batch.source, image], 1) for image in (batch.target, fake)]
    expected = 10 * gradient_penalty(system.discriminator, *pairs)
    torch.testing.assert_close(losses["penalty"], expected)
    penalties = {float(turn.losses["penalty"].detach()) for turn in turns[:-1]}
    assert len(penalties) == 5, "each move looks at other points between real and fake"


def test_the_penalty_reaches_the_critic_and_nobody_else() -> None:
    system, batch = small(game="wasserstein"), batch_of()
    next(system.play(batch)).losses["penalty"].backward()
    weights = [p for p in system.discriminator.parameters() if p.dim() > 1]
    assert all(p.grad is not None and p.grad.any() for p in weights)
    assert all(parameter.grad is None for parameter in system.generator.parameters())


def test_batch_norm_ties_images_together_and_is_refused_with_the_penalty() -> None:
    tied = {}
    for kind in ("instance", "batch"):
        system = small(norm=kind)
        seen = torch.randn(2, 2, 16, 16, requires_grad=True)
        verdict = system.discriminator(seen)[0].sum()
        (gradient,) = torch.autograd.grad(verdict, seen)
        tied[kind] = bool(gradient[1].abs().max() > 1e-6)
    assert tied == {"instance": False, "batch": True}
    with pytest.raises(UsageError, match="batch norm ties the images of a batch together"):
        small(norm="batch", game="wasserstein")


# ---- at test time


@pytest.mark.parametrize("at_test", [True, False])
def test_dropout_at_test_time_is_a_switch(at_test: bool) -> None:
    system = small(depth=6, features=2, dropout_at_test=at_test).eval()
    source = torch.randn(1, 1, 50, 64)
    with torch.inference_mode():
        alike = torch.equal(system.translate(source), system.translate(source))
        first, second = (system.sample(source, torch.zeros(1, 0)) for _ in range(2))
    assert alike is not at_test
    assert not torch.equal(first, second)
    assert not any(module.training for module in system.modules())


def test_batch_statistics_are_another_switch() -> None:
    source = torch.randn(1, 1, 16, 16) * 3 + 2
    quiet = small(norm="batch").eval()
    own = small(norm="batch", batch_statistics=True).eval()
    before = {name: buffer.clone() for name, buffer in own.named_buffers()}
    image = own.translate(source)
    assert not torch.allclose(image, quiet.translate(source))
    for name, buffer in own.named_buffers():
        assert torch.equal(buffer, before[name]), "translating teaches nothing"
    torch.testing.assert_close(image, own.train().generated(source, None))


def test_without_dropout_there_are_no_samples() -> None:
    for arguments in ({"depth": 6, "dropout": 0.0}, {"network": "resnet"}, {"depth": 3}):
        system = small(**arguments)
        assert not system.one_to_many
        with pytest.raises(UsageError, match="has no dropout and gives one image per scan"):
            system.sample(torch.randn(1, 1, 64, 64), torch.zeros(1, 0))
    assert small(depth=6, features=2).one_to_many


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"gan": 0.0, "l1": 0.0}, "nothing to learn from"),
        ({"game": "wasserstein", "critic": 0}, "critic is 0; at least 1"),
    ],
)
def test_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        small(**arguments)


def test_the_norm_has_the_dimensions_of_the_image() -> None:
    for dims, kind in ((2, nn.InstanceNorm2d), (3, nn.InstanceNorm3d)):
        for network in ("unet", "encoder-decoder", "resnet"):
            system = small(dims=dims, network=network)
            norms = {type(m) for m in system.modules() if "Norm" in type(m).__name__}
            assert norms == {kind}
