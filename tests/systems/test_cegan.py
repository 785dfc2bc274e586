from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses import kl_from_standard_normal
from medi2i.networks.cegan import EmbeddingEncoder, latent_critic
from medi2i.systems.base import Turn
from medi2i.systems.cegan import CEGAN, contested


def small(**changes: Any) -> CEGAN:
    torch.manual_seed(0)
    given: dict[str, Any] = {"depth": 3, "features": 4, "blocks": 2, "patch": 1, "warmup": 0}
    return CEGAN(**(given | changes))


def encoder_of(**changes: Any) -> EmbeddingEncoder:
    torch.manual_seed(0)
    given: dict[str, Any] = {"dims": 2, "inputs": 1, "features": 16}
    return EmbeddingEncoder(**(given | changes))


def batch_of(size: int = 16, seed: int = 0, count: int = 4) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (2 * torch.rand(count, 1, size, size, generator=random) - 1 for _ in range(2))
    return Batch(source, target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def touched(network: nn.Module) -> int:
    """How many tensors have a gradient other than zero."""
    return sum(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def turns_of(system: CEGAN, batch: Batch) -> dict[str, Turn]:
    return {turn.player: turn for turn in system.play(batch)}


# ---- sizes


def test_parameters() -> None:
    with torch.device("meta"):
        system, on_code, on_both = CEGAN(), CEGAN(critic="code"), CEGAN(critic="both")
    assert count(system.generator) == 54_788_481
    assert count(system.encoder) == 2_587_984
    assert (system.encoder.width, system.code_size) == (256, 8)
    assert count(system.critic) == 131_841
    assert count(on_code.critic) == 17_793
    assert count(on_both.critic) == 197_377
    assert count(system.discriminator) == 2_762_689
    assert on_both.encoder_source is not None
    heads = 2 * (256 * 8 + 8)
    assert count(on_both.encoder_source) == count(system.encoder) - heads


def test_defaults_are_those_of_the_sheet() -> None:
    with torch.device("meta"):
        system = CEGAN()
    weights = (system.l1, system.kl, system.latent, system.recovery, system.consistency, system.gan)
    assert weights == (10, 0.01, 1, 0.5, 1, 1)


# ---- the embedding


def test_any_size_of_image_can_be_embedded() -> None:
    encoder = encoder_of()
    for shape in ((64, 64), (64, 200), (100, 77)):
        mean, log_variance = encoder(torch.randn(2, 1, *shape))
        assert mean.shape == log_variance.shape == (2, 8)
        assert encoder.pooled(torch.randn(2, 1, *shape)).shape == (2, 64)


def test_the_embedding_hears_little_of_place_and_gain() -> None:
    """So the voxel error, or a discriminator of images, has to police the anatomy."""
    encoder, image = encoder_of(), torch.rand(1, 1, 256, 256)
    with torch.no_grad():
        h = encoder.pooled(image)
        others = {
            "rolled": image.roll(32, -1),
            "mirrored": image.flip(-1),
            "another": torch.rand(1, 1, 256, 256),
            "dark": 0.5 * image,
        }
        changes = {name: (encoder.pooled(x) - h).norm() / h.norm() for name, x in others.items()}
    assert all(float(change) < 0.15 for change in changes.values()), changes
    with pytest.raises(UsageError, match="the anatomy would be free"):
        small(l1=0.0, gan=0.0)


def test_moments_make_gain_and_offset_heard() -> None:
    encoder, image = encoder_of(inputs=2, moments=True), torch.rand(3, 2, 64, 64)
    assert encoder.width == 64 + 4
    assert encoder.mean.weight.shape == (8, 68)
    h, dark = encoder.pooled(image), encoder.pooled(0.5 * image + 0.1)
    torch.testing.assert_close(h[:, 64:66], image.mean((2, 3)))
    torch.testing.assert_close(h[:, 66:], image.std((2, 3)))
    torch.testing.assert_close(
        dark[:, 64:], torch.cat([0.5 * h[:, 64:66] + 0.1, 0.5 * h[:, 66:]], 1)
    )
    system = small(moments=True)
    system.encoder(batch_of().target)[0].sum().backward()
    assert touched(system.encoder.mean) == 2


def test_distinct_images_have_distinct_embeddings() -> None:
    """The guard against collapse, fresh and after some rounds; a zeroed encoder falls through."""
    system = small()
    smooth = torch.linspace(-1, 1, 16).expand(4, 1, 16, 16) * torch.arange(1, 5).reshape(4, 1, 1, 1)
    images = torch.sin(3 * smooth)

    def spread(encoder: EmbeddingEncoder) -> float:
        with torch.no_grad():
            h = encoder.pooled(images)
            return float(h.std(0).norm() / h.norm(dim=1).mean().clamp_min(1e-12))

    assert spread(system.encoder) > 0.01
    adam = {p: torch.optim.Adam(system.parameters_of(p), 2e-4) for p in system.players}
    for number in range(5):
        for turn in system.play(batch_of(seed=number)):
            adam[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            adam[turn.player].step()
    assert spread(system.encoder) > 0.01
    for parameter in system.encoder.parameters():
        nn.init.zeros_(parameter)
    assert spread(system.encoder) == 0
    system.zero_grad(set_to_none=True)
    turns_of(system, batch_of())["generator"].losses["latent"].backward()
    assert touched(system.generator) == 0, "an encoder that sees nothing teaches nothing"


# ---- who learns what


def test_every_turn_reaches_its_player_alone() -> None:
    for critic in ("embedding", "code", "both"):
        system = small(critic=critic)
        turns = turns_of(system, batch_of())
        assert list(turns) == ["generator", "encoder", "critic", "discriminator"]
        for player, turn in turns.items():
            system.zero_grad(set_to_none=True)
            turn.objective.backward()
            for other, names in system.players.items():
                reached = sum(touched(system.get_submodule(name)) for name in names)
                assert bool(reached) is (other == player), (critic, player, other)


@pytest.mark.parametrize("term", ["latent", "recovery", "consistency", "gan_random"])
def test_terms_for_the_generator_alone(term: str) -> None:
    system = small()
    turns_of(system, batch_of())["generator"].losses[term].backward()
    assert touched(system.generator) > 0
    assert touched(system.encoder) == touched(system.critic) == 0
    assert all(p.requires_grad for p in system.parameters())


def test_the_latent_term_would_reach_an_encoder_that_is_not_frozen() -> None:
    """26 of its 30 tensors (the heads are off the path) and the whole critic: hence `frozen`."""
    system = small(blocks=4)
    batch = batch_of(64)
    fake = system.generated(batch.source, torch.randn(4, 8))
    system.judged(batch.source, system.encoder.pooled(fake)).sum().backward()
    reached = sum(p.grad is not None for p in system.encoder.parameters())
    assert (reached, len(list(system.encoder.parameters()))) == (26, 30)
    assert sum(p.grad is not None for p in system.critic.parameters()) == 6


@pytest.mark.parametrize("critic", ["embedding", "code"])
def test_gradients_equal_those_of_two_backward_passes(critic: Any) -> None:
    """L1, KL and image terms to both networks; then, with E frozen, the rest to G alone."""
    system, batch = small(critic=critic).double(), batch_of()
    a, b = batch.source.double(), batch.target.double()
    torch.manual_seed(7)
    turns = turns_of(system, Batch(a, b))
    for player in ("generator", "encoder"):
        turns[player].objective.backward(inputs=system.parameters_of(player))
    players = [p for name in ("generator", "encoder") for p in system.parameters_of(name)]
    ours = [p.grad for p in players]
    system.zero_grad(set_to_none=True)

    torch.manual_seed(7)
    e, mse = system.encoder, nn.MSELoss()
    h = e.pooled(b)
    mean, log_variance = e(b)
    z_e = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    z = torch.randn_like(mean)
    b_e, b_r = system.generated(a, z_e), system.generated(a, z)

    def one(logits: Tensor) -> Tensor:
        loss: Tensor = mse(logits, torch.ones_like(logits))
        return loss

    kl = kl_from_standard_normal(mean, log_variance)
    first = 10 * (b_e - b).abs().mean() + 0.01 * kl + one(system.discriminator(b_e))
    first.backward(retain_graph=True, inputs=players)
    h_e, h_r = e.pooled(b_e), e.pooled(b_r)
    seen = [e.mean(h) if critic == "code" else h for h in (h_e, h_r)]
    second = one(system.critic(seen[0])) + one(system.critic(seen[1]))
    second = second + one(system.discriminator(b_r)) + 0.5 * (e.mean(h_r) - z).abs().mean()
    second = second + (h_e - h.detach()).abs().mean()
    second.backward(inputs=system.parameters_of("generator"))
    for one_, parameter in zip(ours, players, strict=True):
        assert one_ is not None
        assert parameter.grad is not None
        torch.testing.assert_close(one_, parameter.grad, rtol=1e-9, atol=1e-12)


def test_what_the_encoder_minimises_is_shown() -> None:
    system = small()
    turns = turns_of(system, batch_of())
    generator, encoder = turns["generator"].losses, turns["encoder"].losses
    torch.testing.assert_close(encoder["images"], generator["l1"] + generator["gan"])
    assert set(encoder) == {"images", "kl"}
    names = {"l1", "gan", "latent", "recovery", "consistency", "gan_random"}
    assert set(generator) == names


def test_the_first_rounds_have_voxel_error_and_divergence_alone() -> None:
    system, batch = small(warmup=2), batch_of()
    for played in (0, 1):
        system.rounds.fill_(played)
        turns = turns_of(system, batch)
        assert list(turns) == ["generator", "encoder"]
        assert set(turns["generator"].losses) == {"l1"}
        torch.testing.assert_close(
            turns["encoder"].losses["images"], turns["generator"].losses["l1"]
        )
    system.rounds.fill_(2)
    assert len(turns_of(system, batch)) == 4


# ---- values


def test_an_undecided_critic_costs_one_half() -> None:
    """At 1/2 for everything: 1/4 for the real image, 1/8 for each fake."""
    half = torch.full((4, 1), 0.5)
    assert float(contested([half, half, half])) == pytest.approx(0.5)
    system = small()
    for network in (system.critic[-1], system.discriminator.judge[-1]):
        nn.init.zeros_(network.weight)  # type: ignore[arg-type]
        nn.init.constant_(network.bias, 0.5)  # type: ignore[arg-type]
    turns = turns_of(system, batch_of())
    for player in ("critic", "discriminator"):
        assert float(turns[player].objective.detach()) == pytest.approx(0.5)
    assert float(turns["generator"].losses["latent"].detach()) == pytest.approx(0.5)


def test_the_real_side_is_the_embedded_target() -> None:
    """Verdicts of one for the target and zero for both fakes leave the critic nothing to learn."""
    ones, zeros = torch.ones(4, 1), torch.zeros(4, 1)
    assert float(contested([ones, zeros, zeros])) == 0
    assert float(contested([zeros, ones, ones])) == pytest.approx(2)


def test_an_image_is_consistent_with_itself() -> None:
    system, batch = small(), batch_of()
    system.generated = lambda source, code: batch.target + 0 * code.sum()  # type: ignore[method-assign,assignment]
    losses = turns_of(system, batch)["generator"].losses
    assert float(losses["consistency"].detach()) == 0
    assert float(losses["l1"].detach()) == 0


def test_no_variance_means_no_chance() -> None:
    system, batch = small(), batch_of()
    nn.init.constant_(system.encoder.log_variance.bias, -1e9)
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(float(next(system.play(batch)).losses["l1"].detach()))
    assert values[0] == values[1]
    expected = (system.sample(batch.source, system.code_of(batch.target)) - batch.target).abs()
    assert values[0] == pytest.approx(10 * float(expected.mean().detach()), rel=1e-5)


def test_the_divergence_is_a_sum_over_the_batch() -> None:
    system, batch = small(), batch_of()
    for head in (system.encoder.mean, system.encoder.log_variance):
        nn.init.zeros_(head.weight)
    assert float(turns_of(system, batch)["encoder"].losses["kl"].detach()) == 0
    nn.init.ones_(system.encoder.mean.bias)  # each of 8 numbers then costs 1/2
    for count_, expected in ((2, 0.01 * 2 * 4), (4, 0.01 * 4 * 4)):
        turns = turns_of(system, batch_of(count=count_))
        assert float(turns["encoder"].losses["kl"].detach()) == pytest.approx(expected)


# ---- samples


def test_codes_change_the_image_and_zeros_are_the_translation() -> None:
    system, source = small().eval(), batch_of().source
    torch.manual_seed(0)
    one, other = torch.randn(2, 4, 8)
    assert not torch.allclose(system.sample(source, one), system.sample(source, other), atol=1e-6)
    assert torch.equal(system.sample(source, one), system.sample(source, one))
    assert torch.equal(system.translate(source), system.sample(source, torch.zeros(4, 8)))
    assert CEGAN.one_to_many


def test_the_asked_contrast_reaches_generator_and_discriminator() -> None:
    system = small(conditions=2, slices=3).eval()
    source, asked = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1), torch.tensor([0, 1])
    translated = system.translate(source, target=asked)
    assert not torch.allclose(translated[0], translated[1])
    _, planes = system.dressed(source, asked)
    assert planes.mean((2, 3)).tolist() == [[1, 0], [0, 1]]
    judged = system.discriminator(torch.cat([planes, torch.zeros(2, 1, 16, 16)], 1))
    assert not torch.allclose(judged[0], judged[1])


def test_the_critic_is_three_layers_without_a_sigmoid() -> None:
    critic = latent_critic(8, 128)
    assert count(critic) == 17_793
    assert float(critic(100 * torch.randn(64, 8)).abs().max().detach()) > 1


def test_a_game_without_a_discriminator_of_images() -> None:
    system = small(gan=0.0)
    assert not hasattr(system, "discriminator")
    turns = turns_of(system, batch_of())
    assert list(turns) == ["generator", "encoder", "critic"] == list(system.players)
    assert set(turns["generator"].losses) == {"l1", "latent", "recovery", "consistency"}


def test_an_empty_code_is_refused() -> None:
    with pytest.raises(UsageError, match="code is 0; at least 1"):
        small(code=0)
