"""``medi2i simulate``: a BIDS data set of people who do not exist."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medi2i.cli.console import ends_well, err, out, progress_bar

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.simulate.physics import Sequence

__all__ = ["simulate"]


class Lesion(StrEnum):
    """What --lesions takes."""

    NONE = "none"
    STROKE = "stroke"
    MS = "ms"
    TUMOUR = "tumour"
    SMALL_VESSEL = "small-vessel"
    HAEMORRHAGE = "haemorrhage"
    MIXED = "mixed"


class Style(StrEnum):
    """What --style takes."""

    ANY = "any"
    VOLUMETRIC = "volumetric"
    SLICES = "slices"


class Head(StrEnum):
    """What --head takes."""

    ANY = "any"
    ON = "on"
    STRIPPED = "stripped"
    DEFACED = "defaced"


class Field(StrEnum):
    """What --field takes."""

    ANY = "any"
    LOW = "1.5"
    HIGH = "3"


@ends_well
def simulate(
    output: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    subjects: Annotated[int, typer.Option("--subjects", "-n", min=1, help="How many people.")] = 10,
    contrasts: Annotated[
        str,
        typer.Option("--contrasts", "-c", help="Which scans of each: t1 t2 flair pd ce-gad_T1w."),
    ] = "t1 t2 flair",
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    lesions: Annotated[
        Lesion, typer.Option(help="Of everybody; mixed: of each kind, and the healthy.")
    ] = Lesion.NONE,
    twins: Annotated[
        bool, typer.Option("--twins", help="Write everybody's scans without lesions too.")
    ] = False,
    mass_effect: Annotated[
        bool, typer.Option("--mass-effect", help="Let lesions push tissue away.")
    ] = False,
    anatomy: Annotated[
        Path | None,
        typer.Option(help="Folder of label maps at 1 mm to bend. Without: procedural heads."),
    ] = None,
    shapes: Annotated[
        Path | None, typer.Option(help="Folder of lesion masks (stroke-*, ms-*) to take shapes of.")
    ] = None,
    style: Annotated[Style, typer.Option(help="3-D at about 1 mm, or thick slices.")] = Style.ANY,
    head: Annotated[Head, typer.Option(help="What the scans show.")] = Head.ANY,
    field: Annotated[Field, typer.Option(help="Tesla.")] = Field.ANY,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Voxel size in mm, instead of a drawn one: X Y Z."),
    ] = None,
    protocol: Annotated[
        Path | None,
        typer.Option(help="YAML file with exact sequence parameters by contrast; ms, degrees."),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Share of people in the split val.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace who exists.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Keep who exists; go on with the rest.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Simulate people's MRI: anatomy, disease, physics, scanner.

    The data set has scans with BIDS side-cars (every parameter is in them), brain and lesion masks
    and a picture of everybody under derivatives/. No data is needed for it. A protocol file reads:

        T2w: {sequence: SpinEcho, tr: 5000, te: 95}
    """
    from medi2i.contrasts import Contrast
    from medi2i.data.simulated import label_maps
    from medi2i.errors import UsageError
    from medi2i.formats.simulated import Origin, finished, write_dataset, write_subject
    from medi2i.simulate.body import read_labels
    from medi2i.simulate.examination import Shown
    from medi2i.simulate.lesions import Pathology
    from medi2i.simulate.protocols import Style as Examined
    from medi2i.simulate.simulator import simulate as simulated

    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other")
    words = [*contrasts.replace(",", " ").split(), *(more or [])]
    wanted = tuple(dict.fromkeys(Contrast.parse(word) for word in words))
    if not wanted:
        raise UsageError("no contrast was asked for; --contrasts t1 t2 flair, say")
    sequences = _sequences(protocol) if protocol is not None else {}
    maps = label_maps(anatomy) if anatomy is not None else []
    for path in maps[: min(len(maps), subjects)]:
        read_labels(path)  # what is wrong with one shall not show after an hour
    kinds: list[Pathology | None] = [None, *Pathology]
    if lesions is not Lesion.MIXED:
        kinds = [None if lesions is Lesion.NONE else Pathology(lesions)]
    people = [
        Origin(
            name=f"sub-{number + 1:03d}",
            seed=seed * 1_000_003 + number,
            anatomy=maps[number % len(maps)].name if maps else "procedural",
            pathology=kinds[number % len(kinds)],
            split="val" if number >= round(subjects * (1 - validation)) else "train",
        )
        for number in range(subjects)
    ]
    kept = {person.name for person in people if finished(output, person.name)}
    if kept and not (overwrite or skip_existing):
        raise UsageError(
            f'"{output}" holds {len(kept)} of these people already ({min(kept)}, ...): choose '
            "another folder, --overwrite or --skip-existing"
        )
    done: list[Origin] = []
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("simulating", total=len(people))
        try:
            for number, origin in enumerate(people):
                if not (skip_existing and origin.name in kept):
                    person = simulated(
                        origin.seed,
                        contrasts=wanted,
                        labels=read_labels(maps[number % len(maps)]) if maps else None,
                        pathology=origin.pathology,
                        shapes=shapes,
                        mass_effect=mass_effect,
                        twins=twins,
                        style=None if style is Style.ANY else Examined(style),
                        field=None if field is Field.ANY else float(field),
                        head=None if head is Head.ANY else Shown(head),
                        spacing=spacing,
                        sequences={c: s for c, s in sequences.items() if c in wanted},
                    )
                    write_subject(output, origin, person, overwrite=overwrite)
                done.append(origin)
                bar.advance(task)
        finally:  # whoever is finished belongs to the data set, also after an interruption
            if done:
                write_dataset(output, done, _command())
    if not quiet:
        out.print(f"{output}  ({len(done)} people, {len(wanted)} scans each)", markup=False)
        err.print("see the pictures under derivatives/medi2i-simulate", markup=False)


def _sequences(path: Path) -> dict[Contrast, Sequence]:
    """Exact sequences from a YAML file: contrast -> {sequence: name, parameters}."""
    from medi2i.config import build, read_yaml, unknown
    from medi2i.contrasts import Contrast
    from medi2i.errors import ConfigError, UsageError
    from medi2i.simulate.physics import InversionRecovery, Mprage, SpinEcho, SpoiledGradientEcho

    known: dict[str, Any] = {
        kind.__name__: kind for kind in (SpinEcho, InversionRecovery, SpoiledGradientEcho, Mprage)
    }
    sequences: dict[Contrast, Sequence] = {}
    for name, content in read_yaml(path).items():
        where = f'{name} of "{path}"'
        if not isinstance(content, dict) or "sequence" not in content:
            raise ConfigError(f"{where} is {content!r}; sequence: and its parameters were expected")
        values = dict(content)
        kind = values.pop("sequence")
        if kind not in known:
            raise ConfigError(unknown("sequence", str(kind), known, where=where))
        try:
            sequences[Contrast.parse(name)] = build(known[kind], values, where=where)
        except UsageError as error:
            raise ConfigError(f"{where}: {error}") from None
    return sequences


def _command() -> str:
    """The command line, folders left away."""
    shown = [Path(word).name if "/" in word or "\\" in word else word for word in sys.argv[1:]]
    import shlex

    return shlex.join(["medi2i", *shown])
