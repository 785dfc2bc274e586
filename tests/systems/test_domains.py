from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.systems.domains import asked_domain, crossing, domains_of, slab
from medi2i.systems.stargan import StarGAN

TINY: dict[str, Any] = {
    "features": 2,
    "blocks": 1,
    "discriminator_features": 2,
    "discriminator_layers": 2,
    "window": 8,
}


def system_of(**changes: Any) -> StarGAN:
    return StarGAN(**(TINY | changes))


def on_demand(origin: list[int], asked: list[int], lacking: tuple[int, ...] = ()) -> Batch:
    """Three contrasts and three slices; `every[i, d]` is the constant 10 i + d."""
    size = len(origin)
    every = torch.arange(size)[:, None] * 10.0 + torch.arange(3)
    every = every[:, :, None, None].expand(-1, -1, 8, 8)
    came, wanted = torch.tensor(origin), torch.tensor(asked)
    known = torch.nn.functional.one_hot(came, 3) == 0
    for person in lacking:  # has nothing but its source and its target
        known[person] &= torch.arange(3) == wanted[person]
    people = torch.arange(size)
    source = every[people, came].unsqueeze(1) + torch.tensor([-0.5, 0.0, 0.5])[:, None, None]
    target = every[people, wanted].unsqueeze(1)
    return Batch(source, target, None, came, wanted, every, known)


def test_the_centre_slice_of_each_contrast_is_the_image() -> None:
    system = system_of(inputs=2, outputs=2, slices=3)
    source = torch.arange(6.0).reshape(1, 6, 1, 1).expand(-1, -1, 8, 8)
    images = crossing(system, Batch(source, torch.zeros(1, 2, 8, 8)))
    assert images.image[0, :, 0, 0].tolist() == [1, 4]


def test_a_slice_that_goes_in_again_is_its_own_neighbour() -> None:
    image = torch.tensor([3.0, 7.0]).reshape(1, 2, 1, 1)
    assert slab(image, 3).flatten().tolist() == [3, 3, 3, 7, 7, 7]
    assert slab(image, 1) is image


def test_a_fixed_task_is_played_both_ways() -> None:
    system = system_of(slices=3)
    source, target = torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    weight = torch.rand(2, 1, 8, 8)
    images = crossing(system, Batch(source, target, weight))
    centre = source[:, 1:2]
    assert images.origin.tolist() == [0, 0, 1, 1]
    assert images.asked.tolist() == [1, 1, 0, 0]
    assert torch.equal(images.source, torch.cat([source, target.expand(-1, 3, -1, -1)]))
    assert torch.equal(images.image, torch.cat([centre, target]))
    assert torch.equal(images.real, torch.cat([target, centre]))
    assert torch.equal(images.other, torch.cat([target.flip(0), centre.flip(0)]))
    assert images.weight is not None
    assert torch.equal(images.weight, torch.cat([weight, weight]))


def test_on_demand_every_image_comes_with_its_domain() -> None:
    batch = on_demand([0, 2], [1, 0])
    images = crossing(system_of(conditions=3, slices=3), batch)
    assert torch.equal(images.source, batch.source)
    assert images.image[:, 0, 0, 0].tolist() == [0, 12]
    assert (images.origin.tolist(), images.asked.tolist()) == ([0, 2], [1, 0])
    assert torch.equal(images.real, batch.target)


def test_the_second_reference_is_the_nearest_other_person_with_that_contrast() -> None:
    system = system_of(conditions=3, slices=3)
    images = crossing(system, on_demand([0, 1, 2], [1, 2, 0]))
    # the source of a person serves too: person 2's source is of domain 2, which person 1 asked for
    assert images.other[:, 0, 0, 0].tolist() == [11, 22, 0]
    images = crossing(system, on_demand([0, 0, 2], [1, 2, 0], lacking=(1,)))
    assert images.other[:, 0, 0, 0].tolist() == [21, 22, 0]  # person 1 has no domain 1
    alone = on_demand([0], [1])
    assert torch.equal(crossing(system, alone).other, alone.target)


@pytest.mark.parametrize("field", ["source_contrast", "target_contrast", "every", "known"])
def test_a_batch_must_say_what_its_images_are(field: str) -> None:
    changes: dict[str, Any] = {field: None}
    batch = replace(on_demand([0, 2], [1, 0]), **changes)
    with pytest.raises(UsageError, match="name their contrasts"):
        crossing(system_of(conditions=3, slices=3), batch)


def test_sources_and_targets_must_be_one_list() -> None:
    system, batch = system_of(conditions=3, slices=3), on_demand([0, 2], [1, 0])
    for wrong in ([1, 2], [3, 2], [-1, 2]):  # the first: a target that was acquired
        with pytest.raises(UsageError, match="same contrasts as sources and as targets"):
            crossing(system, replace(batch, source_contrast=torch.tensor(wrong)))


def test_there_must_be_a_way_back() -> None:
    with pytest.raises(UsageError, match="2 and 1 were given"):
        system_of(inputs=2)
    assert domains_of(system_of(inputs=2, outputs=2)) == 2
    assert domains_of(system_of(conditions=4)) == 4


def test_which_domain_is_asked_for() -> None:
    source = torch.zeros(3, 1, 8, 8)
    assert asked_domain(system_of(), source, None).tolist() == [1, 1, 1]
    wanted = torch.tensor([2, 0, 1])
    assert asked_domain(system_of(conditions=3), source, wanted).tolist() == [2, 0, 1]
    with pytest.raises(UsageError, match="serves 3 contrasts"):
        asked_domain(system_of(conditions=3), source, None)
