"""A synthetic scan on disk: the volume, its side-car and its preview, together or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.errors import OutputError
from medi2i.figures import three_planes
from medi2i.files import atomic_write, check_writable, staging
from medi2i.formats.names import beside
from medi2i.formats.sidecar import description, provenance, write_sidecar
from medi2i.inference.translate import Translation, choose_device
from medi2i.model import Model
from medi2i.volume import Volume, save_volume

__all__ = ["PREVIEW", "check_free", "save_synthetic"]

PREVIEW = "_preview.png"
NOTE = "computed, not acquired: for research, not for diagnosis"


def check_free(output: Path, *, preview: bool, overwrite: bool) -> None:
    """Find out before the work whether `save_synthetic` could write.

    Raises:
        OutputError: the scan or a companion exists, or their folder cannot be written to.
    """
    for path in (output, *_companions(output, preview)):
        if path.exists() and not overwrite:
            raise OutputError(
                f'"{path}" exists; give --overwrite to replace it or --skip-existing to keep it'
            )
        check_writable(path)


def save_synthetic(
    output: Path,
    model: Model,
    sources: Mapping[Contrast, Path],
    target: Contrast,
    result: Translation,
    *,
    device: str = "auto",
    seed: int = 0,
    dtype: str = "float32",
    shown: Mapping[Contrast, Volume] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a translation with the JSON that says how it was made.

    Args:
        output: .nii or .nii.gz; the companions lie beside it.
        sources: the files that were translated, in the order of the model's task.
        device, seed: as they were given.
        shown: sources for the preview, a PNG of three planes; None for no preview.

    Raises:
        OutputError: something exists and `overwrite` is False, or cannot be written.
        UsageError: the values do not fit `dtype`.
    """
    record = provenance(
        model, sources, target, result, device=str(choose_device(device)), seed=seed
    )
    companions = _companions(output, bool(shown))
    # The scan moves last: where it is, all is.
    names = [path.name for path in (*companions, output)]
    with staging(output.parent, names, overwrite=overwrite) as stage:
        scan = stage / output.name
        save_volume(result.volume, scan, dtype=dtype, description=description(sources, target))
        write_sidecar(scan, record)
        if shown:
            rows = {f"source {contrast}": volume for contrast, volume in shown.items()}
            rows[f"SYNTHETIC {target}"] = result.volume
            canonical = [(title, volume.canonical()) for title, volume in rows.items()]
            picture = three_planes([(t, v.voxels, v.spacing) for t, v in canonical], note=NOTE)
            atomic_write(beside(scan, PREVIEW), lambda stream: picture.save(stream, format="PNG"))


def _companions(output: Path, preview: bool) -> list[Path]:
    return [beside(output, ending) for ending in (".json", *([PREVIEW] if preview else []))]
