"""The prepared scans of one person on disk: all of them appear together, or none does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medi2i import __version__
from medi2i.contrasts import Contrast
from medi2i.errors import OutputError, UsageError
from medi2i.figures import Row, three_planes
from medi2i.files import atomic_write, check_writable, staging, write_whole
from medi2i.formats.names import beside, stem_of, subject_prefix
from medi2i.normalise import fit_scaling
from medi2i.preparation.prepare import Prepared, Steps
from medi2i.volume import Volume, save_volume

__all__ = ["PREPARED", "Places", "check_places", "write_person"]

PREPARED = "desc-preproc"
BLOCK = 28.0
"""Millimetres of a square of the chequered picture."""


@dataclass(frozen=True)
class Places:
    """Where the files of one person go.

    Attributes:
        folder: of all of them.
        sources: the scans as they came.
        reference: the contrast onto which the others are registered; None for each by itself.
        masks, pictures: whether there are any.

    >>> scans = {Contrast.T1W: Path("sub-1_T1w.nii"), Contrast.T1CE: Path("sub-1_ce-gad_T1w.nii")}
    >>> places = Places(Path(), scans, Contrast.T1W)
    >>> places.scan(Contrast.T1CE).name
    'sub-1_ce-gad_space-T1w_desc-preproc_T1w.nii.gz'
    >>> places.transform(Contrast.T1CE).name
    'sub-1_from-T1ce_to-T1w_mode-image_xfm.tfm'
    """

    folder: Path
    sources: Mapping[Contrast, Path]
    reference: Contrast | None
    masks: bool = False
    pictures: bool = False

    @classmethod
    def of(
        cls,
        folder: Path,
        sources: Mapping[Contrast, Path],
        steps: Steps,
        reference: Contrast,
        *,
        pictures: bool = False,
    ) -> Places:
        """The places of what `steps` make of `sources`."""
        together = reference if steps.registration and len(sources) > 1 else None
        return cls(folder, sources, together, steps.masked, pictures)

    def space(self, contrast: Contrast) -> Contrast:
        """In whose space a scan will lie."""
        return self.reference or contrast

    def scan(self, contrast: Contrast) -> Path:
        """The place of a prepared scan."""
        space = self.space(contrast)
        moved = "" if space is contrast else f"_space-{_label(space)}"
        agent = "_ce-gad" if contrast is Contrast.T1CE else ""
        suffix = "T1w" if contrast is Contrast.T1CE else str(contrast)
        return self._place(contrast, f"{agent}{moved}_{PREPARED}_{suffix}.nii.gz")

    def mask(self, contrast: Contrast) -> Path:
        """The place of the brain mask in the space of a contrast."""
        return self._place(contrast, f"_space-{_label(contrast)}_desc-brain_mask.nii.gz")

    def transform(self, contrast: Contrast) -> Path:
        """The place of the transform that brings a scan to the reference."""
        to = _label(self.space(contrast))
        return self._place(contrast, f"_from-{_label(contrast)}_to-{to}_mode-image_xfm.tfm")

    def picture(self, contrast: Contrast) -> Path:
        """The place of the picture of all that lies in the space of a contrast."""
        return beside(self.scan(contrast), "_preview.png")

    def paths(self, contrasts: Collection[Contrast] | None = None) -> Iterator[Path]:
        """Everything that is written of these contrasts (by default of all), the scans last."""
        there = [c for c in self.sources if contrasts is None or c in contrasts]
        for contrast in there:
            alone = self.space(contrast) is contrast
            yield beside(self.scan(contrast), ".json")
            if not alone:
                yield self.transform(contrast)
            elif self.masks:
                yield beside(self.mask(contrast), ".json")
                yield self.mask(contrast)
            if alone and self.pictures:
                yield self.picture(contrast)
        for contrast in there:
            yield self.scan(contrast)

    def _place(self, contrast: Contrast, ending: str) -> Path:
        source = self.sources[contrast]
        stem = stem_of(source)
        named = subject_prefix(source) if stem.startswith("sub-") else ""
        return self.folder / f"{named or stem}{ending}"


def check_places(places: Places, *, overwrite: bool, skip_existing: bool = False) -> bool:
    """Find out before the work whether all can be written.

    Returns:
        False where all of it exists and may be skipped.

    Raises:
        UsageError: a result would fall on an input. OutputError: it exists, or cannot be written.
    """
    paths = list(places.paths())
    inputs = {path.resolve() for path in places.sources.values()}
    for path in paths:
        if path.resolve() in inputs:
            raise UsageError(f'"{path}" is an input; another folder was expected with -o')
    if skip_existing and all(path.exists() for path in paths):
        return False
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(
                f'"{path}" exists, but others that belong to it do not; give --overwrite to make '
                "all of them anew"
                if skip_existing
                else f'"{path}" exists; give --overwrite to replace it or --skip-existing to keep '
                "it"
            )
        check_writable(path)
    return True


def write_person(
    places: Places,
    before: Mapping[Contrast, Volume],
    prepared: Mapping[Contrast, Prepared],
    *,
    overwrite: bool = False,
) -> None:
    """Write scans, side-cars, transforms, masks and pictures; when anything fails, none of them.

    Args:
        before: the scans as they came, for the pictures.

    Raises:
        OutputError: something exists and `overwrite` is False, or cannot be written.
    """
    import SimpleITK as sitk

    names = [path.name for path in places.paths(prepared)]
    with staging(places.folder, names, overwrite=overwrite) as stage:
        for contrast, one in prepared.items():
            place = stage / places.scan(contrast).name
            save_volume(one.volume, place, description=f"medi2i {__version__} prepared {contrast}")
            write_whole(beside(place, ".json"), _json(_sidecar(places, contrast, one)))
            if one.transform is not None:
                sitk.WriteTransform(one.transform, str(stage / places.transform(contrast).name))
            if one.space is not contrast:
                continue
            if one.brain is not None:
                mask = stage / places.mask(contrast).name
                save_volume(one.brain.mask, mask, dtype="uint8", description="brain mask")
                write_whole(beside(mask, ".json"), _json(_mask_sidecar(places, contrast, one)))
            if places.pictures:
                page = three_planes(
                    _rows(contrast, before, prepared), note="a row of squares shows both in turns"
                )
                atomic_write(
                    stage / places.picture(contrast).name,
                    lambda stream, page=page: page.save(stream, format="PNG"),  # type: ignore[misc]
                )


def _label(contrast: Contrast) -> str:
    """A contrast's name in an entity of BIDS, whose values have letters and digits only."""
    return "T1ce" if contrast is Contrast.T1CE else str(contrast)


def _sidecar(places: Places, contrast: Contrast, one: Prepared) -> dict[str, Any]:
    steps = dict(one.steps)
    if one.transform is not None:
        steps["Registration"] = {**steps["Registration"], "File": places.transform(contrast).name}
    if one.brain is not None:
        steps["BrainMask"] = {**steps["BrainMask"], "File": places.mask(one.space).name}
    stripped = {"SkullStripped": True} if one.steps["Stripping"] else {}
    return {
        "Description": f"{contrast}, prepared",
        **stripped,
        "Contrast": str(contrast),
        "Space": str(one.space),
        **_origin(places, contrast),
        "Steps": steps,
        "Warnings": list(one.warnings),
    }


def _mask_sidecar(places: Places, contrast: Contrast, one: Prepared) -> dict[str, Any]:
    return {
        "Description": "brain mask, computed",
        "Type": "Brain",
        "Space": str(contrast),
        **_origin(places, contrast),
        "BrainMask": one.steps["BrainMask"],
        "Warnings": list(one.warnings),
    }


def _origin(places: Places, contrast: Contrast) -> dict[str, Any]:
    """File names, no folders: those may hold names of people."""
    import SimpleITK as sitk

    source = places.sources[contrast]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return {
        "Sources": [{"Name": source.name, "SHA256": digest}],
        "GeneratedBy": [
            {"Name": "medi2i prepare", "Version": __version__},
            {"Name": "SimpleITK", "Version": sitk.Version_VersionString()},
        ],
    }


def _rows(
    reference: Contrast, before: Mapping[Contrast, Volume], prepared: Mapping[Contrast, Prepared]
) -> list[Row]:
    """Of all scans in one space: as they came, as they are, and in turns with the reference."""
    grid = prepared[reference].volume.canonical()
    rows: list[Row] = []
    ground = _unit(grid)

    def add(caption: str, voxels: NDArray[np.float32]) -> None:
        rows.append(Row(caption, voxels, grid.spacing))

    for contrast, one in prepared.items():
        if one.space is not reference:
            continue
        came = before[contrast].canonical().resampled_onto(grid)
        add(f"{contrast} as it came", came.voxels)
        shown = one.volume.canonical()
        add(f"{contrast} prepared", shown.voxels)
        if contrast is not reference:
            pair = np.where(_squares(grid), ground, _unit(shown))
            add(f"squares of {reference} and {contrast}", pair)
    brain = prepared[reference].brain
    if brain is not None:
        inside = brain.mask.canonical().voxels > 0
        source = before[reference].canonical().resampled_onto(grid)
        add(f"brain mask on {reference}", _unit(source) * np.where(inside, 1, 0.3))
    return rows


def _unit(volume: Volume) -> NDArray[np.float32]:
    values = fit_scaling(volume.voxels).apply(volume.voxels)
    shown: NDArray[np.float32] = np.clip(values / 2 + 0.5, 0, 1)
    return shown


def _squares(volume: Volume) -> NDArray[np.bool_]:
    """(X, Y, Z): every other cube of a chequered volume."""
    x, y, z = np.ogrid[tuple(map(slice, volume.shape))]
    steps = volume.spacing
    count = x * steps[0] // BLOCK + y * steps[1] // BLOCK + z * steps[2] // BLOCK
    odd: NDArray[np.bool_] = count % 2 == 1
    return odd


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
