from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.networks.starganv2 import (
    AdaIN,
    DomainDiscriminator,
    MappingNetwork,
    ResidualBlock,
    StyledBlock,
    StyleEncoder,
    StyleGenerator,
)
from medi2i.systems.domains import crossing
from medi2i.systems.joint import together
from medi2i.systems.starganv2 import StarGANv2

TINY: dict[str, Any] = {
    "size": 16,
    "features": 4,
    "widest": 8,
    "code_size": 4,
    "style_size": 6,
    "hidden": 8,
}
PLAYERS = ["discriminator", "discriminator", "generator", "mapping", "encoder", "generator"]


def small(**changes: Any) -> StarGANv2:
    torch.manual_seed(0)
    return StarGANv2(**(TINY | changes))


def batch_of(slices: int = 1, domains: int = 3, dims: int = 2, seed: int = 0) -> Batch:
    """Four persons of whom every contrast was acquired, each on its way into the next domain."""
    random = torch.Generator().manual_seed(seed)
    every = 2 * torch.rand(4, domains, *[16] * dims, generator=random) - 1
    origin = (torch.arange(4) + seed) % domains
    asked = (origin + 1) % domains
    people = torch.arange(4)
    source = every[people, origin, None].repeat_interleave(slices, 1)
    known = functional.one_hot(origin, domains) == 0
    return Batch(source, every[people, asked, None], None, origin, asked, every, known)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gradients(network: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters()]


def sizes(system: StarGANv2) -> list[int]:
    networks = (system.generator, system.mapping, system.encoder, system.discriminator)
    return [count(network) for network in networks]


# ---- networks


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        colour = StarGANv2(inputs=3, outputs=3, conditions=2)
        grey, four, low = StarGANv2(), StarGANv2(conditions=4), StarGANv2(size=128)
    assert sizes(colour) == [33_892_995, 2_438_272, 20_916_928, 20_852_290]
    assert sizes(grey) == [33_891_713, 2_438_272, 20_915_776, 20_851_138]
    assert sizes(four) == [33_891_713, 4_079_872, 20_981_440, 20_852_164]
    assert sizes(low) == [33_629_441, 2_438_272, 20_797_440, 20_732_802]


def test_blocks_are_the_papers_step_by_step() -> None:
    torch.manual_seed(0)
    x, style = torch.randn(2, 3, 8, 8), torch.randn(2, 5)

    def act(image: Tensor) -> Tensor:
        return functional.leaky_relu(image, 0.2)

    down = ResidualBlock(2, 3, 6, normed=True, down=True)
    inner = functional.avg_pool2d(down.conv1(act(functional.instance_norm(x))), 2)
    inner = down.conv2(act(functional.instance_norm(inner)))
    expected = (inner + functional.avg_pool2d(down.shortcut(x), 2)) / math.sqrt(2)
    torch.testing.assert_close(down(x), expected)

    up = StyledBlock(2, 3, 2, 5, up=True)
    for adain in (up.norm1, up.norm2):  # not the zeros of a fresh one
        nn.init.normal_(adain.condition.scale_shift.weight)

    def styled(adain: AdaIN, image: Tensor) -> Tensor:
        gamma, beta = adain.condition.scale_shift(style)[..., None, None].chunk(2, 1)
        result: Tensor = (1 + gamma) * functional.instance_norm(image) + beta
        return result

    inner = up.conv1(functional.interpolate(act(styled(up.norm1, x)), scale_factor=2))
    inner = up.conv2(act(styled(up.norm2, inner)))
    larger = functional.interpolate(x, scale_factor=2, mode="nearest")
    torch.testing.assert_close(up(x, style), (inner + up.shortcut(larger)) / math.sqrt(2))


def test_a_block_learns_its_shortcut_only_where_the_width_changes() -> None:
    assert count(ResidualBlock(2, 4, 4)) == 2 * (4 * 4 * 9 + 4)
    assert count(ResidualBlock(2, 4, 6)) == (4 * 4 * 9 + 4) + (4 * 6 * 9 + 6) + 4 * 6


def test_without_weights_a_style_leaves_the_plain_norm() -> None:
    adain = AdaIN(2, 5, 3)
    nn.init.zeros_(adain.condition.scale_shift.weight)
    normed = adain(3 + 2 * torch.randn(2, 3, 16, 16), torch.randn(2, 5)).detach()
    torch.testing.assert_close(normed.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        normed.var((2, 3), correction=0), torch.ones(2, 3), rtol=1e-4, atol=0
    )


def test_blocks_keep_the_variance_at_the_start() -> None:
    torch.manual_seed(0)
    generator = StyleGenerator(dims=2, inputs=1, outputs=1, halvings=1, features=32)
    block = generator.encode[-1]
    with torch.no_grad():
        variance = float(block(torch.randn(4, 64, 32, 32)).var())
    assert variance == pytest.approx(1.0, abs=0.15)


def test_the_image_follows_the_style() -> None:
    system = small()
    source = torch.randn(1, 1, 16, 16).expand(2, -1, -1, -1)
    one, other = system.generated(source, torch.randn(2, 6)).detach()
    assert float((one - other).abs().max()) > 1e-2


def test_each_domain_has_its_own_heads() -> None:
    mapping = MappingNetwork(domains=3, code=4, style=6, hidden=8)
    code, image = torch.randn(2, 4), torch.randn(2, 1, 16, 16)
    styles = mapping(code)
    assert styles.shape == (2, 3, 6)
    assert torch.equal(mapping(code, torch.tensor([2, 0])), styles[[0, 1], [2, 0]])
    mapping(code, torch.tensor([0, 2])).square().sum().backward()
    moved = [any(g is not None and bool(g.any()) for g in gradients(h)) for h in mapping.heads]
    assert moved == [True, False, True]

    encoder = StyleEncoder(dims=2, inputs=1, domains=3, halvings=2, features=4, style=6)
    encoder(image, torch.tensor([1, 1])).square().sum().backward()
    moved = [any(g is not None and bool(g.any()) for g in gradients(h)) for h in encoder.heads]
    assert moved == [False, True, False]

    judge = DomainDiscriminator(dims=2, inputs=1, domains=3, halvings=2, features=4)
    logits = judge(image, torch.tensor([0, 2]))
    assert logits.shape == (2,)
    logits[0].backward()
    last: Any = judge.main[-1]
    assert last.weight.grad.flatten(1).any(1).tolist() == [True, False, False]


def test_larger_windows_are_judged_at_every_position() -> None:
    judge = DomainDiscriminator(dims=2, inputs=1, domains=2, halvings=2, features=4)
    x, domain = torch.randn(1, 1, 16, 32), torch.tensor([1])
    logits = judge.main(x)
    assert logits.shape == (1, 2, 1, 5)  # 4 x 8 voxels under a kernel of 4
    torch.testing.assert_close(judge(x, domain), logits[:, 1, 0].mean(1))
    with pytest.raises(UsageError, match=r"at least 16 along each side: set `size`"):
        judge(x[:, :, :15], domain)


def test_the_start_is_he_normal_without_bias() -> None:
    torch.manual_seed(0)
    judge = DomainDiscriminator(dims=2, inputs=1, domains=2, halvings=2, features=64)
    block: Any = judge.main[1]
    assert float(block.conv1.weight.detach().std()) == pytest.approx(
        math.sqrt(2 / (64 * 9)), rel=0.02
    )
    assert not block.conv1.bias.any()


# ---- training


def test_four_moves_of_four_players() -> None:
    turns = list(small(conditions=3).play(batch_of()))
    assert [turn.player for turn in turns] == PLAYERS
    names = ["gan", "style", "diversity", "cycle"]
    assert list(turns[0].losses) == ["latent_contest", "latent_r1"]
    assert list(turns[1].losses) == ["reference_contest", "reference_r1"]
    assert list(turns[2].losses) == [f"latent_{name}" for name in names]
    assert [list(turn.losses) for turn in turns[3:5]] == [["joint"], ["joint"]]
    assert list(turns[5].losses) == [f"reference_{name}" for name in names]


def test_gradients_keep_to_the_player() -> None:
    system = small(conditions=3, l1=1.0)
    owners = {p: {id(q) for q in system.parameters_of(p)} for p in system.players}
    for turn in system.play(batch_of()):
        system.zero_grad(set_to_none=True)
        turn.objective.backward()  # to whatever it reaches
        reached = {id(p) for p in system.parameters() if p.grad is not None}
        assert reached == owners[turn.player], turn.player
    assert all(parameter.requires_grad for parameter in system.parameters())


def test_turns_of_one_objective_carry_its_value_and_its_gradients() -> None:
    system = small(conditions=3)
    weights = [*system.generator.parameters(), *system.encoder.parameters()]
    x = torch.randn(2, 1, 16, 16)
    domain = torch.tensor([0, 2])

    def losses() -> dict[str, Tensor]:
        style = system.encoder(x, domain)
        return {"one": system.generated(x, style).square().mean(), "two": style.abs().mean()}

    objective = torch.stack(list(losses().values())).sum()
    expected = torch.autograd.grad(objective, weights)
    found: list[Tensor] = []
    for turn in together(system, losses(), "generator", "encoder"):
        torch.testing.assert_close(turn.objective, objective, rtol=1e-6, atol=0)
        own = system.parameters_of(turn.player)
        found += torch.autograd.grad(turn.objective, own)
        for parameter in own:  # whoever has moved does not change what the next one gets
            parameter.data += 1
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_undecided_discriminator_costs_ln_2_each_way() -> None:
    system = small(conditions=3)
    last: Any = system.discriminator.main[-1]
    nn.init.zeros_(last.weight)
    turns = list(system.play(batch_of()))
    for turn, kind in ((turns[0], "latent"), (turns[1], "reference")):
        assert float(turn.losses[f"{kind}_contest"].detach()) == pytest.approx(2 * math.log(2))
        assert float(turn.losses[f"{kind}_r1"].detach()) == 0
    assert float(turns[2].losses["latent_gan"].detach()) == pytest.approx(math.log(2))
    assert float(turns[5].losses["reference_gan"].detach()) == pytest.approx(math.log(2))


def test_r1_is_half_the_squared_slope_at_real_images() -> None:
    system, batch = small(conditions=3, r1=2.0), batch_of()
    turn = next(system.play(batch))
    real = batch.target.clone().requires_grad_()
    logits = system.discriminator(real, batch.target_contrast)
    slope = torch.autograd.grad(logits.sum(), real)[0].flatten(1)
    expected = 2.0 * 0.5 * slope.square().sum(1).mean()
    torch.testing.assert_close(turn.losses["latent_r1"].detach(), expected)
    assert not batch.target.requires_grad


def test_lazy_r1_comes_seldom_and_weighs_more() -> None:
    batch, always, seldom = batch_of(), small(conditions=3), small(conditions=3, lazy=4)
    found = []
    for number in range(5):
        seldom.rounds.fill_(number)
        losses = next(seldom.play(batch)).losses
        found.append("latent_r1" in losses)
        if found[-1]:
            expected = 4 * next(always.play(batch)).losses["latent_r1"]
            torch.testing.assert_close(losses["latent_r1"], expected)
    assert found == [True, False, False, False, True]
    assert "latent_r1" not in next(small(conditions=3, r1=0.0).play(batch)).losses


def test_diversity_fades_in_a_line_and_never_turns() -> None:
    system = small(diversity=2.0, fade=100)
    for rounds, expected in ((0, 2.0), (1, 1.98), (25, 1.5), (100, 0.0), (150, 0.0)):
        system.rounds.fill_(rounds)
        assert float(system.diversity_weight()) == pytest.approx(expected)


def test_diversity_is_rewarded_in_the_first_image_alone() -> None:
    system, batch = small(conditions=3), batch_of()
    torch.manual_seed(5)
    *_, turn = system.play(batch)
    loss = turn.losses["reference_diversity"]
    assert float(loss.detach()) < 0
    # the second reference of a person alone in its batch is the first, so both styles are one
    single = Batch(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))
    *_, turn = small().play(single)
    assert float(turn.losses["reference_diversity"].detach()) == 0

    images = torch.randn(2, 4, 1, 16, 16, requires_grad=True)
    style = torch.randn(4, 6)
    losses = system.pleased(crossing(system, batch), images[0], style, images[1], "x")
    (gradient,) = torch.autograd.grad(losses["x_diversity"], images)
    expected = -(images[0] - images[1]).sign() / images[0].numel()
    torch.testing.assert_close(gradient[0], expected)
    assert not gradient[1].any()


def test_the_paired_error_counts_where_it_has_a_weight() -> None:
    system, batch = small(conditions=3, l1=3.0), batch_of()
    asked = batch.target_contrast
    turns = list(system.play(batch))
    latent, reference = turns[2].losses["latent_l1"], turns[5].losses["reference_l1"]
    expected = 3 * (system.translate(batch.source, target=asked) - batch.target).abs().mean()
    torch.testing.assert_close(latent, expected.detach())
    style = system.encoder(batch.target, asked)
    expected = 3 * (system.generated(batch.source, style) - batch.target).abs().mean()
    torch.testing.assert_close(reference, expected)


def test_the_way_back_starts_from_the_drawn_slice_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(conditions=3, slices=3), batch_of(slices=3)
    seen: list[Tensor] = []
    real = system.generated

    def spy(source: Tensor, style: Tensor) -> Tensor:
        seen.append(source)
        return real(source, style)

    monkeypatch.setattr(system, "generated", spy)
    turns = list(system.play(batch))
    assert [turn.player for turn in turns] == PLAYERS
    ways_back = [x for x in seen if not torch.equal(x, batch.source)]
    assert len(seen) == 7
    assert len(ways_back) == 2
    for x in ways_back:
        assert torch.equal(x, x[:, :1].expand(-1, 3, -1, -1))


def test_equals_a_loop_written_by_hand() -> None:
    """The authors' iteration, step by step, ends with the same weights."""
    ours, theirs = small(conditions=3, fade=4), small(conditions=3, fade=4)
    rates = {"discriminator": 1e-2, "generator": 1e-2, "mapping": 1e-3, "encoder": 1e-2}

    def optimisers(system: StarGANv2) -> dict[str, torch.optim.Optimizer]:
        # not Adam, which makes a full step out of rounding where a bias has no effect
        return {
            player: torch.optim.SGD(system.parameters_of(player), rate, momentum=0.9)
            for player, rate in rates.items()
        }

    mine, steps = optimisers(ours), optimisers(theirs)
    g, f, e, d = theirs.generator, theirs.mapping, theirs.encoder, theirs.discriminator

    def bce(logits: Tensor, label: float) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    for number in range(3):
        batch = batch_of(seed=number)
        torch.manual_seed(number)
        for turn in ours.play(batch):
            mine[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            mine[turn.player].step()
        ours.rounds += 1

        torch.manual_seed(number)
        x, ref = batch.source, batch.target
        org, trg = torch.as_tensor(batch.source_contrast), torch.as_tensor(batch.target_contrast)
        ref2 = torch.as_tensor(batch.every).roll(-1, 0)[torch.arange(4), trg, None]
        z, z2 = torch.randn(4, 4), torch.randn(4, 4)
        weight = 1 - number / 4

        for latent in (True, False):
            real = ref.clone().requires_grad_()
            out = d(real, trg)
            slope = torch.autograd.grad(out.sum(), real, create_graph=True)[0]
            r1 = 0.5 * slope.square().view(4, -1).sum(1).mean()
            with torch.no_grad():
                fake = g(x, f(z, trg) if latent else e(ref, trg))
            theirs.zero_grad()
            torch.stack([bce(out, 1), bce(d(fake, trg), 0), r1]).sum().backward()
            steps["discriminator"].step()

        for latent in (True, False):
            style = f(z, trg) if latent else e(ref, trg)
            style2 = f(z2, trg) if latent else e(ref2, trg)
            fake, fake2 = g(x, style), g(x, style2).detach()
            losses = [
                bce(d(fake, trg), 1),
                (e(fake, trg) - style).abs().mean(),
                -weight * (fake - fake2).abs().mean(),
                (g(fake, e(x, org)) - x).abs().mean(),
            ]
            theirs.zero_grad()
            torch.stack(losses).sum().backward()
            for player in ("generator", "mapping", "encoder") if latent else ("generator",):
                steps[player].step()
    before = small(conditions=3)
    for (name, one), other, start in zip(
        ours.named_parameters(), theirs.parameters(), before.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
        if one.dim() > 1:
            assert float((one - start).detach().abs().max()) > 1e-5, name


def test_a_fixed_task_learns_both_ways_and_translates_one() -> None:
    system = small(l1=1.0)
    batch = Batch(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16))
    turns = list(system.play(batch))
    assert [turn.player for turn in turns] == PLAYERS
    assert all(torch.isfinite(turn.objective) for turn in turns)
    style = system.mean_styles()[[1, 1]]
    assert torch.equal(system.translate(batch.source), system.generated(batch.source, style))


# ---- translation


def test_translate_uses_the_mean_style_of_the_contrast() -> None:
    system = small(conditions=3, slices=3).eval()
    source, asked = torch.randn(3, 3, 13, 18), torch.arange(3)
    styles = system.mapping(system.codes).mean(0)
    assert styles.shape == (3, 6)
    assert float(torch.pdist(styles).min().detach()) > 1e-2, "domains differ from the start"
    image = system.translate(source, target=asked)
    assert image.shape == (3, 1, 13, 18)
    torch.testing.assert_close(image, system.generated(source, styles))
    assert float(system.codes.sum(0).abs().max()) < 1e-4, "each code comes with its negative"
    assert float(system.codes.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(system.codes, StarGANv2(**TINY).codes), "whatever the seed"


def test_samples_follow_their_code_and_their_contrast() -> None:
    system = small(conditions=3).eval()
    source = torch.randn(1, 1, 16, 16).expand(3, -1, -1, -1)
    code = torch.randn(2, 4)
    one, other, moved = system.sample(
        source, code[[0, 1, 0]], target=torch.tensor([0, 0, 2])
    ).detach()
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, moved)
    again = system.sample(source[:1], code[:1], target=torch.tensor([0])).detach()
    torch.testing.assert_close(again[0], one)
    assert system.one_to_many
    assert system.code_size == 4
    assert StarGANv2(**(TINY | {"code_size": 16})).code_size == 16


@pytest.mark.parametrize(
    "changes", [{"size": 8}, {"size": 48}, {"fade": 0}, {"lazy": 0}, {"outputs": 2}]
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        small(**changes)


def test_on_demand_in_3d() -> None:
    system = small(dims=3, conditions=3, size=16, l1=1.0)
    batch = batch_of(dims=3)
    turns = list(system.play(batch))
    assert [turn.player for turn in turns] == PLAYERS
    assert all(torch.isfinite(turn.objective) for turn in turns)
    image = system.translate(batch.source[..., :14], target=batch.target_contrast)
    assert image.shape == (4, 1, 16, 16, 14)
