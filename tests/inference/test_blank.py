from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.contrasts import Contrast
from medi2i.inference.blank import MARGIN, STEP, blank_air, worth_a_look
from medi2i.inference.passes import Quality
from medi2i.inference.translate import run_model
from medi2i.model import Model, build_system
from medi2i.task import Task, View
from medi2i.volume import Volume

T1W, T2W = Contrast.T1W, Contrast.T2W
SHAPE = (90, 100, 40)
THERE = (slice(41, 60), slice(33, 61), slice(12, 30))


def scan(noise: float = 0.0) -> NDArray[np.float32]:
    """A head of noise in air that is blank, unless it has noise too."""
    random = np.random.default_rng(0)
    voxels = random.uniform(0, noise, SHAPE) if noise else np.zeros(SHAPE)
    voxels[THERE] = random.uniform(300, 900, voxels[THERE].shape)
    return voxels.astype(np.float32)


def model(view: View) -> Model:
    torch.manual_seed(1)
    task, arguments = Task((T1W,), (T2W,)), {"features": [4, 8], "norm": "batch"}
    system = build_system("unet", arguments, task, view).eval()
    return Model("small", "unet", arguments, task, view, system)


def shapes_of(made: Model, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what goes through the network."""
    seen: list[tuple[int, ...]] = []
    through = made.system.translate

    def translate(source: Tensor, *, target: Tensor | None = None) -> Tensor:
        seen.append(tuple(source.shape))
        return through(source, target=target)

    monkeypatch.setattr(made.system, "translate", translate)
    return seen


def normalised() -> Tensor:
    return torch.from_numpy(scan())[None] / 500 - 1


def test_air_is_what_is_blank_but_for_a_rim_in_the_plane() -> None:
    air = blank_air(normalised())
    assert air is not None
    x, y, z = THERE
    rim = slice(x.start - 1, x.stop + 1), slice(y.start - 1, y.stop + 1), z
    expected = torch.ones(SHAPE, dtype=torch.bool)
    expected[rim] = False
    assert torch.equal(air, expected)
    assert blank_air(torch.from_numpy(scan(noise=20))[None] / 500 - 1) is None


def test_every_contrast_counts() -> None:
    both = normalised().repeat(2, 1, 1, 1)
    both[1, 3, 4, 5] = 0.0
    air, alone = blank_air(both), blank_air(normalised())
    assert air is not None
    assert alone is not None
    assert int((alone & ~air).sum()) == 9
    x, y, z = worth_a_look(air, SHAPE, (MARGIN, MARGIN, 0))
    assert (x.start, y.start, z.start) == (0, 0, 5)


def around(*inside: slice, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Air around a box."""
    air = torch.ones(shape, dtype=torch.bool)
    air[inside] = False
    return air


def test_the_box_holds_the_head_its_margin_and_whole_steps() -> None:
    x, y, z = worth_a_look(around(*THERE), SHAPE, (MARGIN, MARGIN, 1))
    assert (x, y, z) == (slice(32, 80), slice(16, 80), slice(11, 31))
    for side, inside in zip((x, y), THERE, strict=False):
        assert side.start % STEP == 0
        assert side.start <= inside.start - MARGIN
        assert side.stop >= inside.stop + MARGIN


def test_the_box_is_of_the_resolution_that_is_worked_at() -> None:
    finer = (180, 50, 40)  # twice as fine, half as fine
    x, y, z = worth_a_look(around(*THERE), finer, (MARGIN, MARGIN, 0))
    assert (x, y, z) == (slice(64, 128), slice(0, 48), slice(12, 30))


def test_the_box_ends_with_the_scan() -> None:
    shape = (24, 90, 40)
    x, y, _ = worth_a_look(around(slice(3, 22), THERE[1], shape=shape), shape, (8, 8, 1))
    assert (x, y) == (slice(0, 24), slice(16, 80))
    whole = (slice(0, 5), slice(0, 6), slice(0, 7))
    nothing = torch.ones(5, 6, 7, dtype=torch.bool)
    assert worth_a_look(nothing, (5, 6, 7), (8, 8, 8)) == whole


def test_air_with_noise_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(View())
    seen = shapes_of(made, monkeypatch)
    run_model(made, {T1W: Volume.of(scan(noise=20))}, T2W, device="cpu")
    assert {shape[2:] for shape in seen} == {SHAPE[:2]}
    assert sum(shape[0] for shape in seen) == SHAPE[2]


@pytest.mark.parametrize(
    ("view", "quality", "expected"),
    [
        (View(slices=3), Quality.FAST, {(48, 64)}),
        (View(slices=3), Quality.PLANES, {(48, 64), (48, 40), (64, 40)}),
        (View(dims=3, patch=32), Quality.FAST, {(32, 32, 32)}),
    ],
    ids=["slabs", "three planes", "patches"],
)
def test_blank_air_is_left_out_and_nothing_else_changes(
    view: View,
    quality: Quality,
    expected: set[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
) -> None:
    made = model(view)
    given = {T1W: Volume.of(scan())}
    seen = shapes_of(made, monkeypatch)
    fast = run_model(made, given, T2W, device=device.type, quality=quality).volume.voxels
    assert {shape[2:] for shape in seen} == expected
    looked_at = sum(np.prod(shape[2:]) * shape[0] for shape in seen)
    from medi2i.inference import prepared

    everywhere = tuple(slice(0, size) for size in SHAPE)
    monkeypatch.setattr(prepared, "worth_a_look", lambda *image: everywhere)
    seen.clear()
    whole = run_model(made, given, T2W, device=device.type, quality=quality).volume.voxels
    assert looked_at < 0.6 * sum(np.prod(shape[2:]) * shape[0] for shape in seen)
    assert fast.shape == whole.shape == SHAPE
    if view.dims == 2:  # 3-D patches lie elsewhere, so that other edges show
        assert np.abs(fast - whole).max() <= 1e-3 * np.abs(whole).max()
    air = blank_air(normalised())
    assert air is not None
    assert not fast[air.numpy()].any()
