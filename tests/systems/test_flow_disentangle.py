from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.networks.invertible import ActNorm, bits_per_dimension, log_standard_normal
from medi2i.systems.flow_disentangle import Expectation, FlowDisentangle, _covariance

TINY: dict[str, Any] = {"levels": 2, "steps": 2, "width": 8, "features": 4}


def small(**changes: Any) -> FlowDisentangle:
    torch.manual_seed(0)
    return FlowDisentangle(**(TINY | changes))


def blobs(count: int, channels: int, size: tuple[int, ...], seed: int) -> Tensor:
    """Smooth images in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, channels, *[4] * len(size), generator=random) * 2 - 1
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return nn.functional.interpolate(rough, size=size, mode=mode)


def disturbed(system: FlowDisentangle, size: float = 0.05) -> FlowDisentangle:
    """Weights as training might leave them."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
        for module in system.modules():
            if isinstance(module, ActNorm):
                module.initialised.fill_(1)
    return system.eval()


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


VARIANTS: list[dict[str, Any]] = [
    {},
    {"told": "couplings"},
    {"dims": 3},
    {"squeezed": 2, "code": 3, "slices": 3},
]


@pytest.mark.parametrize("arguments", VARIANTS)
def test_codes_are_undone(arguments: dict[str, Any]) -> None:
    system = disturbed(small(**arguments))
    size = (16, 24) if system.dims == 2 else (8, 8, 12)
    x, source = blobs(2, 1, size, 0), blobs(2, system.channels, size, 1)
    for dtype, limit in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        system = system.to(dtype)
        features = system.known(source.to(dtype), None)
        codes, _ = system.encode(x.to(dtype), features)
        assert largest(system.decode(codes, features) - x.to(dtype)) < limit
    assert sum(z.numel() for z in codes) == x.numel()


@pytest.mark.parametrize("arguments", [{}, {"told": "couplings"}])
def test_the_determinant_with_the_source_held(arguments: dict[str, Any]) -> None:
    system = disturbed(small(**arguments)).double()
    x, source = (blobs(1, 1, (8, 8), n).double() for n in range(2))
    features = [f.detach() for f in system.known(source, None)]

    def flat(v: Tensor) -> Tensor:
        return torch.cat([z.flatten() for z in system.encode(v, features)[0]])

    matrix = torch.autograd.functional.jacobian(flat, x).reshape(64, 64)
    measured = float(torch.linalg.slogdet(matrix)[1])
    assert float(system.encode(x, features)[1].detach()) == pytest.approx(measured, abs=1e-9)


def test_a_fresh_system_has_the_likelihood_of_the_flow_alone() -> None:
    system = small(bins=256, l1=0.0).eval()
    x, source = blobs(2, 1, (16, 16), 0), blobs(2, 1, (16, 16), 1)
    codes, total = system.encode(x, system.known(source, None))
    alone = bits_per_dimension(system.flow.log_density(x), x)
    assert torch.allclose(bits_per_dimension(log_standard_normal(codes) + total, x), alone)


def test_n_does_not_know_the_source_and_d_does() -> None:
    system = disturbed(small())
    x, source = blobs(2, 1, (16, 16), 0), blobs(2, 1, (16, 16), 1)
    right, _ = system.encode(x, system.known(source, None))
    wrong, _ = system.encode(x, system.known(source.flip(0), None))
    for one, other in zip(right, wrong, strict=True):
        (d, n), (d_wrong, n_wrong) = one.chunk(2, 1), other.chunk(2, 1)
        assert torch.equal(n, n_wrong)
        assert largest(d - d_wrong) > 1e-4


def test_a_wrong_source_does_not_bring_the_image_back() -> None:
    for arguments in ({}, {"told": "couplings"}):
        system = disturbed(small(**arguments))
        x, source = blobs(2, 1, (16, 16), 0), blobs(2, 1, (16, 16), 1)
        codes, _ = system.encode(x, system.known(source, None))
        assert largest(system.decode(codes, system.known(source.flip(0), None)) - x) > 1e-3


def test_swapped_codes_come_back() -> None:
    system = disturbed(small())
    features = system.known(blobs(2, 1, (16, 16), 1), None)
    codes, _ = system.encode(blobs(2, 1, (16, 16), 0), features)
    swapped = [torch.cat([z.chunk(2, 1)[0], z.chunk(2, 1)[1].flip(0)], 1) for z in codes]
    again, _ = system.encode(system.decode(swapped, features), features)
    for one, other in zip(swapped, again, strict=True):
        assert largest(one - other) < 1e-4


def test_the_likeliest_image_is_one_and_samples_are_many() -> None:
    system = disturbed(small())
    source, code = blobs(2, 1, (15, 18), 1), torch.zeros(2, 0)
    assert torch.equal(system.translate(source), system.translate(source))
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(system.sample(source, code))
    assert drawn[0].shape == source.shape
    assert torch.equal(drawn[0], drawn[1])
    assert largest(drawn[0] - drawn[2]) > 0.1
    system.temperature = 0.0
    assert torch.equal(system.sample(source, code), system.translate(source))


def test_the_spread_of_samples_is_the_temperature() -> None:
    # fresh and outside training the flow is a rotation: noise stays noise of the same size
    system = small(temperature=0.5).eval()
    torch.manual_seed(0)
    drawn = system.sample(torch.zeros(8, 1, 32, 32), torch.zeros(8, 0))
    assert float(drawn.detach().std()) == pytest.approx(0.5, rel=0.03)
    assert largest(system.translate(torch.zeros(1, 1, 8, 8))) == 0


def test_a_squeezed_expectation_is_one_for_the_whole_image() -> None:
    torch.manual_seed(0)
    expect = Expectation(2, 4, 3, code=2)
    with torch.no_grad():
        for parameter in expect.parameters():
            parameter.normal_()
    feature = torch.randn(2, 4, 6, 6)
    mean, log_deviation = expect(feature)
    assert mean.shape == (2, 3, 6, 6)
    assert largest(mean - mean[:, :, :1, :1]) == 0
    assert largest(mean[0] - mean[1]) > 1e-3
    assert largest(log_deviation) < 3
    # places do not matter to it, only what is there
    assert torch.allclose(expect(feature.flip(2))[0], mean, atol=1e-5)
    assert [e.squeeze is not None for e in small(squeezed=1).expectation] == [False, True]


def test_covariance_by_hand() -> None:
    # one voxel, one feature: n = 1, -1 with the source 2, -2: covariance (1 * 2 + 1 * 2) / 1 = 4
    feature = torch.tensor([2.0, -2.0]).reshape(2, 1, 1, 1)
    n = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    d = torch.full_like(n, 5.0)
    assert float(_covariance([torch.cat([d, n], 1)], [feature])) == pytest.approx(16)
    assert float(_covariance([torch.cat([n, d], 1)], [feature])) == 0


def test_losses_of_the_variants() -> None:
    batch = Batch(blobs(2, 1, (16, 16), 0), blobs(2, 1, (16, 16), 1))
    for arguments, names in (
        ({}, {"bits", "l1"}),
        ({"l1": 0.0}, {"bits"}),
        ({"told": "couplings"}, {"bits", "l1", "independence"}),
        ({"told": "couplings", "independence": 0.0}, {"bits", "l1"}),
    ):
        (turn,) = small(**arguments).play(batch)
        assert set(turn.losses) == names


def test_it_learns_to_follow_the_source() -> None:
    system = small(l1=5.0)
    optimiser = torch.optim.Adam(system.parameters(), 5e-3)
    first = None
    for step in range(30):
        source = blobs(4, 1, (16, 16), step)
        for turn in system.train().play(Batch(source, -source)):
            optimiser.zero_grad()
            turn.objective.backward()
            nn.utils.clip_grad_norm_(system.parameters(), 5.0)
            optimiser.step()
            first = first or {k: float(v.detach()) for k, v in turn.losses.items()}
    assert first is not None
    source = blobs(4, 1, (16, 16), 99)
    with torch.no_grad():
        (turn,) = system.eval().play(Batch(source, -source))
        assert float(turn.losses["l1"]) < 0.7 * first["l1"]
        features = system.known(source, None)
        bits = []
        for seen in (features, [f.roll(1, 0) for f in features]):
            codes, total = system.encode(-source, seen)
            bits.append(
                float(bits_per_dimension(log_standard_normal(codes) + total, source).mean())
            )
        assert bits[1] > bits[0] + 0.05, "the source must matter to the density"


def test_what_is_refused() -> None:
    for wrong, message in (
        ({"told": "both"}, "told"),
        ({"squeezed": 3}, "squeezed"),
        ({"bins": 0}, "bins"),
    ):
        with pytest.raises(UsageError, match=message):
            small(**wrong)
