"""Models on their way out: whole folders, or nothing."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from medi2i.contrasts import Contrast
from medi2i.errors import OutputError, UsageError

if TYPE_CHECKING:
    from medi2i.model import Model

__all__ = ["BundleFormat", "export_model"]


class BundleFormat(StrEnum):
    """What `medi2i models export --format` takes."""

    MONAI = "monai-bundle"
    HUGGINGFACE = "huggingface"


def export_model(
    source: Path,
    output: Path,
    kind: BundleFormat,
    *,
    pair: tuple[Contrast, Contrast] | None = None,
    overwrite: bool = False,
) -> Model:
    """Write a model folder in the form of others.

    Args:
        source: a model folder.
        output: a folder that is not there yet.
        kind: the form.
        pair: for a MONAI bundle of a model on demand, the source and target that it is set to.
        overwrite: an earlier export, or a model folder, at `output` is replaced.

    Returns:
        The model.

    Raises:
        OutputError: `output` exists, is something else, or cannot be written.
        ModelError: `source` is no whole model, or one that the form cannot hold.
        UsageError, ContrastError: a pair that the form or the model does not have.
    """
    from medi2i.files import clear_staging, whole_folder  # the command line's help needs the names

    if kind is BundleFormat.HUGGINGFACE and pair is not None:
        raise UsageError("a pair of contrasts is for monai-bundle; huggingface keeps all of them")
    clear_staging(output)  # what a killed process has left
    marks = ("model.json", "configs/metadata.json")
    if overwrite and output.exists() and not any((output / mark).is_file() for mark in marks):
        raise OutputError(f'"{output}" is no exported model; only one of those is overwritten')
    if overwrite and output.exists() and output.resolve() in _with_parents(source):
        raise OutputError(f'"{output}" holds the model itself; choose another folder')
    with whole_folder(output, overwrite=overwrite) as folder:
        if kind is BundleFormat.HUGGINGFACE:
            from medi2i.exchange.huggingface import fill_huggingface

            return fill_huggingface(source, folder)
        from medi2i.exchange.monai_bundle import fill_monai_bundle

        return fill_monai_bundle(source, folder, pair=pair)


def _with_parents(folder: Path) -> tuple[Path, ...]:
    whole = folder.resolve()
    return whole, *whole.parents
