from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.dualgan import Double, DualGANCritic, DualGANGenerator, Halve, InstanceNorm
from medi2i.systems.dualgan import DualGAN

TINY: dict[str, Any] = {"depth": 3, "features": 4, "critic_layers": 2}
GAMES = ["wgan-gp", "wgan", "classic"]


def small(**changes: Any) -> DualGAN:
    torch.manual_seed(0)
    return DualGAN(**(TINY | changes))


def batch_of(contrasts: int = 1, slices: int = 1, seed: int = 0, dims: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(2, contrasts * slices, *[16] * dims, generator=random) - 1 for _ in range(2)
    )
    return Batch(source, target[:, slices // 2 :: slices], target_slab=target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def reached(system: DualGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name in (*system.players["generators"], *system.players["critics"])
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


def all_losses(system: DualGAN, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(5)  # of the penalty
    return {name: loss for turn in system.play(batch) for name, loss in turn.losses.items()}


# ---- the published networks


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        grey, whole = DualGAN(), DualGAN(window=256)
        colour, colour_whole = (
            DualGAN(inputs=3, outputs=3),
            DualGAN(inputs=3, outputs=3, window=256),
        )
    assert (count(grey.a_to_b), count(grey.critic_a)) == (30_618_305, 3_918_081)
    assert (count(colour.b_to_a), count(colour.critic_b)) == (30_627_907, 3_921_281)
    assert (count(whole.critic_a), count(colour_whole.critic_a)) == (3_946_241, 3_949_441)


def test_defaults_are_the_released_codes() -> None:
    with torch.device("meta"):
        system = DualGAN()
    assert (system.game, system.n_critic, system.penalty) == ("wgan-gp", 1, 10)
    assert (system.reconstruction, system.clip, system.one_to_many) == (500, 0.01, False)
    assert system.pairing is Pairing.UNPAIRED


def test_critics_judge_patches_or_whole_windows() -> None:
    with torch.device("meta"):
        x = torch.empty(2, 1, 256, 256)
        assert DualGANCritic(dims=2, inputs=1)(x).shape == (2, 1, 4, 4)
        whole = DualGANCritic(dims=2, inputs=1, window=256)
        assert whole(x).shape == (2, 1)
        assert DualGANCritic(dims=3, inputs=1, window=40)(torch.empty(1, 1, 40, 40, 40)).dim() == 2
        with pytest.raises(UsageError, match=r"windows of 256 .* \(128, 256\) came"):
            whole(x[:, :, :128])


def test_a_critics_values_have_no_bounds() -> None:
    system = small()
    with torch.no_grad():
        for critic in (system.critic_a, system.critic_b):
            last = critic.head
            assert isinstance(last, Halve)
            last.conv.weight *= 1e6
    values = system.critic_a(torch.randn(2, 1, 16, 16)).detach()
    assert float(values.max()) > 10
    assert float(values.min()) < -10


def test_same_padding_gives_the_far_edge_the_larger_share() -> None:
    """Along one axis of ones: where each output begins to look, written out."""
    row = torch.arange(1.0, 9.0).reshape(1, 1, 1, 8).expand(-1, -1, 8, -1)

    def halved(kernel: int, x: Tensor) -> list[float]:
        layer = Halve(2, 1, 1, kernel)
        with torch.no_grad():
            layer.conv.weight.zero_()
            layer.conv.weight[..., kernel // 2, :] = 1  # sums along the row alone
            assert layer.conv.bias is not None
            layer.conv.bias.zero_()
            found: list[float] = layer(x)[0, 0, 1].tolist()
        return found

    assert halved(3, row) == [1 + 2 + 3, 3 + 4 + 5, 5 + 6 + 7, 7 + 8]
    assert halved(5, row) == [1 + 2 + 3 + 4, 2 + 3 + 4 + 5 + 6, 4 + 5 + 6 + 7 + 8, 6 + 7 + 8]
    odd = row[..., :7]  # one voxel is missing at either end for 3, two for 5
    assert halved(3, odd) == [1 + 2, 2 + 3 + 4, 4 + 5 + 6, 6 + 7]
    assert halved(5, odd) == [1 + 2 + 3, 1 + 2 + 3 + 4 + 5, 3 + 4 + 5 + 6 + 7, 5 + 6 + 7]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_doubling_is_the_transpose_of_halving(dims: int, kernel: int) -> None:
    """<halve x, y> = <x, double y> for the same weights."""
    torch.manual_seed(0)
    halve, double = Halve(dims, 2, 3, kernel).double(), Double(dims, 3, 2, kernel).double()
    double.load_state_dict(
        {"conv.weight": halve.conv.weight, "conv.bias": torch.zeros(2, dtype=torch.float64)}
    )
    x, y = torch.randn(1, 2, *[8] * dims).double(), torch.randn(1, 3, *[4] * dims).double()
    with torch.no_grad():
        assert halve.conv.bias is not None
        halve.conv.bias.zero_()
        torch.testing.assert_close((halve(x) * y).sum(), (x * double(y)).sum())


def test_norms_know_the_image_alone_and_give_the_shift_of_a_single_voxel() -> None:
    norm = InstanceNorm(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 3.0]))
    x = torch.tensor([[1.0, 3.0], [5.0, 9.0]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(
        norm(x).flatten(), torch.tensor([-1.5, 2.5, 4.0, 2.0]), atol=1e-5, rtol=0
    )
    assert norm(torch.randn(1, 2, 1, 1)).flatten().tolist() == [0.5, 3.0]


def test_weights_begin_as_the_authors() -> None:
    generator = DualGANGenerator(dims=2, inputs=1, outputs=1, depth=3, features=16)
    for name, module in generator.named_modules():
        if isinstance(module, nn.Conv2d):
            assert float(module.weight.detach().abs().max()) <= 0.04, name
        elif isinstance(module, InstanceNorm):
            assert float(module.weight.detach().mean()) == pytest.approx(1, abs=0.02), name
            assert not module.bias.any()
    up = torch.cat(
        [p.detach().flatten() for n, p in generator.up.named_parameters() if p.dim() > 1]
    )
    assert float(up.abs().max()) > 0.05
    assert float(up.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("innermost_norm", [True, False])
def test_the_innermost_norm_leaves_nothing_of_the_image(innermost_norm: bool) -> None:
    """Where that map is a single voxel: with the skips silent, nothing comes through."""
    torch.manual_seed(0)
    generator = DualGANGenerator(
        dims=2, inputs=1, outputs=1, depth=3, features=4, innermost_norm=innermost_norm
    )
    first, second = torch.randn(2, 1, 1, 8, 8)

    def drawn(x: Tensor) -> Tensor:
        """The generator's way with zeros in place of all skips."""
        shapes = []
        for level, (down, normed) in enumerate(
            zip(generator.down, generator.down_norm, strict=True)
        ):
            x = normed(down(functional.leaky_relu(x, 0.2) if level else x))
            shapes.append(x)
        assert shapes.pop().shape[2:] == (1, 1)
        for up, normed in zip(generator.up, generator.up_norm, strict=True):
            x = normed(up(functional.relu(x)))
            x = torch.cat([x, torch.zeros_like(shapes.pop())], dim=1)
        image: Tensor = generator.head(functional.relu(x))
        return image

    with torch.no_grad():
        change = float((drawn(first) - drawn(second)).abs().max())
        assert (change == 0) == innermost_norm
        assert float((generator(first) - generator(second)).abs().max()) > 1e-4


@pytest.mark.parametrize("dims", [2, 3])
def test_images_are_bounded_and_every_scan_is_alone(dims: int) -> None:
    system = small(dims=dims)
    x = torch.randn(3, 1, *[16] * dims)
    with torch.no_grad():
        image = system.train().translate(x)
        assert torch.equal(image, system.eval().translate(x))
        alone = system.translate(x[1:2])
    assert image.shape == x.shape
    assert float(image.abs().max()) < 1
    torch.testing.assert_close(image[1:2], alone, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="multiples of 8"):
        system.a_to_b(x[:, :, :12])


# ---- chance


def test_dropout_is_on_in_samples_alone() -> None:
    system, x = small(dropout=0.5).eval(), torch.randn(1, 1, 16, 16)
    nothing = torch.empty(1, 0)
    assert (system.one_to_many, system.code_size) == (True, 0)
    with torch.no_grad():
        plain = system.translate(x)
        torch.manual_seed(1)
        one, other = system.sample(x, nothing), system.sample(x, nothing)
        torch.manual_seed(1)
        again = system.sample(x, nothing)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(plain, system.translate(x).detach())
    assert not system.a_to_b.training
    with pytest.raises(UsageError, match="has no dropout"):
        small().sample(x, nothing)


def test_dropout_is_in_the_three_deepest_doublings() -> None:
    with torch.device("meta"):
        drops = DualGAN(dropout=0.3).a_to_b.drop
    assert [isinstance(each, nn.Dropout) for each in drops] == [True] * 3 + [False] * 4


# ---- the game


@pytest.mark.parametrize("game", GAMES)
def test_critics_move_first_and_gradients_keep_to_the_player(game: str) -> None:
    system = small(game=game)
    turns = system.play(batch_of())
    for player in ("critics", "generators", *(["generators"] if game == "classic" else [])):
        turn = next(turns)
        assert turn.player == player
        turn.objective.backward()
        assert reached(system) == set(system.players[player])
        system.zero_grad(set_to_none=True)
    assert next(turns, None) is None
    assert all(parameter.requires_grad for parameter in system.parameters())


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_penalty_reaches_its_critic_and_no_generator(side: str) -> None:
    system = small()
    next(system.play(batch_of())).losses[f"penalty_{side}"].backward()
    assert reached(system) == {f"critic_{side}"}


def test_the_penalty_of_a_linear_critic_of_unit_slope_is_zero() -> None:
    system = small()
    slope = functional.normalize(
        torch.randn(256, generator=torch.Generator().manual_seed(1)), dim=0
    )

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ slope

    system.critic_a = system.critic_b = Linear()  # type: ignore[assignment]
    losses = all_losses(system, batch_of())
    assert float(losses["penalty_a"].detach()) == pytest.approx(0, abs=1e-8)
    slope *= 3
    assert float(all_losses(system, batch_of())["penalty_b"].detach()) == pytest.approx(10 * 2**2)


@pytest.mark.parametrize("game", ["wgan-gp", "wgan"])
def test_losses_written_out(game: str) -> None:
    system, batch = small(game=game, clip=10.0), batch_of()
    a, b = batch.source, batch.target
    with torch.no_grad():
        fake_b, fake_a = system.a_to_b(a), system.b_to_a(b)
        wanted = {
            "critic_b": system.critic_b(fake_b).mean() - system.critic_b(b).mean(),
            "critic_a": system.critic_a(fake_a).mean() - system.critic_a(a).mean(),
            "gan_b": -system.critic_b(fake_b).mean(),
            "gan_a": -system.critic_a(fake_a).mean(),
            "reconstruction_a": 500 * (system.b_to_a(fake_b) - a).abs().mean(),
            "reconstruction_b": 500 * (system.a_to_b(fake_a) - b).abs().mean(),
        }
    found = all_losses(system, batch)
    penalties = {"penalty_a", "penalty_b"} if game == "wgan-gp" else set()
    assert found.keys() == wanted.keys() | penalties
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_cross_entropy_written_out_and_two_moves_of_the_generators() -> None:
    system, batch = small(game="classic"), batch_of()
    a, b = batch.source, batch.target
    critics, first, second = list(system.play(batch))
    with torch.no_grad():
        real, fake = system.critic_b(b), system.critic_b(system.a_to_b(a))
        contest = 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())
        gan = functional.softplus(-fake).mean()
    torch.testing.assert_close(critics.losses["critic_b"], contest)
    torch.testing.assert_close(first.losses["gan_b"], gan)
    assert (first.player, second.player) == ("generators", "generators")

    turns = system.play(batch)
    next(turns)
    before = next(turns).losses["reconstruction_a"].detach()
    with torch.no_grad():
        for parameter in system.b_to_a.parameters():
            parameter.mul_(1.5)
    again = next(turns).losses["reconstruction_a"].detach()
    assert not torch.equal(before, again), "the second move sees the generators as they are now"


def test_a_critic_gains_nothing_where_real_and_generated_are_the_same() -> None:
    system = small(game="wgan")
    system.drawn = lambda generator, source: source  # type: ignore[method-assign]
    a = batch_of().source
    losses = next(system.play(Batch(a, a))).losses
    assert float(losses["critic_a"].detach()) == float(losses["critic_b"].detach()) == 0


@pytest.mark.parametrize("n_critic", [1, 3])
def test_every_weight_of_a_clipped_critic_stays_small_after_its_step(n_critic: int) -> None:
    system = small(game="wgan", n_critic=n_critic)
    optimisers = {p: torch.optim.RMSprop(system.parameters_of(p), 5e-3) for p in system.players}
    for number in range(3):
        for turn in system.play(batch_of(seed=number)):
            if turn.player == "generators":  # the critics have been clipped before
                largest = max(float(p.detach().abs().max()) for p in system.critic_a.parameters())
                assert largest <= 0.01
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            optimisers[turn.player].step()
        system.rounds += 1
        for parameter in system.parameters_of("critics"):  # scales and shifts of norms as well
            assert float(parameter.detach().abs().max()) <= 0.01
    generators = system.parameters_of("generators")
    assert max(float(p.detach().abs().max()) for p in generators) > 0.5


@pytest.mark.parametrize("game", ["wgan-gp", "classic"])
def test_no_other_game_clips(game: str) -> None:
    system = small(game=game)
    for _ in system.play(batch_of()):
        pass
    assert max(float(p.detach().abs().max()) for p in system.parameters_of("critics")) > 0.5


def test_generators_move_in_every_third_round() -> None:
    system = small(n_critic=3)
    moved = []
    for number in range(6):
        moved.append(len(list(system.play(batch_of(seed=number)))))
        system.rounds += 1
    assert moved == [1, 1, 2, 1, 1, 2]


def test_exchanging_the_sides_exchanges_the_losses() -> None:
    one, other = small(game="wgan", clip=10.0), small(game="wgan", clip=10.0)
    other.a_to_b, other.b_to_a = one.b_to_a, one.a_to_b
    other.critic_a, other.critic_b = one.critic_b, one.critic_a
    batch = batch_of()
    ours, theirs = all_losses(one, batch), all_losses(other, Batch(batch.target, batch.source))
    for name, loss in ours.items():
        mirrored = name[:-1] + ("b" if name[-1] == "a" else "a")
        torch.testing.assert_close(loss, theirs[mirrored], msg=name)


def test_each_side_counts_by_its_own_weight() -> None:
    system, batch = small(), batch_of()
    here, there = torch.zeros(2, 1, 16, 16), torch.ones(2, 1, 16, 16)
    here[..., :8] = 1
    losses = all_losses(system, replace(batch, weight=here, target_weight=there))
    a, b = batch.source, batch.target
    with torch.no_grad():
        error_a = (system.b_to_a(system.a_to_b(a)) - a).abs()[..., :8].mean()
        error_b = (system.a_to_b(system.b_to_a(b)) - b).abs().mean()
    torch.testing.assert_close(losses["reconstruction_a"], 500 * error_a)
    torch.testing.assert_close(losses["reconstruction_b"], 500 * error_b)


def test_slabs_go_in_and_centre_slices_come_out() -> None:
    system, batch = small(inputs=2, slices=3, outputs=2), batch_of(2, 3)
    losses = all_losses(system, batch)
    with torch.no_grad():
        back = system.b_to_a(system.a_to_b(batch.source).repeat_interleave(3, dim=1))
        wanted = 500 * (back - batch.source[:, [1, 4]]).abs().mean()
    torch.testing.assert_close(losses["reconstruction_a"], wanted)


# ---- what it cannot do


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": 2}, "as many contrasts come out as go in; 2 and 1"),
        ({"conditions": 2}, "serves no contrast on demand"),
        ({"game": "lsgan"}, 'game is "lsgan"; "wgan-gp", "wgan" or "classic"'),
        ({"n_critic": 0}, "n_critic is 0; at least 1"),
        ({"clip": 0.0}, "clip is 0; more than 0"),
        ({"depth": 1}, "depth is 1; at least 2"),
        ({"critic_layers": 0}, "layers is 0; at least 1"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(**changes)
