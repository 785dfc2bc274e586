from __future__ import annotations

import numpy as np
import pytest
import torch

from medi2i.losses import absolute_error, aligned


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(seed))


def test_gain_and_offset_are_undone() -> None:
    reference = images(0)
    predicted = 0.5 * reference - 0.7
    torch.testing.assert_close(aligned(predicted, reference), reference)
    assert float(absolute_error(predicted, reference)) > 0.5


def test_it_is_the_least_squares_fit_of_each_channel() -> None:
    predicted, reference, weight = images(0), images(1), images(2)[:, :1]
    fitted = aligned(predicted, reference + 2 * predicted, weight)
    for sample in range(2):
        for channel in range(3):
            p = predicted[sample, channel].double().numpy().ravel()
            r = (reference + 2 * predicted)[sample, channel].double().numpy().ravel()
            root = np.sqrt(weight[sample, 0].double().numpy().ravel())
            columns = np.stack([p, np.ones_like(p)], 1)
            solution, *_ = np.linalg.lstsq(columns * root[:, None], r * root, rcond=None)
            np.testing.assert_allclose(
                fitted[sample, channel].numpy().ravel(), columns @ solution, atol=1e-4
            )


@pytest.mark.parametrize(("factor", "kept"), [(-1.0, 0.25), (100.0, 4.0), (2.0, 2.0)])
def test_the_gain_keeps_its_sign_and_its_bounds(factor: float, kept: float) -> None:
    predicted = images(3)
    fitted = aligned(predicted, factor * predicted)
    spread = fitted.std((2, 3)) / predicted.std((2, 3))
    torch.testing.assert_close(spread, torch.full_like(spread, kept))


def test_gradients_see_the_fit_as_given() -> None:
    predicted = images(4).requires_grad_()
    aligned(predicted, 2 * predicted.detach()).sum().backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, torch.full_like(predicted, 2.0))


def test_a_flat_prediction_and_no_weight_at_all_stay_finite() -> None:
    reference = images(5)
    assert torch.isfinite(aligned(torch.zeros_like(reference), reference)).all()
    nothing = torch.zeros(2, 1, 9, 7)
    assert torch.isfinite(aligned(images(6), reference, nothing)).all()
