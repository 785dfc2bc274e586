from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.cut import PatchProjection, draw_positions
from medi2i.networks.pix2pix import initialise_normal
from medi2i.networks.sincut import Doubling, Scaled, SinCUTGenerator, TileDiscriminator
from medi2i.systems.cut import CUT

TINY: dict[str, Any] = {"features": 4, "blocks": 6, "patch": 1, "patch_features": 4, "code": 8}
SINGLE: dict[str, Any] = {"features": 4, "patch_features": 4, "size": 16, "code": 8}


def small(variant: str = "cut", **changes: Any) -> CUT:
    torch.manual_seed(0)
    return CUT(variant=variant, **((SINGLE if variant == "sincut" else TINY) | changes))  # type: ignore[arg-type]


def batch_of(
    contrasts: int = 1, slices: int = 1, size: int = 2, dims: int = 2, seed: int = 0
) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(size, contrasts * slices, *[32] * dims, generator=random) - 1
        for _ in range(2)
    )
    return Batch(source, target[:, slices // 2 :: slices], target_slab=target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def reached(system: CUT) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name, network in system.named_children()
        if any(p.grad is not None and p.grad.any() for p in network.parameters())
    }


# ---- the published networks


@pytest.mark.parametrize("variant", ["cut", "fastcut"])
def test_as_many_parameters_as_the_authors_networks(variant: Any) -> None:
    with torch.device("meta"):
        grey, colour = CUT(variant=variant), CUT(variant=variant, inputs=3, outputs=3)
        strided = CUT(variant=variant, antialiased=False)
    parts = (grey.generator, grey.discriminator, grey.projection)
    assert [count(part) for part in parts] == [11_365_633, 2_762_689, 559_872]
    parts = (colour.generator, colour.discriminator, colour.projection)
    assert [count(part) for part in parts] == [11_378_179, 2_764_737, 560_384]
    assert count(strided) == count(grey)


def test_sincut_has_the_authors_parameters_where_there_are_three_colours() -> None:
    with torch.device("meta"):
        system = CUT(variant="sincut", inputs=3, outputs=3)
    assert (count(system.generator), count(system.discriminator)) == (3_068_404, 5_885_473)


def test_variants_are_the_papers() -> None:
    with torch.device("meta"):
        cut, fast, single = (CUT(variant=v) for v in ("cut", "fastcut", "sincut"))
    assert [s.nce for s in (cut, fast, single)] == [1, 10, 4]
    assert [s.patches for s in (cut, fast, single)] == [256, 256, 1]
    assert [s.recipe.identity for s in (cut, fast, single)] == [True, False, True]
    assert [s.recipe.mirrored for s in (cut, fast, single)] == [False, True, False]
    assert [s.l1 for s in (cut, fast, single)] == [0, 0, 1]
    assert [s.recipe.game for s in (cut, fast, single)] == [
        "least-squares",
        "least-squares",
        "vanilla",
    ]
    assert cut.temperature == 0.07
    assert CUT.pairing is Pairing.UNPAIRED


def test_weights_begin_as_glorot_and_bengio_draw_them_times_a_fiftieth() -> None:
    system = CUT(features=32, patch_features=16)
    for network in (system.generator, system.discriminator, system.projection):
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                assert not parameter.any(), name
            elif parameter.numel() > 20_000:
                fans = parameter[0].numel() + parameter[:, 0].numel()
                expected = 0.02 * math.sqrt(2 / fans)
                assert float(parameter.std().detach()) == pytest.approx(expected, rel=0.05), name


def test_what_is_seen_of_an_image_of_256() -> None:
    system = CUT(features=4)
    image = torch.zeros(1, 1, 256, 256)
    shapes = [(1, 262), (8, 256), (16, 128), (16, 64), (16, 64)]
    assert [(m.shape[1], m.shape[2]) for m in system.seen(image)] == shapes
    assert system.looked_at == [0, 4]
    assert system.discriminator(image).shape == (1, 1, 30, 30)


# ---- the contrast


def test_positions_are_drawn_once_each_and_lie_in_the_image() -> None:
    features = [torch.zeros(3, 2, 40, 30), torch.zeros(3, 4, 5, 6)]
    torch.manual_seed(0)
    many, few = draw_positions(features, 256)
    assert len(many) == len(many.unique()) == 256
    assert 0 <= int(many.min()) <= int(many.max()) < 1200
    assert sorted(few.tolist()) == list(range(30)), "fewer than 256 exist: all are used"
    other = draw_positions(features, 256)[0]
    assert not torch.equal(many, other)
    torch.manual_seed(0)
    assert torch.equal(draw_positions(features, 256)[0], many)


@pytest.mark.parametrize("dims", [2, 3])
def test_air_is_not_looked_at(dims: int) -> None:
    weight = torch.zeros(2, 1, *[8] * dims)
    weight[:, :, 4:] = 1
    (positions,) = draw_positions([torch.zeros(2, 3, *[8] * dims)], 20, weight)
    assert (positions // 8 ** (dims - 1) >= 4).all()


def test_the_same_positions_give_aligned_rows() -> None:
    torch.manual_seed(0)
    projection = PatchProjection([3], 5)
    maps = torch.randn(2, 3, 6, 7)
    positions = draw_positions([maps], 10)
    (first,), (second,) = projection([maps], positions), projection([maps], positions)
    assert torch.equal(first, second)
    assert first.shape == (2, 10, 5)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(2, 10))
    vector = projection.layers[0](maps[1, :, 2, 4])
    place = torch.tensor([2 * 7 + 4])
    torch.testing.assert_close(projection([maps], [place])[0][1, 0], vector / vector.norm())


def test_the_contrast_written_out() -> None:
    """Position by position, as the paper says it, against the vectorised form."""
    system, batch = small(patches=7), batch_of()
    torch.manual_seed(5)
    loss = system.contrast(batch.source, batch.target, None)
    torch.manual_seed(5)
    keys, queries = system.seen(batch.source), system.seen(batch.target)
    positions = draw_positions(keys, 7)
    total = 0.0
    for layer, places in enumerate(positions):
        network = system.projection.layers[layer]
        for image in range(2):
            vectors = [
                network(maps[layer][image].flatten(1).T[places]).detach()
                for maps in (queries, keys)
            ]
            q, k = (v / (v.norm(dim=1, keepdim=True) + 1e-7) for v in vectors)
            for place in range(7):
                others = [float(q[place] @ k[n]) / 0.07 for n in range(7) if n != place]
                own = float(q[place] @ k[place]) / 0.07
                terms = [own, *others, -10 / 0.07]
                total += math.log(sum(math.exp(t) for t in terms)) - own
    assert float(loss.detach()) == pytest.approx(total / (len(positions) * 2 * 7), rel=1e-4)


def test_gradient_comes_through_the_image_and_the_queries() -> None:
    system, batch = small(), batch_of()
    generator: Any = system.generator
    image = batch.source.clone().requires_grad_()
    drawn = system.generated(batch.source)
    system.contrast(image, drawn, None).backward()
    assert image.grad is None, "keys give no gradient"
    assert all(p.grad.any() for p in generator.decoder.parameters() if p.dim() > 1)
    assert reached(system) == {"generator", "projection"}

    system.zero_grad(set_to_none=True)
    system.contrast(batch.source, drawn.detach(), None).backward()
    assert all(p.grad is None for p in generator.decoder.parameters())
    assert all(p.grad is None for p in generator.blocks[5].parameters()), "beyond the last tap"
    assert generator.blocks[4][0].weight.grad.any()
    assert generator.encoder[0].weight.grad.any()


def test_a_mirrored_round_costs_the_same_where_the_generator_does_not_mind() -> None:
    class Pointwise(nn.Module):
        """Does to a mirrored image the mirrored of what it does to the image."""

        multiple = 4

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(2 * x)

        def taps(self, x: Tensor, blocks: Any) -> list[Tensor]:
            del blocks
            wide = torch.cat([x, x.square(), x.exp(), x.sin()], 1).repeat(1, 4, 1, 1)
            return [x, wide[:, :8], wide, wide, wide]

    system, batch = small("fastcut"), batch_of()
    system.generator = Pointwise()  # type: ignore[assignment]
    values = []
    for mirrored in (False, True):
        source = batch.source.flip(2) if mirrored else batch.source
        torch.manual_seed(3)
        drawn = system.generated(source)
        values.append(system.contrast(batch.source, drawn, None, mirrored=mirrored))
    torch.testing.assert_close(values[0], values[1])


def test_a_slice_is_compared_with_the_slice_it_was_drawn_from() -> None:
    system = small(slices=3, inputs=2, outputs=2)
    image = batch_of(2).source
    assert torch.equal(system.seen(image)[0][..., 3:-3, 3:-3], image.repeat_interleave(3, 1))


# ---- the game


@pytest.mark.parametrize("variant", ["cut", "fastcut", "sincut"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_discriminator_moves_first_and_gradients_keep_to_the_player(
    variant: str, size: int
) -> None:
    system = small(variant)
    turns = system.play(batch_of(size=size))
    for player, networks in (
        ("discriminator", {"discriminator"}),
        ("generator", {"generator", "projection"}),
    ):
        turn = next(turns)
        assert turn.player == player
        assert torch.isfinite(turn.objective)
        turn.objective.backward()
        if size > 1 or variant != "sincut":  # one patch of one image is told from nothing
            assert reached(system) == networks
        system.zero_grad(set_to_none=True)
    assert next(turns, None) is None
    assert all(parameter.requires_grad for parameter in system.parameters())


def test_losses_written_out() -> None:
    system, batch = small(patches=5), batch_of()
    turns = system.play(batch)
    torch.manual_seed(9)
    first, second = next(turns), next(turns)
    fake, same = system.generated(batch.source), system.generated(batch.target)
    judged_real, judged_fake = system.discriminator(batch.target), system.discriminator(fake)
    contest = 0.5 * ((judged_real - 1).square().mean() + judged_fake.square().mean())
    torch.testing.assert_close(first.losses["contest"], contest)
    torch.testing.assert_close(second.losses["gan"], (judged_fake - 1).square().mean())
    torch.manual_seed(9)
    for name, image, drawn in (
        ("nce", batch.source, fake),
        ("nce_identity", batch.target, same),
    ):
        expected = 0.5 * system.contrast(image, drawn, None)
        torch.testing.assert_close(second.losses[name], expected)
    assert set(second.losses) == {"gan", "nce", "nce_identity"}


def test_fastcut_mirrors_half_of_the_rounds_and_has_no_identity() -> None:
    system, batch = small("fastcut", patches=5), batch_of()
    for network in (system.generator, system.discriminator):  # so that a mirrored image shows
        initialise_normal(network, 0.2)
    with torch.no_grad():
        plain, turned = (
            float(system.discriminator(system.generated(x)).square().mean()) / 2
            for x in (batch.source, batch.source.flip(2))
        )
        real = float((system.discriminator(batch.target) - 1).square().mean()) / 2
    assert abs(plain - turned) > 1e-3
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        turns = system.play(batch)
        value = float(next(turns).losses["contest"].detach()) - real
        found.append(abs(value - turned) < 1e-5)
        assert abs(value - (turned if found[-1] else plain)) < 1e-5
        assert set(next(turns).losses) == {"gan", "nce"}
    assert 0 < sum(found) < 8


def test_without_the_contrast_there_is_no_projection() -> None:
    system = small(nce=0.0)
    assert not hasattr(system, "projection")
    assert system.players["generator"] == ("generator",)
    assert CUT.players["generator"] == ("generator", "projection")
    first, second = system.play(batch_of())
    assert set(second.losses) == {"gan"}
    assert (first.player, len(system.parameters_of("generator"))) == (
        "discriminator",
        len(list(system.generator.parameters())),
    )


def test_pixels_can_be_asked_to_stay() -> None:
    system, batch = small("fastcut", l1=3.0), batch_of()
    weight = torch.zeros(2, 1, 32, 32)
    weight[..., :8] = 1
    batch = Batch(batch.source, batch.target, weight)
    for seed in range(4):  # mirrored or not
        torch.manual_seed(seed)
        mirrored = bool(torch.rand(()) < 0.5)
        torch.manual_seed(seed)
        _, second = system.play(batch)
        same = system.generated(batch.target.flip(2) if mirrored else batch.target)
        same = same.flip(2) if mirrored else same
        error = (same - batch.target).abs()[..., :8].mean()
        torch.testing.assert_close(second.losses["l1"], 3 * error)


def test_gain_and_offset_of_the_source_do_not_come_through() -> None:
    system = CUT(features=8, blocks=3).double()
    x = 2 * torch.rand(1, 1, 64, 64, dtype=torch.float64) - 1
    with torch.no_grad():
        plain, shifted, scaled = (system.translate(y) for y in (x, x + 0.3, 2 * x))
        seen, seen_shifted = system.seen(x)[0], system.seen(x + 0.3)[0]
    assert (plain - shifted).abs().max() < 1e-6
    assert (plain - scaled).abs().max() < 1e-2
    assert (seen - seen_shifted).abs().min() > 0.29, "the first layer of the contrast sees them"


# ---- SinCUT's layers


def test_a_halving_convolution_blurs_first() -> None:
    torch.manual_seed(0)
    layer, x = Scaled(2, 3, 5, 3, halve=True, active=False), torch.randn(2, 3, 8, 8)
    row = torch.tensor([1.0, 3, 3, 1]) / 8
    blurred = functional.conv2d(
        functional.pad(x, [2] * 4), torch.outer(row, row).expand(3, 1, 4, 4), groups=3
    )
    expected = functional.conv2d(blurred, layer.weight / math.sqrt(27), stride=2)
    torch.testing.assert_close(layer(x), expected)
    assert expected.shape == (2, 5, 4, 4)


def test_a_doubling_has_weights_of_unit_norm_and_noise_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, x = Doubling(2, 3, 5), torch.randn(2, 3, 8, 8)
    nn.init.ones_(layer.noise)
    weight = layer.weight / layer.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    row = torch.tensor([1.0, 3, 3, 1]) / 4
    spread = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    spread = functional.conv2d(
        functional.pad(spread, [1] * 4), torch.outer(row, row).expand(5, 1, 4, 4), groups=5
    )
    layer.eval()
    expected = functional.leaky_relu(spread, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_sincut_compares_pixels_and_two_layers() -> None:
    system = CUT(variant="sincut", features=4)
    shapes = [(1, 64), (8, 32), (8, 32)]
    assert [(m.shape[1], m.shape[2]) for m in system.seen(torch.zeros(1, 1, 64, 64))] == shapes
    generator = system.generator
    assert isinstance(generator, SinCUTGenerator)
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(generator.taps(x, [1])[1], generator.encoder[:2](x))


def test_tiles_are_judged_one_by_one() -> None:
    torch.manual_seed(0)
    judge = TileDiscriminator(dims=2, inputs=1, size=16, features=4)
    x = torch.randn(2, 1, 32, 40)
    alone = torch.stack(
        [
            judge(x[b : b + 1, :, i : i + 16, j : j + 16])
            for b in (0, 1)
            for i in (0, 16)
            for j in (0, 16)
        ]
    )
    torch.testing.assert_close(judge(x).flatten().sort().values, alone.flatten().sort().values)
    assert TileDiscriminator(dims=3, inputs=1, size=8, features=2)(
        torch.zeros(1, 1, 16, 8, 8)
    ).shape == (2, 1, 1, 1, 1)
    with pytest.raises(UsageError, match=r"images of \(8, 32\) voxels.* tiles of 16"):
        judge(torch.zeros(1, 1, 8, 32))


def test_sincut_plays_the_vanilla_game_with_r1() -> None:
    system, batch = small("sincut"), batch_of()
    turn = next(system.play(batch))
    real = batch.target.clone().requires_grad_()
    (slope,) = torch.autograd.grad(system.discriminator(real).sum(), real)
    torch.testing.assert_close(turn.losses["r1"], 0.5 * slope.square().sum((1, 2, 3)).mean())
    torch.manual_seed(0)
    system = small("sincut")
    head: Any = system.discriminator
    nn.init.zeros_(head.head.weight)
    assert float(next(system.play(batch)).losses["contest"].detach()) == pytest.approx(math.log(2))


# ---- what it cannot do


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="two domains"):
        small(conditions=3)
    with pytest.raises(UsageError, match="as many"):
        small(inputs=2)
    with pytest.raises(UsageError, match='variant is "slowcut"; cut, fastcut, sincut'):
        small("slowcut")
    with pytest.raises(UsageError, match="patches is 0"):
        small(patches=0)
    with pytest.raises(UsageError, match="tiles of 48 voxels"):
        small("sincut", size=48)
