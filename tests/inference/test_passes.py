from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.inference.passes import AXIAL, Pass, Quality, passes_of
from medi2i.inference.translate import run_model, translate
from medi2i.model import Model
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.task import Task, View
from medi2i.volume import Volume

T1W, T2W = Contrast.T1W, Contrast.T2W
LOOKS = [Pass(across, mirrored) for across in range(3) for mirrored in (False, True)]


class Slope(Translator):
    """Adds the place along the first axis of its window to the image, `slope` per voxel."""

    paper = Paper("none")
    pairing = Pairing.PAIRED
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    slope = 0.0

    def play(self, batch: Batch) -> Iterator[Turn]:
        yield from ()

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        places = torch.arange(source.shape[2], dtype=source.dtype).reshape(1, 1, -1, 1)
        return self.centre(source) + self.slope * places


def model(slope: float = 0.0, spacing: float | None = None) -> Model:
    system = Slope(slices=3).eval()
    system.slope = slope
    view = View(slices=3, spacing=spacing)
    return Model("slope", "slope", {}, Task((T1W,), (T2W,)), view, system, "none")


def scan(*shape: int, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    voxels = np.random.default_rng(1).random(shape, np.float32)
    return Volume.of(voxels, affine=np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_what_a_look_turns_it_turns_back(look: Pass) -> None:
    volume = torch.rand(2, 4, 5, 6)
    shown = look.shown(volume)
    assert shown.shape[1:] == tuple((4, 5, 6)[axis] for axis in look.order)
    assert torch.equal(look.back(shown), volume)


def test_slices_lie_across_the_axis_and_mirroring_exchanges_left_and_right() -> None:
    volume = torch.rand(1, 4, 5, 6)
    assert torch.equal(Pass(1).shown(volume)[..., 2], volume[:, :, 2])
    assert torch.equal(Pass(0).shown(volume)[..., 3], volume[:, 3])
    assert torch.equal(Pass(mirrored=True).shown(volume)[:, 0], volume[:, 3])
    assert torch.equal(AXIAL.shown(volume), volume)


@pytest.mark.parametrize("quality", Quality)
def test_a_network_that_changes_nothing_changes_nothing_in_any_number_of_looks(
    quality: Quality,
) -> None:
    source = scan(7, 9, 6)
    result = run_model(model(), {T1W: source}, T2W, quality=quality)
    np.testing.assert_allclose(result.volume.voxels, source.voxels, atol=1e-6)


def test_the_answer_is_the_mean_of_the_looks() -> None:
    source = scan(7, 9, 6)
    x, y, _ = np.meshgrid(*map(np.arange, source.shape), indexing="ij")
    made = {
        quality: run_model(model(0.5), {T1W: source}, T2W, quality=quality).volume.voxels
        - source.voxels
        for quality in Quality
    }
    np.testing.assert_allclose(made[Quality.FAST], 0.5 * x, atol=1e-6)
    # axial and coronal windows begin with x, sagittal ones with y
    np.testing.assert_allclose(made[Quality.PLANES], 0.5 * (2 * x + y) / 3, atol=1e-5)
    np.testing.assert_allclose(made[Quality.BEST], 0.5 * (2 * x + (6 - x) + y) / 4, atol=1e-5)


def test_thick_slices_and_patches_are_shown_in_no_other_plane() -> None:
    thick, fine = (0.5, 0.5, 5.0), (1.2, 1.0, 1.0)
    assert passes_of(Quality.BEST, thick, 2) == (AXIAL, Pass(mirrored=True))
    assert passes_of(Quality.PLANES, thick, 2) == (AXIAL,)
    assert passes_of(Quality.BEST, fine, 3) == (AXIAL, Pass(mirrored=True))
    assert passes_of(Quality.FAST, fine, 2) == (AXIAL,)
    assert len(passes_of(Quality.PLANES, fine, 2)) == 3


def test_every_plane_is_seen_at_the_spacing_that_the_network_knows() -> None:
    source, steps = scan(10, 12, 8, spacing=(2, 1, 1.5)), []
    slope = model(spacing=1.0)
    result = run_model(
        slope, {T1W: source}, T2W, quality=Quality.PLANES, watch=lambda *at: steps.append(at)
    )
    assert result.passes == ("axial", "coronal", "sagittal")
    assert result.working_shape == (20, 12, 8)
    assert {total for _, total in steps} == {8 + 12 + 20}  # slices of the three planes
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (40, 40)
    assert result.volume.shape == source.shape


def test_an_unknown_quality_is_named() -> None:
    with pytest.raises(UsageError, match=r'"finest" is unknown.*fast, planes, best'):
        translate(scan(6, 6, 6), to="t2", source="t1", model=model(), quality="finest")
