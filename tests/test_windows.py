from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medi2i.errors import DimensionError, UsageError
from medi2i.windows import Grid

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


def volume(shape: Sequence[int], channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1000 * torch.randn((channels, *shape), generator=generator)


def through(grid: Grid, voxels: Tensor, batch: int = 3) -> Tensor:
    """Cut, drop the context as a network would, stitch."""
    stitcher = grid.stitcher(voxels.shape[0], device=voxels.device, dtype=voxels.dtype)
    for start in range(0, len(grid), batch):
        indices = range(start, min(start + batch, len(grid)))
        windows = grid.cut(voxels, indices)
        assert windows.is_contiguous()
        for axis, (window, context) in enumerate(zip(grid.window, grid.context, strict=True), 2):
            assert windows.shape[axis] == window + 2 * context
            windows = windows.narrow(axis, context, window)
        stitcher.add(indices, windows)
    return stitcher.result()


def test_slices_written_out() -> None:
    voxels = torch.arange(8.0).reshape(1, 2, 2, 2)
    grid = Grid.slices((2, 2, 2), axis=2)
    assert len(grid) == 2
    assert grid.origins == [(0, 0, 0), (0, 0, 1)]
    assert grid.cut(voxels, [1, 0]).tolist() == [
        [[[[1.0], [3.0]], [[5.0], [7.0]]]],
        [[[[0.0], [2.0]], [[4.0], [6.0]]]],
    ]


def test_slab_repeats_the_edge() -> None:
    voxels = torch.tensor([10.0, 20.0, 30.0]).reshape(1, 1, 1, 3)
    grid = Grid.slices((1, 1, 3), axis=2, neighbours=2)
    cut = grid.cut(voxels, [0, 1, 2]).reshape(3, 5)
    assert cut.tolist() == [
        [10, 10, 10, 20, 30],
        [10, 10, 20, 30, 30],
        [10, 20, 30, 30, 30],
    ]


def test_the_last_patch_is_shifted_inwards() -> None:
    grid = Grid.patches((10, 4, 3), (4, 2, 9), overlap=0.5)
    assert grid.window == (4, 2, 3)  # clipped to the volume
    assert grid.overlap == (2, 1, 0)  # one window covers the last axis
    assert [origin[0] for origin in grid.origins[::3]] == [0, 2, 4, 6]
    assert [origin[1] for origin in grid.origins[:3]] == [0, 1, 2]
    assert [x for x, _, _ in Grid((7, 2, 2), (3, 2, 2)).origins] == [0, 3, 4]


def test_blending_written_out() -> None:
    # Two windows of 4 over 6 voxels, overlap 2; a Gaussian with sigma 4 / 8 = 0.5 at -1.5, -0.5,
    # 0.5, 1.5 weighs e^-4.5, e^-0.5, e^-0.5, e^-4.5. Windows of 0 and of 1: in voxel 2 the second
    # counts e^-4.5 / (e^-4.5 + e^-0.5) = 1 / (1 + e^4) = 0.01799.
    grid = Grid((6, 1, 1), (4, 1, 1), (2, 0, 0))
    stitcher = grid.stitcher()
    stitcher.add([0], torch.zeros(1, 1, 4, 1, 1))
    stitcher.add([1], torch.ones(1, 1, 4, 1, 1))
    expected = torch.tensor([0, 0, 0.017986, 0.982014, 1, 1])
    torch.testing.assert_close(stitcher.result().flatten(), expected, atol=1e-6, rtol=0)


def test_without_overlap_windows_are_written_plainly() -> None:
    grid = Grid((5, 1, 1), (2, 1, 1))
    stitcher = grid.stitcher()
    for index in range(3):
        stitcher.add([index], torch.full((1, 1, 2, 1, 1), float(index)))
    assert stitcher.result().flatten().tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("neighbours", [0, 1, 3])
def test_slices_and_slabs_are_exact(axis: int, neighbours: int, device: str) -> None:
    voxels = volume((7, 5, 3), channels=2).to(device)
    assert torch.equal(through(Grid.slices((7, 5, 3), axis, neighbours), voxels), voxels)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [
        ((13, 9, 7), 4, 0.5),
        ((13, 9, 7), (5, 3, 7), 0.25),
        ((8, 8, 8), 4, 0.0),
        ((9, 8, 7), 4, 0.75),
        ((3, 5, 2), 64, 0.5),  # larger than the volume
        ((33, 17, 19), 16, 0.5),
    ],
)
def test_patches_are_exact(
    shape: tuple[int, int, int], size: int | tuple[int, int, int], overlap: float, device: str
) -> None:
    voxels = volume(shape).to(device)
    assert torch.equal(through(Grid.patches(shape, size, overlap), voxels), voxels)


def test_a_window_larger_than_the_volume_sees_the_repeated_edge() -> None:
    grid = Grid((2, 3, 1), window=(4, 3, 2), overlap=(1, 0, 0), context=(0, 1, 0))
    voxels = volume((2, 3, 1))
    cut = grid.cut(voxels, [0])
    assert cut.shape == (1, 1, 4, 5, 2)
    assert torch.equal(cut[0, 0, 3, 1:4, 1], voxels[0, 1, :, 0])
    assert torch.equal(through(grid, voxels), voxels)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_cut_and_stitch_is_the_identity(data: st.DataObject) -> None:
    triple = st.tuples(*[st.integers(1, 9)] * 3)
    shape, window = data.draw(triple), data.draw(triple)
    overlap = tuple(data.draw(st.integers(0, size - 1)) for size in window)
    context = data.draw(st.tuples(*[st.integers(0, 3)] * 3))
    grid = Grid(shape, window, overlap, context)  # type: ignore[arg-type]
    voxels = volume(shape, seed=data.draw(st.integers(0, 99)))
    assert torch.equal(through(grid, voxels, batch=data.draw(st.integers(1, 5))), voxels)


def test_any_memory_order_dtype_and_order_of_windows() -> None:
    voxels = volume((6, 5, 4)).permute(0, 3, 2, 1).double()
    grid = Grid.patches((4, 5, 6), 3)
    stitcher = grid.stitcher(dtype=torch.float64)
    for index in torch.randperm(len(grid), generator=torch.Generator().manual_seed(1)).tolist():
        stitcher.add([index], grid.cut(voxels, [index]))
    assert torch.equal(stitcher.result(), voxels)


def test_half_precision_and_gradients_stay_outside() -> None:
    grid = Grid.slices((2, 2, 2))
    stitcher = grid.stitcher()
    stitcher.add([0, 1], torch.ones(2, 1, 2, 2, 1, dtype=torch.bfloat16, requires_grad=True))
    assert stitcher.result().dtype == torch.float32
    assert not stitcher.result().requires_grad


def test_more_channels_come_back_than_went_in() -> None:
    grid = Grid.slices((3, 4, 5))
    stitcher = grid.stitcher(channels=2)
    voxels = volume((3, 4, 5))
    for index in range(5):
        cut = grid.cut(voxels, [index])
        stitcher.add([index], torch.cat([cut, -cut], dim=1))
    assert torch.equal(stitcher.result(), torch.cat([voxels, -voxels]))


def test_a_cut_is_a_copy() -> None:
    voxels = volume((3, 4, 5))
    before = voxels.clone()
    grid = Grid.patches((3, 4, 5), 64)
    grid.cut(voxels, [0]).zero_()
    assert torch.equal(voxels, before)


def test_holes_are_refused() -> None:
    grid = Grid.slices((2, 2, 3))
    stitcher = grid.stitcher()
    stitcher.add([0, 2], torch.zeros(2, 1, 2, 2, 1))
    with pytest.raises(DimensionError, match="1 of 3 windows"):
        stitcher.result()


def test_wrong_shapes_are_refused() -> None:
    grid = Grid.slices((2, 2, 3))
    with pytest.raises(DimensionError, match=r"\(1, 3, 2, 2\)"):
        grid.cut(torch.zeros(1, 3, 2, 2), [0])
    with pytest.raises(DimensionError, match="came back"):
        grid.stitcher().add([0], torch.zeros(1, 1, 2, 2, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid((2, 2, 0), (1, 1, 1)),
        lambda: Grid((2, 2, 2), (0, 1, 1)),
        lambda: Grid((2, 2, 2), (2, 2, 2), (2, 0, 0)),
        lambda: Grid((2, 2, 2), (2, 2, 2), (-1, 0, 0)),
        lambda: Grid((2, 2, 2), (2, 2, 2), context=(0, -1, 0)),
        lambda: Grid.slices((2, 2, 2), axis=3),
        lambda: Grid.patches((2, 2, 2), 2, overlap=1.0),
    ],
)
def test_no_grid(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]
