"""What ``medi2i evaluate --anomaly`` does: every scan by every method, one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medi2i.cli.console import DeviceName, progress_bar

if TYPE_CHECKING:
    from medi2i.anomaly import AnomalyTable
    from medi2i.model import Model

__all__ = ["score_anomalies"]


def score_anomalies(
    roots: Sequence[Path],
    models: Sequence[str],
    split: str | None,
    *,
    tuned_on: str | None,
    threshold: float | None,
    healthy: bool,
    output: Path | None,
    device: DeviceName,
    quiet: bool,
) -> AnomalyTable:
    """Look at a cohort and score; with `output` the table is written there too."""
    from medi2i.anomaly import evaluate_anomalies
    from medi2i.anomaly.find import check_model
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
    return table


def _named(models: Sequence[str]) -> dict[str, Model]:
    """Models by their names, or by what was given where two have one name."""
    from medi2i.zoo import load_model

    loaded = [load_model(given) for given in models]
    names = [model.name for model in loaded]
    return {
        model.name if names.count(model.name) == 1 else given: model
        for given, model in zip(models, loaded, strict=True)
    }
