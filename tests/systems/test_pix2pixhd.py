from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import MissingFileError, UsageError
from medi2i.networks.layers import halved
from medi2i.networks.perceptual import LAYER_WEIGHTS, VGG19Features, grey_photographs
from medi2i.networks.regions import pooled
from medi2i.systems.pix2pixhd import Pix2pixHD


def small(**changes: Any) -> Pix2pixHD:
    torch.manual_seed(0)
    given = {"features": 4, "halvings": 2, "blocks": 1, "local_blocks": 1, "patch": 1}
    given |= {"patch_features": 4, "encoder_features": 4, "encoder_halvings": 2}
    return Pix2pixHD(**(given | changes))


def batch_of(channels: int = 1, size: tuple[int, ...] = (16, 24), seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, target = (
        2 * torch.rand(2, count, *size, generator=random) - 1 for count in (channels, 1)
    )
    return Batch(source, target)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def weights_of(network: nn.Module) -> list[Tensor]:
    return [p for p in network.parameters() if p.dim() > 1]


def drive(system: Pix2pixHD, rounds: int) -> None:
    optimisers = {
        player: torch.optim.Adam(system.parameters_of(player), 1e-3) for player in system.players
    }
    for number in range(rounds):
        for turn in system.play(batch_of(seed=number)):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            optimisers[turn.player].step()
        system.rounds += 1


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        flat, solid = Pix2pixHD(), Pix2pixHD(dims=3)
    assert (flat.generator.multiple, solid.generator.multiple) == (16, 8)
    assert (flat.gan, flat.matching, flat.perceptual, flat.l1) == (1, 10, 10, 0)
    assert flat.game == "least-squares"
    assert flat.vgg is None
    assert (flat.one_to_many, flat.code_size) == (False, 0)


# ---- the game


def test_the_generator_moves_first_and_gradients_keep_to_the_player() -> None:
    system = small(enhancers=1)
    turns = system.play(batch_of())
    turn = next(turns)
    assert turn.player == "generator"
    assert list(turn.losses) == ["gan", "matching"]
    turn.objective.backward()
    assert all(p.grad is None for p in system.discriminator.parameters())
    for parameter in weights_of(system.generator):
        assert parameter.grad is not None
        assert parameter.grad.any()
    system.zero_grad(set_to_none=True)
    turn = next(turns)
    assert turn.player == "discriminator"
    turn.objective.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    for parameter in weights_of(system.discriminator):
        assert parameter.grad is not None
        assert parameter.grad.any()
    assert next(turns, None) is None


@pytest.mark.parametrize("scales", [2, 3])
def test_undecided_discriminators(scales: int) -> None:
    system = small(scales=scales)
    for judge in system.discriminator.judges:
        last: Any = judge[-1]  # type: ignore[index]
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 0.5)
    ours, theirs = system.play(batch_of(size=(32, 32)))
    assert float(theirs.objective.detach()) == pytest.approx(0.25 * scales)
    assert float(ours.losses["gan"].detach()) == pytest.approx(0.25 * scales)


def test_matching_vanishes_where_the_images_agree() -> None:
    system, batch = small(), batch_of()
    fake = system.translate(batch.source).detach()
    turn = next(system.play(replace(batch, target=fake)))
    assert float(turn.losses["matching"].detach()) == pytest.approx(0, abs=1e-6)
    assert float(turn.losses["gan"].detach()) > 0.1


def test_the_voxel_error_is_ours_alone() -> None:
    system, batch = small(l1=10.0), batch_of()
    turn = next(system.play(batch))
    expected = 10 * (system.translate(batch.source) - batch.target).abs().mean()
    torch.testing.assert_close(turn.losses["l1"], expected)


def test_equals_a_loop_written_by_hand() -> None:
    """The authors' step: one forward pass for all terms, generator, then discriminators."""
    ours, theirs = (small(patch=3).double() for _ in range(2))
    optimisers = {
        player: torch.optim.Adam(ours.parameters_of(player), 2e-4, (0.5, 0.999))
        for player in ours.players
    }
    g, d = theirs.generator, theirs.discriminator
    optimiser_g, optimiser_d = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (g, d)
    )

    def mse(maps: list[list[Tensor]], label: float) -> Tensor:
        return torch.stack([(scale[-1] - label).square().mean() for scale in maps]).sum()

    for number in range(3):
        batch = batch_of(size=(32, 32), seed=number)
        batch = replace(batch, source=batch.source.double(), target=batch.target.double())
        for turn in ours.play(batch):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()

        label, image = batch.source, batch.target
        fake = g(label)
        pred_fake_pool = d(torch.cat([label, fake.detach()], 1))
        pred_real = d(torch.cat([label, image], 1))
        pred_fake = d(torch.cat([label, fake], 1))
        loss_d = 0.5 * (mse(pred_fake_pool, 0) + mse(pred_real, 1))
        loss_g = mse(pred_fake, 1)
        for i in range(2):
            for j in range(4):
                far = (pred_fake[i][j] - pred_real[i][j].detach()).abs().mean()
                loss_g = loss_g + 0.5 * (4.0 / 4) * far * 10
        optimiser_g.zero_grad()
        loss_g.backward()
        optimiser_g.step()
        optimiser_d.zero_grad()
        loss_d.backward()
        optimiser_d.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if one.dim() > 1:  # a bias before a normalisation follows rounding noise
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0, msg=name)


# ---- from coarse to fine


def test_stages() -> None:
    system = small(enhancers=1, coarse_rounds=2, held_rounds=2)
    g = system.generator

    def state() -> dict[str, list[Tensor]]:
        assert g.preview is not None
        parts = {"trunk": g.trunk, "preview": g.preview, "fine": g.enhancers, "head": g.head}
        return {name: [p.detach().clone() for p in weights_of(m)] for name, m in parts.items()}

    def moved(before: dict[str, list[Tensor]]) -> set[str]:
        return {
            name
            for name, now in state().items()
            if not all(torch.equal(a, b) for a, b in zip(before[name], now, strict=True))
        }

    for stage, learning in (
        ("coarse", {"trunk", "preview"}),
        ("held", {"fine", "head"}),
        ("whole", {"trunk", "fine", "head"}),
    ):
        assert system.stage == stage
        before = state()
        drive(system, 2)
        assert moved(before) == learning
        assert all(parameter.requires_grad for parameter in system.parameters())


def test_the_coarse_stage_plays_at_half_the_size() -> None:
    system = small(enhancers=1, coarse_rounds=1, l1=1.0)
    batch = batch_of(size=(20, 26))
    weight = torch.rand(2, 1, 20, 26)
    turn = next(system.play(replace(batch, weight=weight)))
    fake = system.generated(batch.source, None, None)
    assert fake.shape == (2, 1, 10, 13)
    half = halved(weight)
    expected = ((fake - halved(batch.target)).abs() * half).sum() / half.sum()
    torch.testing.assert_close(turn.losses["l1"], expected)
    assert system.translate(batch.source).shape == batch.target.shape
    system.rounds += 1
    assert not torch.allclose(
        system.translate(batch.source), system.whole(batch.source, None, None) + 1
    )


def test_stages_need_an_enhancer() -> None:
    with pytest.raises(UsageError, match="there is none"):
        small(held_rounds=5)
    with torch.device("meta"):  # an official checkpoint of the local generator has no such head
        assert small(enhancers=1, held_rounds=5).generator.preview is None


# ---- the feature encoder


def test_features_are_pooled_per_region_and_reach_the_generator() -> None:
    system, batch = small(encoded=3, regions=3), batch_of()
    codes = system.encoded(batch.source, batch.target, None)
    assert codes is not None
    regions = system.regions_of(batch.source)
    torch.testing.assert_close(codes, pooled(system.encoder(batch.target), regions))
    inside = (batch.source[1, 0] >= 1 / 3).nonzero(as_tuple=True)
    by_hand = system.encoder(batch.target)[1][:, inside[0], inside[1]].mean(1)
    torch.testing.assert_close(codes[1, 2], by_hand)

    turn = next(system.play(batch))
    turn.objective.backward()
    for parameter in weights_of(system.encoder):
        assert parameter.grad is not None
        assert parameter.grad.any()


def test_samples_are_drawn_from_what_training_has_met() -> None:
    system = small(encoded=2, regions=2, clusters=3)
    assert (system.one_to_many, system.code_size) == (True, 2)
    drive(system, 3)
    system.eval()
    source = batch_of().source[:1]
    assert system.clusters is not None
    assert (system.clusters.met > 0).all()
    low, high = torch.full((1, 2), -9.0), torch.full((1, 2), 9.0)
    one, other = system.sample(source, low), system.sample(source, high)
    assert not torch.allclose(one, other, atol=1e-4)
    assert torch.equal(one, system.sample(source, low))
    by_hand = system.clusters.centres[:, 0][None]  # the first centre of both regions
    torch.testing.assert_close(one, system.whole(source, by_hand, None))
    mean = system.translate(source)
    assert torch.equal(mean, system.translate(source))
    with pytest.raises(UsageError, match=r"\(1, 3\) given; \(1, 2\) expected, one number per"):
        system.sample(source, torch.zeros(1, 3))


def test_each_contrast_has_clusters_of_its_own() -> None:
    system = small(encoded=2, regions=2, conditions=3)
    batch = replace(batch_of(), target_contrast=torch.tensor([2, 2]))
    next(system.play(batch))
    assert system.clusters is not None
    met = system.clusters.met.reshape(3, 2, -1).sum((1, 2))
    assert met[:2].tolist() == [0, 0]
    assert float(met[2]) > 0


def test_without_an_encoder_there_is_one_image() -> None:
    with pytest.raises(UsageError, match="no feature encoder"):
        small().sample(torch.zeros(1, 1, 16, 16), torch.zeros(1, 0))
    with pytest.raises(UsageError, match="regions is 1"):
        small(encoded=3, regions=1)


# ---- the perceptual term


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    torch.manual_seed(0)
    places = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
    state: dict[str, Tensor] = {}
    for place, layer in zip(places, VGG19Features().convolutions, strict=True):
        for name, parameter in layer.named_parameters():
            state[f"features.{place}.{name}"] = parameter.data
    save_file(state, path)
    return path


def test_the_perceptual_term(weights: Path) -> None:
    system, batch = small(vgg=str(weights)), batch_of()
    turn = next(system.play(batch))
    lens = VGG19Features.read(weights)
    fake = system.translate(batch.source)
    views = [grey_photographs(image, [])[0] for image in (fake, batch.target)]
    maps = zip(LAYER_WEIGHTS, *(lens(view) for view in views), strict=True)
    expected = 10 * sum(weight * (a - b).abs().mean() for weight, a, b in maps)
    torch.testing.assert_close(turn.losses["perceptual"], expected)
    turn.losses["perceptual"].backward()
    assert system.generator.head.weight.grad is not None
    assert system.state_dict().keys() == small().state_dict().keys(), "VGG-19 is not saved"
    assert count(system) == count(small())


def test_the_perceptual_term_looks_at_a_volume_from_three_sides(weights: Path) -> None:
    system = small(dims=3, features=2, vgg=str(weights))
    batch = batch_of(size=(16, 16, 20))
    torch.manual_seed(1)
    one = system.perceived(batch.source, batch.target)
    torch.manual_seed(1)
    again = system.perceived(batch.source, batch.target)
    assert float(one) == float(again) > 0
    assert float(system.perceived(batch.target, batch.target)) == 0


def test_a_model_is_built_where_the_weights_are_not() -> None:
    system = small(vgg="nowhere.safetensors")
    assert torch.isfinite(system.translate(batch_of().source)).all()
    with pytest.raises(MissingFileError, match="nowhere"):
        next(system.play(batch_of()))


# ---- added here


def test_the_asked_contrast_reaches_both_networks() -> None:
    system = small(conditions=2, slices=3).eval()
    source, asked = torch.randn(1, 3, 16, 24).expand(2, -1, -1, -1), torch.tensor([0, 1])
    for name, parameter in system.generator.named_parameters():
        if "scale_shift.weight" in name:  # zero when fresh
            nn.init.normal_(parameter)
    one, other = system.translate(source, target=asked)
    assert not torch.allclose(one, other, atol=1e-3)
    for maps in system.judged(source, torch.zeros(2, 1, 16, 24), asked):
        assert not torch.allclose(maps[-1][0], maps[-1][1], atol=1e-6)
    with pytest.raises(UsageError, match="built with conditions; none was given"):
        system.generator(source)


@pytest.mark.parametrize("size", [(5, 30), (1, 16)])
def test_small_and_odd_images(size: tuple[int, int]) -> None:
    system = small(enhancers=1, encoded=2).eval()
    source = torch.randn(2, 1, *size)
    assert system.translate(source).shape == source.shape


def test_a_round_in_3d() -> None:
    system = small(dims=3, features=2, enhancers=1, encoded=2)
    batch = batch_of(size=(16, 20, 16))
    for turn in system.play(batch):
        assert torch.isfinite(turn.objective)
        turn.objective.backward(inputs=system.parameters_of(turn.player))
    assert system.eval().sample(batch.source, torch.randn(2, 4)).shape == batch.target.shape
