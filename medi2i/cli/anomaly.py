"""``medi2i anomaly``: what is not normal in a scan, against its pseudo-healthy image."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medi2i.cli.console import (
    Device,
    DeviceName,
    EngineOption,
    complain,
    ends_well,
    err,
    out_of_memory,
    print_json,
    progress_bar,
    tell,
)
from medi2i.inference.engines import EngineName

if TYPE_CHECKING:
    from medi2i.anomaly.files import Places
    from medi2i.contrasts import Contrast
    from medi2i.model import Model
    from medi2i.volume import Volume

__all__ = ["anomaly"]


@ends_well
def anomaly(
    scans: Annotated[list[Path], typer.Argument(help="Scans (.nii, .nii.gz).")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; beside the input.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A model that turns scans healthy: a name or a folder; `intensity` judges FLAIR "
            "by its brightness alone.",
        ),
    ] = "healthy",
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CONTRAST",
            help="Contrast of the scans, where names and side-cars are silent and the image leaves "
            "it open.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Share of healthy tissue that may be taken for a lesion.")
    ] = 0.001,
    smallest: Annotated[
        float, typer.Option("--smallest", min=0, help="mm3 that a lesion has at least.")
    ] = 30.0,
    device: Device = DeviceName.AUTO,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows through the network at once.")
    ] = None,
    engine: EngineOption = EngineName.AUTO,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Which volume of a 4-D scan, from 0.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write an HTML page to scroll through.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Show what is not normal in scans. For research only; not a medical device.

    The scan as it might be without lesions, and the difference; with `--model intensity` only what
    is brighter in FLAIR than healthy tissue is. Either way a map of anomalies, the lesions by
    number, a table of them (volume, centre in mm of world coordinates and, for scans registered to
    it, of MNI space, peak, mean), a picture, and side-cars with the score of the whole image.

    Each scan is looked at by itself; a model of several contrasts takes the scans of one head.

    Exit codes: 0 done, 1 some inputs failed, 2 usage, 3 bad input, 4 bad model, 130 interrupted.
    """
    from medi2i.anomaly.files import Places, check_places
    from medi2i.anomaly.find import model_called
    from medi2i.contrasts import Contrast
    from medi2i.errors import InputError, Medi2iError, UsageError
    from medi2i.formats.names import EXTENSIONS
    from medi2i.inference.engines import check_engine
    from medi2i.inference.translate import choose_device

    try:
        given = None if source is None else Contrast.parse(source)
    except Medi2iError as error:
        raise UsageError(str(error)) from error
    if output is not None and (output.is_file() or output.name.lower().endswith(EXTENSIONS)):
        raise UsageError(f'-o "{output}" is the name of a file; a folder was expected')
    if not 0 < rate < 1:
        raise UsageError(f"--rate is {rate:g}; a share between 0 and 1 was expected")
    check_engine(engine, choose_device(device).type)  # refuse what is not there
    loaded = model_called(model)
    together = loaded is not None and loaded.task.inputs > 1
    heads = [list(scans)] if together else [[scan] for scan in scans]
    places = [Places.of(head[0], output, healthy=loaded is not None) for head in heads]
    for number, place in enumerate(places):
        if place.map("anomaly").resolve() in {p.map("anomaly").resolve() for p in places[:number]}:
            raise UsageError(
                f'two inputs would both become "{place.map("anomaly")}"; look at them separately'
            )

    results: list[dict[str, Any]] = []
    codes: list[int] = []

    def failed(head: Sequence[Path], error: Medi2iError) -> None:
        complain(error)
        codes.append(error.exit_code)
        row = {"input": [str(path) for path in head], "status": "failed", "error": str(error)}
        results.append(row)

    try:
        with progress_bar(quiet=quiet or as_json) as bar:
            total = bar.add_task(f"{len(heads)} scans", total=len(heads), visible=len(heads) > 1)
            for head, place in zip(heads, places, strict=True):
                windows = bar.add_task(head[0].name, total=None)

                def watch(done: int, of: int, task: Any = windows) -> None:
                    bar.update(task, completed=done, total=of)

                try:
                    check_places(place, overwrite=overwrite)
                    if report and not overwrite:
                        from medi2i.report import refuse_existing

                        refuse_existing([place.map("anomaly")])
                    result = _look(
                        head, place, loaded, model, given, volume,
                        rate=rate, smallest=smallest, device=device, batch_size=batch_size,
                        engine=engine, report=report, overwrite=overwrite, watch=watch,
                    )  # fmt: skip
                    results.append(result)
                    if not (quiet or as_json):
                        _tell(result)
                except Medi2iError as error:
                    failed(head, error)
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    problem = f"{head[0].name} needs more memory than device {device} has free"
                    failed(head, InputError(f"{problem}; a smaller --batch-size needs less"))
                bar.remove_task(windows)
                bar.advance(total)
    finally:  # what was done before an interruption is reported too
        if as_json:
            print_json(results)
    if codes:
        done = len(results) > len(codes)
        if done:
            err.print(f"{len(codes)} of {len(results)} inputs failed; the others are done")
        raise typer.Exit(1 if done else codes[0] if len(set(codes)) == 1 else 3)


def _look(
    head: Sequence[Path],
    places: Places,
    model: Model | None,
    called: str,
    given: Contrast | None,
    volume: int | None,
    *,
    report: bool,
    overwrite: bool,
    **options: Any,
) -> dict[str, Any]:
    """Load, look, save; returns the row for the report."""
    from medi2i.anomaly.files import save_anomalies
    from medi2i.anomaly.find import anomalies_in
    from medi2i.anomaly.standard import to_standard
    from medi2i.errors import InputError
    from medi2i.volume import load_volume

    began = time.perf_counter()
    volumes: dict[Contrast, Volume] = {}
    paths: dict[Contrast, Path] = {}
    doubts: list[str] = []
    for path in head:
        loaded = load_volume(path, volume=volume)
        contrast, doubt = _contrast(path, loaded, given if len(head) == 1 else None)
        if contrast in volumes:
            raise InputError(f'"{paths[contrast]}" and "{path}" are both {contrast}; one of each')
        volumes[contrast], paths[contrast] = loaded, path
        doubts += [doubt] if doubt else []
    order = list(model.task.sources) if model is not None else list(volumes)
    first = order[0]
    standard = to_standard(paths[first], first) if first in paths else None
    found = anomalies_in(volumes, model=model, **options)
    save_anomalies(
        places,
        found,
        {c: paths[c] for c in order if c in paths},
        volumes[first],
        model=model,
        standard=standard,
        warnings=tuple(doubts),
        overwrite=overwrite,
    )
    page = (
        _page(places, volumes, None if model is None else called, overwrite=overwrite)
        if report
        else None
    )
    return {
        "input": [str(path) for path in head],
        "output": {name: str(path) for name, path in places.maps.items()},
        "table": str(places.table),
        "picture": str(places.picture),
        **({"report": str(page)} if page else {}),
        "status": "done",
        "score": found.score,
        "lesions": len(found.lesions),
        "lesion_ml": sum(one.volume_ml for one in found.lesions),
        "seconds": round(time.perf_counter() - began, 3),
        "warnings": [*doubts, *found.warnings],
    }


def _page(
    places: Places, volumes: Mapping[Contrast, Volume], model: str | None, *, overwrite: bool
) -> Path:
    """Write the page of what was found."""
    from medi2i.report import report_on

    shown = {str(contrast): volume for contrast, volume in volumes.items()}
    entry = report_on(places.map("anomaly"), shown=shown, model=model, overwrite=overwrite)
    return entry.page


def _contrast(path: Path, volume: Volume, given: Contrast | None) -> tuple[Contrast, str]:
    """The contrast of a scan, and a sentence where it was read from the image."""
    from medi2i.contrasts import contrast_of
    from medi2i.inference.recognise import recognise

    told = given or contrast_of(path)
    return (told, "") if told is not None else recognise(volume, str(path))


def _tell(result: dict[str, Any]) -> None:
    """One line for a person."""
    count = f"{result['lesions']} lesion{'' if result['lesions'] == 1 else 's'}"
    tell(
        f"{result['output']['anomaly']}  {count}, {result['lesion_ml']:.2f} ml, image score "
        f"{result['score']:.3f}  ({result['seconds']:.1f} s)"
    )
    for warning in result["warnings"]:
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
