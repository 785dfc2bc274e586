from __future__ import annotations

from typing import Any

import pytest

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.task import Task, View
from medi2i.windows import Grid

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW


def test_a_fixed_task() -> None:
    task = Task((T1W, FLAIR), (T2W, PDW))
    assert (task.inputs, task.outputs, task.conditions) == (2, 2, 0)
    assert task.contrasts == (T1W, FLAIR, T2W, PDW)
    assert task.pairs() == [((T1W, FLAIR), (T2W, PDW))]
    assert str(task) == "T1w+FLAIR -> T2w+PDw"


def test_a_task_on_demand() -> None:
    task = Task((T1W, T2W), (T2W, FLAIR), on_demand=True)
    assert (task.inputs, task.outputs, task.conditions) == (1, 1, 2)
    assert task.contrasts == (T1W, T2W, FLAIR)
    assert task.pairs() == [((T1W,), (T2W,)), ((T1W,), (FLAIR,)), ((T2W,), (FLAIR,))]
    assert str(task) == "any of T1w, T2w -> any of T2w, FLAIR"


@pytest.mark.parametrize(
    ("sources", "targets", "on_demand", "error", "sentence"),
    [
        ((), (T1W,), False, UsageError, "at least one source and one target"),
        ((T1W,), (), False, UsageError, "at least one source and one target"),
        ((T1W, T1W), (T2W,), False, UsageError, "sources T1w, T1w name a contrast twice"),
        ((T1W,), (T2W, T2W), False, UsageError, "targets T2w, T2w name a contrast twice"),
        ((T1W, T2W), (T2W,), False, ContrastError, "T2w is both source and target"),
        ((T1W,), (T1W,), True, ContrastError, "T1w leaves nothing to translate into"),
    ],
)
def test_tasks_that_make_no_sense(
    sources: Any, targets: Any, on_demand: bool, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        Task(sources, targets, on_demand)


def test_views_cover_a_volume() -> None:
    shape = (9, 8, 7)
    assert View().grid(shape) == Grid.slices(shape)
    assert View(slices=5).grid(shape) == Grid.slices(shape, axis=2, neighbours=2)
    assert View(dims=3, patch=4, overlap=0.25).grid(shape) == Grid.patches(shape, 4, 0.25)
    assert (View().axes, View(dims=3).axes) == ((0, 1), (0, 1, 2))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dims": 4}, "dims is 4; 2 .* or 3 .* was expected"),
        ({"slices": 2}, "slices is 2 with dims 2; an odd number"),
        ({"slices": -1}, "slices is -1 with dims 2"),
        ({"dims": 3, "slices": 3}, "slices is 3 with dims 3"),
        ({"dims": 3, "patch": 0}, "patch is 0 and overlap 0.5"),
        ({"dims": 3, "overlap": 1.0}, "patch is 96 and overlap 1;"),
        ({"spacing": 0.0}, "spacing is 0 mm; more than 0"),
    ],
)
def test_views_of_nothing(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        View(**arguments)
