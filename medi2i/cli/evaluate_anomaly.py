"""What ``medi2i evaluate --anomaly`` does: every scan by every method, one table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medi2i.cli.console import DeviceName, progress_bar

if TYPE_CHECKING:
    from medi2i.anomaly import AnomalyTable
    from medi2i.data.cohort import Subject
    from medi2i.model import Model

__all__ = ["score_anomalies"]

CAPTIONS = {
    "bad": "The scan in which lesions are found worst, by the mean Dice of all methods.",
    "good": "The scan in which they are found best.",
}


def score_anomalies(
    roots: Sequence[Path],
    models: Sequence[str],
    split: str | None,
    *,
    tuned_on: str | None,
    threshold: float | None,
    healthy: bool,
    output: Path | None,
    page: Path | None,
    device: DeviceName,
    quiet: bool,
) -> AnomalyTable:
    """Look at a cohort and score; with `output` the table is written there too.

    Args:
        page: where a report goes.
    """
    from medi2i.anomaly import evaluate_anomalies
    from medi2i.anomaly.change import check_model
    from medi2i.contrasts import Contrast
    from medi2i.data.cohort import find_cohort
    from medi2i.files import staging
    from medi2i.inference.translate import choose_device

    choose_device(device)  # refuses one that is not there
    methods = _named(models)
    for model in methods.values():
        check_model(model)
    needed = {Contrast.FLAIR, *(c for model in methods.values() for c in model.task.sources)}
    everybody = find_cohort(list(roots))
    people = (everybody if split is None else everybody.split(split)).having(needed).subjects
    tuning = () if tuned_on is None else everybody.split(tuned_on).having(needed).subjects
    with progress_bar(quiet=quiet) as bar:
        work = bar.add_task("looking", total=len({id(s) for s in (*people, *tuning)}))

        def watch(name: str) -> None:
            bar.update(work, description=name, advance=1)

        table = evaluate_anomalies(
            people,
            methods,
            tuning=tuning,
            threshold=threshold,
            healthy=healthy,
            device=device,
            watch=watch,
        )
    if output is not None:
        with staging(output, ["scores.csv", "scores.json", "scores.md"], overwrite=True) as stage:
            table.save(stage)
    if page is not None:
        _write_page(page, table, people, methods, device)
    return table


def _write_page(
    page: Path,
    table: AnomalyTable,
    people: Sequence[Subject],
    methods: Mapping[str, Model],
    device: DeviceName,
) -> None:
    """Write the report, with the scans in which lesions are found worst and best."""
    from medi2i.anomaly.beside import worst_and_best
    from medi2i.report.cohort import Picture, write_anomaly_cohort

    pictures = []
    for name, image in worst_and_best(people, methods, table, device=device).items():
        stream = io.BytesIO()
        image.save(stream, format="PNG", optimize=True)
        pictures.append(Picture(CAPTIONS[name], stream.getvalue()))
    write_anomaly_cohort(page, table, pictures=pictures, overwrite=True)


def _named(models: Sequence[str]) -> dict[str, Model]:
    """Models by their names; where these are alike, by as much of their paths as tells them apart.

    Raises:
        UsageError: one model twice.
    """
    from medi2i.errors import UsageError
    from medi2i.zoo import load_model

    loaded = [load_model(given) for given in models]
    names = [model.name for model in loaded]
    parts = [Path(given).parts for given in models]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        if len(set(names)) == len(names):
            break
        tails = ["/".join(some[-depth:]) for some in parts]
        names = [
            tail if [m.name for m in loaded].count(model.name) > 1 else model.name
            for tail, model in zip(tails, loaded, strict=True)
        ]
    if len(set(names)) < len(names):
        raise UsageError(f"--model names one model twice among {', '.join(models)}")
    return dict(zip(names, loaded, strict=True))
