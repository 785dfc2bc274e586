"""Who stands on which side: people without files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.data.division import divided
from medi2i.errors import CohortError, UsageError

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
PAIR = [(T1W,), (T2W,)]
EACH = [(T1W,), (T2W,), (FLAIR,)]


def someone(name: str, *contrasts: Contrast, study: str = "study") -> Subject:
    scans = {c: Path(study) / f"{name}_{c}.nii" for c in contrasts}
    return Subject(name, name.partition("_")[0], scans, study=study)


def crowd(count: int, *contrasts: Contrast, study: str = "study", first: int = 0) -> list[Subject]:
    return [someone(f"sub-{n}", *contrasts, study=study) for n in range(first, first + count)]


def people(side: Sequence[Subject]) -> set[str]:
    return {subject.person for subject in side}


@pytest.mark.parametrize("seed", range(5))
def test_everybody_stands_on_one_side(seed: int) -> None:
    cohort = [
        *crowd(9, T1W, T2W),
        *crowd(3, T1W, first=20),
        *crowd(2, T2W, PDW, first=30),
        *crowd(4, FLAIR, first=40),
    ]
    here, there = (people(side) for side in divided(cohort, PAIR, seed=seed))
    assert not here & there
    assert here | there == people(cohort[:14])
    assert here >= people(cohort[9:12])
    assert there >= people(cohort[12:14])
    assert {len(here), len(there)} == {7}


def test_the_seed_decides_who() -> None:
    cohort = crowd(10, T1W, T2W)
    halves = {frozenset(people(divided(cohort, PAIR, seed=seed)[0])) for seed in range(20)}
    assert len(halves) > 15
    assert {len(half) for half in halves} == {5}
    for name in people(cohort):  # nobody is bound to a side
        assert 3 <= sum(name in half for half in halves) <= len(halves) - 3


def test_the_order_of_the_cohort_changes_nothing() -> None:
    cohort = [
        *crowd(7, T1W, T2W, FLAIR),
        *crowd(3, T1W, first=20),
        *crowd(6, T1W, T2W, study="other", first=30),
        someone("sub-50_ses-1", T1W, T2W),
        someone("sub-50_ses-2", T1W, T2W, FLAIR),
    ]
    for sides in (PAIR, EACH):
        expected = divided(cohort, sides, seed=1)
        for turn in range(5):
            mixed = cohort.copy()
            random.Random(turn).shuffle(mixed)  # noqa: S311
            assert divided(mixed, sides, seed=1) == expected
    moved = [replace(s, study=f"/elsewhere/{s.study}") for s in cohort]
    names = [[s.name for s in side] for side in divided(moved, PAIR, seed=1)]
    assert names == [[s.name for s in side] for side in divided(cohort, PAIR, seed=1)]


@pytest.mark.parametrize("seed", range(5))
def test_each_study_is_halved(seed: int) -> None:
    """Else one side would know one scanner better than the other does."""
    cohort = [
        *crowd(4, T1W, T2W, study="one"),
        *crowd(7, T1W, T2W, study="two", first=10),
        *crowd(7, T1W, T2W, study="three", first=20),
    ]
    sides = divided(cohort, PAIR, seed=seed)
    for study, counts in (("one", {2}), ("two", {3, 4}), ("three", {3, 4})):
        assert {sum(s.study == study for s in side) for side in sides} == counts
    assert [len(side) for side in sides] == [9, 9]


@pytest.mark.parametrize("seed", range(6))
def test_sessions_stay_together(seed: int) -> None:
    """Also where no session alone shows both contrasts."""
    cohort = [
        someone(f"sub-{n}_ses-{session}", *contrasts)
        for n in range(4)
        for session, contrasts in enumerate([(T1W,), (T2W,), (T1W, T2W)])
    ]
    here, there = divided(cohort, PAIR, seed=seed)
    assert len(people(here)) == len(people(there)) == 2
    assert not people(here) & people(there)
    for side, contrast in ((here, T1W), (there, T2W)):
        assert [s.name for s in side] == [
            s.name for s in cohort if s in side and contrast in s.scans
        ]
        assert len(side) == 4


@pytest.mark.parametrize("seed", range(6))
def test_on_demand_everybody_shows_one_contrast(seed: int) -> None:
    cohort = [*crowd(9, T1W, T2W, FLAIR), *crowd(2, T1W, T2W, first=20), *crowd(1, PDW, first=30)]
    sides = [people(side) for side in divided(cohort, EACH, seed=seed)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 11
    assert sorted(map(len, sides)) == [3, 4, 4]


@pytest.mark.parametrize("seed", range(6))
def test_a_contrast_that_few_have_is_not_left_empty(seed: int) -> None:
    cohort = [someone("sub-1", T1W, FLAIR), someone("sub-2", T1W, T2W), someone("sub-3", T1W)]
    assert [len(side) for side in divided(cohort, EACH, seed=seed)] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(6))
def test_one_name_in_two_studies_is_one_person(seed: int) -> None:
    cohort = [
        *crowd(3, T1W, study="one"),
        *crowd(3, T1W, T2W, study="two"),  # they may not show their T2w
        *crowd(3, T1W, T2W, first=10),
        *crowd(3, T1W, T2W, study="two", first=10),
    ]
    here, there = divided(cohort, PAIR, seed=seed)
    assert not people(here) & people(there)
    assert people(crowd(3)) <= people(here)
    for side in (here, there):
        for name in people(side):
            assert sum(s.person == name for s in side) == 2


def test_a_mixed_up_subject_is_refused_unless_allowed() -> None:
    cohort = [*crowd(3, T1W, study="one"), *crowd(2, T2W, study="two", first=1)]
    with pytest.raises(CohortError) as refused:
        divided(cohort, PAIR)
    for part in (
        '"sub-1" is in "one" and "two"',
        "2 such: sub-1, sub-2",
        "{allowed: [sub-1, sub-2]}",
    ):
        assert part in str(refused.value)
    with pytest.raises(CohortError, match=r'"sub-2" is in "one" and "two".*1 such'):
        divided(cohort, PAIR, allowed=["sub-1"])
    here, there = divided(cohort, PAIR, allowed=["sub-1", "sub-2"])
    assert people(here) == {"sub-0", "sub-1", "sub-2"}
    assert people(there) == {"sub-1", "sub-2"}
    on_demand = [someone("sub-1", T1W, T2W, study="one"), someone("sub-1", FLAIR, study="two")]
    with pytest.raises(CohortError, match="for different sides"):
        divided(on_demand, EACH)


def test_some_stand_on_both_sides() -> None:
    cohort = [*crowd(8, T1W, T2W), *crowd(2, T1W, first=20)]
    both: set[str] = set()
    for implicit, count in ((0.0, 0), (0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8)):
        here, there = (people(side) for side in divided(cohort, PAIR, seed=3, implicit=implicit))
        assert len(here & there) == count
        assert here | there == people(cohort)
        assert both <= here & there, "who was there stays there"
        both = here & there
    assert (len(here), len(there)) == (10, 8)
    everywhere = divided(crowd(4, T1W, FLAIR), EACH, implicit=1)
    assert [len(side) for side in everywhere] == [4, 0, 4]


@pytest.mark.parametrize("implicit", [-0.1, 1.5])
def test_a_share_is_a_share(implicit: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        divided(crowd(2, T1W, T2W), PAIR, implicit=implicit)
