"""From files on disk to a report: a synthetic scan, its side-car, maps, and what it was made of.

A report is made of what a finished translation has left, so that it can be made, and made again,
at any time after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medi2i.anomaly.files import Places
from medi2i.errors import Medi2iError, MissingFileError, OutputError, UsageError
from medi2i.evaluation import Case, PointwiseMap, ScoreTable, compare
from medi2i.evaluation.protocols import Protocol
from medi2i.formats.names import EXTENSIONS, SYNTHETIC, beside, is_synthetic, stem_of
from medi2i.formats.synthetic import MAPS, Files
from medi2i.model import CARD, read_record
from medi2i.report.embed import BUDGET
from medi2i.report.findings import Findings, read_findings
from medi2i.report.origins import ANOMALY, find_origin, find_reference, origins, read_sidecar
from medi2i.report.page import Entry, write_report
from medi2i.report.panels import Kind, Panel, difference_panels
from medi2i.volume import Volume, load_volume
from medi2i.zoo import folder_of, installed, shipped

__all__ = ["find_finished", "page_of", "refuse_existing", "report_on"]

RANK = "anomaly: the share of healthy tissue that looks less conspicuous; 0.5 and less is dark."


def find_finished(inputs: Sequence[Path]) -> list[Path]:
    """The scans to report on: files as given, and every finished result below a folder.

    Raises:
        MissingFileError: an input does not exist, or a folder has no result below it.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            if not path.is_file():
                raise MissingFileError(f'"{path}" does not exist')
            found.append(path)
            continue
        within = [scan for scan in sorted(path.rglob("*.nii*")) if _is_result(scan)]
        if not within:
            raise MissingFileError(
                f'no finished translation lies in "{path}": synthetic scans with their side-cars '
                "(.json) were expected"
            )
        found += within
    return list(dict.fromkeys(found))


def page_of(scan: Path, folder: Path | None = None) -> Path:
    """Where the report of a scan goes: beside it, or into a folder.

    >>> page_of(Path("a/t1_desc-synth_T2w.nii.gz")).as_posix()
    'a/t1_desc-synth_T2w_report.html'
    """
    page = beside(scan, "_report.html")
    return page if folder is None else folder / page.name


def refuse_existing(scans: Iterable[Path]) -> None:
    """Find out before the work starts that the report of a scan is there already.

    Raises:
        OutputError: the first that is.
    """
    for page in map(page_of, scans):
        if page.exists():
            raise OutputError(f'"{page}" exists; give --overwrite to replace it')


def report_on(
    scan: Path,
    page: Path | None = None,
    *,
    source: Path | Sequence[Path] | None = None,
    shown: Mapping[str, Volume] | None = None,
    reference: Path | None = None,
    mask: Path | None = None,
    model: str | Path | None = None,
    protocol: str | Protocol = "brain-3d",
    maps: Mapping[str, PointwiseMap] | None = None,
    scores: ScoreTable | None = None,
    volume: int | None = None,
    budget: int = BUDGET,
    overwrite: bool = False,
) -> Entry:
    """Write the report of a synthetic scan, or of a map of anomalies, that lies on disk.

    Args:
        scan: with its side-car beside it; maps of its uncertainty are found by their names.
        page: .html; by default beside the scan.
        source: the scan that was translated, or all of them in the order of the side-car, or a
            folder to look for them in by the names there; by default they are looked for beside
            the synthetic scan. A report without them says so.
        shown: sources that are at hand, by contrast; the others are looked for.
        reference: the acquired scan of the target contrast, or a folder to look for it in.
        mask: where to score.
        model: a shipped model's name or a folder, for its card; by default the shipped model with
            the checksum in the side-car.
        protocol: of the scores.
        maps: fitted pointwise maps, for that baseline.
        scores: of this scan, where they are known already; else it is scored here.
        volume: which of a 4-D source, from 0.
        budget: bytes of all volumes.
        overwrite: False refuses a `page` that exists.

    Raises:
        MissingFileError: the scan or its side-car does not exist, or `source` or `reference`.
        FormatError: the side-car is not one of medi2i.
        UsageError: the scan is a map or a sample of another result; `model` did not make it.
        InputError: `source` is not the file that was translated. OutputError: as `write_report`.
    """
    record = read_sidecar(scan)
    synthetic = load_volume(scan)
    warnings: list[str] = []
    panels = _source_panels(scan, record, source, shown or {}, volume, warnings)
    first = panels[0].volume if panels else None
    target = str(record.get("TargetContrast", "scan"))
    unscored = ""
    findings: Findings | None = None
    if record.get("Map") == ANOMALY:
        places = _places(scan)
        panels += _anomaly_panels(places, synthetic)
        findings = read_findings(places.table)
        if findings is None:
            warnings.append("The table of lesions is not shown: it was not found.")
    else:
        panels.append(Panel(f"SYNTHETIC {target}", synthetic))
        acquired = find_reference(scan, record, reference)
        unscored = "Not scored: no acquired scan of this contrast was given."
        if acquired is not None:
            real = load_volume(acquired)
            panels.append(Panel(f"reference {target}", real))
            panels += difference_panels(synthetic, real, first)
            if scores is None:
                inside = None if mask is None else load_volume(mask)
                scores, unscored = _scores(record, synthetic, real, first, inside, protocol, maps)
        panels += _map_panels(scan)
    return write_report(
        page or page_of(scan),
        panels,
        record,
        scores=scores,
        unscored=unscored,
        findings=findings,
        warnings=warnings,
        card=_card(record, model),
        budget=budget,
        overwrite=overwrite,
    )


def _is_result(scan: Path) -> bool:
    """Whether a file is the main one of a finished result, not a map or a sample of it."""
    if not is_synthetic(scan) or not scan.name.lower().endswith(EXTENSIONS):
        return False
    try:
        record = read_sidecar(scan)
    except Medi2iError:
        return False
    return True if record.get("Map") == ANOMALY else not ({"Map", "Sample"} & set(record))


def _source_panels(
    scan: Path,
    record: Mapping[str, Any],
    given: Path | Sequence[Path] | None,
    shown: Mapping[str, Volume],
    which: int | None,
    warnings: list[str],
) -> list[Panel]:
    """The scans that it was made from, as far as they are found; `warnings` grows."""
    sources = origins(record)
    several = [given] if isinstance(given, Path) else list(given or ())
    if missing := [path for path in several if not path.exists()]:
        raise MissingFileError(f'--source "{missing[0]}" does not exist')
    if isinstance(given, Path) and given.is_dir():
        several *= len(sources)
    if len(sources) > 1 and len(several) not in (0, len(sources)):
        raise UsageError(
            f'"{scan.name}" was made from {len(sources)} scans; give --source a folder that has '
            "them"
        )
    panels = []
    for number, source in enumerate(sources):
        volume = shown.get(source.contrast)
        place = several[number] if several else None
        if volume is None and (path := find_origin(scan, source, place)) is not None:
            volume = load_volume(path, volume=which)
        if volume is None:
            warnings.append(f"The source {source.contrast} is not shown: it was not found.")
        else:
            panels.append(Panel(f"source {source.contrast}", volume))
    return panels


def _places(scan: Path) -> Places:
    """Where a map's companions lie."""
    return Places(scan.parent, stem_of(scan).removesuffix(f"_{SYNTHETIC}_{ANOMALY}"), healthy=True)


def _anomaly_panels(places: Places, probability: Volume) -> list[Panel]:
    """The map, and the pseudo-healthy scan with the difference where there are any."""
    panels = []
    for name, caption, kind in (
        ("healthy", "SYNTHETIC: pseudo-healthy", Kind.IMAGE),
        ("difference", "source minus healthy", Kind.DIFFERENCE),
    ):
        if places.map(name).is_file():
            panels.append(Panel(caption, load_volume(places.map(name)), kind))
    return [*panels, Panel("anomaly", probability, Kind.PROBABILITY, RANK)]


def _map_panels(scan: Path) -> list[Panel]:
    files = Files(scan)
    return [
        Panel(caption, load_volume(files.map(name)), Kind.MAP)
        for name, caption in MAPS.items()
        if files.map(name).is_file()
    ]


def _scores(
    record: Mapping[str, Any],
    synthetic: Volume,
    real: Volume,
    source: Volume | None,
    mask: Volume | None,
    protocol: str | Protocol,
    maps: Mapping[str, PointwiseMap] | None,
) -> tuple[ScoreTable | None, str]:
    """The scores on the synthetic scan's grid, or why there are none."""
    upright = synthetic.canonical()

    def onto(volume: Volume | None, *, linear: bool = True) -> Volume | None:
        moved = None if volume is None else volume.canonical()
        return None if moved is None else moved.resampled_onto(upright, linear=linear)

    model = record.get("Model")
    name = str(model.get("Name", "")) if isinstance(model, Mapping) else ""
    task = "+".join(map(str, record.get("SourceContrast") or ()))
    case = Case(
        "this scan",
        f"{task}->{record.get('TargetContrast')}",
        {f"synthetic ({name})" if name else "synthetic": upright},
        real.canonical().resampled_onto(upright),
        onto(source),
        onto(mask, linear=False),
    )
    try:
        return compare([case], protocol=protocol, maps=maps), ""
    except UsageError as error:
        return None, f"Not scored. {error}"


def _card(record: Mapping[str, Any], given: str | Path | None) -> str:
    """The card of the model that made the scan; "" where it is not at hand."""
    model = record.get("Model")
    checksum = model.get("SHA256") if isinstance(model, Mapping) else None
    folders = [*shipped().values(), *installed().values()]
    if given is not None:
        folder = folder_of(given)
        if read_record(folder)["sha256"] != checksum:
            raise UsageError(f'model "{given}" is not the one that made the scan')
        folders = [folder]
    for folder in folders:
        card = folder / CARD
        if checksum and card.is_file() and read_record(folder)["sha256"] == checksum:
            return card.read_text(encoding="utf-8")
    return ""
