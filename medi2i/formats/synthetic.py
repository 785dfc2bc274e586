"""A synthetic scan on disk: the volume, its samples and maps, a side-car for each, a preview.

All of them appear together or not at all. Beside ``x.nii.gz`` lie ``x_sample-1.nii.gz``, ... and
``x_std.nii.gz``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medi2i.contrasts import Contrast
from medi2i.errors import OutputError
from medi2i.figures import Row, three_planes
from medi2i.files import atomic_write, check_writable, clear_staging, staging
from medi2i.formats.names import beside, stem_of
from medi2i.formats.sidecar import Source, description, provenance, write_sidecar
from medi2i.inference.samples import STD
from medi2i.inference.translate import UNCERTAINTY, Translation, choose_device
from medi2i.model import Model
from medi2i.volume import Volume, save_volume

__all__ = ["Files", "Writer", "check_free", "save_synthetic", "writing"]

NOTE = "computed, not acquired: for research, not for diagnosis"
DRAWN = 2
"""Samples in a preview."""
MAPS: Mapping[str, str] = {
    STD: "standard deviation of samples",
    UNCERTAINTY: "absolute error to be expected",
}
"""What each map shows."""


@dataclass(frozen=True)
class Files:
    """The files of one synthetic scan.

    Attributes:
        output: .nii or .nii.gz; the others lie beside it.
        samples: how many there are; then `output` is their mean.
        maps: their names.
        picture: whether there is a preview.

    >>> files = Files(Path("t2.nii"), samples=2, maps=("std",))
    >>> [path.name for path in files.scans]
    ['t2_sample-1.nii', 't2_sample-2.nii', 't2_std.nii', 't2.nii']
    """

    output: Path
    samples: int = 0
    maps: tuple[str, ...] = ()
    picture: bool = False

    def sample(self, number: int) -> Path:
        """The place of a sample, numbered from 1."""
        return self._beside(f"sample-{number}")

    def map(self, name: str) -> Path:
        """The place of a map."""
        return self._beside(name)

    @property
    def preview(self) -> Path:
        """The place of the preview."""
        return beside(self.output, "_preview.png")

    @property
    def scans(self) -> list[Path]:
        """Everything that has voxels; the output comes last."""
        samples = [self.sample(number) for number in range(1, self.samples + 1)]
        return [*samples, *map(self.map, self.maps), self.output]

    @property
    def paths(self) -> list[Path]:
        """Everything; the output comes last."""
        *others, output = self.scans
        sidecars = [beside(scan, ".json") for scan in self.scans]
        return [*sidecars, *others, *([self.preview] if self.picture else []), output]

    def _beside(self, name: str) -> Path:
        extension = self.output.name.removeprefix(stem_of(self.output))
        return beside(self.output, f"_{name}{extension}")


def check_free(files: Files, *, overwrite: bool, skip_existing: bool = False) -> bool:
    """Find out before the work whether the files can be written.

    Returns:
        False where the scan, its samples and its maps exist and may be skipped.

    Raises:
        OutputError: a file exists, or its folder cannot be written to.
    """
    clear_staging(files.output)  # what a killed process has left
    missing = [scan for scan in files.scans if not scan.exists()]
    if skip_existing and not missing:
        return False
    for path in files.paths:
        if path.exists() and not overwrite:
            raise OutputError(
                f'"{path}" exists, but "{missing[0]}", which belongs to it, does not; give '
                "--overwrite to make all of them anew"
                if skip_existing
                else f'"{path}" exists; give --overwrite to replace it or --skip-existing to keep '
                "it"
            )
        check_writable(path)
    return True


@dataclass
class Writer:
    """Writes the files of one synthetic scan into a folder; made by :func:`writing`."""

    files: Files
    folder: Path
    model: Model
    sources: Mapping[Contrast, Source]
    target: Contrast
    device: str = "auto"
    seed: int = 0
    dtype: str = "float32"
    shown: Mapping[Contrast, Volume] = field(default_factory=dict)
    also: Mapping[str, Any] = field(default_factory=dict)
    _drawn: list[Volume] = field(default_factory=list, init=False)

    def sample(self, number: int, volume: Volume) -> None:
        """Write a sample; it need not be kept in memory."""
        self._save(self.files.sample(number), volume, self.dtype, f"sample {number}")
        if self.files.picture and number <= DRAWN:
            self._drawn.append(volume)

    def finish(self, result: Translation) -> None:
        """Write the scan, its maps, every side-car and the preview."""
        files = self.files
        self._save(
            files.output,
            result.volume,
            self.dtype,
            f"mean of {files.samples} samples" if files.samples else "",
        )
        for name in files.maps:  # whole numbers would leave nothing of a small map
            dtype = self.dtype if self.dtype.startswith("float") else "float32"
            self._save(files.map(name), result.maps[name], dtype, MAPS[name])
        for scan, content in self._records(result).items():
            write_sidecar(self.folder / scan.name, content)
        if files.picture:
            picture = three_planes(self._rows(result), note=NOTE)
            atomic_write(
                self.folder / files.preview.name, lambda stream: picture.save(stream, format="PNG")
            )

    def _save(self, place: Path, volume: Volume, dtype: str, what: str) -> None:
        said = f"{description(self.sources, self.target)} {what}".rstrip()
        save_volume(volume, self.folder / place.name, dtype=dtype, description=said)

    def _records(self, result: Translation) -> dict[Path, dict[str, Any]]:
        """The side-car of each scan."""
        files = self.files
        common = provenance(
            self.model,
            self.sources,
            self.target,
            result,
            device=str(choose_device(self.device)),
            seed=self.seed,
        )
        common = {k: v for k, v in {**common, **self.also}.items() if v is not None}
        numbers = range(1, files.samples + 1)
        names = [files.sample(number).name for number in numbers]
        drawn = {"Samples": names} if names else {}
        records = {files.sample(number): {**common, "Sample": number} for number in numbers}
        for name in files.maps:
            shows = f"{MAPS[name][0].upper()}{MAPS[name][1:]}: {common['Description']}"
            of = drawn if name == STD else {}
            records[files.map(name)] = {**common, "Description": shows, "Map": name, **of}
        records[files.output] = {**common, **({"Statistic": "mean", **drawn} if drawn else {})}
        return records

    def _rows(self, result: Translation) -> list[Row]:
        """The source, the scan, its maps and the first samples, which share the scan's window."""

        def row(caption: str, volume: Volume, window: tuple[float, float] | None = None) -> Row:
            upright = volume.canonical()
            return Row(caption, upright.voxels, upright.spacing, window)

        count = self.files.samples
        main = row(
            f"SYNTHETIC {self.target}" + (f", mean of {count} samples" if count else ""),
            result.volume,
        )
        return [
            *(row(f"source {contrast}", volume) for contrast, volume in self.shown.items()),
            main,
            *(row(MAPS[name], result.maps[name]) for name in self.files.maps),
            *(
                row(f"SYNTHETIC {self.target}, sample {number}", volume, main.limits())
                for number, volume in enumerate(self._drawn, start=1)
            ),
        ]


@contextmanager
def writing(
    files: Files,
    model: Model,
    sources: Mapping[Contrast, Source],
    target: Contrast,
    *,
    device: str = "auto",
    seed: int = 0,
    dtype: str = "float32",
    shown: Mapping[Contrast, Volume] | None = None,
    also: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Writer]:
    """Write the files of one synthetic scan as they come; at the end of the block all appear.

    In the block give the writer each sample, and last the translation. When anything fails, what
    was there before stays and nothing else is left.

    Args:
        sources: the files that were translated, in the order of the model's task.
        device, seed: as they were given.
        dtype: of the scan and its samples; maps stay floating.
        shown: sources for the preview.
        also: for the side-cars; None leaves out what stands there otherwise.

    Raises:
        OutputError: something exists and `overwrite` is False, or cannot be written.
        UsageError: the values do not fit `dtype`.
    """
    # The scan moves last: where it is, all is.
    names = [path.name for path in files.paths]
    with staging(files.output.parent, names, overwrite=overwrite) as stage:
        yield Writer(
            files, stage, model, sources, target, device, seed, dtype, shown or {}, also or {}
        )


def save_synthetic(
    output: Path,
    model: Model,
    sources: Mapping[Contrast, Source],
    target: Contrast,
    result: Translation,
    *,
    device: str = "auto",
    seed: int = 0,
    dtype: str = "float32",
    shown: Mapping[Contrast, Volume] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a translation and its maps, each with the JSON that says how it was made.

    Args:
        output: .nii or .nii.gz; the companions lie beside it.
        shown: sources for the preview, a PNG of three planes; None for no preview.
        sources, device, seed, dtype, overwrite: as for :func:`writing`, which also raises.
    """
    files = Files(output, maps=tuple(result.maps), picture=bool(shown))
    with writing(
        files,
        model,
        sources,
        target,
        device=device,
        seed=seed,
        dtype=dtype,
        shown=shown,
        overwrite=overwrite,
    ) as writer:
        writer.finish(result)
