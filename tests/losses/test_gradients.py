from __future__ import annotations

import pytest
import torch

from medi2i.losses import gradient_similarity_deviation


@pytest.mark.parametrize("shape", [(2, 1, 16, 20), (1, 2, 12, 10, 14)])
def test_identical_images_are_at_no_distance_and_give_a_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image = torch.rand(shape) * 2 - 1
    same = image.clone().requires_grad_()
    loss = gradient_similarity_deviation(same, image)
    assert float(loss.detach()) == 0
    loss.backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
    noisy = (image + 0.3 * torch.randn(shape)).requires_grad_()
    far = gradient_similarity_deviation(noisy, image)
    assert 0.01 < float(far.detach()) <= 0.5
    far.backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().max() > 1e-5
    torch.testing.assert_close(far.detach(), gradient_similarity_deviation(image, noisy.detach()))


def test_a_number_worked_out_by_hand() -> None:
    """A step of height h along the first axis against nothing, at 4 and at half as much height.

    At half the resolution the image has 6 rows and 6 columns, the maps 4 and 4. The step lies
    between rows 2 and 3, so rows 1 and 2 of the map, half of it, have the slope h, the others 0.
    """
    step = torch.zeros(1, 1, 12, 12)
    step[:, :, 6:] = 1.0
    stable = 170 / 255**2 * 4
    full, half, nothing = 1.0, 0.25, 0.0
    for height, other in ((full, nothing), (full, half), (half, nothing)):
        similarity = (2 * height * other + stable) / (height**2 + other**2 + stable)
        expected = (1 - similarity) / 2  # deviation of a map that is half this, half one
        found = gradient_similarity_deviation(height * step, other * step)
        assert float(found) == pytest.approx(expected, abs=2e-3)


def test_the_same_change_everywhere_costs_nothing() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 12, 12) / 12
    assert float(gradient_similarity_deviation(ramp, 0.5 * ramp)) == pytest.approx(0, abs=1e-4)
    assert float(gradient_similarity_deviation(ramp + 0.7, ramp)) == pytest.approx(0, abs=1e-4)


def test_voxels_without_weight_do_not_count() -> None:
    torch.manual_seed(0)
    image, other = torch.rand(1, 1, 16, 24), torch.rand(1, 1, 16, 24)
    weight = torch.zeros(1, 1, 16, 24)
    weight[..., :10] = 1
    changed = other.clone()
    changed[..., 14:] = torch.rand(1, 1, 16, 10)
    one = gradient_similarity_deviation(other, image, weight)
    assert torch.equal(one, gradient_similarity_deviation(changed, image, weight))
    assert not torch.equal(one, gradient_similarity_deviation(other, image))
    nothing = gradient_similarity_deviation(other, image, torch.zeros_like(weight))
    assert float(nothing) == 0


def test_contrast_counts_relative_to_the_range_of_values() -> None:
    torch.manual_seed(0)
    image, other = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    narrow = gradient_similarity_deviation(other, image, data_range=1.0)
    wide = gradient_similarity_deviation(100 * other, 100 * image, data_range=100.0)
    torch.testing.assert_close(narrow, wide, rtol=1e-3, atol=1e-5)
