"""Seconds and memory of medi2i beside other ways to do the same work, in one run.

    python pipelines/benchmark.py [OUT] [--parts translate train scores files limit]
                                    [--sizes 240x240x155 512x512x30] [--scans t1.nii.gz]
                                    [--engines torch openvino]

translate: one scan (simulated, of each size, with skull and noise; or given) by each engine, by a
MONAI script, by a torchio script and by a loop over slices, all with the same network; train: a
training step beside a plain loop; scores: SSIM; files: reading and writing; limit: the network
beside matrix products. The ways take turns, so that
a machine whose speed drifts treats all alike: seconds are medians over the turns, and the factor
is the median of each turn's ratio to the first way (on a busy machine trust that of the
processor's time). Translations are processes of their own, so that their peak memory is; imports
and loading the model are not counted: a folder of scans pays for them once.

OUT (medi2i-benchmark) gets benchmark.json (every number of every turn), benchmark.md and
benchmark.png, on which every way has a bar as long as its factor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medi2i.inference.engines import EngineName, there

HERE = Path(__file__).resolve().parent
PROCESSOR = "processor, s"
PARTS = ("translate", "train", "scores", "files", "limit")
OTHERS = ("MONAI", "torchio", "slices")
NOTES = {
    "train": "Two steps at 128 x 128 voxels and batch 1, with the same networks.",
    "scores": "SSIM of 160 x 192 x 160 voxels.",
    "files": "240 x 240 x 155 voxels as .nii.gz; `value` is the largest voxel, or MiB of the file.",
    "limit": "A batch through the network, beside products of matrices in the same turns.",
}

Turn = dict[str, dict[str, float]]


@dataclass
class Table:
    """What was measured of several ways to do one thing.

    Attributes:
        title: what they do.
        note: how.
        measure: the one that is compared.
        turns: way -> measure -> value, of each turn.
    """

    title: str
    note: str
    measure: str
    turns: list[Turn] = field(default_factory=list)

    def median(self, way: str, measure: str) -> float:
        """Over the turns."""
        return statistics.median(turn[way][measure] for turn in self.turns)

    def factor(self, way: str, measure: str = "") -> float:
        """So many times what the first way of the same kind takes, the median over the turns."""
        measure = measure or self.measure
        return statistics.median(
            turn[way][measure] / turn[self.first(way)][measure] for turn in self.turns
        )

    def first(self, way: str) -> str:
        """The way that this one is compared with: of those with its words behind a comma."""
        kind = way.partition(", ")[2]
        ways = list(self.turns[0])
        alike = [one for one in ways if one.partition(", ")[2] == kind]
        return alike[0] if len(alike) > 1 else ways[0]


def main() -> None:
    """Read the arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("medi2i-benchmark"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", default="default", help="name or folder of a model")
    parser.add_argument("--sizes", nargs="+", type=size_of, default=[(240, 240, 155)])
    parser.add_argument("--scans", nargs="+", type=Path, default=[], help="instead of sizes")
    parser.add_argument("--engines", nargs="+", help="by default OpenVINO, if it is there, torch")
    parser.add_argument("--others", nargs="*", choices=OTHERS, default=OTHERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    chosen = parser.parse_args()
    if chosen.repeats < 1:
        parser.error("--repeats must be at least 1")
    if chosen.engines is None:
        where = "cuda" if chosen.device == "cuda" else "cpu"
        chosen.engines = [one for one in reversed(there(where)) if one is not EngineName.COMPILE]
    chosen.out.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"repeats": chosen.repeats, "device": chosen.device}
    tables: list[Table] = []
    for part in chosen.parts:
        if part == "translate":
            for what in chosen.scans or chosen.sizes:
                tables.append(translations(chosen, what, about))
                write(chosen.out, about, tables)
        else:
            arguments = ["--repeats", str(chosen.repeats), "--model", chosen.model]
            turns = child("benchmark_parts.py", part, *arguments, "--device", chosen.device)
            tables.append(Table(part, NOTES[part], "s", turns))
            write(chosen.out, about, tables)
    print((chosen.out / "benchmark.md").read_text(encoding="utf-8"))


def size_of(text: str) -> tuple[int, int, int]:
    """The shape that "240x240x155" names."""
    x, y, z = (int(part) for part in text.split("x"))
    return x, y, z


def translations(
    chosen: argparse.Namespace, what: tuple[int, int, int] | Path, about: dict[str, Any]
) -> Table:
    """All ways to translate one scan, in turns."""
    ways = [*(f"medi2i-{engine}" for engine in chosen.engines), *chosen.others]
    if isinstance(what, Path):
        shape, told = what.name, ["--scan", str(what)]
    else:
        shape, told = " x ".join(map(str, what)), ["--size", *map(str, what)]
    table = Table(f"translate, {shape}", "", "in all, s")
    with tempfile.TemporaryDirectory() as folder:
        common = (folder, "--model", chosen.model, "--device", chosen.device)
        script = "benchmark_translate.py"
        about |= child(script, "scan", *common, *told)
        for number in range(chosen.repeats):
            order = ways if number % 2 == 0 else ways[::-1]
            turn = {way: child(script, way, *common) for way in order}
            table.turns.append({way: turn[way] for way in ways})
            print(f"{shape}: turn {number + 1} of {chosen.repeats} done", file=sys.stderr)
        alike = child(script, "agreement", *common)
    found = ", ".join(f"{name} {value:.5f}" for name, value in sorted(alike.items()))
    table.note = f"Correlation of the results with the first way's: {found}."
    return table


def child(script: str, *arguments: str) -> Any:
    """What a process prints last, as JSON."""
    # This process stays small: on Linux a child's peak memory starts with that of its parent.
    command = [sys.executable, str(HERE / script), *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if run.returncode:  # it has said why
        sys.exit(run.returncode)
    return json.loads(run.stdout.splitlines()[-1])


def write(out: Path, about: dict[str, Any], tables: list[Table]) -> None:
    """Everything that is known so far."""
    record = {"about": about, "tables": [asdict(table) for table in tables]}
    (out / "benchmark.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (out / "benchmark.md").write_text(as_markdown(about, tables), encoding="utf-8")
    draw(out / "benchmark.png", tables)


def as_markdown(about: dict[str, Any], tables: list[Table]) -> str:
    """A table for each: medians, and the factors to the first way, by clock and by processor."""
    parts = [", ".join(f"{key} {value}" for key, value in about.items()), ""]
    for table in tables:
        ways = list(table.turns[0])
        measures = list(table.turns[0][ways[0]])
        parts += [f"**{table.title}** {table.note}".rstrip(), ""]
        compared = {"factor": table.measure}
        if PROCESSOR in measures:
            compared["factor, processor"] = PROCESSOR
        parts.append(f"| | {' | '.join((*measures, *compared))} |")
        parts.append("|---|" + "---:|" * (len(measures) + len(compared)))
        for way in ways:
            cells = [_shown(measure, table.median(way, measure)) for measure in measures]
            cells += [f"{table.factor(way, measure):.2f}" for measure in compared.values()]
            parts.append(f"| {way} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _shown(measure: str, value: float) -> str:
    if "share" in measure or "of matmul" in measure:
        return f"{value:.0%}"
    if "SSIM" in measure:
        return f"{value:.6f}"
    return f"{value:.0f}" if "MiB" in measure or "GFLOP" in measure else f"{value:.3g}"


def draw(place: Path, tables: list[Table]) -> None:
    """A bar for each way, as long as its factor: the first way's is 1."""
    from PIL import Image, ImageDraw, ImageFont

    row, left, unit, most = 22, 230, 60, 8.0
    rows = sum(len(table.turns[0]) + 2 for table in tables)
    page = Image.new("RGB", (left + int(unit * most) + 90, row * rows + 10), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    y = 6
    for table in tables:
        pen.text((8, y), f"{table.title} (times the first)", "black", font)
        y += row
        for way in table.turns[0]:
            factor = table.factor(way)
            end = left + int(unit * min(factor, most))
            pen.text((20, y), way, "black", font)
            ours = way.startswith("medi2i")
            pen.rectangle((left, y + 2, end, y + row - 5), fill="#2a6f97" if ours else "#a9b4bd")
            pen.text((end + 6, y), f"{factor:.2f}", "black", font)
            y += row
        y += row
    page.save(place)


if __name__ == "__main__":
    main()
