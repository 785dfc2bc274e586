from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.networks.bayesian import RandomWeights, one_function, random_layers
from medi2i.networks.layers import conv
from medi2i.systems.bayesian_cgan import BayesianCGAN, Prediction, calibration_of
from medi2i.systems.pix2pix import Pix2pix

SMALL: dict[str, Any] = {"depth": 4, "features": 4, "patch": 1}


def small(**changes: Any) -> BayesianCGAN:
    torch.manual_seed(0)
    return BayesianCGAN(**(SMALL | {"probability": 0.3} | changes))


def batch_of(size: int = 16, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (2 * torch.rand(2, 1, size, size, generator=random) - 1 for _ in range(2))
    return Batch(source, target)


def samples(system: BayesianCGAN, source: Tensor, count: int) -> Tensor:
    torch.manual_seed(1)
    code = torch.zeros(len(source), 0)
    with torch.inference_mode():
        return torch.stack([system.sample(source, code) for _ in range(count)])


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def layer_of(probability: float, kind: Any = "bernoulli", channels: int = 64) -> RandomWeights:
    torch.manual_seed(0)
    return RandomWeights(conv(2, channels, 1, 1), probability, kind)


# ---- random weights


@pytest.mark.parametrize("kind", ["bernoulli", "concrete"])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_masks_keep_the_mean(kind: Any, p: float) -> None:
    layer = layer_of(p, kind)
    mask = layer.mask(torch.rand(40_000)).detach()
    assert float(mask.mean()) == pytest.approx(1, abs=0.03)
    # a soft mask varies a little less than a hard one
    assert float(mask.var()) == pytest.approx(p / (1 - p), rel=0.05 if kind == "bernoulli" else 0.4)
    assert mask.min() >= 0


def test_a_mask_is_a_draw_of_the_weights() -> None:
    """Dropping an input channel equals zeroing the weights that read it."""
    layer = layer_of(0.5, channels=12).train()
    x = torch.randn(1, 12, 5, 5)
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    mask = layer.mask(torch.rand(1, 12))
    assert 0 < (mask == 0).sum() < 12
    weight = layer.layer.weight * mask[:, :, None, None]
    torch.testing.assert_close(y, nn.functional.conv2d(x, weight, layer.layer.bias))


def test_modes() -> None:
    layer, x = layer_of(0.5), torch.randn(1, 64, 4, 4).expand(3, -1, -1, -1)
    assert torch.equal(layer.eval()(x), layer.layer(x))
    trained = layer.train()(x)
    assert not torch.allclose(trained[0], trained[1]), "each sample has its own mask"
    for mode in (True, False):
        with one_function(layer.train(mode)):
            first, second = layer(x), layer(x)
        assert torch.equal(first[0], first[1]), "one mask for the whole batch"
        assert not torch.allclose(first, second), "another in the next pass"
    assert not layer.shared


def test_divergence_written_out() -> None:
    """l^2 (1 - p) / 2 ||W||^2 - K H(p), K = 2, W = (1, 2), p = 1/4, l = 2."""
    for kind in ("bernoulli", "concrete"):
        layer = layer_of(0.25, kind, channels=2)
        with torch.no_grad():
            layer.layer.weight.copy_(torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1))
        expected = 4 * 0.75 / 2 * 5
        if kind == "concrete":
            expected -= 2 * -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
        assert float(layer.divergence(2.0).detach()) == pytest.approx(expected)


def test_a_learned_probability_falls_where_noise_only_hurts() -> None:
    layer = layer_of(0.3, "concrete", channels=8).train()
    x = torch.randn(16, 8, 4, 4)
    y = x.sum(1, keepdim=True)
    optimiser = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(100):
        loss = (layer(x) - y).square().mean() + layer.divergence(0.01) / 10_000
        optimiser.zero_grad()
        loss.backward()
        assert layer.logit is not None
        assert layer.logit.grad is not None
        assert layer.logit.grad != 0
        optimiser.step()
        assert 0 < float(layer.probability.detach()) < 1
    assert float(layer.probability.detach()) < 0.2


def test_the_entropy_alone_pulls_the_probability_to_one_half() -> None:
    layer = layer_of(0.2, "concrete")
    layer.divergence(0.0).backward()
    assert layer.logit is not None
    assert layer.logit.grad is not None
    assert layer.logit.grad < 0
    half = layer_of(0.5, "concrete")
    half.divergence(0.0).backward()
    assert half.logit is not None
    assert half.logit.grad is not None
    assert float(half.logit.grad) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "kind"), [(1.0, "bernoulli"), (-0.1, "bernoulli"), (0.0, "concrete")]
)
def test_probabilities_that_are_none(p: float, kind: Any) -> None:
    with pytest.raises(UsageError, match=f"a dropout probability of {p:g} given"):
        layer_of(p, kind)


# ---- the system


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [({}, 54_403_457), ({"aleatoric": 1.0}, 54_403_457 + 65)],
)
def test_generator_parameters(arguments: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        system = BayesianCGAN(**arguments)
    assert count(system.generator) == parameters
    assert count(system.discriminator) == 2_763_713
    # five encoder stages of 512 channels; all decoder stages but two
    assert len(random_layers(system.generator)) == 5 + 6
    assert len(random_layers(system.discriminator)) == 4
    assert not any("BatchNorm" in type(module).__name__ for module in system.modules())


def test_one_number_for_each_learned_probability() -> None:
    with torch.device("meta"):
        system = BayesianCGAN(dropout="concrete", examples=100)
    assert count(system.generator) == 54_403_457 + 11


def test_without_dropout_it_is_the_deterministic_network() -> None:
    system = small(probability=0.0).eval()
    plain = Pix2pix(**SMALL, dropout=0.0, game="least-squares").eval()
    state = {
        name.replace(".layer.", "."): value for name, value in system.generator.state_dict().items()
    }
    plain.generator.load_state_dict(state)
    source = batch_of().source
    expected = plain.translate(source)
    assert torch.equal(system.translate(source), expected)
    for drawn in samples(system, source, 3):
        assert torch.equal(drawn, expected)
    prediction = system.predict(source, passes=5)
    assert torch.equal(prediction.epistemic, torch.zeros_like(expected))
    assert torch.equal(prediction.aleatoric, torch.zeros_like(expected))
    assert torch.equal(prediction.mean, expected)


def test_a_translation_is_certain_and_samples_are_not() -> None:
    system, source = small().eval(), batch_of().source
    assert torch.equal(system.translate(source), system.translate(source))
    first, second = samples(system, source, 2)
    assert not torch.allclose(first, second)
    assert torch.equal(samples(system, source, 2)[1], second), "same seed, same sample"
    assert not any(layer.shared or layer.training for layer in random_layers(system))


def test_all_windows_of_a_volume_see_one_function() -> None:
    """Slice by slice or in one batch: the same sample, where the random state is the same."""
    system, source = small().eval(), batch_of().source
    torch.manual_seed(5)
    together = system.sample(source, torch.zeros(2, 0))
    for number in range(2):
        torch.manual_seed(5)
        alone = system.sample(source[number : number + 1], torch.zeros(1, 0))
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=1e-6)
    masks = []
    handles = [
        layer.layer.register_forward_pre_hook(
            lambda _, given: masks.append((given[0] == 0).flatten(2).all(2)[0])
        )
        for layer in random_layers(system.generator)[:1]
    ]
    for size in (16, 48):
        window = torch.randn(1, 1, size, size)
        torch.manual_seed(5)
        system.sample(window, torch.zeros(1, 0))
    for handle in handles:
        handle.remove()
    assert torch.equal(masks[0], masks[1]), "the size of a window draws no other function"


def test_the_mean_of_more_draws_is_nearer() -> None:
    """Error of a mean of T draws falls as 1 / sqrt(T): of 36 a third of that of 4."""
    system, source = small().eval(), batch_of().source[:1]
    drawn = samples(system, source, 576).double()
    truth = drawn.mean(0)

    def error(size: int) -> float:
        means = drawn.unflatten(0, (-1, size)).mean(1)
        return float((means - truth).square().mean().sqrt())

    # what the mean of all shares with each group makes the error of large ones a little smaller
    assert error(4) / error(36) == pytest.approx(3, rel=0.25)


def test_prediction_is_mean_and_variance_of_the_samples() -> None:
    system, source = small().eval(), batch_of().source
    state = torch.random.get_rng_state()
    prediction = system.predict(source, passes=6)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state stays"
    drawn = []
    for seed in range(6):
        torch.manual_seed(seed)
        drawn.append(system.sample(source, torch.zeros(2, 0)))
    together = torch.stack(drawn)
    torch.testing.assert_close(prediction.mean, together.mean(0))
    torch.testing.assert_close(prediction.epistemic, together.var(0, correction=0))
    again = system.predict(source, passes=6)
    assert torch.equal(again.mean, prediction.mean)
    assert torch.equal(again.variance, prediction.variance)


def test_the_variance_settles() -> None:
    system, source = small().eval(), batch_of().source
    with torch.inference_mode():
        few, many = (system.predict(source, passes=n).epistemic.mean() for n in (20, 200))
    assert float(few / many) == pytest.approx(1, abs=0.35)


def test_a_batch_mate_changes_nothing() -> None:
    for mode in (True, False):
        system = small().train(mode)
        source = batch_of().source
        with torch.no_grad(), one_function(system.generator):
            torch.manual_seed(0)
            pair = system.translate(source)
            torch.manual_seed(0)
            other = system.translate(torch.cat([source[:1], source[1:] * 0.3]))
        torch.testing.assert_close(pair[0], other[0], rtol=0, atol=1e-6)


def test_the_expected_error_is_the_second_output() -> None:
    system, source = small(aleatoric=1.0, probability=0.0).eval(), batch_of().source
    head: Any = system.generator.up[-1]
    nn.init.zeros_(head.spread.weight)
    prediction = system.predict(source, passes=3)
    b = math.exp(-3)  # the middle of its range
    torch.testing.assert_close(prediction.aleatoric, torch.full_like(source, 2 * b * b))
    image, spread = system.with_spread(source)
    torch.testing.assert_close(image, system.translate(source))
    torch.testing.assert_close(spread, torch.full_like(source, b))
    system.calibration.fill_(2.0)
    torch.testing.assert_close(system.with_spread(source)[1], torch.full_like(source, 2 * b))
    assert image.shape == source.shape


def test_intervals_cover_what_they_promise_after_calibration() -> None:
    torch.manual_seed(0)
    deviation = 0.01 + torch.rand(4, 1, 40, 40)
    mean = torch.zeros(4, 1, 40, 40)
    reference = 3 * deviation * torch.randn(mean.shape)
    weight = torch.ones(4, 1, 40, 40)
    weight[..., :10] = 0
    reference[..., :10] = 100  # outside the head
    prediction = Prediction(mean, 0.5 * deviation.square(), 0.5 * deviation.square())
    scale = calibration_of(prediction, reference, weight)
    assert float(scale) == pytest.approx(3, rel=0.03)
    inside = reference[..., 10:].abs() < 1.96 * scale * prediction.variance.sqrt()[..., 10:]
    assert 0.93 < float(inside.float().mean()) < 0.97


# ---- the game


def test_discriminator_first_and_gradients_keep_to_the_player() -> None:
    system = small(aleatoric=1.0, dropout="concrete", examples=10)
    turns = system.play(batch_of())
    turn = next(turns)
    assert turn.player == "discriminator"
    turn.objective.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    assert all(p.grad is not None for p in system.discriminator.parameters())
    system.zero_grad(set_to_none=True)
    turn = next(turns)
    assert turn.player == "generator"
    assert set(turn.losses) == {"gan", "likelihood", "kl"}
    turn.objective.backward()
    assert all(p.grad is None for p in system.discriminator.parameters())
    for name, parameter in system.generator.named_parameters():
        assert parameter.grad is not None, name
    assert next(turns, None) is None


def test_generator_and_discriminator_draw_their_own_weights() -> None:
    """The images of the two turns differ although no weight has moved between them."""
    system, seen = small(), []
    handle = system.generator.register_forward_hook(lambda *given: seen.append(given[2]))
    list(system.play(batch_of()))
    handle.remove()
    first, second = seen
    assert not torch.allclose(first, second)
    source, target = batch_of().source, batch_of().target
    assert not torch.equal(system.judged(source, target), system.judged(source, target))


def test_a_verdict_of_several_masks_varies_less() -> None:
    source, target = batch_of().source, batch_of().target

    def spread(masks: int) -> float:
        system = small(masks=masks, probability_discriminator=0.5)
        torch.manual_seed(0)
        with torch.no_grad():
            verdicts = torch.stack([system.judged(source, target) for _ in range(200)])
        return float(verdicts.var(0).mean())

    assert spread(1) / spread(4) == pytest.approx(4, rel=0.4)


def test_twice_the_examples_halve_the_divergence() -> None:
    values = {}
    for examples in (50, 100):
        *_, turn = small(examples=examples).play(batch_of())
        values[examples] = float(turn.losses["kl"].detach())
    assert values[50] == pytest.approx(2 * values[100])
    *_, turn = small().play(batch_of())
    assert set(turn.losses) == {"gan", "l1"}, "else the prior is the optimiser's weight decay"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dropout": "concrete"}, "learns from the number of training `examples`"),
        ({"passes": 0}, "is 0; at least 1 was expected"),
        ({"examples": 0}, "is 0; at least 1 was expected"),
    ],
)
def test_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        small(**arguments)
