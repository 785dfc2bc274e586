"""How often a translation's guards warn: of scans as they are, and of scans spoilt on purpose.

    python pipelines/guards.py DATA [--simulated 12] [--json FILE]

DATA holds volumes/ and lgg/ (BIDS; only "val" is looked at). The story: take every real validation
scan and some simulated heads; ask each guard about them as they are, where a warning is a false
alarm (but lgg lacks the lowest fifth, so "cut off" may be right there); then turn them, tip them,
cut them, add noise, let them move, name another contrast, put another thing in their place, and ask
again. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import medi2i
from medi2i.contrasts import Contrast
from medi2i.data.cohort import find_cohort
from medi2i.files import write_whole
from medi2i.inference.glance import Glance
from medi2i.inference.guards.field import cut_off
from medi2i.inference.guards.posture import TURNS, misplaced, turned
from medi2i.inference.guards.spoilt import GHOSTS, NOISE, ghosts, noise, slices_of
from medi2i.inference.recognise import against, look
from medi2i.simulate import simulate
from medi2i.simulate.artefacts import motion_ghosts, rician
from medi2i.simulate.foreign import FOREIGN, foreign
from medi2i.volume import Volume

Field = NDArray[np.float32]
GUARDS = ("head and contrast", "posture", "cut off", "noise", "motion")
"""In the order of the columns."""


def main() -> None:
    """Ask, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--simulated", type=int, default=8, help="people, three contrasts each")
    parser.add_argument("--json", type=Path, help="write every answer to this file")
    chosen = parser.parse_args()
    rng = np.random.default_rng(11)
    rows: list[dict[str, Any]] = []
    for group, contrast, scan in scans(chosen.data, chosen.simulated):
        rows.append({"scan": scan.name, "group": group, **asked(scan, contrast)})
        if contrast not in (Contrast.T1W, Contrast.FLAIR):
            continue  # two of each person are spoilt
        for kind, spoil in SPOILT.items():
            rows.append({"scan": scan.name, "group": kind, **asked(spoil(scan, rng), contrast)})
        others = [c for c in (Contrast.T1W, Contrast.T2W, Contrast.FLAIR) if c is not contrast]
        wrong = others[int(rng.integers(len(others)))]
        rows.append({"scan": scan.name, "group": "wrong contrast", **asked(scan, wrong)})
        print(scan.name, flush=True)
    if chosen.json:
        write_whole(chosen.json, json.dumps(rows, indent=2) + "\n")
    print(table(rows))


def scans(data: Path, simulated: int) -> Iterator[tuple[str, Contrast, Volume]]:
    """What may be asked about: group, contrast, scan."""
    for study in ("volumes", "lgg"):
        for subject in find_cohort([data / study]).split("val"):
            for contrast, path in subject.scans.items():
                yield f"as they are, {study}", contrast, medi2i.load_volume(path)
    for seed in range(5000, 5000 + simulated):
        for contrast, scan in simulate(seed, contrasts=["t1", "t2", "flair"]).scans.items():
            yield (
                "as they are, simulated",
                contrast,
                scan.like(scan.voxels, name=f"{seed} {contrast}"),
            )


def asked(scan: Volume, contrast: Contrast) -> dict[str, Any]:
    """What each guard says of one scan; nothing of one too small to be judged."""
    seen = look(scan)
    if not isinstance(seen, Glance):
        return dict.fromkeys(GUARDS, False)
    slices = slices_of(scan, seen.marked_mask)
    measured = {"noise": noise(slices), "ghosts": ghosts(slices)}
    return {
        "head and contrast": bool(against(seen, "", contrast)),
        "posture": bool(list(misplaced("", seen))),
        "cut off": bool(list(cut_off("", seen))),
        "noise": measured["noise"] > NOISE,
        "motion": measured["ghosts"] > GHOSTS,
        "measured": measured,
    }


def turned_square(scan: Volume, rng: np.random.Generator) -> Volume:
    """As if its header named other axes."""
    turn = TURNS[int(rng.integers(1, len(TURNS)))]
    canonical = scan.canonical()
    steps = np.array(canonical.spacing)[np.abs(turn).argmax(1)]
    voxels = np.ascontiguousarray(turned(canonical.voxels, turn))
    return Volume.of(voxels, np.diag([*steps, 1.0]), scan.name)


def tipped(scan: Volume, rng: np.random.Generator) -> Volume:
    """By 45 degrees about an axis, at 2 mm."""
    canonical = scan.canonical()
    plane = [[1, 2], [0, 2], [0, 1]][int(rng.integers(3))]
    cubes = ndimage.zoom(canonical.voxels, np.array(canonical.spacing) / 2.0, order=1)
    return Volume.of(ndimage.rotate(cubes, 45, plane, order=1), np.diag([2.0, 2, 2, 1]), scan.name)


def cut(scan: Volume, rng: np.random.Generator) -> Volume:
    """Without the part beyond the middle along one axis, or what lies above two thirds."""
    canonical = scan.canonical()
    axis = int(rng.integers(3))
    there = np.flatnonzero(canonical.voxels.any(tuple(a for a in range(3) if a != axis)))
    end = int(there[0] + (there[-1] - there[0]) * (0.6 if axis == 2 else 0.5))
    kept = canonical.voxels[tuple(slice(end) if a == axis else slice(None) for a in range(3))]
    return Volume.of(np.ascontiguousarray(kept), canonical.affine, scan.name)


def noisy(scan: Volume, rng: np.random.Generator) -> Volume:
    """With noise of a fifth of the range of its intensities."""
    low, high = np.percentile(scan.voxels[scan.voxels > 0], [5, 95])
    return scan.like(rician(scan.voxels, 0.2 * float(high - low), rng))


def moved(scan: Volume, rng: np.random.Generator) -> Volume:
    """With the ghosts of one or two movements of some millimetres and degrees."""
    axes = [axis for axis in range(3) if axis != int(np.argmax(scan.spacing))]
    return scan.like(motion_ghosts(scan.voxels, rng, 4.0, axes[int(rng.integers(2))]))


def moved_in_blank_air(scan: Volume, rng: np.random.Generator) -> Volume:
    """The same, and the air blanked afterwards as archives do."""
    ghosted = moved(scan, rng)
    return scan.like(np.where(scan.voxels > 0, ghosted.voxels, 0))


def something_else(scan: Volume, rng: np.random.Generator) -> Volume:
    """No head at all."""
    canonical = scan.canonical()
    kinds = [kind for kind in FOREIGN if kind not in ("turned", "inverted", "resized", "squeezed")]
    other = foreign(np.maximum(canonical.voxels, 0), rng, kinds[int(rng.integers(len(kinds)))])
    return canonical.like(other)


SPOILT: dict[str, Callable[[Volume, np.random.Generator], Volume]] = {
    "turned": turned_square,
    "tipped by 45 degrees": tipped,
    "cut": cut,
    "noisy": noisy,
    "moved": moved,
    "moved, air blanked": moved_in_blank_air,
    "something else": something_else,
}


def table(rows: list[dict[str, Any]]) -> str:
    """Shares of scans that each guard warns of."""
    lines = [f"| scans | number | {' | '.join(GUARDS)} | any |", "|---|---:|" + "---:|" * 6]
    for group in dict.fromkeys(row["group"] for row in rows):
        own = [row for row in rows if row["group"] == group]
        counts = [sum(row[guard] for row in own) for guard in GUARDS]
        anything = sum(any(row[guard] for guard in GUARDS) for row in own)
        lines.append(f"| {group} | {len(own)} | {' | '.join(map(str, counts))} | {anything} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
