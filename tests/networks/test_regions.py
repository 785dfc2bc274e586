from __future__ import annotations

import pytest
import torch

from medi2i.networks.regions import Clusters, intensity_regions, pooled, spread


def test_equal_parts_of_the_range() -> None:
    image = torch.tensor([-1.3, -1, -0.51, -0.49, -0.01, 0.01, 0.51, 1, 1.7]).reshape(1, 1, 3, 3)
    regions = intensity_regions(image, 4)
    assert regions.shape == (1, 4, 3, 3)
    assert regions.argmax(1).flatten().tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert regions.sum(1).eq(1).all()


@pytest.mark.parametrize("spatial", [(4, 6), (4, 2, 6)])
def test_pooling_is_the_mean_of_a_region_and_spreading_gives_it_back(
    spatial: tuple[int, ...],
) -> None:
    image = torch.rand(2, 1, *spatial) * 2 - 1
    features = torch.randn(2, 5, *spatial)
    regions = intensity_regions(image, 3)
    codes = pooled(features, regions)
    assert codes.shape == (2, 3, 5)
    inside = regions[1, 2].bool()
    torch.testing.assert_close(codes[1, 2], features[1][:, inside].mean(1))
    back = spread(codes, regions)
    assert back.shape == features.shape
    torch.testing.assert_close(back[1][:, inside][:, 0], codes[1, 2])
    torch.testing.assert_close(pooled(back, regions), codes)


def test_a_region_that_is_nowhere_has_zeros() -> None:
    regions = intensity_regions(torch.zeros(1, 1, 4, 4), 2)
    assert pooled(torch.ones(1, 3, 4, 4), regions).tolist() == [[[0, 0, 0], [1, 1, 1]]]


def memory(**changes: int) -> Clusters:
    return Clusters(**({"kinds": 1, "regions": 1, "features": 1, "clusters": 2} | changes))


def meet(clusters: Clusters, *codes: float, kind: int = 0, there: bool = True) -> None:
    for code in codes:
        clusters.learn(
            torch.full((1, clusters.regions, 1), code),
            torch.full((1, clusters.regions), there),
            torch.tensor([kind]),
        )


def test_nothing_met_is_zeros() -> None:
    clusters, kind = memory(), torch.tensor([0])
    assert clusters.mean(kind).tolist() == [[[0]]]
    assert clusters.pick(torch.zeros(1, 1), kind).tolist() == [[[0]]]


def test_the_first_codes_become_centres_and_the_next_move_the_nearest() -> None:
    clusters = memory(window=10**9)
    meet(clusters, -1, 1, 0.5, -0.5, -0.6)
    # 1 and 0.5 meet in 0.75; -1, -0.5 and -0.6 in -0.7
    torch.testing.assert_close(clusters.centres[0, :, 0], torch.tensor([-0.7, 0.75]))
    torch.testing.assert_close(clusters.met, torch.tensor([[3.0, 2.0]]))
    mean = clusters.mean(torch.tensor([0]))
    torch.testing.assert_close(mean, torch.tensor([[[-0.6 / 5]]]))


def test_every_centre_is_as_likely_and_the_code_alone_decides() -> None:
    clusters = memory(clusters=4)
    meet(clusters, 1, 2, 3)  # the fourth is free
    normal = torch.randn(3000, 1)
    picked = clusters.pick(normal, torch.zeros(3000, dtype=torch.long)).flatten()
    for centre in (1, 2, 3):
        assert float((picked == centre).float().mean()) == pytest.approx(1 / 3, abs=0.05)
    lowest, highest = torch.tensor([[-9.0]]), torch.tensor([[9.0]])
    assert float(clusters.pick(lowest, torch.tensor([0]))) == 1
    assert float(clusters.pick(highest, torch.tensor([0]))) == 3


def test_absent_regions_and_other_kinds_are_left_alone() -> None:
    clusters = memory(kinds=2, regions=2)
    meet(clusters, 1, kind=1)
    meet(clusters, 2, kind=0, there=False)
    assert clusters.mean(torch.tensor([0, 1])).tolist() == [[[0], [0]], [[1], [1]]]


def test_a_centre_that_is_not_met_any_more_makes_room() -> None:
    clusters = memory(window=10)
    meet(clusters, -1, 1, *[1.0] * 5, -0.9)
    torch.testing.assert_close(clusters.centres[0, :, 0], torch.tensor([-0.9, 1.0]))
    clusters = memory(window=1000)
    meet(clusters, -1, 1, *[1.0] * 5, -0.9)
    torch.testing.assert_close(
        clusters.centres[0, :, 0], torch.tensor([-0.95, 1.0]), atol=1e-2, rtol=0
    )


def test_two_heaps_are_found() -> None:
    torch.manual_seed(0)
    clusters = memory(window=200)
    for heap in torch.randint(2, (300,)).tolist():
        meet(clusters, (0.6 if heap else -0.4) + 0.05 * float(torch.randn(())))
    found = clusters.centres[0, :, 0].sort().values
    torch.testing.assert_close(found, torch.tensor([-0.4, 0.6]), atol=0.02, rtol=0)
