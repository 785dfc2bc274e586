from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses.seeking import mode_seeking
from medi2i.networks.drit import ContentDiscriminator
from medi2i.systems import drit
from medi2i.systems.base import Turn
from medi2i.systems.drit import DRIT
from medi2i.systems.joint import together


def small(**changes: Any) -> DRIT:
    torch.manual_seed(0)
    arguments = {"features": 4, "blocks": 1, "layers": 2, "scales": 2, "content_layers": 0}
    return DRIT(**(arguments | {"code": 4, "every": 1} | changes))


def batch_of(size: int = 2, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.rand(size, 1, 16, 24, generator=random) - 1 for _ in range(2))
    weight, target_weight = torch.rand(2, size, 1, 16, 24, generator=random)
    return Batch(a, b, weight, target_weight=target_weight)


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def moved(turn: Turn, system: DRIT) -> set[str]:
    """The networks that the turn's objective would move, all of them let loose."""
    names = [name for owned in system.players.values() for name in owned]
    learning = [name for name in names if count(system.get_submodule(name))]
    found = set()
    for name in learning:
        slopes = torch.autograd.grad(
            turn.objective,
            list(system.get_submodule(name).parameters()),
            retain_graph=True,
            allow_unused=True,
        )
        if any(slope is not None and bool(slope.any()) for slope in slopes):
            found.add(name)
    return found


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drit, "noisy", lambda content: content)


@pytest.fixture
def plain_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A joint objective as one turn of the first player, for losses that move nothing."""

    def one(_: DRIT, losses: dict[str, Tensor], *players: str, **__: float) -> list[Turn]:
        return [Turn(players[0], **losses)]

    monkeypatch.setattr(drit, "together", one)


@pytest.mark.parametrize(
    ("attribute", "encoders", "decoders"),
    [("concat", 2_684_064, 9_564_386), ("transform", 5_517_328, 17_146_114)],
)
def test_the_networks_have_the_authors_size(attribute: Any, encoders: int, decoders: int) -> None:
    with torch.device("meta"):
        system = DRIT(attribute=attribute)
    shared = 9_005_568
    assert count(system.content, system.content_shared) == shared
    assert count(system.attribute) == encoders
    assert count(system.decoder, system.decoder_shared) == decoders
    assert count(system.judge, system.judge_random) == 4 * 8_265_027
    assert count(system.judge_content) == 10_683_649
    weights = (system.gan, system.content_gan, system.recon, system.cycle, system.regression)
    assert weights == (1, 1, 10, 10, 10)
    assert (system.kl, system.kl_content, system.seeking, system.every) == (0.01, 0.01, 1, 3)


@pytest.mark.parametrize(("side", "left"), [(54, 1), (64, 2)])
def test_windows_of_216_and_256_suit_the_content_discriminator(side: int, left: int) -> None:
    judge = ContentDiscriminator(dims=2, channels=2)
    assert judge(torch.randn(1, 2, side, side)).shape == (1, 1, left, left)


def test_smaller_windows_need_fewer_layers_of_it() -> None:
    content = torch.randn(1, 2, 32, 32)
    with pytest.raises(UsageError, match="3 layers with 7 taps, which is too small"):
        ContentDiscriminator(dims=2, channels=2)(content)
    assert ContentDiscriminator(dims=2, channels=2, layers=2)(content).shape == (1, 1, 2, 2)


def test_content_is_a_quarter_of_the_size_and_logits_come_at_three_scales() -> None:
    system = small(layers=4, scales=3)
    image = torch.zeros(1, 1, 128, 128)
    assert system.content_of("a", image).shape == (1, 16, 32, 32)
    draw, mean, _ = system.attribute_of("a", image)
    assert draw.shape == mean.shape == (1, 4)
    assert [m.shape[-1] for m in system.judge["a"](image)] == [8, 4, 2]


# ---- the order of moves


def test_only_every_third_round_moves_more_than_the_content_discriminator() -> None:
    system = small(every=3)
    players: list[list[str]] = []
    for _ in range(6):
        players.append([turn.player for turn in system.play(batch_of())])
        system.rounds += 1
    alone = ["content_discriminator"]
    whole = ["discriminators", *alone, "generators", "attributes", "generators"]
    assert players == [alone, alone, whole, alone, alone, whole]


def test_who_learns_from_which_turn() -> None:
    system = small()
    critics, content, first, attributes, second = system.play(batch_of())
    assert moved(critics, system) == {"judge", "judge_random"}
    assert moved(content, system) == {"judge_content"}
    encoding = {"content", "content_shared", "decoder", "decoder_shared"}
    assert moved(first, system) == encoding
    assert moved(attributes, system) == {"attribute"}
    assert moved(second, system) == encoding


def test_the_attribute_encoder_stays_in_the_second_move_but_teaches() -> None:
    system = small(gan=0.0, seeking=0.0)
    second = list(system.play(batch_of()))[-1]
    assert set(second.losses) == {f"{n}_{d}" for n in ("gan_random", "regression") for d in "ab"}
    assert moved(second, system) == {"content", "content_shared", "decoder", "decoder_shared"}


def test_the_second_move_begins_where_the_first_has_ended() -> None:
    """Both for the same random attributes, but with the weights that are then there."""

    def last(step: float) -> float:
        system = small()
        turns = system.play(batch_of())
        for turn in turns:
            if turn.player == "generators" and "recon_a" in turn.losses:
                with torch.no_grad():
                    for parameter in system.parameters_of("generators"):
                        parameter.add_(step)
        return float(turn.objective.detach())

    assert last(0.0) == last(0.0)
    assert last(0.0) != last(0.01)


def test_the_gradient_of_the_content_discriminator_is_clipped() -> None:
    system = small()
    player = "content_discriminator"
    parameters = system.parameters_of(player)
    for size, wanted in ((1000.0, 5.0), (0.001, 0.001)):
        loss = size * parameters[0].sum() / math.sqrt(parameters[0].numel())
        (turn,) = together(system, {"contest": loss}, player, clip=5.0)
        torch.testing.assert_close(turn.objective, loss)
        slopes = torch.autograd.grad(turn.objective, parameters)
        assert float(nn.utils.get_total_norm(slopes)) == pytest.approx(wanted, rel=1e-3)


def test_half_of_the_batch_is_encoded_and_the_other_half_judged_beside_random_ones() -> None:
    system, batch = small(), batch_of(4)
    seen: dict[str, list[Tensor]] = {}
    for name in ("content", "judge", "judge_random"):
        seen[name] = []
        network = system.get_submodule(f"{name}.a")
        network.register_forward_pre_hook(lambda _, args, n=name: seen[n].append(args[0]))
    list(system.play(batch))
    first, rest = batch.source[:2], batch.source[2:]
    assert torch.equal(seen["content"][0], first)
    assert any(torch.equal(x, first) for x in seen["judge"])
    assert any(torch.equal(x, rest) for x in seen["judge_random"])
    assert not any(torch.equal(x, batch.target[:2]) for x in seen["judge"])
    for images in seen.values():
        assert all(len(x) == 2 for x in images)


# ---- the losses


def test_at_equilibrium_the_contents_are_worth_ln_2(
    monkeypatch: pytest.MonkeyPatch, plain_turns: None
) -> None:
    system = small()
    values = []
    for logit in (0.0, 1.5, -1.5):
        answer = torch.full((1, 1, 1, 1), logit, requires_grad=True)
        monkeypatch.setattr(system.judge_content, "forward", lambda _, a=answer: a)
        _, content, first, _ = system.play(batch_of())
        values.append(float(first.losses["content_gan_a"].detach()))
        if logit == 0:
            assert float(content.objective.detach()) == pytest.approx(2 * math.log(2))
    assert values[0] == pytest.approx(math.log(2))
    assert values[1] == pytest.approx(values[2])
    assert values[1] > values[0]


def test_with_oracles_the_way_back_is_the_identity(
    monkeypatch: pytest.MonkeyPatch, silence: None, plain_turns: None
) -> None:
    """Where images are an anatomy of zero mean plus a level, swapping levels twice is nothing."""
    system = small(attribute="transform")
    widen = 16

    def content_of(_: str, image: Tensor) -> Tensor:
        flat = image - image.mean((1, 2, 3), keepdim=True)
        return flat.repeat(1, widen, 1, 1).requires_grad_()

    def attribute_of(_: str, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        level = image.mean((1, 2, 3))[:, None].expand(-1, 4)
        return level, level, level.square().mean()

    def drawn(_: str, content: Tensor, code: Tensor, like: Tensor) -> Tensor:
        del like
        return content[:, :1] + code[:, :1, None, None]

    for function in (content_of, attribute_of, drawn):
        monkeypatch.setattr(system, function.__name__, function)
    turns = list(system.play(batch_of()))
    first, second = turns[2].losses, turns[3].losses
    for name in ("recon_a", "recon_b", "cycle_a", "cycle_b"):
        assert float(first[name].detach()) == pytest.approx(0, abs=1e-5)
    assert float(first["gan_a"].detach()) > 0.1
    assert set(second) == {
        f"{n}_{d}" for n in ("gan_random", "regression", "seeking") for d in "ab"
    }


def test_swapped_domains_have_the_same_losses(silence: None) -> None:
    system, batch = small(attribute="transform"), batch_of()
    torch.manual_seed(1)
    before = [turn.objective.detach() for turn in system.play(batch)]
    for networks in (system.content, system.attribute, system.decoder):
        networks["a"], networks["b"] = networks["b"], networks["a"]
    for networks in (system.judge, system.judge_random):
        networks["a"], networks["b"] = networks["b"], networks["a"]
    swapped = Batch(batch.target, batch.source, batch.target_weight, target_weight=batch.weight)
    torch.manual_seed(1)
    after = [turn.objective.detach() for turn in system.play(swapped)]
    for place in (0, 2, 3, 4):  # the content discriminator alone knows which is 0 and which is 1
        torch.testing.assert_close(after[place], before[place])


def test_the_shared_block_learns_from_either_domain() -> None:
    system, batch = small(), batch_of()
    for domain, image in (("a", batch.source), ("b", batch.target)):
        system.zero_grad()
        content = system.content_of(domain, image)
        system.drawn(domain, content, torch.zeros(2, 4), image).square().sum().backward()
        for block in (system.content_shared, system.decoder_shared):
            assert any(p.grad is not None and bool(p.grad.any()) for p in block.parameters())
        other: Any = system.content["b" if domain == "a" else "a"]
        assert all(p.grad is None for p in other.parameters())


def test_images_that_differ_little_for_their_codes_cost_much() -> None:
    one, other = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5)
    code, other_code = torch.zeros(1, 2), torch.full((1, 2), 2.0)
    assert float(mode_seeking(one, other, code, other_code)) == pytest.approx(4, rel=1e-3)
    assert float(mode_seeking(one, one, code, other_code)) == pytest.approx(1e5, rel=1e-3)
    assert math.isfinite(float(mode_seeking(one, other, code, code)))
    assert math.isfinite(float(mode_seeking(one, one, code, code)))


def test_an_attribute_of_the_prior_has_no_divergence() -> None:
    system = small()
    encoder: Any = system.attribute["b"]
    for head in (encoder.mean, encoder.log_variance):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    draw, mean, divergence = system.attribute_of("b", batch_of().target)
    assert float(divergence.detach()) == 0
    assert not mean.any()
    assert draw.detach().abs().min() > 0
    nn.init.constant_(encoder.mean.bias, 2.0)
    _, _, divergence = system.attribute_of("b", batch_of().target)
    assert float(divergence.detach()) == pytest.approx(0.5 * 4 * 4 * 2)  # 2 images of 4 numbers


def test_spectral_norm_bounds_the_judges() -> None:
    system = small(spectral=True)
    judge: Any = system.judge["a"]
    with torch.no_grad():
        for _ in range(30):
            judge(batch_of().source)
    layer = judge.judges[0][2]
    norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    assert float(norm.detach()) == pytest.approx(1, rel=0.02)


# ---- one image, or many


def test_translation_is_the_image_of_the_attribute_zero() -> None:
    system, source = small().eval(), batch_of().source
    with torch.no_grad():
        zero = system.sample(source, torch.zeros(2, 4))
        assert torch.equal(system.translate(source), zero)
        assert torch.equal(system.train().translate(source), zero)
        assert float((system.sample(source, torch.ones(2, 4)) - zero).abs().max()) > 0


@pytest.mark.parametrize("attribute", ["concat", "transform"])
def test_every_image_has_its_own_attribute(attribute: Any) -> None:
    system, batch = small(attribute=attribute), batch_of()
    for parameter in system.parameters():  # from where it begins, attributes hardly show
        nn.init.normal_(parameter, 0.0, 0.2)
    codes = torch.randn(2, 4)
    both = system.sample(batch.source, codes)
    pairs = zip(batch.source.split(1), codes.split(1), strict=True)
    apart = torch.cat([system.sample(image, code) for image, code in pairs])
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-5)
    assert float((system.sample(batch.source, codes.flip(0)) - both).detach().abs().max()) > 1e-2
    assert system.code_of(batch.target).shape == (2, 4)


def test_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="two domains"):
        small(conditions=3)
    with pytest.raises(UsageError, match="every 0"):
        small(every=0)
    with pytest.raises(UsageError, match="code is 3; an even number"):
        small(code=3)
