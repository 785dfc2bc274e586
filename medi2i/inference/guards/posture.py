"""Whether a head lies as its header says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from medi2i.inference.aids import read_aid
from medi2i.inference.glance import SPACING, Glance
from medi2i.networks.posture import PARTS, PostureNet
from medi2i.resolution import resize
from medi2i.zoo import aid

__all__ = [
    "TIPPED",
    "TURNED",
    "TURNS",
    "misplaced",
    "outlined",
    "postures",
    "read_posture_net",
    "turned",
]

TURNED = -2.0
"""Score of the head as it lies below which it is said to be turned, if it is upright otherwise."""
TIPPED = -5.0
"""Score below which it is said to be tipped, if no turn by right angles makes it upright."""
FEWEST = 5000
"""Voxels of 2 mm (40 ml) below which a brain has no posture."""
SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))

Mask = NDArray[np.bool_]
V = TypeVar("V", bound=np.generic)
Turn = NDArray[np.intp]
TURNS: tuple[Turn, ...] = tuple(
    sorted(
        (turn.round().astype(np.intp) for turn in Rotation.create_group("O").as_matrix()),
        key=lambda turn: -int(np.trace(turn)),
    )
)
"""(3, 3) each: the 24 turns by right angles, none at all first."""


def misplaced(name: str, seen: Glance) -> Iterator[str]:
    """A sentence where a head does not lie upright on its axes.

    A scan whose left and right are exchanged looks like any other: this cannot be seen.
    """
    if seen.marked.sum() < FEWEST:
        return
    (as_it_is,) = postures(seen.marked, TURNS[:1])
    if as_it_is >= TURNED:
        return
    scores = postures(seen.marked)
    best = int(np.argmax(scores))
    if best and scores[best] > 0:
        top, front = (_towards(TURNS[best], axis) for axis in (2, 1))
        yield (
            f'"{name}" does not lie as its header says: the top of the head seems to point to '
            f"the {top} and its face to the {front} of the scan; mend the orientation first"
        )
    elif as_it_is < TIPPED:
        yield (
            f'"{name}" seems to be tipped far from upright, or its voxel size is not what its '
            "header says; models know heads that lie nearly straight"
        )


def postures(brain: Mask, turns: Sequence[Turn] = TURNS) -> list[float]:
    """How upright a brain is after each of `turns`.

    Args:
        brain: (X, Y, Z) at 2 mm on canonical axes.
    """
    net = read_posture_net(aid("posture"))
    outlines = torch.stack([outlined(turned(brain, turn), SPACING) for turn in turns])
    with torch.inference_mode():
        return [float(score) for score in net(outlines)]


def outlined(brain: Mask, step: float) -> Tensor:
    """(PARTS^3 + 3,): how full each cell of the box is, -1 to 1, and its sides in decimetres.

    Args:
        brain: (X, Y, Z) on canonical axes, not empty.
        step: millimetres per voxel.
    """
    corners = np.argwhere(brain)
    low, high = corners.min(0), corners.max(0) + 1
    box = brain[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    cells = resize(torch.from_numpy(box)[None], (PARTS,) * 3)[0]
    sides = torch.from_numpy((high - low) * (step / 100)).float()
    return torch.cat([2 * cells.flatten() - 1, sides])


def turned(brain: NDArray[V], turn: Turn) -> NDArray[V]:
    """An array turned by right angles: new axis i is the old one where turn[i] is not 0.

    >>> brain = np.zeros((1, 2, 3), bool)
    >>> turned(brain, np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])).shape
    (3, 2, 1)
    """
    axes = np.abs(turn).argmax(1)
    flipped = tuple(slice(None, None, int(turn[i, axis])) for i, axis in enumerate(axes))
    return brain.transpose(axes)[flipped]


def _towards(turn: Turn, axis: int) -> str:
    """Where in the scan as it is that points which the turn brings to the upper end of `axis`."""
    old = int(np.abs(turn[axis]).argmax())
    return SIDES[old][int(turn[axis, old] > 0)]


@cache
def read_posture_net(folder: Path) -> PostureNet:
    """The network in a folder; read once.

    Raises:
        ModelError: a file is missing, altered, or of another kind.
    """
    return read_aid(folder, PostureNet)
