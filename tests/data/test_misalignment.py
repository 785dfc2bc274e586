from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medi2i.batch import Pairing
from medi2i.config import build
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort
from medi2i.data.misalignment import Misalignment
from medi2i.data.pairs import PairedWindows
from medi2i.data.settings import Data
from medi2i.errors import ConfigError, UsageError
from medi2i.task import Task, View
from tests.data.conftest import Voxels, Write, alike, noise

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
PAIR = Task((T1W,), (T2W,))


def windows(
    cohort: Cohort, level: float, view: View | None = None, **more: object
) -> PairedWindows:
    task = more.pop("task", PAIR)
    assert isinstance(task, Task)
    settings = Data(
        size=16,
        augmentation=Augmentation.none(),
        misalignment=level,
        **more,  # type: ignore[arg-type]
    )
    supply = settings.windows(cohort, task, view or View(), Pairing.PAIRED, seed=3)
    assert isinstance(supply, PairedWindows)
    return supply


def smooth(shape: tuple[int, int, int] = (20, 18, 10)) -> Voxels:
    """A scan without air, smooth enough to be interpolated."""
    x, y, z = (np.arange(n, dtype=np.float32) / n for n in shape)
    voxels = 500 + 200 * np.sin(5 * x[:, None, None] + 2 * y[:, None] ** 2) + 100 * z
    return voxels.astype(np.float32)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_quarter_turn_and_whole_voxels_by_hand(dims: int) -> None:
    window = torch.from_numpy(noise((6, 6, 6)))[None] / 1000
    matrix = torch.eye(dims, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[0.0, -1], [1, 0]])
    offset = torch.zeros(dims, dtype=torch.float64)
    off = Misalignment(1, dims)
    turned, inside = off.moved(window, matrix, offset)
    # (row, column) comes from (-column, row), seen from the middle
    torch.testing.assert_close(turned, torch.rot90(window, -1, (1, 2)), rtol=0, atol=1e-5)
    assert inside.all()
    offset[1] = 2.0
    shifted, inside = off.moved(window, torch.eye(dims, dtype=torch.float64), offset)
    torch.testing.assert_close(shifted[:, :, :4], window[:, :, 2:], rtol=0, atol=1e-5)
    assert (shifted[:, :, 4:] == -1).all()
    assert inside[:, :, :4].all()
    assert not inside[:, :, 4:].any()
    assert inside.shape == window.shape


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_drawn_keeps_to_its_level(dims: int) -> None:
    """Level 5: 5 degrees, 10 % of the window, a scale of 0.9 to 1.1; and it goes that far."""
    rng, off = np.random.default_rng(0), Misalignment(5, dims)
    spatial = (50, 100, 20)[:dims]
    drawn = [off.drawn(spatial, rng) for _ in range(300)]
    scales = torch.stack([matrix.det().abs() ** (1 / dims) for matrix, _ in drawn])
    assert 0.9 <= scales.min() < 0.91
    assert 1.09 < scales.max() <= 1.1
    for (matrix, _), scale in zip(drawn, scales, strict=True):
        turn = matrix / scale
        torch.testing.assert_close(turn @ turn.T, torch.eye(dims, dtype=turn.dtype))
    offsets = torch.stack([offset for _, offset in drawn]).abs() / torch.tensor(spatial)
    assert offsets.max() <= 0.1
    assert (offsets.amax(0) > 0.095).all()
    if dims == 2:
        angles = [abs(math.degrees(math.atan2(m[1, 0], m[0, 0]))) for m, _ in drawn]
        assert 4.9 < max(angles) <= 5


def test_level_0_is_the_very_supply_that_it_was(write: Write) -> None:
    cohort = write({"sub-1": {T1W: noise(), T2W: noise(seed=1)}})
    usual = PairedWindows(cohort, PAIR, View(), size=16, augmentation=Augmentation.none(), seed=3)
    supply = windows(cohort, 0)
    assert all(alike(supply[n], usual[n]) for n in range(4))


@pytest.mark.parametrize("view", [View(), View(slices=3), View(dims=3)], ids=str)
def test_sample_n_depends_on_seed_and_n_alone(write: Write, view: View) -> None:
    cohort = write({"sub-1": {T1W: smooth(), T2W: smooth()}})
    first, again = windows(cohort, 3, view), windows(cohort, 3, view)
    forwards = [first[n] for n in range(4)]
    assert all(alike(again[n], forwards[n]) for n in reversed(range(4)))
    assert not alike(forwards[0], windows(cohort, 2, view)[0])


@pytest.mark.parametrize("view", [View(), View(dims=3)], ids=str)
def test_source_and_target_go_their_own_ways_and_further_with_the_level(
    write: Write, view: View
) -> None:
    cohort = write({"sub-1": {T1W: smooth(), T2W: smooth()}})

    def apart(level: float) -> float:
        supply, found = windows(cohort, level, view), []
        for number in range(12):
            sample = supply[number]
            both = (sample.source > -1) & (sample.target > -1)
            found.append(float((sample.source - sample.target)[both].abs().mean()))
        return float(np.mean(found))

    none, little, much = apart(0), apart(1), apart(5)
    assert none == 0
    assert 0.01 < little < much / 2


def test_weight_neighbours_and_all_targets_go_with_the_target(write: Write) -> None:
    left = smooth()
    left[:9] = 0  # air on one side, in everything
    cohort = write({"sub-1": {T1W: left, T2W: left, FLAIR: left}})
    many = (T1W, T2W, FLAIR)
    supply = windows(cohort, 5, View(slices=3), task=Task(many, many, True), background=0.25)
    outside = 0
    for number in range(8):
        sample = supply[number]
        assert sample.every is not None
        assert sample.target_slab is not None
        for other in (*sample.every, sample.target_slab[1]):  # all three hold the same voxels
            torch.testing.assert_close(other, sample.target[0], rtol=0, atol=1e-5)
        air = sample.target[0] < -0.999
        weight: Tensor = sample.weight[0]
        assert (weight[~air] > 0.25).all()
        assert (weight[air] <= 0.2501).all()
        outside += int((weight[air] == 0).sum())
        # and it is not the source's
        assert not torch.equal(sample.source[1] < -0.999, air)
    assert outside  # what came in from beyond the window teaches nothing


def test_it_is_said_in_the_recipe_and_refused_where_there_are_no_pairs(write: Write) -> None:
    cohort = write({f"sub-{n}": {T1W: noise(), T2W: noise()} for n in range(4)})
    data = build(Data, {"size": 16, "misalignment": 3}, where="recipe")
    supply = data.windows(cohort, PAIR, View(), Pairing.PAIRED)
    assert isinstance(supply, PairedWindows)
    assert supply.misalignment.level == 3
    with pytest.raises(ConfigError, match="no pairs are drawn here"):
        data.windows(cohort, PAIR, View(), Pairing.UNPAIRED)
    with pytest.raises(ConfigError, match="no pairs are drawn here"):
        data.windows(
            cohort, Task((T1W,), (T1W,), domains=("healthy", "diseased")), View(), Pairing.PAIRED
        )
    with pytest.raises(ConfigError, match="guidance by motion between slices"):
        data.windows(cohort, PAIR, View(), Pairing.PAIRED, motion="demons")
    for level in (-1.0, 15.0):
        with pytest.raises(UsageError, match="a level from 0 to 15"):
            replace(data, misalignment=level).windows(cohort, PAIR, View(), Pairing.PAIRED)
