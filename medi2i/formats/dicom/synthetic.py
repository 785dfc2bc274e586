"""A synthetic scan as a DICOM series, with the side-car that says how it was made beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.errors import OutputError, UsageError
from medi2i.files import check_writable, clear_staging, write_whole
from medi2i.formats.dicom.derived import Derivation, Writer, write_derived
from medi2i.formats.dicom.series import Series
from medi2i.formats.sidecar import as_text, provenance
from medi2i.inference.translate import Translation, choose_device
from medi2i.model import Model
from medi2i.volume import Volume

__all__ = ["SeriesWriter", "check_series_free", "sidecar_of", "writing_series"]


def sidecar_of(folder: Path) -> Path:
    """The JSON file beside a series: a PACS takes nothing but images.

    >>> sidecar_of(Path("head 1.5T")).name
    'head 1.5T.json'
    """
    return folder.with_name(folder.name + ".json")


def check_series_free(folder: Path, *, overwrite: bool, skip_existing: bool = False) -> bool:
    """Find out before the work whether a series can be written.

    Returns:
        False where it exists and may be skipped.

    Raises:
        OutputError: it, or its side-car, exists; it cannot be written.
    """
    clear_staging(folder)  # what a killed process has left
    if folder.exists() and skip_existing:
        return False
    for path in (folder, sidecar_of(folder)):
        if path.exists() and not overwrite:
            raise OutputError(
                f'"{path}" exists; give --overwrite to replace it or --skip-existing to keep it'
            )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f'"{folder}" is a file; the name of a folder was expected.')
    check_writable(sidecar_of(folder))
    return True


@dataclass(frozen=True)
class SeriesWriter:
    """Writes one synthetic scan as a series; made by :func:`writing_series`."""

    writer: Writer
    folder: Path
    model: Model
    sources: Mapping[Contrast, Series]
    target: Contrast
    device: str
    seed: int

    def sample(self, number: int, volume: Volume) -> None:
        """Samples are not written as DICOM: raises UsageError."""
        raise UsageError(f"sample {number}, {volume}, cannot be written: a series holds one image")

    def finish(self, result: Translation) -> None:
        """Write every slice and the side-car."""
        record = provenance(
            self.model,
            self.sources,
            self.target,
            result,
            device=str(choose_device(self.device)),
            seed=self.seed,
        )
        if self.writer.derivation.deidentify:
            for source in record["Sources"]:
                del source["Name"]
        self.writer.write(result.volume)
        write_whole(sidecar_of(self.folder), as_text(record))


@contextmanager
def writing_series(
    folder: Path,
    model: Model,
    sources: Mapping[Contrast, Series],
    target: Contrast,
    *,
    device: str = "auto",
    seed: int = 0,
    volume: int | None = None,
    burn_in: bool = False,
    deidentify: bool = False,
    overwrite: bool = False,
) -> Iterator[SeriesWriter]:
    """Write a synthetic scan as a derived series; at the end of the block the folder appears.

    Args:
        sources: what was translated, in the order of the model's task; the first gives the slices.
        volume: which one of a 4-D source.
        burn_in: write SYNTHETIC into the pixels.
        deidentify: take the patient out of the images; the side-car then names no source.

    Raises:
        OutputError: it exists and `overwrite` is False, or cannot be written.
    """
    derivation = Derivation(
        target=str(target),
        sources={str(contrast): series for contrast, series in sources.items()},
        model=f"{model.name} ({model.system_name}, sha256 {model.sha256[:16]})",
        volume=volume,
        burn_in=burn_in,
        deidentify=deidentify,
    )
    with write_derived(folder, derivation, overwrite=overwrite) as writer:
        yield SeriesWriter(writer, folder, model, sources, target, device, seed)
