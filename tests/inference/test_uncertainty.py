from __future__ import annotations

import numpy as np
import pytest
import torch

from medi2i import Volume
from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.inference.translate import UNCERTAINTY, run_model
from medi2i.model import Model, build_system
from medi2i.task import Task, View

T1W, T2W = Contrast.T1W, Contrast.T2W


def tiny(**arguments: object) -> Model:
    torch.manual_seed(0)
    task, view = Task((T1W,), (T2W,)), View(dims=2)
    chosen = {"features": (4, 8), **arguments}
    return Model("tiny", "unet", chosen, task, view, build_system("unet", chosen, task, view))


@pytest.fixture
def scan() -> Volume:
    voxels = np.random.default_rng(0).random((20, 24, 8)).astype(np.float32) * 500 + 100
    voxels[:6] = 0
    return Volume.of(voxels, np.diag([-1.0, 1.0, 3.0, 1.0]))


def test_the_map_lies_on_the_scan_and_is_positive_in_the_head(scan: Volume) -> None:
    result = run_model(tiny(spread=1.0), {T1W: scan}, T2W, uncertainty=True)
    unsure = result.maps[UNCERTAINTY]
    assert unsure.shape == scan.shape
    np.testing.assert_array_equal(unsure.affine, scan.affine)
    assert (unsure.voxels[8:] > 0).all()
    assert not unsure.voxels[:4].any(), "blank air is known"
    alone = run_model(tiny(spread=1.0), {T1W: scan}, T2W)
    np.testing.assert_allclose(result.volume.voxels, alone.volume.voxels, rtol=1e-5, atol=1e-3)
    assert not alone.maps


def test_it_is_in_the_units_of_the_scan(scan: Volume) -> None:
    model = tiny(spread=1.0)
    louder = scan.like(scan.voxels * 10)
    one, ten = (
        run_model(model, {T1W: v}, T2W, uncertainty=True).maps[UNCERTAINTY].voxels
        for v in (scan, louder)
    )
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-3, atol=1e-3)


def test_a_model_that_does_not_know_says_so(scan: Volume) -> None:
    with pytest.raises(UsageError, match="does not know how sure"):
        run_model(tiny(), {T1W: scan}, T2W, uncertainty=True)
