"""How long a training round waits for its windows, and what a second process is worth.

    python pipelines/benchmark_training.py OUT [--data BIDS --from t1 --to flair] [--rounds 60]

Trains a U-Net on pairs: windows made in the process that trains, or in a worker beside it; and two
processes by torchrun (gloo, or NCCL on GPUs), each with a batch of its own. Every process has one
thread. The first rounds, in which workers start, are left out. A table: rounds and windows per
second, the share of the time spent waiting, and how many times the windows of one process two
processes learn from in the same time (2 would be perfect). Without --data people are simulated.
OUT keeps the people, the decoded scans and the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WAYS = {
    "one process": (1, 0),
    "one process and a worker": (1, 1),
    "two processes": (2, 0),
    "two processes, a worker each": (2, 1),
}
"""Processes, and workers of each."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FIRST = 10
"""Rounds that are left out."""


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="BIDS folder with people in the split train")
    parser.add_argument("--from", dest="source", default="t1")
    parser.add_argument("--to", dest="target", default="t2")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--size", type=int, default=128, help="of windows")
    parser.add_argument("--batch-size", type=int, default=8, help="of each process")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--workers", type=int, help="train once, and say how it went")
    chosen = parser.parse_args(words)
    if chosen.rounds <= FIRST:
        parser.error(f"--rounds must be more than {FIRST}, which are left out")
    if chosen.workers is not None:
        train(chosen)
        return
    data = chosen.data or simulated(chosen.out / "people")
    rows = {way: measured(chosen, data, *numbers) for way, numbers in WAYS.items()}
    text = table(rows)
    (chosen.out / "training.md").write_text(text, encoding="utf-8")
    print(text)


def simulated(folder: Path) -> Path:
    """Six heads from nothing."""
    told = "--subjects 6 --style volumetric --head stripped --spacing 1 1 1 --skip-existing -q"
    command = [sys.executable, "-m", "medi2i", "simulate", str(folder), *told.split()]
    subprocess.run([*command, "--contrasts", "t1 t2"], check=True)  # noqa: S603
    return folder


def measured(chosen: argparse.Namespace, data: Path, ranks: int, workers: int) -> dict[str, float]:
    """What one way of training says of itself."""
    told: list[Any] = [chosen.out, "--data", data, "--from", chosen.source, "--to", chosen.target]
    told += ["--rounds", chosen.rounds, "--size", chosen.size, "--batch-size", chosen.batch_size]
    told += ["--device", chosen.device, "--workers", workers]
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    run = subprocess.run(  # noqa: S603
        [*command, str(HERE), *map(str, told)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    if run.returncode:  # it has said why
        sys.exit(run.returncode)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    windows = found["rounds / s"] * chosen.batch_size * ranks
    return {**found, "windows / s": windows}


def train(chosen: argparse.Namespace) -> None:
    """Train, and print what the leading process saw."""
    from medi2i.contrasts import Contrast
    from medi2i.errors import Medi2iError
    from medi2i.experiment import Config, Data, run_experiment
    from medi2i.task import Task, View
    from medi2i.training.log import Progress
    from medi2i.training.plan import Plan

    config = Config(
        system="unet",
        task=Task((Contrast.parse(chosen.source),), (Contrast.parse(chosen.target),)),
        arguments={"features": [32, 64, 128, 256]},
        view=View(spacing=1.0),
        data=Data(size=chosen.size),
        training=Plan(
            rounds=chosen.rounds,
            batch_size=chosen.batch_size,
            workers=chosen.workers,
            validate_every=0,
            checkpoint_every=0,
        ),
    )
    seen: list[tuple[float, float]] = []  # when, and for how long it has waited by then
    began = 0.0

    def watch(progress: Progress) -> None:
        nonlocal began
        now = time.perf_counter()
        passed = progress.played / progress.rounds_per_second
        began = began or now - passed
        seen.append((now - began, progress.waiting * passed))

    with tempfile.TemporaryDirectory() as folder:
        try:
            run_experiment(
                config,
                [chosen.data],
                Path(folder),
                device=chosen.device,
                cache=chosen.out / "decoded",
                watch=watch,
            )
        except Medi2iError as error:
            sys.exit(str(error))
    if seen:  # the leading process
        (start, idle), (end, idle_then) = seen[FIRST - 1], seen[-1]
        rate = (len(seen) - FIRST) / (end - start)
        waited = (idle_then - idle) / (end - start)
        print(json.dumps({"rounds / s": rate, "waiting": waited}))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    alone = rows["one process"]["windows / s"]
    lines = [
        "| | rounds / s | windows / s | waiting | times one process |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, row in rows.items():
        lines.append(
            f"| {way} | {row['rounds / s']:.3g} | {row['windows / s']:.3g} | "
            f"{row['waiting']:.1%} | {row['windows / s'] / alone:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
