"""Neighbours of windows: on disk, in the right place, and after augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.batch import Batch, Neighbour, Pairing
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort
from medi2i.data.decoded import Decoder
from medi2i.data.labelled import LabelledWindows
from medi2i.data.neighbours import Carrier, Fields
from medi2i.data.pairs import PairedWindows
from medi2i.data.placing import Placing
from medi2i.data.settings import Data
from medi2i.data.supply import Windows, batches
from medi2i.data.unpaired import UnpairedWindows
from medi2i.errors import CohortError, UsageError
from medi2i.networks.deformation import leads_inside, warp
from medi2i.task import Task, View
from tests.data.conftest import Write
from tests.data.test_motion import head

T1W, T2W = Contrast.T1W, Contrast.T2W
PAIR = Task((T1W,), (T2W,))
HEIGHTS = 5
TALL = 24


def column(
    seed: int = 0, heights: int = HEIGHTS, drift: tuple[float, float] = (1.5, 0.7)
) -> NDArray[np.float32]:
    """A head that leans: each slice shows the one below, shifted along x and a little along y."""
    below = torch.from_numpy(head())[None, None]
    slices = []
    for height in range(heights):
        field = torch.zeros(1, 2, *below.shape[2:])
        for axis in range(2):
            field[:, axis] = drift[axis] * (height - heights // 2)
        field[:, 1] += 0.1 * seed
        slices.append(warp(below, field)[0, 0].numpy())
    return 1000 * np.stack(slices, axis=-1)


def people(*shape: Any) -> dict[str, dict[Contrast, NDArray[np.float32]]]:
    """Two, whose T2w is their T1w upside down."""
    heads = [column(seed, *shape) for seed in range(2)]
    return {f"sub-{n}": {T1W: x, T2W: np.where(x > 0, 1500 - x, 0)} for n, x in enumerate(heads)}


@pytest.fixture
def cohort(write: Write) -> Cohort:
    return write(people())


@pytest.fixture(scope="module")
def fields_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the fields of patches stay from test to test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def solid(write: Write) -> Cohort:
    """Heads as high as a patch."""
    return write(people(TALL, (1.0, 0.4)), study="solid")


def followed(windows: Windows, **settings: Any) -> Windows:
    windows.follow(**settings)
    return windows


def left(first: Tensor, neighbour: Neighbour, centre: slice) -> tuple[float, float]:
    """Mean difference from the next slice, before and after the field is followed."""
    inside = neighbour.inside.bool()
    assert inside.any()
    assert neighbour.slab is not None
    second = neighbour.slab[centre][None]
    bent = warp(first[None], neighbour.field[None])
    before, after = (
        float((image - second).abs()[0, :, inside[0]].mean()) for image in (first[None], bent)
    )
    return before, after


def test_the_kept_fields_are_those_that_are_estimated(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = cohort.subjects[0]
    seen = (subject, (T1W, T2W), T1W)
    on_the_fly = Fields(Decoder(View()))
    kept = Fields(Decoder(View(), tmp_path))
    kept.prepare(seen)
    files = sorted(tmp_path.glob("*.npy"))
    assert len(files) == 2, "the decoded scans and the fields"
    monkeypatch.setattr("medi2i.data.neighbours.slice_fields", None)  # nothing is estimated again
    again = Fields(Decoder(View(), tmp_path))
    for height in range(HEIGHTS - 1):
        field = again.between(seen, height)
        assert np.array_equal(field, kept.between(seen, height))
        assert np.array_equal(field, on_the_fly.between(seen, height))
        middle = field[:, 24:48, 20:40].mean((1, 2))
        assert middle == pytest.approx((1.5, 0.7), abs=0.3)
    with pytest.raises(TypeError):
        Fields(Decoder(View(), tmp_path), gap=2.0).prepare(seen)  # another file, not there


@pytest.mark.parametrize(
    ("change", "slices"),
    [
        ({"flip": 1.0}, 3),
        ({"affine": 1.0, "degrees": 40.0, "zoom": 0.25}, 1),
        ({"flip": 1.0, "affine": 1.0, "elastic": 1.0}, 3),
    ],
    ids=["flip", "affine", "everything"],
)
def test_fields_move_as_the_window_moves(
    cohort: Cohort, change: dict[str, float], slices: int
) -> None:
    augmentation = replace(Augmentation.none(), **change)
    windows = followed(
        PairedWindows(cohort, PAIR, View(slices=slices), size=64, augmentation=augmentation, seed=3)
    )
    checked = 0
    for number in range(12):
        sample = windows[number]
        assert sample.neighbour is not None
        assert sample.neighbour.slab is not None
        assert sample.neighbour.slab.shape == sample.source.shape
        if sample.neighbour.inside.mean() < 0.1:
            continue
        centre = slice(slices // 2, slices // 2 + 1)
        before, after = left(sample.source[centre], sample.neighbour, centre)
        checked += 1
        assert after < 0.4 * before, (number, before, after)
        if slices == 3:  # the slab's upper slice is the neighbour's centre
            assert torch.equal(sample.source[2], sample.neighbour.slab[1])
            assert torch.equal(sample.source[1], sample.neighbour.slab[0])
    assert checked > 4


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flip": 1.0},
        {"affine": 1.0, "degrees": 15.0, "zoom": 0.15},
        {"flip": 1.0, "affine": 1.0, "elastic": 1.0, "displacement": 2.0},
    ],
    ids=["none", "flip", "affine", "everything"],
)
def test_fields_of_patches_move_as_the_window_moves(
    solid: Cohort, change: dict[str, float], fields_kept: Path
) -> None:
    augmentation = replace(Augmentation.none(), **change)
    windows = PairedWindows(
        solid, PAIR, View(dims=3), size=TALL, augmentation=augmentation, seed=3, cache=fields_kept
    )
    windows.follow()
    befores, afters = [], []
    for number in range(6):
        sample = windows[number]
        patch, neighbour = sample.source, sample.neighbour
        assert neighbour is not None
        assert neighbour.slab is None
        assert neighbour.field.shape == (2, TALL, TALL, TALL - 1)
        assert neighbour.inside.shape == (1, TALL, TALL, TALL - 1)
        for height in range(TALL - 1):
            first, second = (patch[..., z][None] for z in (height, height + 1))
            field = neighbour.field[..., height][None]
            counts = neighbour.inside[..., height][None] * leads_inside(field)
            befores.append(float(((first - second).abs() * counts).sum()))
            afters.append(float(((warp(first, field) - second).abs() * counts).sum()))
    assert sum(befores) > 100
    assert sum(afters) < 0.35 * sum(befores)


def test_a_field_through_a_mirror_and_a_turn_by_hand() -> None:
    carrier = Carrier(Placing(View(), 8), 1)
    ramp = torch.arange(8) * (2 / 8) - 1
    path = torch.ones(5, 8, 8, 2)
    path[0], path[1] = ramp[:, None, None], ramp[None, :, None]
    path[2], path[3] = 2 / 32, 1 / 32  # two voxels along x, one along y
    tissue = torch.ones(1, 8, 8, 2)
    field, inside = carrier.end(path, tissue)
    assert torch.allclose(field, torch.tensor([2.0, 1.0])[:, None, None], atol=1e-4)
    assert inside.all()
    field, _ = carrier.end(path.flip(1), tissue)
    assert torch.allclose(field, torch.tensor([-2.0, 1.0])[:, None, None], atol=1e-4)
    field, _ = carrier.end(path.transpose(1, 2).contiguous(), tissue)
    assert torch.allclose(field, torch.tensor([1.0, 2.0])[:, None, None], atol=1e-4)
    cut = path.clone()
    cut[:, :3] = -1  # beyond what was cut
    field, inside = carrier.end(cut, tissue)
    assert not inside[:, :4].any()
    assert inside[:, 4:].all()
    assert not field[:, ~inside[0].bool()].any()


def test_a_field_through_a_tipped_patch_by_hand() -> None:
    size, angle = 8, math.radians(20)
    carrier = Carrier(Placing(View(dims=3), size), 1)
    x, _, z = at = torch.meshgrid(*[torch.arange(size) * 1.0] * 3, indexing="ij")
    tipped = [
        math.cos(angle) * x + math.sin(angle) * z,
        at[1],
        math.cos(angle) * z - math.sin(angle) * x,
    ]
    tissue = torch.ones(1, size, size, size)

    def ended(places: Any, field: tuple[float, float]) -> tuple[Tensor, Tensor]:
        path = torch.ones(6, size, size, size)
        path[:3] = torch.stack(list(places)) * (2 / size) - 1
        path[3], path[4] = field[0] / 32, field[1] / 32
        return carrier.end(path, tissue)

    field, inside = ended(at, (2.0, 1.0))
    assert field.shape == (2, size, size, size - 1)
    assert torch.allclose(field, torch.tensor([2.0, 1.0]).reshape(2, 1, 1, 1), atol=1e-4)
    assert inside.all()
    # what stood upright leans by the angle
    field, _ = ended(tipped, (0.0, 0.0))
    expected = torch.tensor([math.tan(angle), 0.0]).reshape(2, 1, 1, 1)
    assert torch.allclose(field, expected, atol=1e-4)
    # one voxel along x for each slice is 45 degrees, and 65 with the angle; y keeps its voxels for
    # each voxel of the way down, which is sin(45) of a way that has become sin(25) high
    field, _ = ended(tipped, (1.0, 1.0))
    way = math.sin(math.pi / 4) / math.sin(math.pi / 4 - angle)
    expected = torch.tensor([math.tan(math.pi / 4 + angle), way]).reshape(2, 1, 1, 1)
    assert torch.allclose(field, expected, atol=1e-4)
    # nearly along the slice below: not followed
    field, inside = ended(tipped, (3.0, 0.0))
    assert not inside.any()
    assert not field.any()


def test_a_patch_that_hangs_over_the_volume_has_no_motion_there(
    solid: Cohort, fields_kept: Path
) -> None:
    windows = PairedWindows(
        solid, PAIR, View(dims=3), size=16, augmentation=Augmentation.none(), cache=fields_kept
    )
    windows.follow("still")
    subject = solid.subjects[0]
    person = windows.decode(subject, (T1W, T2W))
    seen = (subject, (T1W, T2W), T1W)
    known = {}
    for bottom in (-6, 4, TALL - 10):
        image, tissue, carried = windows.cut(person, (T1W,), (28, 22, bottom), seen)
        assert carried is not None
        assert image.shape == (1, 16, 16, 16), "no slice thicker"
        _, _, _, neighbour = windows.changed(
            windows.augmentation, image, image, tissue, carried, seed=0
        )
        assert neighbour is not None
        assert not neighbour.field.any()
        known[bottom] = neighbour.inside.flatten(0, 2).bool().any(0).tolist()
    # beside what is unknown nothing is known, for differences are taken across its edge
    assert known[-6] == [False] * 7 + [True] * 8
    assert known[4] == [True] * 15
    assert known[TALL - 10] == [True] * 8 + [False] * 7


def test_no_pair_across_the_border_of_a_volume(cohort: Cohort) -> None:
    windows = followed(PairedWindows(cohort, PAIR, View(), augmentation=Augmentation.none()))
    subject = cohort.subjects[0]
    person = windows.decode(subject, (T1W, T2W))
    for height in range(HEIGHTS):
        seen = (subject, (T1W, T2W), T1W)
        image, tissue, carried = windows.cut(person, (T1W,), (0, 0, height), seen)
        assert carried is not None
        _, _, _, neighbour = windows.changed(
            windows.augmentation, image, image, tissue, carried, seed=0
        )
        assert neighbour is not None
        assert bool(neighbour.inside.any()) == (height + 1 < HEIGHTS)


def without_and_with(make: Callable[[], Windows]) -> tuple[Batch, Batch]:
    """A batch of windows, and the same with neighbours, which has to be equal in all else."""
    plain, guided = make(), make()
    guided.follow()
    guided.prepare()
    one, other = (next(batches(windows, 3)) for windows in (plain, guided))
    for name in ("source", "target", "weight"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.neighbour is None
    return one, other


@pytest.mark.parametrize("make", [PairedWindows, UnpairedWindows])
def test_following_changes_nothing_else(
    cohort: Cohort, make: Callable[..., Windows], tmp_path: Path
) -> None:
    flip = replace(Augmentation.none(), flip=0.5)
    one, other = without_and_with(
        lambda: make(cohort, PAIR, View(slices=3), size=48, augmentation=flip, cache=tmp_path)
    )
    assert one.target_slab is not None
    assert other.target_slab is not None
    assert torch.equal(one.target_slab, other.target_slab)
    assert one.target_neighbour is None
    assert other.neighbour is not None
    assert other.neighbour.field.shape == (3, 2, 48, 48)
    if make is UnpairedWindows:
        assert other.target_neighbour is not None
        assert other.target_neighbour.slab is not None
        assert torch.equal(other.target_neighbour.slab[:, 0], other.target[:, 0])
    moved = other.to("meta").neighbour
    assert moved is not None
    assert moved.inside.device.type == "meta"


@pytest.mark.parametrize("make", [PairedWindows, UnpairedWindows])
def test_following_changes_nothing_else_of_patches(
    solid: Cohort, make: Callable[..., Windows], fields_kept: Path
) -> None:
    moves = replace(Augmentation.none(), flip=0.5, affine=0.5)
    _, other = without_and_with(
        lambda: make(solid, PAIR, View(dims=3), size=16, augmentation=moves, cache=fields_kept)
    )
    sides = [other.neighbour]
    if make is UnpairedWindows:
        sides.append(other.target_neighbour)
    for neighbour in sides:
        assert neighbour is not None
        assert neighbour.slab is None
        assert neighbour.field.shape == (3, 2, 16, 16, 15)
        assert neighbour.inside.any()
        assert neighbour.to("meta").field.device.type == "meta"


def test_what_is_refused(cohort: Cohort, write: Write) -> None:
    thick = write({"sub-7": {T1W: column(), T2W: column()}}, study="thick", spacing=4.0)
    windows = Data(size=32).windows(thick, PAIR, View(), Pairing.PAIRED, motion="demons")
    with pytest.raises(CohortError, match=r"4 mm apart; at most 3 mm"):
        windows.prepare()
    Data(size=32, gap=4.0).windows(thick, PAIR, View(), Pairing.PAIRED, motion="demons").prepare()
    # thinner slices between thick ones are made up; slices of coarse patches are what is followed
    for finer in (View(dims=3), View(dims=3, spacing=1.0)):
        windows = Data(size=16).windows(thick, PAIR, finer, Pairing.PAIRED, motion="still")
        with pytest.raises(CohortError, match=r"4 mm apart; at most 3 mm"):
            windows.prepare()
    coarse = View(dims=3, spacing=3.5)
    windows = Data(size=16).windows(cohort, PAIR, coarse, Pairing.PAIRED, motion="still")
    with pytest.raises(CohortError, match=r"3\.5 mm apart at the spacing of the view"):
        windows.prepare()
    with pytest.raises(UsageError, match="of another domain"):
        LabelledWindows.follow(object.__new__(LabelledWindows))
    with pytest.raises(UsageError, match="magic"):
        Data(size=16).windows(cohort, PAIR, View(), Pairing.PAIRED, motion="magic")
