from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medi2i.errors import DimensionError, UsageError
from medi2i.networks.deformation import (
    compose,
    integrate,
    invert,
    jacobian_determinant,
    leads_inside,
    least_jacobian,
    sample,
    warp,
)

SPATIAL = {2: (9, 12), 3: (7, 9, 8)}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positions(*spatial: int) -> Tensor:
    """(1, dims, *spatial): every voxel's own place."""
    axes = [torch.arange(float(n), dtype=torch.float64) for n in spatial]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def smooth(dims: int, size: int, strength: float) -> Tensor:
    """A velocity of a few waves that vanishes at the border; `strength` voxels at most."""
    x = positions(*(size,) * dims) / (size - 1)
    fade = torch.sin(math.pi * x).prod(1, keepdim=True) ** 2
    waves = [torch.sin(4 * x.roll(k, 1)[:, 0] + 5 * x[:, k] + k) for k in range(dims)]
    field = torch.stack(waves, 1) * fade
    return field * (strength / field.abs().max())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_no_displacement_changes_nothing(dims: int, dtype: torch.dtype, error: float) -> None:
    image = noise(2, 3, *SPATIAL[dims], dtype=dtype)
    still = torch.zeros(2, dims, *SPATIAL[dims], dtype=dtype)
    torch.testing.assert_close(warp(image, still), image, rtol=0, atol=error)
    assert torch.equal(warp(image, still, mode="nearest"), image)


@pytest.mark.parametrize("dims", [2, 3])
def test_whole_voxels_along_every_axis_in_the_order_of_the_axes(dims: int) -> None:
    image = noise(1, 2, *SPATIAL[dims], dtype=torch.float64)
    for axis in range(dims):
        for shift in (2, -1):
            u = torch.zeros(1, dims, *SPATIAL[dims], dtype=torch.float64)
            u[:, axis] = shift
            size = SPATIAL[dims][axis]
            # output(x) = image(x + shift), and beyond the border the border again
            came_from = (torch.arange(size) + shift).clamp(0, size - 1)
            expected = image.index_select(axis + 2, came_from)
            torch.testing.assert_close(warp(image, u), expected, rtol=0, atol=1e-12)
            assert torch.equal(warp(image, u, mode="nearest"), expected)


def test_between_voxels_by_hand() -> None:
    image = torch.tensor([[0.0, 1, 2], [10, 11, 12]])[None, None]
    u = torch.zeros(1, 2, 2, 3)
    u[0, 0, 0, 0], u[0, 1, 0, 0] = 0.5, 0.25  # half way down, a quarter to the right
    u[0, 1, 1, 2] = 7.0  # outside
    warped = warp(image, u)[0, 0]
    expected = torch.tensor([[5.25, 1, 2], [10, 11, 12]])
    torch.testing.assert_close(warped, expected, rtol=0, atol=1e-5)
    assert warp(image, u + 0.6, mode="nearest")[0, 0].tolist() == [[11, 12, 12], [11, 12, 12]]


def test_positions_may_lie_on_another_grid() -> None:
    image = positions(4, 5, 6).sum(1, keepdim=True)  # x + y + z
    where = torch.tensor([[1.5, 0.25], [2.0, 3.0], [0.5, 4.5]], dtype=torch.float64)
    values = sample(image, where.reshape(1, 3, 2, 1, 1))
    torch.testing.assert_close(values.flatten(), torch.tensor([4.0, 7.75], dtype=torch.float64))


def test_one_voxel_thick() -> None:
    image = noise(1, 1, 5, 1)
    u = torch.zeros(1, 2, 5, 1)
    u[:, 1] = 3.0  # there is nowhere to go
    torch.testing.assert_close(warp(image, u), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.bool, torch.int64])
def test_labels_stay_what_they_are(dtype: torch.dtype) -> None:
    labels = torch.arange(7 * 9 * 8).reshape(1, 1, 7, 9, 8)
    labels = (labels + (2**40 if dtype == torch.int64 else 0)).to(dtype)
    u = torch.zeros(1, 3, 7, 9, 8)
    u[:, 2] = 1.2
    moved = warp(labels, u, mode="nearest")
    assert moved.dtype == dtype
    assert torch.equal(moved[..., :-1], labels[..., 1:])


def test_half_precision_does_not_round_positions() -> None:
    image = positions(200, 2).float()[:, :1]  # the ramp 0..199
    u = torch.full((1, 2, 200, 2), 0.25, dtype=torch.bfloat16)
    assert warp(image.half(), u).dtype == torch.float16
    torch.testing.assert_close(warp(image, u)[:, :, :-1], image[:, :, :-1] + 0.25)
    velocity = torch.full((1, 2, 200, 2), 8.03125)
    exact = integrate(velocity)
    assert integrate(velocity.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(integrate(velocity.bfloat16()), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_composition_of_affine_maps_by_hand(dims: int) -> None:
    """Linear interpolation holds linear fields exactly, where they stay inside."""
    x = positions(*(11,) * dims)
    first = 0.25 * (x - 5) + 0.5  # x -> 1.25 x - 0.75
    then = -0.5 * (x - 5)  # x -> 0.5 x + 2.5
    together = -0.375 * (x - 5) + 0.5  # first after then: 1.25 (0.5 x + 2.5) - 0.75
    torch.testing.assert_close(compose(first, then), together, rtol=0, atol=1e-12)
    image = x.sum(1, keepdim=True)
    twice = warp(warp(image, first), then)
    inside = (slice(None), slice(None), *(slice(4, 7),) * dims)
    torch.testing.assert_close(twice[inside], warp(image, together)[inside], rtol=0, atol=1e-12)
    # the other order is another map
    assert (compose(then, first) - together).abs().max() > 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_composition_is_one_warp_after_the_other(dims: int) -> None:
    """But for what the second interpolation blurs, which vanishes on finer grids."""
    error = []
    for size in (17, 33):  # one scene on two grids
        image = torch.cos(8 * positions(*(size,) * dims) / (size - 1)).prod(1, keepdim=True)
        first = smooth(dims, size, (size - 1) / 16)
        then = smooth(dims, size, (size - 1) / 20).flip(1)
        twice = warp(warp(image, first), then)
        once = warp(image, compose(first, then))
        assert (once - warp(image, first + then)).abs().max() > 0.08  # it is no sum
        error.append(float((twice - once).abs().mean()))
    assert error[1] < error[0] / 2
    assert error[1] < 0.005


@pytest.mark.parametrize("dims", [2, 3])
def test_the_exponential_of_minus_v_undoes_that_of_v(dims: int) -> None:
    velocity = smooth(dims, 32, 4.0)
    there, back = integrate(velocity), integrate(-velocity)
    assert there.abs().max() > 2
    left = compose(there, back).abs()
    assert left.max() < 0.2
    assert left.mean() < 0.02
    assert (there + back).abs().max() > 5 * left.max()  # it is not the negated displacement
    assert least_jacobian(there) > 0


def test_half_the_velocity_twice_is_the_whole() -> None:
    velocity = smooth(2, 48, 4.0)
    half = integrate(velocity / 2)
    torch.testing.assert_close(compose(half, half), integrate(velocity), rtol=0, atol=0.02)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_velocity_is_a_shift_up_to_the_border(dims: int) -> None:
    velocity = torch.full((1, dims, *SPATIAL[dims]), 4.0)
    torch.testing.assert_close(integrate(velocity), velocity)


def test_the_exponential_of_a_linear_velocity() -> None:
    """dx/dt = a x has the solution x exp(a), which squaring reaches as (1 + a/n)**n."""
    x = positions(41, 41) - 20
    velocity = -0.3 * x  # towards the centre, so that nothing leaves the grid
    for steps in (2, 7):
        n = 2**steps
        grown = (1 - 0.3 / n) ** n
        torch.testing.assert_close(integrate(velocity, steps), (grown - 1) * x, rtol=0, atol=1e-10)
    assert abs((1 - 0.3 / 128) ** 128 - math.exp(-0.3)) < 1e-3
    assert torch.equal(integrate(velocity, 0), velocity)


def test_the_jacobian_of_an_affine_map() -> None:
    x = positions(6, 7)
    matrix = torch.tensor([[1.2, 0.3], [-0.4, 0.9]], dtype=torch.float64)
    u = torch.einsum("ij,bjxy->bixy", matrix, x) - x
    for determinant in (jacobian_determinant(u), least_jacobian(u)):
        torch.testing.assert_close(determinant, torch.full_like(determinant, 1.08 + 0.12))
    assert jacobian_determinant(u).shape == (1, 6, 7)

    x = positions(4, 5, 6)
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.25], [-1.0, 0.0, 1.5]]).double()
    u = torch.einsum("ij,bjxyz->bixyz", matrix, x) - x
    # 1 (2 * 1.5 - 0) - 0.5 (0 + 0.25)
    for determinant in (jacobian_determinant(u), least_jacobian(u)):
        torch.testing.assert_close(determinant, torch.full_like(determinant, 3 - 0.125))
    mirrored = -2 * (x - 2) * torch.tensor([1.0, 0, 0], dtype=x.dtype).reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(jacobian_determinant(mirrored), -torch.ones(1, 4, 5, 6).double())


def test_what_leads_out_of_the_image_by_hand() -> None:
    u = torch.zeros(1, 2, 3, 4)
    u[0, 0] = torch.tensor([-0.4, 0.0, 0.6])[:, None]  # rows 0 and 1 end inside, row 2 outside
    u[0, 1, 0, 0] = -1.0
    u[0, 1, 1, 2] = 2.0
    expected = torch.tensor([[False, True, True, True], [True, True, False, True], [False] * 4])
    assert leads_inside(u).tolist() == [[expected.tolist()]]
    assert leads_inside(torch.zeros(2, 3, 4, 5, 6)).all()


def test_the_smallest_fold_is_not_missed() -> None:
    u = torch.zeros(2, 2, 7, 7)
    u[1, 0, 3, 3] = 1.5  # one voxel is carried past its neighbour
    u[1, 0, 3, 3:] = 1.5
    u[1, 0, 3, :3] = 1.5  # a whole row, so that every slope along it is nought
    central = jacobian_determinant(u)
    assert central[1, 3].min() == 1  # central differences do not see the voxel itself
    assert least_jacobian(u).tolist() == [1.0, -0.5]


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_are_those_of_small_changes(dims: int) -> None:
    spatial = (3, 4) if dims == 2 else (2, 3, 3)
    image = noise(1, 1, *spatial, dtype=torch.float64).requires_grad_()
    # off the voxel centres, where the slope of the interpolation jumps, and inside
    towards = (torch.tensor(spatial).double() - 1).reshape(1, dims, *[1] * dims) / 2
    u = 0.4 * (towards - positions(*spatial)) + 0.11 + 0.05 * noise(1, dims, *spatial, seed=1)
    u.requires_grad_()
    assert torch.autograd.gradcheck(lambda i, d: warp(i, d), (image, u))
    assert torch.autograd.gradcheck(lambda a, b: compose(a, b), (u, u.detach().clone()))
    assert torch.autograd.gradcheck(lambda v: integrate(v, 1), (u,))
    assert torch.autograd.gradcheck(jacobian_determinant, (u,))
    assert torch.autograd.gradcheck(least_jacobian, (u,))


def test_a_shift_is_found_by_descent() -> None:
    x = positions(20, 20)
    shift = torch.tensor([2.0, -1.0], dtype=x.dtype).reshape(1, 2, 1, 1)
    target = torch.exp(-((x - 9.5) ** 2).sum(1, keepdim=True) / 18)
    moving = torch.exp(-((x - 9.5 - shift) ** 2).sum(1, keepdim=True) / 18)
    found = torch.zeros(1, 2, 1, 1, dtype=x.dtype, requires_grad=True)
    for _ in range(60):
        error = (warp(moving, integrate(found.expand(1, 2, 20, 20), 3)) - target).square().mean()
        (slope,) = torch.autograd.grad(error, found)
        found = (found.detach() - 40 * slope).requires_grad_()
    torch.testing.assert_close(found.detach(), shift, rtol=0, atol=0.05)


def test_on_the_device(device: torch.device) -> None:
    velocity, image = smooth(3, 12, 2.0).float(), noise(1, 1, 12, 12, 12)
    there = integrate(velocity.to(device))
    torch.testing.assert_close(there.cpu(), integrate(velocity), rtol=0, atol=1e-5)
    warped = warp(image.to(device), there).cpu()
    torch.testing.assert_close(warped, warp(image, integrate(velocity)), rtol=0, atol=1e-4)
    assert least_jacobian(there).cpu() > 0


def test_what_does_not_fit_is_refused() -> None:
    image, u = noise(1, 1, 6, 7), noise(1, 2, 6, 7)
    with pytest.raises(DimensionError, match="same spatial axes"):
        warp(image, noise(1, 2, 7, 6))
    with pytest.raises(DimensionError, match=r"\(B, 2, X, Y\)"):
        warp(image, noise(1, 3, 6, 7))
    with pytest.raises(DimensionError, match="2 or 3 spatial axes"):
        warp(noise(2, 1, 6, 7), u)
    with pytest.raises(DimensionError, match="2 or 3 spatial axes"):
        sample(noise(1, 1, 6), noise(1, 1, 6))
    with pytest.raises(DimensionError, match="one component"):
        integrate(noise(1, 1, 6, 7))
    with pytest.raises(DimensionError, match="one component"):
        compose(image, u)
    with pytest.raises(DimensionError, match="at least 2 voxels"):
        jacobian_determinant(noise(1, 2, 6, 1))
    with pytest.raises(UsageError, match="steps is -1"):
        integrate(u, -1)
    with pytest.raises(UsageError, match="cannot be interpolated"):
        warp(image.long(), u)
    with pytest.raises(UsageError, match='"linear" or "nearest"'):
        warp(image, u, mode="cubic")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a floating type was expected"):
        sample(image, torch.zeros(1, 2, 6, 7, dtype=torch.long))


@pytest.mark.parametrize("dims", [2, 3])
def test_there_and_back_again(dims: int) -> None:
    shift = torch.zeros(1, dims, *(12,) * dims)
    shift[:, 0], shift[:, 1] = 1.5, -0.5
    assert torch.allclose(invert(shift), -shift, atol=1e-5)
    u = smooth(dims, 24, 2.0)
    back = invert(u)
    assert float(compose(u, back).norm(dim=1).max()) < 0.02  # it is sought on the grid
    assert float(compose(back, u).norm(dim=1).mean()) < 0.05  # between its points
    with pytest.raises(DimensionError):
        invert(torch.zeros(1, dims + 1, *(8,) * dims))
