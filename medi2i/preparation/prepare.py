"""The steps, one after the other, over the scans of one person.

even the coil -> find where the others lie -> resample once -> find the brain -> strip
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medi2i.contrasts import Contrast, contrast_of
from medi2i.errors import ContrastError, InputError, UsageError
from medi2i.inference.recognise import recognise
from medi2i.preparation import bias, rigid
from medi2i.preparation.brain import Brain, find_brain
from medi2i.preparation.grid import SPACINGS, isotropic, resample_once
from medi2i.volume import Volume, load_volume

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Prepared", "Steps", "identify", "prepare", "prepare_person", "reference_of"]

Scan = Volume | str | Path
Failed = Callable[[Contrast, InputError], None]


@dataclass(frozen=True)
class Steps:
    """What is done, each by name.

    Attributes:
        bias_correction: divide by the sensitivity of the receiving coil (N4).
        registration: bring all scans onto the grid of one of them, by a rigid transform.
        spacing: resample to cubes of this many mm; None keeps the grid.
        brain_mask: find the brain.
        strip: set what is outside of the brain to 0; finds the brain too.

    Raises:
        UsageError: every step is off, or the spacing is not between 0.25 and 10 mm.
    """

    bias_correction: bool = True
    registration: bool = True
    spacing: float | None = None
    brain_mask: bool = False
    strip: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not (self.bias_correction or self.registration or self.masked or self.spacing):
            raise UsageError("every step is switched off; at least one was expected")
        low, high = SPACINGS
        if self.spacing is not None and not low <= self.spacing <= high:
            raise UsageError(f"a spacing of {self.spacing:g} mm; {low:g} to {high:g} was expected")

    @property
    def masked(self) -> bool:
        """Whether the brain is looked for."""
        return self.brain_mask or self.strip


@dataclass(frozen=True, eq=False)
class Prepared:
    """One scan, made ready.

    Attributes:
        volume: the scan.
        space: the contrast in whose space it lies: the reference's after registration.
        transform: from points of the reference to those of this scan as it came (LPS mm); None for
            the reference, and without registration.
        brain: on the grid of `volume`, where it was asked for.
        steps: parameters and results of each step by its name; False for one that was off.
        warnings: sentences.
    """

    volume: Volume
    space: Contrast
    transform: sitk.Transform | None
    brain: Brain | None
    steps: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def prepare(
    scans: Scan | Sequence[Scan] | Mapping[str, Scan] | Mapping[Contrast, Scan],
    *,
    onto: str | Contrast | None = None,
    contrast: str | Contrast | None = None,
    bias_correction: bool = True,
    registration: bool = True,
    spacing: float | None = None,
    brain_mask: bool = False,
    strip: bool = False,
) -> dict[Contrast, Prepared]:
    """Make the scans of one person ready: bias, one grid, brain mask.

    Args:
        scans: a volume or a path, several of them, or a mapping from contrast to scan.
        onto: whose grid the others are brought to; by default the first one's.
        contrast: of a single scan whose name, side-car and image do not tell.
        bias_correction, registration, spacing, brain_mask, strip: see :class:`Steps`.

    Raises:
        UsageError: every step is off; `onto` is not among the scans.
        ContrastError: nothing tells a scan's contrast, or two have the same one.
        InputError: a scan cannot be read, or not be registered.

    In a notebook::

        ready = medi2i.prepare(["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"], strip=True)
        medi2i.save_volume(ready["T2w"].volume, "sub-01_space-T1w_desc-preproc_T2w.nii.gz")
    """
    steps = Steps(bias_correction, registration, spacing, brain_mask, strip)
    if isinstance(scans, Mapping):
        named: dict[Contrast, Scan] = {Contrast.parse(c): scan for c, scan in scans.items()}
        if len(named) < len(scans):
            raise ContrastError(f"{', '.join(map(str, scans))} name one contrast twice")
    else:
        several = [scans] if isinstance(scans, Volume | str | Path) else list(scans)
        named = identify(several, None if contrast is None else Contrast.parse(contrast))
    volumes = {c: s if isinstance(s, Volume) else load_volume(s) for c, s in named.items()}
    return prepare_person(volumes, steps, None if onto is None else Contrast.parse(onto))


def identify(
    scans: Sequence[Scan], contrast: Contrast | None = None, *, volume: int | None = None
) -> dict[Contrast, Scan]:
    """Each scan under its contrast: as given, as its name or side-car says, as it looks.

    Args:
        contrast: of a single scan.
        volume: which one of 4-D scans to look at.

    Raises:
        ContrastError: nothing tells it, or two have the same one. UsageError: no scan, or a
            contrast for several.
    """
    if not scans:
        raise UsageError("no scan was given to prepare")
    if contrast is not None:
        if len(scans) > 1:
            raise UsageError(
                f"one contrast, {contrast}, was given for {len(scans)} scans; it can be given for "
                "a single scan"
            )
        return {contrast: scans[0]}
    named: dict[Contrast, Scan] = {}
    for scan in scans:
        label = (scan.name or "this volume") if isinstance(scan, Volume) else str(scan)
        found = contrast_of(Path(label))
        if found is None:
            loaded = scan if isinstance(scan, Volume) else load_volume(scan, volume=volume)
            try:
                found, _ = recognise(loaded, label)
            except ContrastError as error:
                raise ContrastError(
                    f'neither name nor side-car nor image tell the contrast of "{label}": give it '
                    "a name such as x_T1w.nii.gz, or --contrast for a single scan (in Python: a "
                    "mapping from contrast to scan)"
                ) from error
        if found in named:
            raise ContrastError(
                f'two scans are {found}, the second is "{label}"; one of each contrast of one '
                "person was expected"
            )
        named[found] = scan
    return named


def reference_of(contrasts: Sequence[Contrast], onto: Contrast | None) -> Contrast:
    """The contrast whose grid the others are brought to.

    Raises:
        UsageError: `onto` is not among them.
    """
    if onto is None:
        return contrasts[0]
    if onto not in contrasts:
        raise UsageError(
            f"{onto} was asked for as the reference; the scans are {', '.join(contrasts)}"
        )
    return onto


def prepare_person(
    volumes: Mapping[Contrast, Volume],
    steps: Steps,
    onto: Contrast | None = None,
    failed: Failed | None = None,
) -> dict[Contrast, Prepared]:
    """Make the scans of one person ready.

    Args:
        onto: whose grid the others are brought to; by default the first one's.
        failed: told of a scan that cannot be prepared, and why; the others go on. Without it, and
            for the reference always, the error is raised.
    """
    reference = reference_of(list(volumes), onto)
    together = steps.registration and len(volumes) > 1
    order = [reference, *(contrast for contrast in volumes if contrast is not reference)]
    ready: dict[Contrast, Prepared] = {}
    fixed: Volume | None = None
    for contrast in order:
        try:
            record: dict[str, Any] = {}
            volume = _even(volumes[contrast], steps, record)
            if together and fixed is not None:
                found = rigid.register(fixed, volume)
                record["Registration"] = _described(found, reference)
                grid, space = ready[reference].volume, reference
                transform: sitk.Transform | None = found.transform
            else:
                record["Registration"] = {"Reference": str(contrast)} if together else False
                grid = volume if steps.spacing is None else isotropic(volume, steps.spacing)
                space, transform, fixed = contrast, None, volume
            placed = resample_once(volume, grid, transform)
            record["Resampling"] = (
                False
                if placed is volume
                else {
                    "Interpolation": "linear",
                    "Onto": str(space),
                    "SpacingMillimetres": [round(step, 4) for step in placed.spacing],
                    "Shape": list(placed.shape),
                }
            )
            brain = None
            if steps.masked:
                brain = find_brain(placed) if space is contrast else ready[space].brain
            record["BrainMask"] = False if brain is None else {**brain.record, "Of": str(space)}
            if brain is not None and steps.strip:
                placed = placed.like(np.where(brain.mask.voxels > 0, placed.voxels, 0))
            record["Stripping"] = steps.strip
            warnings = brain.warnings if brain is not None and space is contrast else ()
            ready[contrast] = Prepared(placed, space, transform, brain, record, warnings)
        except InputError as error:
            if failed is None or (together and contrast is reference):
                raise
            failed(contrast, error)
    return {contrast: ready[contrast] for contrast in volumes if contrast in ready}


def _even(volume: Volume, steps: Steps, record: dict[str, Any]) -> Volume:
    if not steps.bias_correction:
        record["BiasCorrection"] = False
        return volume
    corrected = bias.correct_bias(volume)
    strength = round(corrected.strength, 4)
    record["BiasCorrection"] = {**bias.PARAMETERS, "LogFieldDeviation": strength}
    return corrected.volume


def _described(found: rigid.Registration, reference: Contrast) -> dict[str, Any]:
    matrix = np.array(found.transform.GetMatrix()).reshape(3, 3)
    offset = np.array(found.transform.TransformPoint([0.0, 0.0, 0.0]))
    return {
        "Reference": str(reference),
        **rigid.PARAMETERS,
        "MutualInformationBefore": round(found.before, 4),
        "MutualInformationAfter": round(found.after, 4),
        "ShiftMillimetres": round(found.shift, 3),
        "TurnDegrees": round(found.turn, 3),
        "MatrixLPS": [[*map(float, row), float(o)] for row, o in zip(matrix, offset, strict=True)],
    }
