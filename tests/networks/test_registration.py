from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medi2i.errors import DimensionError, UsageError
from medi2i.losses import squared_error
from medi2i.losses.registration import roughness
from medi2i.networks.deformation import compose, least_jacobian, warp
from medi2i.networks.registration import Motion, RegistrationNetwork


def blobs(count: int, *spatial: int, seed: int = 0) -> Tensor:
    """(count, 1, *spatial): smooth random structure in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, *(max(n // 6, 2) for n in spatial), generator=random)
    mode = "bicubic" if len(spatial) == 2 else "trilinear"
    return functional.interpolate(coarse, spatial, mode=mode, align_corners=True)


@pytest.mark.parametrize(("dims", "count"), [(2, 109_170), (3, 327_331)])
def test_the_parameters_are_those_of_the_paper(dims: int, count: int) -> None:
    network = RegistrationNetwork(dims)
    assert sum(p.numel() for p in network.parameters()) == count
    assert float(network.head.weight.detach().std()) == pytest.approx(1e-5, rel=0.15)


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("spatial", [(20, 33), (9, 16, 11), (5, 1)])
def test_a_fresh_network_moves_nothing_at_any_size(spatial: tuple[int, ...], halved: bool) -> None:
    torch.manual_seed(0)
    network = RegistrationNetwork(len(spatial), channels=2, halved=halved)
    moving, fixed = torch.rand(2, 2, 2, *spatial)
    motion = network(moving, fixed)
    assert isinstance(motion, Motion)
    for field in motion:
        assert field.shape == (2, len(spatial), *spatial)
        assert 0 < float(field.detach().abs().max()) < 1e-3
    torch.testing.assert_close(warp(moving, motion.displacement), moving, rtol=0, atol=1e-3)


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("spatial", [(20, 33), (10, 8, 13)])
def test_a_shift_is_a_shift_at_half_the_resolution_too(
    spatial: tuple[int, ...], halved: bool
) -> None:
    dims = len(spatial)
    network = RegistrationNetwork(dims, encoder=(2,), decoder=(2,), last=(), halved=halved)
    shift = torch.tensor([2.0, -1.5, 0.5][:dims]).reshape(1, -1, *[1] * dims)
    velocity = shift.expand(1, dims, *spatial)
    torch.testing.assert_close(network.exponential(velocity), velocity, rtol=0, atol=1e-4)
    # a zoom towards the first voxel is linear, so it too survives the coarser grid
    zoom = torch.stack(
        torch.meshgrid(*(-0.2 * torch.arange(float(n)) for n in spatial), indexing="ij")
    )[None]
    expected = 5 * (1 - (1 - 0.2 / 128) ** 128) * zoom
    torch.testing.assert_close(network.exponential(zoom), expected, rtol=0, atol=1e-3)


def test_the_parts_without_integration() -> None:
    network = RegistrationNetwork(2, steps=0)
    motion = network(*torch.rand(2, 1, 1, 16, 16))
    assert torch.equal(motion.velocity, motion.displacement)


def test_known_shifts_are_learned_and_recovered() -> None:
    """Three voxels either way along the first axis; on images that it has never seen."""
    torch.manual_seed(0)
    network = RegistrationNetwork(2, encoder=(8, 16), decoder=(16, 16), last=(16,))
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)

    def pair(seed: int, shift: int) -> tuple[Tensor, Tensor]:
        moving = blobs(4, 30, 24, seed=seed)
        fixed = moving.roll(-shift, 2)  # fixed(x) = moving(x + shift)
        return moving[:, :, 3:-3], fixed[:, :, 3:-3]

    for number in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, 2 - number / 100)
        moving, fixed = pair(number, 3 if number % 2 else -3)
        motion = network(moving, fixed)
        loss = squared_error(warp(moving, motion.displacement), fixed)
        loss = loss + 0.0005 * roughness(motion.velocity)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for shift in (3, -3):
        moving, fixed = pair(1000, shift)
        with torch.no_grad():
            motion = network(moving, fixed)
        inside = (..., slice(6, -6), slice(6, -6))  # what came in over the border is not known
        down, across = motion.displacement[inside].unbind(1)
        assert float(down.mean()) == pytest.approx(shift, abs=0.6)
        assert abs(float(across.mean())) < 0.3
        assert (least_jacobian(motion.displacement) > 0).all()
        before = squared_error(moving[inside], fixed[inside])
        after = squared_error(warp(moving, motion.displacement)[inside], fixed[inside])
        assert after < 0.1 * before
        # the other way comes with it
        back = network.exponential(-motion.velocity)
        assert compose(motion.displacement, back)[inside].abs().mean() < 0.1


def test_gradients_reach_everything() -> None:
    torch.manual_seed(0)
    network = RegistrationNetwork(3, encoder=(2, 4), decoder=(4, 4), last=(4,), halved=True)
    moving, fixed = torch.rand(2, 1, 1, 9, 8, 7)
    moving.requires_grad_()
    motion = network(moving, fixed)
    squared_error(warp(moving, motion.displacement), fixed).backward()
    slopes = [parameter.grad for parameter in (*network.parameters(), moving)]
    assert all(slope is not None and float(slope.abs().max()) > 0 for slope in slopes)


def test_half_precision_keeps_the_motion_in_full() -> None:
    network = RegistrationNetwork(2, encoder=(4,), decoder=(4,), last=()).bfloat16()
    motion = network(*torch.rand(2, 1, 1, 8, 8).bfloat16())
    assert motion.velocity.dtype == motion.displacement.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    network = RegistrationNetwork(2)
    with pytest.raises(DimensionError, match=r"\(B, 1, \*spatial\) with 2 spatial axes"):
        network(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9))
    with pytest.raises(DimensionError, match="2 spatial axes"):
        network(*torch.rand(2, 1, 1, 8, 8, 8))
    with pytest.raises(UsageError, match="encoder has 2 levels and the decoder 1"):
        RegistrationNetwork(2, encoder=(4, 4), decoder=(4,))
    with pytest.raises(UsageError, match="steps is -1"):
        RegistrationNetwork(2, steps=-1)
    with pytest.raises(UsageError, match="dims is 4"):
        RegistrationNetwork(4)
