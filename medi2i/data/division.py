"""Who stands on which side, where the two sides shall be different people.

A side asks for contrasts: the sources or the targets of a fixed task, or one of the contrasts of
a task on demand. Everybody stands on one side only, all sessions together, even who could stand
on several: so nothing that is learned can come from a pair. The rule knows the seed and the names
of the people, not the order in which they were found.

`implicit` leaves some of the pairs in, unmarked: the share of those who could stand on several
sides who do (rho of Ginger et al. 2019, arXiv:1904.06913). Here the sides grow with it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.errors import CohortError, UsageError

__all__ = ["divided"]

Side = int
"""Position in the list of what the sides ask for."""


def divided(
    subjects: Iterable[Subject],
    sides: Sequence[tuple[Contrast, ...]],
    *,
    seed: int = 0,
    implicit: float = 0.0,
    allowed: Collection[str] = (),
) -> list[list[Subject]]:
    """Put everybody on one side.

    Who could stand on several goes where their study has fewer people so far, by a shuffle of
    their names.

    Args:
        subjects: whoever suits no side is left out.
        sides: the contrasts that each asks for.
        seed: of the shuffle.
        implicit: share of those who could stand on several sides who do, in [0, 1].
        allowed: names that are several people: each study's stands where it suits.

    Returns:
        Who stands on each side, by name.

    Raises:
        UsageError: a share outside [0, 1].
        CohortError: two studies have scans of the same name, each of which suits another side only.
    """
    if not 0 <= implicit <= 1:
        raise UsageError(f"implicit is {implicit:g}; a share between 0 and 1 was expected")
    people: dict[tuple[str, str], list[Subject]] = defaultdict(list)
    for subject in subjects:
        if _suits(subject, sides):
            whose = subject.study if subject.person in allowed else ""
            people[subject.person, whose].append(subject)
    free = _free(people, sides)
    order = sorted(people, key=lambda who: (_shuffle(seed, who[0]), who))
    several = [who for who in order if len(free[who]) > 1]
    both = set(several[: round(implicit * len(several))])
    stands = {who: free[who] for who in people if len(free[who]) == 1 or who in both}

    def study_of(who: tuple[str, str]) -> tuple[str, ...]:
        return tuple(sorted({subject.study for subject in people[who]}))

    there = Counter((study_of(who), side) for who, chosen in stands.items() for side in chosen)
    whole = Counter(side for chosen in stands.values() for side in chosen)
    could = Counter(side for who in people for side in free[who])
    studies = list(dict.fromkeys(map(study_of, order)))
    # study by study, so that each is halved and only their odd ones even out the whole
    for who in sorted(order, key=lambda who: studies.index(study_of(who))):
        if who in stands:
            continue
        study, turn = study_of(who), _shuffle(seed, who[0])[-1]
        side = min(
            free[who],
            key=lambda s: (there[study, s], whole[s], could[s], (s + turn) % len(sides)),
        )
        stands[who] = {side}
        there[study, side] += 1
        whole[side] += 1
    return [
        sorted(
            (s for who in people if side in stands[who] for s in people[who] if _has(s, wanted)),
            key=lambda subject: (subject.name, subject.study),
        )
        for side, wanted in enumerate(sides)
    ]


def _free(
    people: dict[tuple[str, str], list[Subject]], sides: Sequence[tuple[Contrast, ...]]
) -> dict[tuple[str, str], set[Side]]:
    """Where each person could stand: where every study that has the name could put them."""
    free, mixed = {}, {}
    for who, subjects in people.items():
        by_study: dict[str, set[Side]] = defaultdict(set)
        for subject in subjects:
            by_study[subject.study] |= _suits(subject, sides)
        free[who] = set.intersection(*by_study.values())
        if not free[who]:
            mixed[who[0]] = sorted(by_study)
    if mixed:
        names = sorted(mixed)
        example = " and ".join(f'"{study}"' for study in mixed[names[0]])
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise CohortError(
            f'"{names[0]}" is in {example}, with contrasts for different sides: were they one '
            f"person, that person would be on both ({len(names)} such: {listed}). If they are "
            f"different people, rename them or list them: data: {{allowed: [{', '.join(names)}]}}"
        )
    return free


def _suits(subject: Subject, sides: Sequence[tuple[Contrast, ...]]) -> set[Side]:
    return {side for side, wanted in enumerate(sides) if _has(subject, wanted)}


def _has(subject: Subject, wanted: Sequence[Contrast]) -> bool:
    return all(contrast in subject.scans for contrast in wanted)


def _shuffle(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
