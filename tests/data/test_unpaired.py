"""Who and where is told from the pixels: every slice of every scan is another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.data.cohort import Cohort
from medi2i.data.decoded import Decoder
from medi2i.data.supply import batches
from medi2i.data.unpaired import UnpairedWindows
from medi2i.errors import CohortError
from medi2i.task import Task, View
from tests.data.conftest import Voxels, Write, alike, noise

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
PAIR = Task((T1W,), (T2W,))
ANY = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
SHAPE = (8, 8, 10)


def windows(
    cohort: Cohort, task: Task = PAIR, view: View | None = None, **more: Any
) -> UnpairedWindows:
    settings = {"size": 8, "augmentation": Augmentation.none(), **more}
    return UnpairedWindows(cohort, task, view or View(), **settings)


class Seen(NamedTuple):
    person: str
    contrast: Contrast
    height: int
    flipped: bool


class Album(dict[bytes, Seen]):
    """Every slice of every scan, as a window of the whole plane shows it."""

    def __init__(self, cohort: Cohort) -> None:
        super().__init__()
        decode = Decoder(View())
        for subject in cohort:
            for contrast in subject.scans:
                (voxels,) = decode(subject, [contrast]).voxels.astype(np.float32)
                for height in range(voxels.shape[2]):
                    plane = torch.from_numpy(voxels[..., height].copy())
                    for flipped in (False, True):
                        key = self.key(plane.flip(0) if flipped else plane)
                        self[key] = Seen(subject.person, contrast, height, flipped)

    @staticmethod
    def key(plane: Tensor) -> bytes:
        return plane.contiguous().numpy().round(5).tobytes()

    def of(self, plane: Tensor) -> Seen:
        return self[self.key(plane)]


def people(**contrasts: tuple[Contrast, ...]) -> dict[str, dict[Contrast, Voxels]]:
    return {
        name.replace("_", "-"): {
            c: noise(SHAPE, seed=10 * number + list(Contrast).index(c)) for c in scans
        }
        for number, (name, scans) in enumerate(contrasts.items())
    }


@pytest.fixture
def cohort(write: Write) -> Cohort:
    both = {f"sub_{n}": (T1W, T2W) for n in range(4)}
    return write(people(**both, sub_8=(T1W,), sub_9=(T2W,)))


# ---- who


@pytest.mark.parametrize("seed", [0, 1])
def test_never_the_same_person_on_both_sides(cohort: Cohort, seed: int) -> None:
    album, supply = Album(cohort), windows(cohort, seed=seed)
    sides: tuple[set[str], set[str]] = (set(), set())
    for number in range(300):
        sample = supply[number]
        shown = album.of(sample.source[0]), album.of(sample.target[0])
        assert [seen.contrast for seen in shown] == [T1W, T2W]
        assert [seen.person for seen in shown] == [sample.subject, sample.other]
        for side, seen in zip(sides, shown, strict=True):
            side.add(seen.person)
    assert not sides[0] & sides[1]
    assert len(sides[0]) == len(sides[1]) == 3
    assert "sub-8" in sides[0]
    assert "sub-9" in sides[1]
    assert sorted(s.name for s in supply.subjects) == sorted(sides[0] | sides[1])


def test_on_demand_nobody_shows_two_contrasts(write: Write) -> None:
    every = {f"sub_{n}": (T1W, T2W, FLAIR) for n in range(6)}
    cohort = write(people(**every, sub_9=(T1W, FLAIR)))
    album, supply = Album(cohort), windows(cohort, ANY)
    shown: dict[str, set[Contrast]] = {}
    routes: set[tuple[int, int]] = set()
    for number in range(400):
        sample = supply[number]
        routes.add((sample.source_contrast, sample.target_contrast))
        for image, place in (
            (sample.source, sample.source_contrast),
            (sample.target, sample.target_contrast),
        ):
            seen = album.of(image[0])
            assert seen.contrast == ANY.sources[place]
            shown.setdefault(seen.person, set()).add(seen.contrast)
    assert len(shown) == 7
    assert all(len(contrasts) == 1 for contrasts in shown.values())
    assert routes == {(s, t) for s in range(3) for t in range(3) if s != t}


def test_two_lists_on_demand_count_each_for_itself(write: Write) -> None:
    cohort = write(people(sub_1=(T2W,), sub_2=(FLAIR,), sub_3=(T1W,)))
    supply = windows(cohort, Task((T2W, FLAIR), (T1W, FLAIR), on_demand=True))
    drawn = {(s.subject, s.other): s for s in (supply[n] for n in range(40))}
    assert {who: (s.source_contrast, s.target_contrast) for who, s in drawn.items()} == {
        ("sub-1", "sub-3"): (0, 0),
        ("sub-1", "sub-2"): (0, 1),
        ("sub-2", "sub-3"): (1, 0),
    }


def test_the_scans_of_the_other_side_are_never_opened(cohort: Cohort) -> None:
    supply = windows(cohort)
    ends = [(route.sources, T2W) for route in supply.routes]
    ends += [(route.targets, T1W) for route in supply.routes]
    for side, contrast in ends:
        for subject in side.subjects:
            if contrast in subject.scans:
                subject.scans[contrast].write_text("not a scan")
    told: list[tuple[int, int, str]] = []
    supply.prepare(lambda *progress: told.append(progress))
    assert [done for done, *_ in told] == [1, 2, 3, 4, 5, 6]
    supply[0]


@pytest.mark.parametrize("implicit", [0.5, 1.0])
def test_counterparts_meet_by_chance(write: Write, implicit: float) -> None:
    """Of |A| sources and |B| targets drawn independently, m share a person: P = m / (|A| |B|)."""
    cohort = write(people(**{f"sub_{n}": (T1W, T2W) for n in range(6)}))
    supply = windows(cohort, implicit=implicit)
    (route,) = supply.routes
    here, there = ({s.name for s in side.subjects} for side in route[2:])
    shared = len(here & there)
    assert shared == round(6 * implicit)
    chance = shared / (len(here) * len(there))
    draws = 3000
    met, pairs = 0, set()
    for number in range(draws):
        sample = supply[number]
        met += sample.subject == sample.other
        pairs.add((sample.subject, sample.other))
    spread = (chance * (1 - chance) / draws) ** 0.5
    assert abs(met / draws - chance) < 4 * spread
    assert pairs == {(a, b) for a in here for b in there}


def test_a_mixed_up_subject_is_refused_unless_allowed(write: Write) -> None:
    scans = people(sub_1=(T1W,), sub_2=(T2W,), sub_3=(T1W,))
    mixed = {"sub-1": {T2W: noise(SHAPE, seed=99)}}
    cohort = Cohort((*write(scans, study="one"), *write(mixed, study="two")))
    with pytest.raises(CohortError, match=r'"sub-1" is in ".*one" and ".*two"'):
        windows(cohort)
    (route,) = windows(cohort, allowed=("sub-1",)).routes
    assert [s.name for s in route.sources.subjects] == ["sub-1", "sub-3"]
    assert [s.name for s in route.targets.subjects] == ["sub-1", "sub-2"]


@pytest.mark.parametrize(
    ("there", "task", "sentence"),
    [
        ({"sub_1": (T1W, T2W)}, PAIR, '"sub-1" has T.w, but nobody is left .* add people who have'),
        (
            {"sub_1": (T1W,), "sub_2": (T1W,)},
            PAIR,
            "none of 2 subjects has T2w; found: T1w 2. .* add people who have T2w",
        ),
        ({"sub_1": (T1W, T2W), "sub_2": (T1W, T2W)}, ANY, "none of 2 subjects has FLAIR"),
        ({"sub_1": (T1W, T2W, FLAIR), "sub_2": (T1W, T2W)}, ANY, "2 people have T.w, but nobody"),
    ],
)
def test_an_empty_side(
    write: Write, there: dict[str, tuple[Contrast, ...]], task: Task, sentence: str
) -> None:
    with pytest.raises(CohortError, match=sentence):
        windows(write(people(**there)), task)


# ---- by number


def test_sample_n_depends_on_seed_and_n_alone(cohort: Cohort) -> None:
    more: dict[str, Any] = {"augmentation": Augmentation(elastic=0), "view": View(slices=3)}
    first, again, other = (windows(cohort, seed=seed, **more) for seed in (1, 1, 2))
    forwards = [first[n] for n in range(6)]
    backwards = [again[n] for n in reversed(range(6))]
    assert all(alike(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not any(alike(first[n], other[n]) for n in range(6))


@pytest.mark.parametrize("task", [PAIR, ANY], ids=str)
def test_the_order_of_the_cohort_changes_nothing(write: Write, task: Task) -> None:
    cohort = write(people(**{f"sub_{n}": (T1W, T2W, FLAIR) for n in range(5)}))
    turned = Cohort(tuple(reversed(cohort.subjects)))
    one, other = windows(cohort, task), windows(turned, task)
    assert all(alike(one[n], other[n]) for n in range(20))


def taken(supply: UnpairedWindows, count: int, **more: Any) -> list[Batch]:
    stream = batches(supply, **{"batch_size": 2, **more})
    return [next(stream) for _ in range(count)]


def equal(one: Batch, other: Batch) -> bool:
    names = ("source", "target", "weight", "target_weight", "target_slab")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return one.subjects == other.subjects and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_batches_go_on_and_are_shared(cohort: Cohort) -> None:
    supply = windows(cohort, view=View(slices=3))
    whole = taken(supply, 4, batch_size=4)
    assert all(map(equal, whole[2:], taken(supply, 2, batch_size=4, start=2)))
    assert all(map(equal, whole, taken(supply, 4, batch_size=4, workers=1)))
    parts = [taken(supply, 4, rank=rank, ranks=2) for rank in (0, 1)]
    for one, other, both in zip(*parts, whole, strict=True):
        for name in ("source", "target"):
            shares = torch.stack([getattr(one, name), getattr(other, name)], 1).flatten(0, 1)
            assert torch.equal(shares, getattr(both, name))


def test_what_a_batch_holds(cohort: Cohort) -> None:
    (batch,) = taken(windows(cohort, view=View(slices=3), background=0.25, size=10), 1)
    assert batch.source.shape == (2, 3, 10, 10)
    assert batch.target.shape == (2, 1, 10, 10)
    assert batch.target_slab is not None
    assert torch.equal(batch.target_slab[:, 1:2], batch.target)
    assert batch.weight is not None
    assert batch.target_weight is not None
    for image, weight in (
        (batch.source[:, 1:2], batch.weight),
        (batch.target, batch.target_weight),
    ):
        assert torch.equal(weight, torch.where(image > -0.9, 1.0, 0.25))
    assert batch.every is batch.known is None
    assert batch.source_contrast is batch.target_contrast is None
    assert len(batch.subjects) == 4


def test_an_on_demand_batch_says_what_it_shows(write: Write) -> None:
    cohort = write(people(sub_1=(T1W,), sub_2=(T2W,), sub_3=(FLAIR,)))
    (batch,) = taken(windows(cohort, ANY), 1, batch_size=12)
    assert batch.source_contrast is not None
    assert batch.target_contrast is not None
    numbers = [*batch.source_contrast.tolist(), *batch.target_contrast.tolist()]
    assert [f"sub-{number + 1}" for number in numbers] == list(batch.subjects)
    assert batch.every is batch.known is batch.target_slab is None


def test_several_sources_and_targets(write: Write) -> None:
    three = (T1W, T2W, FLAIR)
    cohort = write(people(sub_1=three, sub_2=three, sub_3=(T1W,), sub_4=(T1W, FLAIR)))
    (route,) = windows(cohort, Task((T2W,), (T1W, FLAIR))).routes
    assert "sub-4" in {s.name for s in route.targets.subjects}
    assert "sub-3" not in {s.name for side in route[2:] for s in side.subjects}
    album = Album(cohort)
    sample = windows(cohort, Task((T2W,), (T1W, FLAIR)))[0]
    first, second = (album.of(image) for image in sample.target)
    assert (first.contrast, second.contrast) == (T1W, FLAIR)
    assert (first.person, first.height) == (second.person, second.height)


# ---- where


def test_each_side_is_moved_by_itself_and_the_target_keeps_its_looks(cohort: Cohort) -> None:
    album = Album(cohort)
    flips = windows(cohort, augmentation=replace(Augmentation.none(), flip=0.5))
    seen = [flips[n] for n in range(80)]
    both = [(album.of(s.source[0]).flipped, album.of(s.target[0]).flipped) for s in seen]
    assert all(8 < both.count((a, b)) < 35 for a in (False, True) for b in (False, True))
    noisy = windows(cohort, augmentation=replace(Augmentation.none(), noise=1.0))[0]
    assert album.of(noisy.target[0]).contrast is T2W
    assert album.key(noisy.source[0]) not in album


def long_and_short() -> dict[str, dict[Contrast, Voxels]]:
    """Heads of 8 among 12 slices and of 50 among 60; every slice tells its height."""
    scans = {}
    for name, contrast, low, high, length in (("sub-1", T1W, 3, 10, 12), ("sub-2", T2W, 4, 53, 60)):
        voxels = np.zeros((8, 8, length), np.float32)
        voxels[..., low : high + 1] = noise((8, 8, high + 1 - low))
        scans[name] = {contrast: voxels}
    return scans


def heights_of(supply: UnpairedWindows, album: Album, count: int) -> np.ndarray[Any, Any]:
    """(count, 2): relative heights of source and target."""
    samples = [supply[number] for number in range(count)]
    source = np.array([album.of(s.source[0]).height for s in samples])
    target = np.array([album.of(s.target[0]).height for s in samples])
    assert set(source) == set(range(3, 11))
    return np.stack([(source - 3) / 7, (target - 4) / 49], 1)


def test_matching_heights_match_and_random_ones_do_not(write: Write) -> None:
    cohort = write(long_and_short())
    album, supply = Album(cohort), windows(cohort)
    matching = heights_of(supply, album, 200)
    off = matching[:, 1] - matching[:, 0]
    assert np.abs(off).max() <= 0.03 + 0.5 / 49 + 1e-9, "three percent, and rounding"
    assert len(set(np.round(off * 49))) >= 3, "give or take"
    anywhere = windows(cohort, heights="random")
    random = heights_of(anywhere, album, 200)
    assert np.abs(random[:, 1] - random[:, 0]).max() > 0.7
    assert abs(np.corrcoef(random.T)[0, 1]) < 0.2
    for number in range(20):
        assert torch.equal(supply[number].source, anywhere[number].source), "the same sources"


def coordinates(shape: tuple[int, int, int], box: tuple[slice, ...], axis: int) -> Voxels:
    """Ramps in a box, that tell the relative place along one axis."""
    voxels = np.zeros(shape, np.float32)
    inside = voxels[box]
    length = inside.shape[axis]
    steps = np.linspace(1, 2, length, dtype=np.float32)
    inside[...] = steps.reshape([-1 if a == axis else 1 for a in range(3)])
    return voxels


@pytest.mark.parametrize("axis", range(3))
def test_patches_match_along_each_axis(write: Write, axis: int) -> None:
    small = coordinates((30, 32, 34), (slice(3, 27), slice(2, 30), slice(0, 26)), axis)
    large = coordinates((60, 44, 50), (slice(9, 57), slice(0, 42), slice(8, 47)), axis)
    cohort = write({"sub-1": {T1W: small}, "sub-2": {T2W: large}})

    def middles(**more: Any) -> np.ndarray[Any, Any]:
        supply = windows(cohort, view=View(dims=3, patch=12), size=12, **more)
        samples = [supply[number] for number in range(60)]
        return np.array([(float(s.source.median()), float(s.target.median())) for s in samples])

    matching, random = middles(), middles(heights="random")
    assert np.abs(matching[:, 0]).max() > 0.3, "here and there"
    # a window shows a larger part of a smaller head, so that its ends cannot be matched
    inner = matching[np.abs(matching[:, 0]) < 0.45]
    assert np.abs(inner[:, 1] - inner[:, 0]).max() < 2 * (0.03 + 1 / 24 + 1 / 39)
    assert abs(np.corrcoef(random.T)[0, 1]) < 0.5 < np.corrcoef(matching.T)[0, 1]


def test_windows_larger_than_the_head_match(write: Write) -> None:
    small = coordinates((12, 12, 12), (slice(2, 9), slice(3, 10), slice(1, 8)), 0)
    other = coordinates((14, 12, 9), (slice(7, 14), slice(0, 7), slice(2, 9)), 0)
    cohort = write({"sub-1": {T1W: small}, "sub-2": {T2W: other}})
    supply = windows(cohort, view=View(dims=3, patch=10), size=10)
    places = set()
    for number in range(10):
        sample = supply[number]
        assert sample.target_weight is not None
        lies = []
        for weight in (sample.weight, sample.target_weight):
            tissue = np.argwhere(weight[0].numpy() == 1)
            lies.append(tuple(tissue.min(0)))
            assert (tissue.max(0) - tissue.min(0) == 6).all(), "the whole head"
        assert lies[0] == lies[1], "three percent of seven voxels are none"
        places.add(lies[0])
    assert len(places) > 4
