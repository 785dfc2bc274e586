from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.implicit_pairs import MADE, Earlier, ImplicitPairs, damped

TINY: dict[str, Any] = {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4}


def small(**changes: Any) -> ImplicitPairs:
    torch.manual_seed(0)
    return ImplicitPairs(**(TINY | changes))


def batch_of(number: int, size: int = 2, slices: int = 1, weighted: bool = False) -> Batch:
    """Sources of -1 and targets of number / 100, so that each voxel says where it came from."""
    source = torch.full((size, slices, 8, 8), -1.0)
    target = torch.full((size, slices, 8, 8), number / 100)
    weights = (torch.full((size, 1, 8, 8), w) for w in (0.5, 1 / (number + 1)))
    here, there = weights if weighted else (None, None)
    return Batch(source, target[:, :1], here, target_weight=there, target_slab=target)


def copied(image: Tensor) -> Tensor:
    return image


def test_networks_and_losses_are_the_hosts() -> None:
    torch.manual_seed(0)
    host, ours = CycleGAN(**TINY), small()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in host.parameters())
    assert ours.players == host.players
    assert ours.pairing is Pairing.UNPAIRED
    random = torch.Generator().manual_seed(0)
    source, target = (2 * torch.rand(2, 1, 16, 16, generator=random) - 1 for _ in range(2))
    batch = Batch(source, target)
    for one, other in zip(host.play(batch), ours.play(batch), strict=True):
        assert one.player == other.player
        assert one.losses.keys() == other.losses.keys()
        for name, loss in one.losses.items():
            assert torch.equal(loss, other.losses[name]), name
    assert not len(ours.earlier.images), "without pseudo-pairs nothing is kept"


def test_the_arguments_are_the_hosts_and_three_more() -> None:
    ours, host = (inspect.signature(kind).parameters for kind in (ImplicitPairs, CycleGAN))
    kept = set(host) - {"judged"}  # sources that are made have no next slice
    assert set(ours) == kept | {"pseudo", "easy", "earlier"}
    assert all(ours[name].default == host[name].default for name in kept)


def test_sources_are_made_from_targets_of_earlier_rounds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MADE, "blurred", copied)
    system = small(pseudo=1.0, easy="blurred", earlier=6)
    assert torch.equal(system.mixed(batch_of(0)).source, batch_of(0).source), "nothing is there yet"
    seen = set()
    for number in range(1, 60):
        batch = batch_of(number)
        mixed = system.mixed(batch)
        values = {round(100 * float(v)) for v in mixed.source[:, 0, 0, 0]}
        assert values <= {number - 1, number - 2, number - 3}, "of the last six, and never its own"
        seen |= {number - value for value in values}
        assert torch.equal(mixed.target, batch.target)
        assert len(system.earlier.images) == min(6, 2 * number + 2)
    assert seen == {1, 2, 3}


def test_the_share_is_that_of_the_sources_and_weights_travel_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MADE, "damped", copied)
    system = small(pseudo=0.3)
    system.mixed(batch_of(9, weighted=True))
    made = 0
    for _ in range(200):
        system.earlier.images = system.earlier.images[:2]
        mixed = system.mixed(batch_of(3, size=5, weighted=True))
        assert mixed.weight is not None
        for source, weight in zip(mixed.source, mixed.weight, strict=True):
            is_made = float(source[0, 0, 0]) > -1
            made += is_made
            assert float(weight[0, 0, 0]) == pytest.approx(0.1 if is_made else 0.5)
        assert mixed.target_weight is not None
        assert float(mixed.target_weight.mean()) == pytest.approx(0.25)
    assert 240 < made < 360


def test_an_image_meets_what_was_made_of_it_no_more_often_than_by_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Targets drawn from ten images: the source is made of the same image in a tenth of cases."""
    monkeypatch.setitem(MADE, "damped", copied)
    system = small(pseudo=1.0)
    random = torch.Generator().manual_seed(0)
    met, rounds = 0, 4000
    for _ in range(rounds):
        number = int(torch.randint(10, (), generator=random))
        mixed = system.mixed(batch_of(number, size=1))
        met += round(100 * float(mixed.source[0, 0, 0, 0])) == number
    assert met / rounds == pytest.approx(0.1, abs=0.02)


def test_slabs_and_an_exact_memory() -> None:
    one, other = small(pseudo=0.5, slices=3), small(pseudo=0.5, slices=3)
    one.mixed(batch_of(1, slices=3))
    other.load_state_dict(one.state_dict())
    drawn = []
    for system in (one, other):
        torch.manual_seed(3)
        drawn.append(system.mixed(batch_of(2, slices=3)).source)
    assert torch.equal(*drawn)
    assert drawn[0].shape == (2, 3, 8, 8)
    assert not any(name.startswith("earlier") for name in one.lasting_state())


def test_the_oldest_leave_and_another_shape_begins_anew() -> None:
    kept = Earlier(3)
    kept.keep(torch.arange(4.0).reshape(4, 1, 1, 1))
    kept.keep(torch.full((1, 1, 1, 1), 9.0))
    assert kept.images.flatten().tolist() == [2, 3, 9]
    kept.keep(torch.zeros(1, 1, 2, 2))
    assert kept.images.shape == (1, 1, 2, 2)
    assert isinstance(nn.ModuleDict({"kept": kept})["kept"], Earlier)


# ---- the easy directions


@pytest.mark.parametrize("dims", [2, 3])
def test_bright_spots_come_down_to_their_surroundings(dims: int) -> None:
    image = torch.zeros(1, 1, *[21] * dims)
    image[(0, 0, *[10] * dims)] = 1
    made = damped(image)
    around = 1 - (1 - float(made[(0, 0, *[10] * dims)])) / 0.8
    assert 0 < around < 0.05, "the blur leaves little of one voxel"
    assert float((made - image).abs().flatten().topk(2).values[1]) == 0, "no other voxel changed"
    flat = torch.full((1, 1, *[9] * dims), 0.4)
    torch.testing.assert_close(damped(flat), flat)
    torch.testing.assert_close(damped(-image), -image, rtol=0, atol=0.05)


def test_the_brightest_turns_black() -> None:
    image = torch.tensor([-1.0, 0.0, 0.3, 0.5, 0.7, 1.0]).reshape(1, 1, 2, 3)
    expected = torch.tensor([-1.0, 0.0, 0.3, -0.25, -1.0, -1.0])
    torch.testing.assert_close(MADE["suppressed"](image).flatten(), expected)


def test_low_field_blurs_and_adds_noise() -> None:
    torch.manual_seed(0)
    image = torch.full((1, 1, 64, 64), 0.2)
    made = MADE["blurred"](image)
    assert float(made.mean()) == pytest.approx(0.2, abs=0.01)
    assert float(made.std()) == pytest.approx(0.05, rel=0.05)
    edge = image.clone()
    edge[..., 32:] = -0.8
    assert -0.8 < float(MADE["blurred"](edge)[..., 33].mean()) < -0.4


def test_wrong_arguments() -> None:
    for changes, sentence in (
        ({"pseudo": 1.5}, "pseudo is 1.5; a share"),
        ({"easy": "hard"}, 'easy is "hard"; damped, suppressed, blurred'),
        ({"earlier": 0}, "earlier is 0; at least 1"),
        ({"conditions": 2}, "two domains"),
    ):
        with pytest.raises(UsageError, match=sentence):
            small(**changes)
