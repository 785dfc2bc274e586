"""Methods side by side over cases, always beside two baselines that know no anatomy.

*identity* hands the source back. *pointwise* maps each intensity to the mean target intensity
that went with it (`PointwiseMap`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i.errors import UsageError
from medi2i.evaluation.evaluate import Scan, on_one_grid
from medi2i.evaluation.pointwise import PointwiseMap
from medi2i.evaluation.protocols import Protocol
from medi2i.evaluation.protocols import protocol as protocol_called
from medi2i.evaluation.table import BASELINES, Row, ScoreTable
from medi2i.volume import Volume

__all__ = ["Case", "Further", "compare"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Case:
    """One subject's scans for one task.

    Attributes:
        name: of the case. task: such as "T1w->T2w".
        predictions: by method. target: the real scan.
        source: what was translated; None leaves the baselines out.
        mask: as the protocol takes it.
    """

    name: str
    task: str
    predictions: Mapping[str, Scan]
    target: Scan
    source: Scan | None = None
    mask: Scan | None = None


Further = Callable[[Case, NDArray[Any], Volume, Volume | None], Mapping[str, float]]
"""More scores of a prediction, by name: of (case, predicted voxels, target, source), all on one
canonical grid."""


def compare(
    cases: Iterable[Case],
    *,
    protocol: str | Protocol = "brain-3d",
    maps: Mapping[str, PointwiseMap] | None = None,
    further: Further | None = None,
    seed: int = 0,
    watch: Callable[[Row], None] | None = None,
) -> ScoreTable:
    """Score every prediction of every case, and both baselines.

    One case is in memory at a time. Scans that are given as paths are read twice where a
    pointwise map has to be fitted.

    Args:
        maps: fitted pointwise maps by task, from training scans. For another task the map of a
            case is fitted to the other cases of that task, and a note says so.
        further: scores that the protocol does not have; they stand among its `extra`.
        seed: of the bootstrap.
        watch: is called with each row as it comes.

    Raises:
        As `evaluate`. UsageError: no cases, a method named like a baseline, or the same case
        twice in a task.
    """
    cases = list(cases)
    chosen = protocol_called(protocol) if isinstance(protocol, str) else protocol
    _check_cases(cases)
    notes: list[str] = []
    fitted = _leave_one_out(cases, chosen, maps or {}, notes)
    rows: list[Row] = []
    for case in cases:
        synthetic = {f"prediction of {key}": scan for key, scan in case.predictions.items()}
        scans = on_one_grid(
            {"target": case.target, "source": case.source, "mask": case.mask, **synthetic}
        )
        target, source, mask = scans["target"], scans.get("source"), scans.get("mask")
        predictions: dict[str, NDArray[Any]] = {
            key: scans[f"prediction of {key}"].voxels for key in case.predictions
        }
        if source is not None:
            predictions["identity"] = source.voxels
            pointwise = fitted.get((case.task, case.name)) or (maps or {}).get(case.task)
            if pointwise:
                inside = _inside(source, mask, chosen)
                predictions["pointwise"] = pointwise.predict(source.voxels, inside)
        for method, predicted in predictions.items():
            scores = chosen.score(
                predicted,
                target.voxels,
                mask=None if mask is None else mask.voxels,
                spacing=target.spacing,
                source=None if source is None else source.voxels,
            )
            if further:
                more = further(case, predicted, target, source)
                scores = replace(scores, extra={**scores.extra, **more})
            rows.append(Row(case.name, case.task, method, scores))
            if watch:
                watch(rows[-1])
    return ScoreTable(chosen, tuple(rows), tuple(notes), seed)


def _check_cases(cases: Sequence[Case]) -> None:
    if not cases:
        raise UsageError("There are no cases to compare.")
    seen = set()
    for case in cases:
        reserved = sorted(set(BASELINES) & set(case.predictions))
        if reserved:
            raise UsageError(f'A method cannot be named "{reserved[0]}".')
        if (case.task, case.name) in seen:
            raise UsageError(f'The case "{case.name}" is there twice for {case.task}.')
        seen.add((case.task, case.name))


def _leave_one_out(
    cases: Sequence[Case],
    protocol: Protocol,
    maps: Mapping[str, PointwiseMap],
    notes: list[str],
) -> dict[tuple[str, str], PointwiseMap]:
    """For tasks without a map: the map of each case from the others; `notes` grows."""
    result: dict[tuple[str, str], PointwiseMap] = {}
    for task in dict.fromkeys(case.task for case in cases):
        own = [case for case in cases if case.task == task]
        able = [case for case in own if case.source is not None]
        if len(able) < len(own):
            notes.append(f"{task}: identity and pointwise n/a where no source is given.")
        if task in maps or not able:
            continue
        if len(able) == 1:
            notes.append(f"{task}: pointwise n/a: no fitted map, and no other case to fit one to.")
            continue
        single = {}
        for case in able:
            scans = on_one_grid({"target": case.target, "source": case.source, "mask": case.mask})
            source = scans["source"]
            inside = _inside(source, scans.get("mask"), protocol)
            single[case.name] = PointwiseMap.of(source.voxels, scans["target"].voxels, inside)
        for name in single:
            others = [single[other] for other in single if other != name]
            result[task, name] = sum(others[1:], start=others[0])
        notes.append(f"{task}: pointwise is fitted to the other cases (leave-one-out).")
    return result


def _inside(source: Volume, mask: Volume | None, protocol: Protocol) -> Mask:
    given = mask is not None and protocol.mask_role == "inside"
    return (mask if mask is not None and given else source).voxels > 0
