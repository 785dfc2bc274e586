from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.networks.stargan import StarGANDiscriminator, StarGANGenerator
from medi2i.systems.stargan import StarGAN

TINY: dict[str, Any] = {
    "features": 4,
    "blocks": 1,
    "discriminator_features": 4,
    "discriminator_layers": 2,
    "window": 16,
    "n_critic": 1,
}


def small(**changes: Any) -> StarGAN:
    torch.manual_seed(0)
    return StarGAN(**(TINY | changes))


def batch_of(slices: int = 1, domains: int = 3, dims: int = 2, seed: int = 0) -> Batch:
    """Four persons of whom every contrast was acquired, each on its way into the next domain."""
    random = torch.Generator().manual_seed(seed)
    every = 2 * torch.rand(4, domains, *[16] * dims, generator=random) - 1
    origin = (torch.arange(4) + seed) % domains
    asked = (origin + 1) % domains
    people = torch.arange(4)
    source = every[people, origin, None].repeat_interleave(slices, 1)
    if slices > 1:
        source[:, [0, -1]] += 0.3 * torch.randn(source[:, [0, -1]].shape, generator=random)
    known = functional.one_hot(origin, domains) == 0
    return Batch(source, every[people, asked, None], None, origin, asked, every, known)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        colour = StarGAN(inputs=3, outputs=3, conditions=5)
        grey, large = StarGAN(conditions=4), StarGAN(conditions=4, window=256)
    assert (count(colour.generator), count(colour.discriminator)) == (8_430_528, 44_762_048)
    assert count(colour) == 53_192_576  # the paper: 53.2 M
    assert (count(grey.generator), count(grey.discriminator)) == (8_414_848, 44_751_808)
    assert count(large.discriminator) == 44_850_112


def test_the_generator_is_the_papers_layer_by_layer() -> None:
    """Weights under the authors' names (running statistics left out) give the same image."""

    def normed(channels: int) -> list[nn.Module]:
        return [nn.InstanceNorm2d(channels, affine=True, track_running_stats=True), nn.ReLU()]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second = (nn.Conv2d(32, 32, 3, 1, 1, bias=False) for _ in range(2))
            norms = normed(32), normed(32)[:1]
            self.main = nn.Sequential(first, *norms[0], second, *norms[1])

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.as_tensor(self.main(x))

    theirs = nn.Sequential(
        *[nn.Conv2d(1 + 3, 8, 7, 1, 3, bias=False), *normed(8)],
        *[nn.Conv2d(8, 16, 4, 2, 1, bias=False), *normed(16)],
        *[nn.Conv2d(16, 32, 4, 2, 1, bias=False), *normed(32)],
        *[Block() for _ in range(6)],
        *[nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), *normed(16)],
        *[nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), *normed(8)],
        *[nn.Conv2d(8, 1, 7, 1, 3, bias=False), nn.Tanh()],
    )
    ours = StarGANGenerator(dims=2, inputs=1, outputs=1, domains=3, features=8)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    ours.load_state_dict(
        {
            f"main.{name}": value
            for name, value in theirs.state_dict().items()
            if not name.endswith(statistics)
        }
    )
    x, label = torch.randn(2, 1, 32, 40), torch.eye(3)[[0, 2]]
    planes = label[:, :, None, None].expand(-1, -1, 32, 40)
    torch.testing.assert_close(
        ours.eval()(x, label), theirs(torch.cat([x, planes], 1)), rtol=1e-5, atol=1e-5
    )


def test_the_label_survives_the_first_norm_because_edges_are_zero() -> None:
    torch.manual_seed(0)
    generator = StarGANGenerator(dims=2, inputs=1, outputs=1, domains=4)
    zeros: Any = generator.main[0]
    mirrored = nn.Conv2d(5, 64, 7, padding=3, padding_mode="reflect", bias=False)
    mirrored.load_state_dict(zeros.state_dict())
    planes = torch.eye(4)[[0, 1]][:, :, None, None].expand(-1, -1, 128, 128)
    x = torch.cat([(torch.rand(1, 1, 128, 128) * 2 - 1).expand(2, -1, -1, -1), planes], 1)

    def change(first: nn.Module) -> Tensor:
        one, other = generator.main[1:3](first(x))
        difference: Tensor = (one - other).abs()
        return difference

    with torch.no_grad():
        assert float(change(zeros).max()) > 0.5
        assert float(change(zeros)[:, 64, 64].max()) > 1e-2
        assert float(change(mirrored).max()) < 1e-4


def test_the_label_changes_the_image() -> None:
    system = small(conditions=3).eval()
    source = torch.randn(1, 1, 16, 16).expand(3, -1, -1, -1)
    images = system.translate(source, target=torch.arange(3))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert float((images[one] - images[other]).abs().max().detach()) > 1e-3


def test_a_judgement_rests_on_318_voxels() -> None:
    critic = StarGANDiscriminator(dims=2, inputs=1, domains=2, features=1)
    for parameter in critic.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.ones(1, 1, 448, 448, requires_grad=True)
    judged, _ = critic(image)
    assert judged.shape == (1, 1, 7, 7)
    (gradient,) = torch.autograd.grad(judged[0, 0, 3, 3], image)
    seen = gradient[0, 0] != 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (318, 318)


def test_the_classifier_sees_the_whole_window_and_averages_over_more() -> None:
    critic = StarGANDiscriminator(dims=2, inputs=1, domains=3, features=4, layers=3, window=32)
    assert critic.classify.kernel_size == (4, 4)
    x = torch.randn(2, 1, 32, 40)
    judged, named = critic(x)
    assert (judged.shape, named.shape) == ((2, 1, 4, 5), (2, 3))
    maps = critic.classify(critic.main(x))
    assert maps.shape == (2, 3, 1, 2)
    torch.testing.assert_close(named, maps[:, :, 0].mean(2))
    with pytest.raises(UsageError, match=r"\(32, 24\) voxels came; .* at least 32"):
        critic(x[..., :24])


def test_the_critic_moves_first_and_gradients_keep_to_the_player() -> None:
    system = small(conditions=3)
    turns = system.play(batch_of())
    turn = next(turns)
    assert turn.player == "discriminator"
    turn.objective.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    assert all(p.grad is not None for p in system.discriminator.parameters())
    system.zero_grad(set_to_none=True)

    turn = next(turns)
    assert turn.player == "generator"
    turn.objective.backward()
    assert all(p.grad is None for p in system.discriminator.parameters())
    for name, parameter in system.generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert next(turns, None) is None
    assert all(p.requires_grad for p in system.discriminator.parameters())


def test_the_penalty_is_the_critics_alone() -> None:
    system = small(conditions=3)
    turn = next(system.play(batch_of()))
    turn.losses["penalty"].backward()
    assert all(p.grad is None for p in system.generator.parameters())
    first: Any = system.discriminator.main[0]
    assert first.weight.grad.any()
    assert system.discriminator.classify.weight.grad is None


def test_the_generator_moves_in_every_fifth_round() -> None:
    system, batch = small(conditions=3, n_critic=5), batch_of()
    moved = []
    for number in range(10):
        players = [turn.player for turn in system.play(batch)]
        assert players[0] == "discriminator"
        if "generator" in players:
            moved.append(number)
        system.rounds += 1
    assert moved == [4, 9]
    with pytest.raises(UsageError, match="n_critic is 0"):
        small(n_critic=0)


def test_an_undecided_critic_knows_nothing() -> None:
    system = small(conditions=3)
    for head in (system.discriminator.judge, system.discriminator.classify):
        nn.init.zeros_(head.weight)
    critic, generator = system.play(batch_of())
    assert float(critic.losses["critic"].detach()) == 0
    assert float(critic.losses["classification"].detach()) == pytest.approx(math.log(3))
    assert float(critic.losses["penalty"].detach()) == pytest.approx(10)  # flat: (0 - 1)^2
    assert float(generator.losses["gan"].detach()) == 0
    assert float(generator.losses["classification"].detach()) == pytest.approx(math.log(3))


def test_an_identity_comes_back_at_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(conditions=3, slices=3, l1=2.0), batch_of(slices=3)
    centre = batch.source[:, 1:2]

    def identity(source: Tensor, domain: Tensor) -> Tensor:
        del domain
        return source[:, 1:2]

    monkeypatch.setattr(system, "generated", identity)
    critic, generator = system.play(batch)
    assert float(generator.losses["cycle"]) == 0
    _, named = system.discriminator(centre)
    assert batch.target_contrast is not None
    torch.testing.assert_close(
        generator.losses["classification"], functional.cross_entropy(named, batch.target_contrast)
    )
    torch.testing.assert_close(
        generator.losses["l1"], 2 * (centre - batch.target).abs().mean(), rtol=1e-5, atol=1e-6
    )
    assert "l1" not in critic.losses


def test_two_people_are_not_compared_voxel_by_voxel() -> None:
    batch = batch_of()
    unpaired = Batch(
        batch.source,
        batch.target,
        torch.ones(4, 1, 16, 16),
        batch.source_contrast,
        batch.target_contrast,
        target_weight=torch.ones(4, 1, 16, 16),
    )
    with pytest.raises(UsageError, match="two people: set it to 0"):
        next(iter(small(conditions=3, l1=10.0).play(unpaired)))
    assert next(iter(small(conditions=3).play(unpaired))).player == "discriminator"


def test_without_its_weight_the_pairing_does_not_count() -> None:
    _, generator = small(conditions=3).play(batch_of())
    assert set(generator.losses) == {"gan", "classification", "cycle"}


def test_the_way_back_starts_from_the_drawn_slice_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(conditions=3, slices=3), batch_of(slices=3)
    seen: list[tuple[Tensor, Tensor]] = []
    real = system.generated

    def spy(source: Tensor, domain: Tensor) -> Tensor:
        seen.append((source, domain))
        return real(source, domain)

    monkeypatch.setattr(system, "generated", spy)
    list(system.play(batch))
    (there, asked), (back, origin) = seen
    assert torch.equal(there, batch.source)
    assert torch.equal(asked, torch.as_tensor(batch.target_contrast))
    assert torch.equal(origin, torch.as_tensor(batch.source_contrast))
    assert torch.equal(back, real(there, asked).expand(-1, 3, -1, -1))


def test_equals_a_loop_written_by_hand() -> None:
    """The authors' iteration, step by step, ends with the same weights, bit by bit."""
    ours, theirs = small(conditions=3, n_critic=2), small(conditions=3, n_critic=2)
    players = ("generator", "discriminator")
    optimisers = {p: torch.optim.Adam(ours.parameters_of(p), 1e-4, (0.5, 0.999)) for p in players}
    g, d = theirs.generator, theirs.discriminator
    optimiser_g = torch.optim.Adam(g.parameters(), 1e-4, (0.5, 0.999))
    optimiser_d = torch.optim.Adam(d.parameters(), 1e-4, (0.5, 0.999))
    for number in range(4):
        batch = batch_of(seed=number)
        torch.manual_seed(number)
        for turn in ours.play(batch):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()
        ours.rounds += 1

        torch.manual_seed(number)
        x_real, y_real = batch.source, batch.target
        label_org = torch.as_tensor(batch.source_contrast)
        label_trg = torch.as_tensor(batch.target_contrast)
        c_org, c_trg = torch.eye(3)[label_org], torch.eye(3)[label_trg]
        out_src, out_cls = d(y_real)
        x_fake = g(x_real, c_trg)
        out_fake, _ = d(x_fake.detach())
        alpha = torch.rand(4, 1, 1, 1)
        x_hat = torch.lerp(x_fake.detach(), y_real, alpha).requires_grad_()
        out_hat, _ = d(x_hat)
        slope = torch.autograd.grad(out_hat, x_hat, torch.ones_like(out_hat), create_graph=True)
        norm = slope[0].view(4, -1).norm(dim=1)
        losses = [
            out_fake.mean() - out_src.mean(),
            functional.cross_entropy(out_cls, label_trg),
            10 * ((norm - 1) ** 2).mean(),
        ]
        optimiser_d.zero_grad()
        optimiser_g.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser_d.step()
        if (number + 1) % 2 == 0:
            x_fake = g(x_real, c_trg)
            out_src, out_cls = d(x_fake)
            x_rec = g(x_fake, c_org)
            losses = [
                -out_src.mean(),
                functional.cross_entropy(out_cls, label_trg),
                10 * (x_rec - x_real).abs().mean(),
            ]
            optimiser_d.zero_grad()
            optimiser_g.zero_grad()
            torch.stack(losses).sum().backward()
            optimiser_g.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_images_of_any_size_within_the_range() -> None:
    system = small(conditions=3, slices=3).eval()
    source = 5 * torch.randn(2, 3, 13, 30)
    image = system.translate(source, target=torch.tensor([0, 2]))
    assert image.shape == (2, 1, 13, 30)
    assert float(image.detach().abs().max()) < 1
    whole = system.generator(torch.randn(1, 3, 16, 20), torch.eye(3)[[1]])
    assert whole.shape == (1, 1, 16, 20)
    with pytest.raises(UsageError, match="multiples of 4"):
        system.generator(source, torch.eye(3)[[1, 1]])


def test_no_statistics_are_kept() -> None:
    system = small(conditions=3)
    source, asked = torch.randn(1, 1, 16, 16) * 3 + 1, torch.tensor([1])
    trained = system.train().translate(source, target=asked)
    assert torch.equal(trained, system.eval().translate(source, target=asked))
    assert [name for name, _ in system.named_buffers()] == ["rounds"]


def test_a_fixed_task_learns_both_ways_and_translates_one() -> None:
    system = small()
    batch = Batch(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16))
    for turn in system.play(batch):
        assert torch.isfinite(turn.objective)
    one = torch.ones(2, dtype=torch.long)
    assert torch.equal(system.translate(batch.source), system.generated(batch.source, one))


def test_on_demand_in_3d() -> None:
    system = small(dims=3, conditions=3, window=0, features=2, l1=1.0)
    batch = batch_of(dims=3)
    assert [turn.player for turn in system.play(batch)] == ["discriminator", "generator"]
    image = system.translate(batch.source[..., :14], target=batch.target_contrast)
    assert image.shape == (4, 1, 16, 16, 14)
