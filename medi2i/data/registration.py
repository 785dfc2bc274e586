"""Bringing the contrasts of one person onto one grid, by the transforms that lie beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.errors import ContrastError, FormatError
from medi2i.volume import Volume, load_volume

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["load_together", "read_transform"]

SPACE = re.compile(r"(^|_)space-(?P<space>[A-Za-z0-9]+)_")


def load_together(subject: Subject, contrasts: Sequence[Contrast]) -> dict[Contrast, Volume]:
    """Load contrasts of one person, canonical, all on the grid of the first.

    A transform between two contrasts is used where there is one, also its inverse and also over
    one contrast in between; otherwise their world coordinates are trusted, and equal grids are not
    interpolated. A scan that says in its name (`space-T1w`) that it lies in another one's space
    already is not moved there again.

    Raises:
        InputError: a scan cannot be read. FormatError: nor can a transform, or it has no inverse.
    """
    first = contrasts[0]
    reference = load_volume(subject.scans[first]).canonical()
    together = {first: reference}
    for contrast in contrasts[1:]:
        volume = load_volume(subject.scans[contrast]).canonical()
        together[contrast] = volume.resampled_onto(
            reference,
            transform=_transform(subject, _space(subject, contrast), _space(subject, first)),
        )
    return together


def _space(subject: Subject, contrast: Contrast) -> Contrast | None:
    """In whose space a scan lies: its own, or that which its name tells; None for an atlas."""
    told = SPACE.search(subject.scans[contrast].name)
    if told is None:
        return contrast
    try:
        return Contrast.parse(told["space"])
    except ContrastError:
        return None


def _transform(
    subject: Subject, moving: Contrast | None, fixed: Contrast | None
) -> sitk.Transform | None:
    """From points of the space `fixed` to those of `moving`, or None."""
    if moving is None or fixed is None:
        return None
    direct = _step(subject, moving, fixed)
    if direct is not None or moving == fixed:
        return direct
    for between in subject.scans:
        first, second = _step(subject, between, fixed), _step(subject, moving, between)
        if first is not None and second is not None:
            import SimpleITK as sitk

            both = sitk.CompositeTransform(3)  # applies the last added first
            both.AddTransform(second)
            both.AddTransform(first)
            return both
    return None


def _step(subject: Subject, moving: Contrast, fixed: Contrast) -> sitk.Transform | None:
    path = subject.transforms.get((moving, fixed))
    if path is not None:
        return read_transform(path)
    path = subject.transforms.get((fixed, moving))
    return None if path is None else read_transform(path, inverse=True)


def read_transform(path: Path, *, inverse: bool = False) -> sitk.Transform:
    """An ITK transform, or its inverse.

    Raises:
        FormatError: it cannot be read, or has no inverse.
    """
    import SimpleITK as sitk

    try:
        transform: sitk.Transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise FormatError(f'"{path}" is not an ITK transform') from error
    if not inverse:
        return transform
    try:
        inverted: sitk.Transform = transform.GetInverse()
    except RuntimeError as error:
        raise FormatError(
            f'"{path}" has no inverse; a transform the other way was expected beside it'
        ) from error
    return inverted
