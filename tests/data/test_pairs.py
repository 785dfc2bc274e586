from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medi2i.batch import Batch
from medi2i.contrasts import Contrast
from medi2i.data import decoded
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort
from medi2i.data.pairs import PairedWindows
from medi2i.data.registration import load_together
from medi2i.data.supply import batches
from medi2i.errors import CohortError
from medi2i.task import Task, View
from medi2i.volume import Volume, save_volume
from tests.data.conftest import Voxels, Write, alike, noise, ramp

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
PAIR = Task((T1W,), (T2W,))


def head(shape: tuple[int, int, int], box: tuple[slice, slice, slice]) -> Voxels:
    voxels = np.zeros(shape, np.float32)
    voxels[box] = noise(shape)[box]
    return voxels


def windows(
    cohort: Cohort, task: Task = PAIR, view: View | None = None, **more: Any
) -> PairedWindows:
    settings = {"size": 16, "augmentation": Augmentation.none(), **more}
    return PairedWindows(cohort, task, view or View(), **settings)


# ---- what a sample is


def test_sample_n_depends_on_seed_and_n_alone(write: Write) -> None:
    cohort = write(
        {p: {T1W: noise(seed=i), T2W: noise(seed=9)} for i, p in enumerate(("sub-1", "sub-2"))}
    )
    augmentation = Augmentation(elastic=0, noise=1.0)
    first, again, other = (
        windows(cohort, augmentation=augmentation, seed=seed) for seed in (1, 1, 2)
    )
    forwards = [first[n] for n in range(6)]
    backwards = [again[n] for n in reversed(range(6))]
    assert all(alike(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not any(alike(a, b) for a, b in pairwise(forwards))
    assert not alike(forwards[0], other[0])
    assert {sample.subject for sample in forwards} == {"sub-1", "sub-2"}


@pytest.mark.parametrize(
    ("task", "view", "recorded"),
    [
        (Task((T1W, FLAIR), (T2W,)), View(slices=3), "fa9e5870285ca851"),
        (Task((T1W, FLAIR), (T2W,)), View(dims=3), "9852d9903e995c27"),
        (Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), True), View(slices=3), "24997bb66c18b4a0"),
        (Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), True), View(dims=3), "92454366665dfeec"),
    ],
)
def test_a_seed_gives_what_it_always_gave(
    write: Write, task: Task, view: View, recorded: str
) -> None:
    """Recorded from the first version that drew windows: a run can go on under a newer one."""
    people: dict[str, dict[Contrast, Voxels]] = {}
    for number in range(3):
        people[f"sub-{number}"] = {}
        for place, contrast in enumerate((T1W, T2W, FLAIR)[: 3 - (number == 2)]):
            voxels = noise(seed=10 * number + place)
            voxels[:3] = 0
            people[f"sub-{number}"][contrast] = voxels
    found = hashlib.sha256()
    for batch in taken(windows(write(people), task, view, size=8, seed=5), 4):
        for tensor in (batch.source, batch.target, batch.weight, batch.every):
            if tensor is not None:
                found.update((tensor * 100).round().to(torch.int16).numpy().tobytes())
        found.update(" ".join(batch.subjects).encode())
    assert found.hexdigest()[:16] == recorded


@pytest.mark.parametrize("view", [View(), View(slices=3), View(dims=3)], ids=str)
def test_source_and_target_show_the_same_place(write: Write, view: View) -> None:
    """Both contrasts hold the same voxels, each value once: equal windows are the same place."""
    supply = windows(write({"sub-1": {T1W: noise(), T2W: noise()}}), view=view, size=8)
    for number in range(8):
        sample = supply[number]
        centre = sample.source[view.slices // 2 : view.slices // 2 + 1]
        assert torch.equal(centre, sample.target)
        assert sample.target.unique().numel() > 0.9 * sample.target.numel()  # half-precision ties
        assert sample.weight.shape == sample.target.shape


def test_slices_of_the_first_contrast_come_first_from_bottom_to_top(write: Write) -> None:
    cohort = write({"sub-1": {T1W: ramp(2), FLAIR: ramp(0), T2W: ramp(2)}})
    task = Task((T1W, FLAIR), (T2W,))
    supply = windows(cohort, task, View(slices=3), size=8)
    steps = 2 / 9  # one slice of ten, in [-1, 1]
    for number in range(8):
        source, target, *_ = supply[number]
        assert source.shape == (6, 8, 8)
        below, centre, above = source[:3]
        assert torch.equal(centre, target[0])
        place = float(centre[0, 0])
        for neighbour, step in ((below, -steps), (above, steps)):
            # the first and the last slice are their own neighbours
            expected = min(max(place + step, -1), 1)
            assert float(neighbour[0, 0]) == pytest.approx(expected, abs=3e-3)
        flair = source[3:]
        assert torch.equal(flair[0], flair[1])
        assert torch.equal(flair[1], flair[2])
        assert (flair[0].diff(dim=0) > 0).all()
        assert (flair[0].diff(dim=1) == 0).all()


def test_the_target_comes_with_its_neighbours(write: Write) -> None:
    """Which lie on the source's, slice by slice, through every change of place."""
    voxels = noise()
    cohort = write({"sub-1": {T1W: voxels, T2W: voxels, PDW: voxels}})
    moved = replace(Augmentation.none(), affine=1.0, flip=0.5)
    supply = windows(cohort, Task((T1W,), (T2W, PDW)), View(slices=3), augmentation=moved)
    for number in range(4):
        sample = supply[number]
        source, target, slab = sample.source, sample.target, sample.target_slab
        assert slab is not None
        assert slab.shape == (6, 16, 16)
        assert torch.equal(slab, torch.cat([source, source]))
        assert torch.equal(slab[1::3], target)
    many = (T1W, T2W, PDW)
    asked = windows(cohort, Task(many, many, True), View(slices=3))[0]
    assert asked.target_slab is not None
    assert torch.equal(asked.target_slab[1:2], asked.target)
    assert windows(cohort)[0].target_slab is None
    assert windows(cohort, view=View(dims=3))[0].target_slab is None


def test_beyond_the_volume_the_outermost_slice_is_seen_again(write: Write) -> None:
    """As when translating (`windows.Grid`); air there would be a slice that never occurs."""
    cohort = write({"sub-1": {T1W: noise((20, 18, 2)), T2W: noise((20, 18, 2))}})
    supply = windows(cohort, view=View(slices=5), size=8)
    seen = set()
    for number in range(6):
        source = supply[number].source
        both = [torch.equal(source[i], source[0]) for i in range(5)]
        seen.add(tuple(both))
        assert (source > -1).float().mean() > 0.9
    # bottom bottom CENTRE top top, or one further down
    assert seen == {(True, True, True, False, False), (True, True, False, False, False)}


def test_several_targets(write: Write) -> None:
    cohort = write({"sub-1": {T1W: noise(), T2W: ramp(0), PDW: ramp(1)}})
    sample = windows(cohort, Task((T1W,), (T2W, PDW)), size=8)[0]
    assert sample.target.shape == (2, 8, 8)
    assert (sample.target[0].diff(dim=0) > 0).all()
    assert (sample.target[1].diff(dim=1) > 0).all()


def test_a_small_head_is_padded_with_air(write: Write) -> None:
    voxels = head((12, 10, 8), (slice(2, 9), slice(3, 8), slice(1, 7)))
    cohort = write({"sub-1": {T1W: voxels, T2W: voxels}})
    places = set()
    for number in range(6):
        source, target, weight, *_ = windows(cohort, size=16, background=0.25)[number]
        assert torch.equal(source, target)
        tissue = source > -0.9
        assert int(tissue.sum()) == 7 * 5, "the whole slice of the head is in the window"
        assert (source[~tissue] == -1).all()
        assert (weight[tissue] == 1).all()
        assert (weight[~tissue] == 0.25).all()
        places.add(tuple(int(i[0]) for i in tissue[0].nonzero(as_tuple=True)))
    assert len(places) > 2, "it lies here and there"


def test_a_small_head_in_a_patch(write: Write) -> None:
    voxels = head((12, 10, 8), (slice(2, 9), slice(3, 8), slice(1, 7)))
    cohort = write({"sub-1": {T1W: voxels, T2W: voxels}})
    sample = windows(cohort, view=View(dims=3), size=14)[0]
    assert sample.source.shape == (1, 14, 14, 14)
    assert int((sample.source > -0.9).sum()) == 7 * 5 * 6


def test_windows_are_drawn_around_tissue(write: Write) -> None:
    voxels = head((40, 40, 30), (slice(20, 32), slice(5, 17), slice(10, 14)))
    supply = windows(write({"sub-1": {T1W: voxels, T2W: voxels}}), size=8)
    for number in range(10):
        assert (supply[number].source > -0.9).all(), "never air while the head is larger"


def test_the_working_resolution(write: Write) -> None:
    cohort = write({"sub-1": {T1W: noise((40, 20, 10)), T2W: noise((40, 20, 10))}}, spacing=0.5)
    coarse = windows(cohort, view=View(spacing=1.0), size=20)[0]
    tissue = coarse.weight[0] == 1
    assert int(tissue.any(1).sum()) == 20
    assert int(tissue.any(0).sum()) == 10


# ---- who is drawn


def test_a_large_study_does_not_drown_a_small_one(write: Write) -> None:
    scans = {T1W: noise(), T2W: noise()}
    large = write({f"sub-{n}": scans for n in range(4)}, study="large")
    small = write({"sub-9": scans}, study="small")
    supply = windows(Cohort((*large, *small)))
    (route,) = supply.routes
    # by the root of their sizes: 2 to 1
    np.testing.assert_allclose(route.sources.shares, [1 / 6] * 4 + [1 / 3])
    drawn = [supply[number].subject for number in range(60)]
    assert 10 < drawn.count("sub-9") < 30


def test_on_demand_every_pair_is_as_likely(write: Write) -> None:
    everything = {T1W: ramp(0), T2W: ramp(1), FLAIR: ramp(2)}
    cohort = write(
        {"sub-1": everything, "sub-2": {T1W: ramp(0), T2W: ramp(1)}, "sub-3": {T1W: ramp(0)}}
    )
    task = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
    supply = windows(cohort, task, size=8)
    assert [s.name for s in supply.subjects] == ["sub-1", "sub-2"]
    assert len(supply.routes) == 6
    drawn = [supply[number] for number in range(60)]
    counts = np.zeros((3, 3), int)
    for sample in drawn:
        counts[sample.source_contrast, sample.target_contrast] += 1
        if (sample.source_contrast, sample.target_contrast) == (0, 1):
            assert (sample.source[0].diff(dim=0) > 0).all()
            assert (sample.target[0].diff(dim=1) > 0).all()
    assert not counts.diagonal().any()
    assert (counts[~np.eye(3, dtype=bool)] >= 3).all()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (Task((FLAIR,), (T1W,)), "none of 2 subjects has FLAIR and T1w; found: T1w 1, T2w 1"),
        (PAIR, "none of 2 subjects has T1w and T2w; found: T1w 1, T2w 1"),
        (Task((T1W, T2W), (T1W, T2W), True), "no subject has both ends of any translation"),
    ],
)
def test_nobody_to_learn_from(write: Write, task: Task, sentence: str) -> None:
    cohort = write({"sub-1": {T1W: noise()}, "sub-2": {T2W: noise()}})
    with pytest.raises(CohortError, match=sentence):
        windows(cohort, task)


def test_a_contrast_that_nobody_could_teach(write: Write) -> None:
    cohort = write({"sub-1": {T1W: noise(), T2W: noise()}, "sub-2": {FLAIR: noise()}})
    task = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
    with pytest.raises(CohortError, match="no subject has FLAIR beside another contrast"):
        windows(cohort, task)


# ---- the cache


def test_decoded_volumes_are_kept_until_a_scan_changes(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write({"sub-1": {T1W: noise(), T2W: noise(seed=1)}})
    scan = next(iter(cohort)).scans[T2W]
    cache, loads, load = tmp_path / "cache", [], load_together

    def counted(*given: Any) -> Any:
        loads.append(given)
        return load(*given)

    monkeypatch.setattr(decoded, "load_together", counted)
    plain = windows(cohort)[0]
    fresh = windows(cohort, cache=cache)
    assert alike(fresh[0], plain)
    fresh.prepare()
    assert len(loads) == 2
    assert alike(windows(cohort, cache=cache)[0], plain)
    assert len(loads) == 2, "read from the cache"
    assert len(list(cache.iterdir())) == 1

    windows(cohort, cache=cache, view=View(spacing=2.0))[0]
    assert len(loads) == 3, "another resolution is another file"
    os.utime(scan, ns=(0, 0))
    assert alike(windows(cohort, cache=cache)[0], plain)
    assert len(loads) == 4, "the scan was touched"
    save_volume(Volume.of(noise(seed=2)), scan, overwrite=True)
    assert not alike(windows(cohort, cache=cache)[0], plain)


def test_prepare_tells_how_far_it_is(write: Write) -> None:
    cohort = write({p: {T1W: noise(), T2W: noise()} for p in ("sub-1", "sub-2")})
    told: list[tuple[int, int, str]] = []
    windows(cohort).prepare(lambda *progress: told.append(progress))
    assert told == [(1, 2, "sub-1"), (2, 2, "sub-2")]


# ---- batches


def taken(supply: PairedWindows, count: int, **more: Any) -> list[Batch]:
    stream = batches(supply, **{"batch_size": 2, **more})
    return [next(stream) for _ in range(count)]


def equal(one: Batch, other: Batch) -> bool:
    return one.subjects == other.subjects and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("source", "target")
    )


@pytest.fixture
def supply(write: Write) -> PairedWindows:
    people = {f"sub-{n}": {T1W: noise(seed=n), T2W: noise(seed=n)} for n in range(3)}
    return windows(write(people), view=View(slices=3), size=8)


def test_batches_are_the_numbered_samples(supply: PairedWindows) -> None:
    first, second = taken(supply, 2)
    assert first.source.shape == (2, 3, 8, 8)
    assert first.target.shape == (2, 1, 8, 8)
    for batch, numbers in ((first, (0, 1)), (second, (2, 3))):
        for place, number in enumerate(numbers):
            assert torch.equal(batch.source[place], supply[number].source)
            assert batch.subjects[place] == supply[number].subject
    assert first.source_contrast is None
    assert first.target_contrast is None
    assert first.weight is not None
    assert len(first) == 2


def test_a_later_start_goes_on_where_an_earlier_one_would_be(supply: PairedWindows) -> None:
    whole = taken(supply, 5)
    rest = taken(supply, 3, start=2)
    assert all(equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_ranks_share_the_numbers(supply: PairedWindows) -> None:
    """Together the two draw what one with the doubled batch would."""
    for round_, whole in enumerate(taken(supply, 3, batch_size=4)):
        parts = [taken(supply, 3, rank=rank, ranks=2)[round_] for rank in (0, 1)]
        assert torch.equal(torch.stack([p.source for p in parts], 1).flatten(0, 1), whole.source)
        assert sorted((*parts[0].subjects, *parts[1].subjects)) == sorted(whole.subjects)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_gives_the_same_batches(supply: PairedWindows) -> None:
    plain, with_worker = (taken(supply, 3, workers=workers) for workers in (0, 1))
    assert all(equal(a, b) for a, b in zip(plain, with_worker, strict=True))


def test_starting_leaves_the_global_random_numbers_alone(supply: PairedWindows) -> None:
    """Otherwise a resumed run, which starts once more, would draw another dropout."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    taken(supply, 1)
    assert torch.equal(torch.rand(3), expected)


def test_on_demand_batches_say_what_is_asked_and_bring_all_that_is_known(write: Write) -> None:
    cohort = write(
        {"sub-1": {T1W: noise(), T2W: ramp(0)}, "sub-2": {T1W: ramp(0), FLAIR: noise(seed=2)}}
    )
    task = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), True)
    (batch,) = taken(windows(cohort, task, View(slices=3), size=8), 1, batch_size=12)
    assert batch.source_contrast is not None
    assert batch.target_contrast is not None
    assert batch.every is not None
    assert batch.known is not None
    assert batch.every.shape == (12, 3, 8, 8)
    for place, subject in enumerate(batch.subjects):
        came, asked = int(batch.source_contrast[place]), int(batch.target_contrast[place])
        absent = {"sub-1": 2, "sub-2": 1}[subject]
        assert batch.known[place].tolist() == [c not in (came, absent) for c in range(3)]
        assert torch.equal(batch.every[place, asked], batch.target[place, 0])
        assert torch.equal(batch.every[place, came], batch.source[place, 1])
        assert (batch.every[place, absent] == -1).all()
