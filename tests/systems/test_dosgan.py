from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.systems.domains import Crossing, crossing
from medi2i.systems.dosgan import DosGAN

TINY: dict[str, Any] = {
    "features": 2,
    "blocks": 1,
    "layers": 2,
    "window": 16,
    "feature_size": 3,
    "pretraining": 0,
    "n_critic": 1,
}


def small(**changes: Any) -> DosGAN:
    torch.manual_seed(0)
    return DosGAN(**(TINY | changes))


def batch_of(slices: int = 1, dims: int = 2, seed: int = 0) -> Batch:
    """Unpaired and on demand: two draws of three contrasts, with nothing in common."""
    random = torch.Generator().manual_seed(seed)
    source = 2 * torch.rand(4, slices, *[16] * dims, generator=random) - 1
    target = 2 * torch.rand(4, 1, *[16] * dims, generator=random) - 1
    origin = (torch.arange(4) + seed) % 3
    return Batch(source, target, source_contrast=origin, target_contrast=(origin + 1) % 3)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def reached(system: DosGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name in ("classifier", "discriminator", "encoder", "decoder")
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


# ---- the published sizes


def test_as_many_parameters_as_the_authors_networks() -> None:
    with torch.device("meta"):
        faces = DosGAN(conditions=531, feature_size=1024, injection="linear")
        seasons = DosGAN(conditions=4, window=256, injection="linear")
        film = DosGAN(conditions=4)
    assert count(faces.encoder) == count(seasons.encoder) == count(film.encoder) == 4_201_408
    assert (count(faces.decoder), count(seasons.decoder)) == (273_202_112, 72_661_952)
    assert (count(faces.classifier), count(seasons.classifier)) == (53_633_984, 46_798_080)
    assert (count(faces.discriminator), count(seasons.discriminator)) == (53_107_648, 46_816_192)
    # without the linear layer; instead 64 numbers and one make 512 for each of seven norms
    assert count(film.decoder) == 4_504_512 + 7 * 65 * 512


def test_the_linear_layer_fixes_the_size() -> None:
    system = small(conditions=3, injection="linear")
    source, asked = torch.randn(2, 1, 16, 16), torch.tensor([0, 2])
    assert system.translate(source, target=asked).shape == (2, 1, 16, 16)
    with pytest.raises(UsageError, match=r"\(16, 20\) voxels came; .* for 16 along"):
        system.translate(torch.randn(2, 1, 16, 18), target=asked)
    with pytest.raises(UsageError, match="window is 0"):
        small(dims=3, window=0, injection="linear")


def test_the_linear_layers_map_is_added_to_the_content() -> None:
    decoder = small(conditions=3, injection="linear").decoder
    linear: Any = decoder.linear
    content, feature = torch.randn(2, 8, 4, 4), torch.randn(2, 3)
    drawn = linear(feature).clamp_min(0).reshape(2, 8, 4, 4)
    with torch.no_grad():
        first = decoder(content, feature)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        torch.testing.assert_close(decoder(content + drawn, feature), first)


# ---- the classifier comes first and never moves again


def test_the_classifier_is_alone_at_first_and_then_stays_as_it_is() -> None:
    system = small(conditions=3, pretraining=3)
    optimisers = {p: torch.optim.Adam(system.parameters_of(p), 1e-3) for p in system.players}
    played, states = [], []
    for number in range(6):
        for turn in system.play(batch_of(seed=number)):
            played.append(turn.player)
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=system.parameters_of(turn.player))
            optimisers[turn.player].step()
        system.rounds += 1
        states.append({n: t.clone() for n, t in system.classifier.state_dict().items()})
    assert played == ["classifier"] * 3 + ["discriminator", "generator"] * 3
    name = "main.0.weight"
    assert not torch.equal(states[0][name], states[2][name])
    assert all(torch.equal(states[2][n], states[5][n]) for n in states[2])
    assert system.seen.tolist() == [8, 8, 8]  # three rounds of four sources and four targets


def test_the_classifier_learns_to_name_both_sides_of_the_batch() -> None:
    system, batch = small(conditions=3, pretraining=1), batch_of()
    (turn,) = system.play(batch)
    both = torch.cat([batch.source, batch.target])
    truth = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    expected = functional.cross_entropy(system.classifier(both)[1], truth)
    torch.testing.assert_close(turn.objective, expected)
    assert not system.seen.any()


def test_domains_that_differ_are_told_apart() -> None:
    """Three contrasts that differ by their brightness, after a few rounds of the classifier."""
    system = small(conditions=3, pretraining=60, features=4)
    optimiser = torch.optim.Adam(system.parameters_of("classifier"), 1e-2)

    def bright(seed: int) -> Batch:
        batch = batch_of(seed=seed)
        origin, asked = (
            torch.as_tensor(batch.source_contrast),
            torch.as_tensor(batch.target_contrast),
        )
        shift = 0.6 * (origin - 1.0)[:, None, None, None], 0.6 * (asked - 1.0)[:, None, None, None]
        return replace(
            batch, source=0.3 * batch.source + shift[0], target=0.3 * batch.target + shift[1]
        )

    for number in range(60):
        for turn in system.play(bright(number)):
            optimiser.zero_grad()
            turn.objective.backward()
            optimiser.step()
    fresh = bright(100)
    named = system.classifier(fresh.source)[1].argmax(1)
    assert torch.equal(named, torch.as_tensor(fresh.source_contrast))


# ---- centroids


def test_a_centroid_is_the_mean_feature_of_all_that_was_seen() -> None:
    system = small(conditions=3)
    features: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    for number in range(3):
        images = crossing(system, batch_of(seed=number))
        own, real = system.described(images)
        for feature, domain in zip(own, images.origin.tolist(), strict=True):
            features[domain].append(feature)
        for feature, domain in zip(real, images.asked.tolist(), strict=True):
            features[domain].append(feature)
    for domain, known in features.items():
        torch.testing.assert_close(system.centroids[domain], torch.stack(known).mean(0))
        assert int(system.seen[domain]) == len(known)


def test_the_centroid_of_identical_images_is_their_feature() -> None:
    system = small(conditions=3)
    image = torch.randn(1, 1, 16, 16).expand(4, -1, -1, -1)
    zero = torch.zeros(4, dtype=torch.long)
    for _ in range(3):
        own, _ = system.described(Crossing(image, image, zero, zero, image, image, None))
        torch.testing.assert_close(system.centroids[0], own[0], rtol=1e-6, atol=1e-7)
    assert system.seen.tolist() == [24, 0, 0]
    assert not system.centroids[1:].any()


def test_centroids_are_kept_with_the_weights() -> None:
    system = small(conditions=3)
    list(system.play(batch_of()))
    other = small(conditions=3)
    other.load_lasting_state(system.lasting_state())
    assert system.centroids.any()
    assert torch.equal(other.centroids, system.centroids)
    source, asked = torch.randn(2, 1, 16, 16), torch.tensor([1, 2])
    expected = system.generated(source, system.centroids[asked])
    assert torch.equal(other.translate(source, target=asked), expected)


# ---- the losses


def test_the_losses_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out from the features of the classifier and of the critic."""
    system, batch = small(conditions=3), batch_of()
    described = system.described(crossing(system, batch))
    monkeypatch.setattr(system, "described", lambda images: described)
    own, real = described
    wanted = system.centroids[torch.as_tensor(batch.target_contrast)]
    assert not torch.equal(wanted, real)
    critic, generator = (turn.losses for turn in system.play(batch))
    fake = system.generated(batch.source, wanted)
    judged_real, told_real = system.discriminator(batch.target)
    judged_fake, told_fake = system.discriminator(fake)

    def l1(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean()

    expected = {
        "critic": judged_fake.mean() - judged_real.mean(),
        "feature": 5 * l1(told_real, real),
    }
    for name, value in expected.items():
        torch.testing.assert_close(critic[name], value)
    expected = {
        "gan": -judged_fake.mean(),
        "feature": 5 * l1(told_fake, wanted),
        "same": 10 * l1(system.generated(batch.source, own), batch.source),
        "cycle": 10 * l1(system.generated(fake, own), batch.source),
    }
    assert set(generator) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(generator[name], value, msg=name)


def test_an_image_is_rebuilt_with_its_own_feature_not_with_a_centroid() -> None:
    system, batch = small(conditions=3), batch_of()
    for module in system.decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    _, turn = system.play(batch)
    by_centroid = system.generated(
        batch.source, system.centroids[torch.as_tensor(batch.source_contrast)]
    )
    other = 10 * (by_centroid - batch.source).abs().mean()
    assert abs(float((turn.losses["same"] - other).detach())) > 1e-3


def test_exact_images_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(conditions=3), batch_of()
    monkeypatch.setattr(system, "encoded", lambda source: (source, (...,)))
    monkeypatch.setattr(system.decoder, "forward", lambda content, feature: content)
    system.encoder.requires_grad_(False)
    _, turn = system.play(batch)
    assert float(turn.losses["same"]) == float(turn.losses["cycle"]) == 0


def test_the_code_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """DosGAN-c draws with the feature of the batch's image instead of the centroid."""
    system, batch = small(conditions=3, code="image"), batch_of()
    seen: list[Tensor] = []
    forward = system.decoder.forward

    def spy(content: Tensor, feature: Tensor) -> Tensor:
        seen.append(feature)
        return forward(content, feature)

    monkeypatch.setattr(system.decoder, "forward", spy)
    list(system.play(batch))
    torch.testing.assert_close(seen[0], system.classifier(batch.target)[0])
    for own in seen[1:]:
        torch.testing.assert_close(own, system.classifier(batch.source)[0])


def test_each_loss_reaches_its_networks() -> None:
    batch = batch_of()
    for number, losses in enumerate(
        (
            {
                "critic": {"discriminator"},
                "feature": {"discriminator"},
                "penalty": {"discriminator"},
            },
            {"gan": {"encoder", "decoder"}, "feature": {"encoder", "decoder"}}
            | {"same": {"encoder", "decoder"}, "cycle": {"encoder", "decoder"}},
        )
    ):
        for loss, networks in losses.items():
            system = small(conditions=3)
            list(system.play(batch))[number].losses[loss].backward()
            assert reached(system) == networks, loss


def test_the_penalty_leaves_the_feature_head_alone() -> None:
    system = small(conditions=3)
    turn = next(system.play(batch_of()))
    turn.losses["penalty"].backward()
    assert system.discriminator.classify.weight.grad is None
    assert system.discriminator.judge.weight.grad is not None


def test_the_generator_moves_in_every_fifth_round() -> None:
    system, moved = small(conditions=3, n_critic=5), []
    for number in range(10):
        players = [turn.player for turn in system.play(batch_of())]
        if players == ["discriminator", "generator"]:
            moved.append(number)
        system.rounds += 1
    assert moved == [4, 9]


# ---- what it can look at


def test_the_feature_survives_the_norm() -> None:
    """A changed feature changes the image far from its edges, too."""
    decoder = small(conditions=3, features=4).decoder
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    content = torch.randn(1, 16, 16, 16).expand(2, -1, -1, -1)
    one, other = decoder(content, torch.eye(3)[:2]).detach()
    assert float((one - other)[:, 24:40, 24:40].abs().mean()) > 1e-3


def test_a_feature_takes_in_the_window_and_averages_over_more() -> None:
    classifier = small(conditions=3).classifier
    x = torch.randn(2, 1, 16, 24)
    feature, named = classifier(x)
    maps = classifier.main(x)
    assert maps.shape == (2, 3, 1, 3)
    torch.testing.assert_close(feature, maps[:, :, 0].mean(2))
    assert torch.equal(named, feature @ classifier.classify.weight.T)
    with pytest.raises(UsageError, match=r"\(16, 12\) voxels came; .* at least 16"):
        classifier(x[..., :12])


def test_a_fixed_task_learns_both_ways_and_translates_one() -> None:
    system = small(slices=3)
    slab = torch.rand(2, 3, 16, 16)
    batch = Batch(torch.rand(2, 3, 16, 16), slab[:, 1:2], target_slab=slab)
    assert [turn.player for turn in system.play(batch)] == ["discriminator", "generator"]
    assert system.seen.tolist() == [4, 4]
    expected = system.generated(batch.source, system.centroids[[1, 1]])
    assert torch.equal(system.translate(batch.source), expected)


def test_on_demand_in_3d_and_of_any_size() -> None:
    system = small(dims=3, conditions=3, window=0)
    batch = batch_of(dims=3)
    assert [turn.player for turn in system.play(batch)] == ["discriminator", "generator"]
    image = system.translate(torch.randn(2, 1, 9, 3, 14), target=torch.tensor([0, 2]))
    assert image.shape == (2, 1, 9, 3, 14)
    assert float(image.detach().abs().max()) < 1


def test_what_it_refuses() -> None:
    assert (DosGAN.pairing, DosGAN.one_list) == (Pairing.UNPAIRED, True)
    with pytest.raises(UsageError, match="n_critic is 0"):
        small(n_critic=0)
    with pytest.raises(UsageError, match="as many contrasts"):
        small(inputs=2)
    with pytest.raises(UsageError, match="serves 3 contrasts"):
        small(conditions=3).translate(torch.zeros(1, 1, 16, 16))
