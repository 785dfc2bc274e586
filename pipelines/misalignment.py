"""The curve over misalignment: what pairs that do not lie on each other cost each system.

    python pipelines/misalignment.py OUT [--data BIDS] [--levels 0 1 3 5] [--minutes 4]

At level n source and target of every training pair are thrown off each other: turned by up to n
degrees, shifted and zoomed by up to 2 n percent, each by itself (`data: misalignment`). Systems
train within one budget on the same windows, and are scored on held-back subjects whose scans lie
on each other. What an error voxel by voxel can learn fades with the level, because it is best off
with a blur; RegGAN bends what it drew onto the target first, and should hold up.

One comparison for each level (compare.py, which also says which people are simulated without
--data): OUT/level-n is such a folder. OUT receives curve.csv, curve.md and curve.png. Whatever
else is given goes to compare.py. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from medi2i.files import atomic_write, write_whole

HERE = Path(__file__).resolve().parent
SCORES = {"ssim": ("SSIM", 4), "psnr": ("PSNR, dB", 2)}
"""Title and digits."""
SIMULATED = ["--size", "64", "--spacing", "2"]
"""The frame in which compare.py sees the people that it simulates."""


class Score(NamedTuple):
    """A mean over subjects and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


Curves = Mapping[str, Mapping[str, Mapping[float, Score]]]
"""By score, by method, by level."""


def main(words: Sequence[str] | None = None) -> None:
    """Compare at each level, draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="BIDS folder with the splits train and val")
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 1, 3, 5], metavar="N")
    systems = ["unet", "pix2pix", "reggan"]
    parser.add_argument("--systems", nargs="+", default=systems, metavar="NAME")
    chosen, further = parser.parse_known_args(words)
    levels: list[float] = sorted(set(chosen.levels))
    folders = {level: chosen.out / f"level-{level:g}" for level in levels}
    given = [] if chosen.data is None else ["--data", str(chosen.data)]
    failed = []
    for level, folder in folders.items():
        print(f"level {level:g}", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / "compare.py"), str(folder), *given, *further]
        command += ["--misalignment", str(level), "--systems", *chosen.systems]
        if subprocess.run(command, check=False).returncode:  # noqa: S603 - it has said why
            failed.append(level)
        if not given:  # the first one has simulated people; the others learn from the same
            given = ["--data", str(folder / "cohort"), *SIMULATED]
    there = {level: folder / "table.csv" for level, folder in folders.items()}
    curves = read_curves({level: path for level, path in there.items() if path.is_file()})
    if not any(curves.values()):
        sys.exit("no level has a table: see above")
    write_whole(chosen.out / "curve.csv", as_csv(curves))
    text = as_markdown(curves)
    write_whole(chosen.out / "curve.md", text)
    page = drawn(curves)
    atomic_write(
        chosen.out / "curve.png", lambda stream: page.save(stream, format="PNG"), overwrite=True
    )
    print(text)
    if failed:
        sys.exit(f"not everything was done at level {', '.join(f'{n:g}' for n in failed)}")


def read_curves(tables: Mapping[float, Path]) -> Curves:
    """The scores of every method, from the tables of compare.py."""
    curves: dict[str, dict[str, dict[float, Score]]] = {name: {} for name in SCORES}
    for level, path in tables.items():
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                for name, methods in curves.items():
                    ends = (row[name], row[f"{name} low"], row[f"{name} high"])
                    mean, low, high = (float(end or row[name]) for end in ends)
                    methods.setdefault(row["method"], {})[level] = Score(mean, low, high)
    return curves


def as_csv(curves: Curves) -> str:
    """Every number."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["score", "method", "level", *Score._fields])
    for name, methods in curves.items():
        for method, points in methods.items():
            writer.writerows([name, method, f"{level:g}", *points[level]] for level in points)
    return stream.getvalue()


def as_markdown(curves: Curves) -> str:
    """A table for each score: methods down, levels across, and what the last level has cost."""
    blocks = []
    for name, methods in curves.items():
        title, digits = SCORES[name]
        levels = sorted({level for points in methods.values() for level in points})
        heads = [title, *(f"level {level:g}" for level in levels), "last - first"]
        lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for method, points in methods.items():
            cells = [
                f"{p.mean:.{digits}f} [{p.low:.{digits}f}, {p.high:.{digits}f}]" if p else "-"
                for p in (points.get(level) for level in levels)
            ]
            first, last = (points.get(level) for level in (levels[0], levels[-1]))
            cells.append(f"{last.mean - first.mean:+.{digits}f}" if first and last else "-")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n\n" + READING


READING = (
    "Level n: source and target of each training pair turned by up to n degrees, shifted and "
    "zoomed by up to 2 n percent, independently; held-back subjects as they are. [ ]: 95 % "
    "bootstrap interval of the mean over subjects. identity and pointwise learn from no window.\n"
)

WIDE, HIGH, MARGIN, LABELS = 430, 320, 56, 96
PAGE, INK, GRID = (255, 255, 255), (40, 42, 46), (225, 227, 230)
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (120, 120, 120))
"""Told apart by those who do not see all colours (Okabe and Ito 2008)."""


def drawn(curves: Curves) -> Image.Image:
    """A panel for each score: level across, score up, a bar for each interval."""
    page = Image.new("RGB", (len(curves) * WIDE, HIGH), PAGE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, (name, methods) in enumerate(curves.items()):
        left, right = number * WIDE + MARGIN, (number + 1) * WIDE - LABELS
        top, bottom = 34, HIGH - 44
        points = [(level, p) for own in methods.values() for level, p in own.items()]
        first, last = min(level for level, _ in points), max(level for level, _ in points)
        low, high = min(p.low for _, p in points), max(p.high for _, p in points)
        room = 0.05 * (high - low) or 1.0

        def across(level: float) -> float:
            return left + (right - left) * (level - first) / ((last - first) or 1)  # noqa: B023

        def up(score: float) -> float:
            share = (score - low + room) / (high - low + 2 * room)  # noqa: B023
            return bottom - (bottom - top) * share  # noqa: B023

        title, digits = SCORES[name]
        draw.text((left, 10), title, INK, ImageFont.load_default(14))
        draw.text(((left + right) / 2, HIGH - 14), "misalignment", INK, font, anchor="mm")
        for score in (low, (low + high) / 2, high):
            draw.line([(left, up(score)), (right, up(score))], GRID)
            draw.text((left - 6, up(score)), f"{score:.{digits - 1}f}", INK, font, anchor="rm")
        for level in sorted({level for level, _ in points}):
            draw.text((across(level), bottom + 12), f"{level:g}", INK, font, anchor="mm")
        taken: list[float] = []
        ends = {method: up(own[max(own)].mean) for method, own in methods.items()}
        for place, method in enumerate(sorted(methods, key=ends.__getitem__)):
            own = dict(sorted(methods[method].items()))
            colour = COLOURS[list(methods).index(method) % len(COLOURS)]
            line = [(across(level), up(point.mean)) for level, point in own.items()]
            draw.line(line, colour, width=2)
            for (x, y), point in zip(line, own.values(), strict=True):
                draw.line([(x, up(point.low)), (x, up(point.high))], colour)
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
            label = max(ends[method], taken[-1] + 14) if place else ends[method]
            taken.append(label)
            draw.text((right + 10, label), method, colour, font, anchor="lm")
    return page


if __name__ == "__main__":
    main()
