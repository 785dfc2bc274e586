from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.networks.munit import LayerNorm, StyledResidual
from medi2i.systems.munit import MUNIT


def small(**changes: Any) -> MUNIT:
    torch.manual_seed(0)
    arguments = {"features": 4, "blocks": 2, "layers": 2, "scales": 2, "hidden": 16, "code": 3}
    return MUNIT(**(arguments | changes))


def batch_of(size: int = 2, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.rand(size, 1, 16, 24, generator=random) - 1 for _ in range(2))
    weight, target_weight = torch.rand(2, size, 1, 16, 24, generator=random)
    return Batch(a, b, weight, target_weight=target_weight)


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def reached(loss: Tensor, network: nn.Module) -> bool:
    found = torch.autograd.grad(
        loss, list(network.parameters()), retain_graph=True, allow_unused=True
    )
    return any(slope is not None and bool(slope.any()) for slope in found)


def test_the_networks_have_the_authors_size() -> None:
    with torch.device("meta"):
        grey, colour, solid = MUNIT(), MUNIT(inputs=3, outputs=3), MUNIT(dims=3)
    one = grey.generator_a
    assert count(one.style_encoder) == 2_758_664
    assert count(one.content_encoder) == 5_379_584
    assert count(one.blocks, one.rise) == 5_748_353
    assert count(one.perceptron) == 1_120_768
    assert (count(one), count(colour.generator_a)) == (15_007_369, 15_026_187)
    assert (count(grey.discriminator_a), count(colour.discriminator_a)) == (8_265_027, 8_271_171)
    assert count(grey) == 46_544_792
    assert grey.code_size == 8
    up: Any = solid.generator_a.rise
    assert up[1].kernel_size == (3, 3, 3)


def test_content_style_and_logits_have_the_sheets_shapes() -> None:
    system = small(layers=4, scales=3, code=8)
    image = torch.zeros(1, 1, 128, 256)
    assert system.generator_a.content(image).shape == (1, 16, 32, 64)
    assert system.code_of(image).shape == (1, 8)
    maps: Any = system.discriminator_a(image)
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 16), (4, 8), (2, 4)]
    with pytest.raises(UsageError, match="needs at least 64"):
        system.discriminator_a(image[..., :60])


def test_content_is_blind_to_gain_and_offset_and_style_is_not() -> None:
    system, x = small(), batch_of().source
    content = system.content_of("a", x).detach()
    torch.testing.assert_close(system.content_of("a", 3 * x - 0.7), content, rtol=0, atol=1e-3)
    assert float(content.abs().max()) > 1
    style, changed = (system.generator_a.style(image).detach() for image in (x, 3 * x - 0.7))
    assert float((changed - style).abs().max()) > 0.1


# ---- the style's way into the image


def test_behind_a_norm_the_style_is_mean_and_deviation() -> None:
    torch.manual_seed(0)
    block = StyledResidual(2, 5, "reflect")
    x, rules = torch.randn(2, 5, 12, 16), torch.randn(2, 4, 5)
    change = block(x, rules) - x
    torch.testing.assert_close(change.mean((2, 3)), rules[:, 2], rtol=0, atol=1e-4)
    deviation = change.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, rules[:, 3].abs(), rtol=1e-3, atol=1e-3)


def test_a_scale_of_zero_erases_and_first_comes_the_shift() -> None:
    """With scales 0 and shift s the second convolution sees relu(s), whatever comes in."""
    block = StyledResidual(2, 2, "reflect")
    rules = torch.tensor([[[0.5, -0.5], [0.0, 0.0], [0.25, -3.0], [0.0, 0.0]]])
    x = torch.randn(1, 2, 8, 8)
    change = block(x, rules) - x
    wanted = torch.tensor([0.25, -3.0])[None, :, None, None].expand(1, 2, 8, 8)
    torch.testing.assert_close(change, wanted)
    seen: list[Tensor] = []
    block.second.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block(x, rules)
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.tensor([0.5, 0.0]))


def test_every_image_of_a_batch_has_its_own_style() -> None:
    system = small()
    content, styles = system.content_of("b", batch_of().target), torch.randn(2, 3)
    both = system.generator_b(content, styles)
    one, other = (system.generator_b(content[i : i + 1], styles[i : i + 1]) for i in range(2))
    torch.testing.assert_close(both, torch.cat([one, other]), rtol=0, atol=1e-5)
    for changed in (
        system.generator_b(content, styles.flip(0)),
        system.generator_b(content.flip(0), styles),
    ):
        assert float((changed - both).detach().abs().max()) > 1e-2
    assert torch.equal(system.generator_b(content, styles), both)


def test_layer_norm_keeps_the_proportions_between_channels() -> None:
    layer = LayerNorm(3)
    assert bool((layer.weight >= 0).all())
    assert bool((layer.weight < 1).all())
    nn.init.ones_(layer.weight)
    x = torch.randn(2, 3, 8, 10) * torch.tensor([1.0, 2.0, 4.0])[:, None, None] + 3
    y = layer(x)
    torch.testing.assert_close(y.flatten(1).mean(1), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.flatten(1).std(1), torch.ones(2), rtol=1e-4, atol=0)
    ratio = y.std((2, 3)) / x.std((2, 3))
    torch.testing.assert_close(ratio, ratio[:, :1].expand(2, 3))


# ---- the losses


def test_the_losses_are_the_sheets() -> None:
    system, batch = small(), batch_of()
    a, b = batch.source, batch.target
    styles = list(torch.randn(4, 2, 3))
    drawn = iter(styles)
    system.random_styles = lambda like: next(drawn)  # type: ignore[method-assign]
    first, second = system.play(batch)
    content_a, content_b = system.content_of("a", a), system.content_of("b", b)
    of_critic = system.drawn("b", content_a, styles[1], a)
    fake_a = system.drawn("a", content_b, styles[2], b)
    fake_b = system.drawn("b", content_a, styles[3], a)

    def judged(judge: nn.Module, image: Tensor, label: float) -> Tensor:
        return torch.stack([(m - label).square().mean() for m in judge(image)]).sum()

    contest = judged(system.discriminator_b, b, 1) + judged(system.discriminator_b, of_critic, 0)
    torch.testing.assert_close(first.losses["contest_b"], contest)

    def l1(one: Tensor, other: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return ((one - other).abs() * weight).sum() / weight.sum()

    own_a = system.generator_a.style(a)
    recon = system.drawn("a", content_a, own_a, a)
    back = system.drawn("a", system.content_of("b", fake_b), own_a, a)
    found = system.content_of("a", fake_a)
    wanted = {
        "recon_a": 10 * l1(recon, a, batch.weight),
        "cycle_a": 10 * l1(back, a, batch.weight),
        "content_b": (found - content_b).abs().mean(),
        "style_b": (system.generator_b.style(fake_b) - styles[3]).abs().mean(),
        "gan_b": judged(system.discriminator_b, fake_b, 1),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(second.losses[name], value, msg=name)
    assert len(second.losses) == 10


def test_who_learns_from_what() -> None:
    system = small()
    first, second = system.play(batch_of())
    a, b = system.generator_a, system.generator_b
    assert not reached(first.objective, a)
    assert not reached(second.objective, system.discriminator_a)
    losses = second.losses
    # within a domain the other one learns nothing
    assert reached(losses["recon_a"], a.style_encoder)
    assert not reached(losses["recon_a"], b)
    # a style is found by the style encoder of the domain that it was drawn in
    assert reached(losses["style_b"], b.style_encoder)
    assert reached(losses["style_b"], a.content_encoder)
    assert not reached(losses["style_b"], a.style_encoder)
    # the content that is to be found again learns too
    assert reached(losses["content_a"], a.content_encoder)
    assert reached(losses["content_a"], b.content_encoder)
    assert reached(losses["content_a"], b.rise)
    assert not reached(losses["content_a"], a.rise)


def test_without_weight_the_way_back_is_not_drawn() -> None:
    losses = list(small(cycle=0.0).play(batch_of()))[1].losses
    assert not {"cycle_a", "cycle_b"} & set(losses)


def test_training_makes_content_and_own_style_the_image() -> None:
    system = small(blocks=1)
    coder, image = system.generator_a, batch_of(1).source
    optimiser = torch.optim.Adam(coder.parameters(), 5e-3)
    errors = []
    for _ in range(40):
        again = coder(coder.content(image), coder.style(image))
        error = (again - image).abs().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.7 * errors[0]


# ---- one image, or many


def test_translation_is_the_image_of_a_fixed_style() -> None:
    source = batch_of().source
    system = small()
    assert torch.equal(system.translate(source), system.sample(source, torch.zeros(2, 3)))
    one, other = torch.randn(2, 2, 3)
    change = system.sample(source, one) - system.sample(source, other)
    assert float(change.detach().abs().max()) > 1e-2
    system.mean_style.copy_(one[0])
    assert torch.equal(system.translate(source), system.sample(source, torch.zeros(2, 3)))
    system.guided = True
    assert torch.equal(system.translate(source), system.sample(source, one[:1].expand(2, -1)))


def test_the_mean_style_is_the_mean_over_the_rounds() -> None:
    system = small()
    targets = [batch_of(seed=seed) for seed in range(3)]
    for batch in targets:
        list(system.play(batch))
        system.rounds += 1
    styles = torch.cat([system.code_of(batch.target) for batch in targets])
    torch.testing.assert_close(system.mean_style, styles.mean(0))
    assert "mean_style" in system.lasting_state()


def test_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="two domains"):
        small(conditions=3)
    with pytest.raises(UsageError, match="code is 0"):
        small(code=0)
