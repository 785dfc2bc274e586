from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.memory import Memory
from medi2i.networks.tunit import AdaptiveGenerator, Response
from medi2i.networks.views import random_view
from medi2i.systems.tunit import TUNIT, Pile

TINY: dict[str, Any] = {
    "size": 16,
    "features": 4,
    "widest": 8,
    "guide_features": 2,
    "style_size": 4,
    "hidden": 8,
    "queue": 10,
    "warmup": 0,
}


def small(**changes: Any) -> TUNIT:
    torch.manual_seed(0)
    return TUNIT(**(TINY | changes))


def batch_of(slices: int = 1, size: int = 3, dims: int = 2, seed: int = 0, **more: Any) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(size, slices, *[16] * dims, generator=random) - 1 for _ in range(2)
    )
    return Batch(source, target[:, slices // 2 :: slices], target_slab=target, **more)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def play(system: TUNIT, batch: Batch, rate: float = 1e-3) -> list[str]:
    """One round with plain gradient steps; whose turns there were."""
    players = []
    for turn in system.play(batch):
        own = system.parameters_of(turn.player)
        slopes = torch.autograd.grad(turn.objective, own, materialize_grads=True)
        with torch.no_grad():
            for parameter, slope in zip(own, slopes, strict=True):
                parameter.sub_(rate * slope)
        players.append(turn.player)
    system.rounds += 1
    return players


# ---- the published networks


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        ten, two, large = TUNIT(clusters=10), TUNIT(), TUNIT(clusters=10, size=256)
    assert count(ten.generator) == 27_321_217
    content = (ten.generator.encoder, ten.generator.encoder_blocks)
    drawing = (ten.generator.decoder_blocks, ten.generator.decoder, ten.generator.head)
    assert sum(count(part) for part in content) == 12_195_840
    assert sum(count(part) for part in drawing) == 13_743_617
    assert count(ten.generator.adapt) == 1_381_760
    assert (count(ten.discriminator), count(two.discriminator)) == (70_934_090, 70_925_890)
    assert count(ten.guide) == 9_295_626
    assert (count(large.generator), count(large.discriminator)) == (27_418_561, 70_982_442)
    assert [n.generator.adapt[-1].out_features for n in (ten, large)] == [4992, 5056]


@pytest.mark.parametrize("size", [128, 256])
def test_content_is_always_512_by_16_by_16(size: int) -> None:
    with torch.device("meta"):
        system = TUNIT(size=size)
        content = system.generator.encode(torch.empty(1, 1, size, size))
        logits = system.discriminator(torch.empty(3, 1, size, size), torch.zeros(3).long())
    assert content.shape == (1, 512, 16, 16)
    assert logits.shape == (3,)


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        fixed, any_to_any, solid = TUNIT(), TUNIT(conditions=3), TUNIT(dims=3)
    assert (fixed.clusters, any_to_any.clusters) == (2, 10)
    assert (fixed.information, fixed.gan, fixed.reconstruction) == (5, 1, 0.1)
    assert (fixed.style, fixed.r1, fixed.temperature) == (0.01, 10, 0.07)
    assert (fixed.queue.length, fixed.slow.decay, fixed.warmup) == (1024, 0.999, 65_000)
    assert solid.discriminator.main[-1].in_channels == 256
    assert TUNIT.pairing is Pairing.UNPAIRED


def test_a_residual_block_whose_last_layer_is_zero_changes_nothing() -> None:
    generator = AdaptiveGenerator(dims=2, inputs=1, outputs=1, features=4, halvings=1, style=4)
    blocks: Any = generator.encoder_blocks
    for block in blocks:
        nn.init.zeros_(block[3].weight)
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(generator.encode(x), generator.encoder(x))


def test_a_tenth_of_a_residual_function_is_added() -> None:
    generator = AdaptiveGenerator(dims=2, inputs=1, outputs=1, features=4, halvings=0, style=4)
    x = torch.randn(1, 1, 16, 16)
    entered = generator.encoder(x)
    first = entered + 0.1 * generator.encoder_blocks[0](entered)
    second = first + 0.1 * generator.encoder_blocks[1](first)
    torch.testing.assert_close(generator.encode(x), second)


def test_a_style_sets_means_first_and_deviations_second() -> None:
    torch.manual_seed(0)
    generator = AdaptiveGenerator(
        dims=2, inputs=1, outputs=1, features=4, halvings=1, style=4, blocks=0
    )
    content, style = torch.randn(2, 8, 8, 8), torch.randn(2, 4)
    pair = generator.adapt(style)
    assert pair.shape == (2, 8)
    mean, deviation = pair[:, :4, None, None], pair[:, 4:, None, None]
    x = generator.decoder[0](functional.interpolate(content, scale_factor=2))
    x = (x - x.mean((2, 3), keepdim=True)) / (
        x.var((2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    expected = torch.tanh(generator.head(functional.relu(x * deviation + mean)))
    torch.testing.assert_close(generator.draw(content, style), expected)


def test_a_response_is_divided_by_its_root_mean_square_and_cut_off() -> None:
    layer = Response(2)
    x = torch.tensor([[[[3.0, -3.0]], [[1.0, 7.0]]]])  # mean squares 9 and 25
    torch.testing.assert_close(layer(x), torch.tensor([[[[1.0, 0.0]], [[0.2, 1.4]]]]))
    with torch.no_grad():
        layer.threshold.fill_(0.5)
        layer.shift.fill_(0.25)
        layer.scale.fill_(2.0)
    torch.testing.assert_close(layer(x), torch.tensor([[[[2.25, 0.5]], [[0.65, 3.05]]]]))


def test_only_the_logit_of_the_cluster_learns() -> None:
    system = small(clusters=4)
    system.discriminator(torch.randn(3, 1, 16, 16), torch.tensor([2, 0, 2])).sum().backward()
    last: Any = system.discriminator.main[-1]
    assert [bool(g.any()) for g in last.weight.grad] == [True, False, True, False]


# ---- the game


def test_at_first_the_guide_learns_alone() -> None:
    system = small(warmup=2)
    before = {n: p.detach().clone() for n, p in system.named_parameters()}
    for number in range(2):
        assert play(system, batch_of(seed=number)) == ["guide"]
    for name, parameter in system.named_parameters():
        if not name.startswith("guide."):
            assert torch.equal(parameter, before[name]), name
        elif parameter.dim() > 1:
            assert not torch.equal(parameter, before[name]), name
    turns = play(system, batch_of(seed=3))
    assert turns == ["guide", "discriminator", "generator", "guide"]


def test_losses_of_the_guide_written_out() -> None:
    batch = batch_of()
    for warmup, share in ((1, 1.0), (0, 0.1)):
        system = small(warmup=warmup)
        torch.manual_seed(4)
        turn = next(system.play(batch))
        torch.manual_seed(4)
        again = small(warmup=warmup)
        torch.manual_seed(4)
        pile = torch.cat([batch.source, batch.target])
        view = random_view(pile)
        keys = again.slow(view)[1]
        logits, code = again.guide(pile)
        # the queue was filled with the first keys
        products = torch.cat([(code * keys).sum(1, keepdim=True), code @ keys.T], 1) / 0.07
        contrast = functional.cross_entropy(products, torch.zeros(6).long())
        p, q = logits.softmax(1), again.guide(view)[0].softmax(1)
        joint = (p.T @ q + q.T @ p) / 12
        known = (joint * (joint / torch.outer(joint.sum(1), joint.sum(0))).log()).sum()
        torch.testing.assert_close(turn.losses["contrast"], share * contrast)
        torch.testing.assert_close(
            turn.losses["information"], -share * 5 * known, rtol=1e-4, atol=1e-6
        )


def test_losses_of_the_game_written_out() -> None:
    system, batch = small(clusters=3), batch_of()
    pile = system.pile(batch)
    system.queue.push(torch.randn(7, 4))
    torch.manual_seed(2)
    turns = system.translated(pile)
    first, second = next(turns), next(turns)
    torch.manual_seed(2)
    order = torch.randperm(6)
    images = torch.cat([batch.source, batch.target])
    logits, style = system.guide(images)
    cluster = logits.argmax(1)
    fake, again = system.generated(images, style[order]), system.generated(images, style)
    real = images[order].clone().requires_grad_()
    said = system.discriminator(real, cluster[order])
    (slope,) = torch.autograd.grad(said.sum(), real)
    r1 = 10 * slope.square().sum((1, 2, 3)).mean()  # no half
    of_fake = system.discriminator(fake, cluster[order])
    hinge = functional.relu(1 - said).mean() + functional.relu(1 + of_fake).mean()
    torch.testing.assert_close(first.losses["contest"], hinge, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.losses["r1"], r1, rtol=1e-4, atol=1e-5)
    pleased = of_fake.mean() + system.discriminator(again, cluster).mean()
    wanted = system.slow(images[order])[1]
    found = system.guide(fake)[1]
    products = torch.cat([(found * wanted).sum(1, keepdim=True), found @ system.queue.vectors.T], 1)
    style_loss = functional.cross_entropy(products / 0.07, torch.zeros(6).long())
    expected = -pleased + 0.1 * (again - images).abs().mean() + 0.01 * style_loss
    assert set(second.losses) == {"gan", "reconstruction", "style"}
    torch.testing.assert_close(second.objective, expected, rtol=1e-4, atol=1e-5)


def test_the_game_reaches_generator_and_styles_and_no_discriminator() -> None:
    system = small()
    system.queue.push(torch.randn(7, 4))
    turns = system.translated(system.pile(batch_of()))
    next(turns)
    for player in ("generator", "guide"):
        system.zero_grad(set_to_none=True)
        turn = next(turns)
        assert turn.player == player
        turn.objective.backward()
        touched = {n.partition(".")[0] for n, p in system.named_parameters() if p.grad is not None}
        assert touched == {player}
    assert system.guide.style.weight.grad is not None
    assert system.guide.style.weight.grad.any()
    assert not system.guide.clusters.weight.grad.any()  # type: ignore[union-attr]
    assert all(parameter.requires_grad for parameter in system.parameters())


def test_the_slow_copy_follows_after_each_round() -> None:
    system = small()
    before = dict(system.slow.network.named_buffers())
    before = {n: b.clone() for n, b in before.items()}
    play(system, batch_of(), rate=0.05)
    after = dict(system.slow.network.named_buffers())
    for name, parameter in system.guide.named_parameters():
        expected = 0.999 * before[name] + 0.001 * parameter.detach()
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-6)
    for name, buffer in system.guide.named_buffers():
        assert torch.equal(after[name], buffer)


def test_the_queue_grows_from_a_batch_to_its_length() -> None:
    system = small(queue=10, warmup=9)
    lengths = []
    for number in range(3):
        play(system, batch_of(seed=number))
        lengths.append(len(system.queue))
    assert lengths == [10, 10, 10]  # 6 before the first round, 6 behind it
    system = small(queue=20, warmup=9)
    play(system, batch_of())
    newest = system.queue.vectors.clone()
    assert len(newest) == 12
    play(system, batch_of(seed=1))
    assert torch.equal(system.queue.vectors[:12], newest)


def test_the_order_of_clusters_means_nothing() -> None:
    values = []
    for order in (torch.arange(3), torch.tensor([2, 0, 1])):
        system = small(clusters=3)
        system.queue.push(torch.randn(7, 4))
        head: Any = system.discriminator.main[-1]
        with torch.no_grad():
            for layer in (system.guide.clusters, head):
                layer.weight.copy_(layer.weight[order].clone())
                layer.bias.copy_(torch.tensor([0.1, 0.2, -0.1])[order])
        torch.manual_seed(1)
        values.append([float(t.objective.detach()) for t in system.play(batch_of())])
    assert values[0] == pytest.approx(values[1], rel=1e-4)


# ---- the table of contrasts


def test_no_loss_reads_the_names_of_contrasts() -> None:
    states = []
    for shift in (0, 1):
        system = small(conditions=3, clusters=3)
        torch.manual_seed(1)
        here, there = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
        named: dict[str, Any] = {
            "source_contrast": (here + shift) % 3,
            "target_contrast": (there + shift) % 3,
        }
        for number in range(2):
            play(system, batch_of(seed=number, **named))
        states.append(system.state_dict())
    for name, value in states[0].items():
        if name in ("counts", "styles"):
            assert torch.allclose(value.roll(1, 0), states[1][name])
            assert value.any()
        else:
            assert torch.equal(value, states[1][name]), name


def test_the_table_counts_and_forgets() -> None:
    system = small()

    def seen(x: Tensor) -> tuple[Tensor, Tensor]:
        cluster = (x.flatten(1)[:, 0] > 0).long()
        return functional.one_hot(cluster, 2).float(), x.flatten(1)[:, :4]

    system.slow.forward = seen  # type: ignore[assignment, method-assign]
    image = torch.tensor([1.0, -1.0, 3.0, 1.0]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    pile = Pile(image, image, torch.tensor([0, 0, 1, 1]), None)
    system.remember(pile)
    assert system.counts.tolist() == [[1, 1], [0, 2]]
    assert system.styles[:, :, 0].tolist() == [[-1, 1], [0, 4]]
    system.remember(pile)
    torch.testing.assert_close(system.counts, torch.tensor([[1.99, 1.99], [0.0, 3.98]]))
    torch.testing.assert_close(system.shares(), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))


def test_a_translation_has_the_mean_style_of_the_contrast_where_most_of_it_is() -> None:
    system = small(conditions=2, clusters=3).eval()
    system.counts.copy_(torch.tensor([[1.0, 4.0, 0.0], [0.0, 1.0, 2.0]]))
    system.styles.normal_()
    x = torch.randn(2, 1, 13, 18)
    drawn = system.translate(x, target=torch.tensor([1, 0]))
    style = torch.stack([system.styles[1, 2] / 2, system.styles[0, 1] / 4])
    assert torch.equal(drawn, system.generated(x, style))
    assert drawn.shape == x.shape
    with pytest.raises(UsageError, match="say which"):
        system.translate(x)
    fixed = small().eval()
    fixed.counts[1, 0] = 1
    fixed.styles[1, 0] = 2
    assert torch.equal(fixed.translate(x), fixed.generated(x, torch.full((2, 4), 2.0)))


def test_what_was_seen_stays_out_of_model_folders_but_for_the_table() -> None:
    system = small()
    play(system, batch_of())
    kept = set(system.lasting_state())
    assert not any(name.startswith(("slow.", "queue.")) for name in kept)
    assert {"counts", "styles"} <= kept
    assert isinstance(system.slow, Memory)
    again = small()
    again.load_lasting_state(system.lasting_state())
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(again.eval().translate(x), system.eval().translate(x))


def test_contrasts_that_differ_are_found_without_their_names() -> None:
    """Two kinds of images, one dark and one bright, in forty rounds of the guide alone."""
    torch.manual_seed(0)
    larger = {"guide_features": 8, "style_size": 16, "queue": 64, "decay": 0.9}
    system = TUNIT(**(TINY | larger | {"warmup": 1000}))
    adam = torch.optim.Adam(system.parameters_of("guide"), 3e-3)
    for number in range(40):
        random = torch.Generator().manual_seed(number)
        blobs = functional.avg_pool2d(torch.rand(16, 1, 20, 20, generator=random), 5, 1)
        blobs = ((blobs - 0.5) * 8).clamp(-1, 1)
        batch = Batch(0.5 * blobs - 0.5, 0.5 * blobs + 0.5)
        for turn in system.play(batch):
            adam.zero_grad()
            turn.objective.backward()
            adam.step()
    shares = system.shares()
    assert int(shares[0].argmax()) != int(shares[1].argmax())
    assert float(shares.max(1).values.min()) > 0.8


# ---- slabs, and what it cannot do


def test_both_sides_are_one_pile() -> None:
    system, batch = small(slices=3), batch_of(3)
    weight = torch.rand(3, 1, 16, 16)
    batch = Batch(
        batch.source, batch.target, weight, target_weight=1 - weight, target_slab=batch.target_slab
    )
    pile = system.pile(batch)
    assert pile.source.shape == (6, 3, 16, 16)
    assert torch.equal(pile.image, torch.cat([batch.source[:, 1:2], batch.target]))
    assert pile.contrast.tolist() == [0, 0, 0, 1, 1, 1]
    assert pile.weight is not None
    assert torch.equal(pile.weight, torch.cat([weight, 1 - weight]))
    alone = system.pile(Batch(batch.source, batch.target))
    assert torch.equal(alone.source[3:], batch.target.expand(-1, 3, -1, -1))
    assert alone.weight is None


def test_wrong_arguments() -> None:
    for changes, sentence in (
        ({"clusters": 1}, "clusters is 1; at least 2"),
        ({"size": 48}, "size is 48; a power of two"),
        ({"inputs": 2}, "as many"),
    ):
        with pytest.raises(UsageError, match=sentence):
            small(**changes)
    with pytest.raises(UsageError, match="must name its contrasts"):
        next(small(conditions=3).play(batch_of()))
    with pytest.raises(UsageError, match=r"images of \(8, 16\).* laid out for 16"):
        small().discriminator(torch.zeros(1, 1, 8, 16), torch.zeros(1).long())
    assert math.isclose(float(small().shares().sum()), 0)
