"""Codes of DICOM's own (PS3.16), and identifiers that follow from what they are given to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

__all__ = ["dcm", "identifier"]


def dcm(value: str, meaning: str) -> Dataset:
    """The item of a code sequence.

    >>> dcm("113100", "Basic Application Confidentiality Profile").CodingSchemeDesignator
    'DCM'
    """
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def identifier(space: UUID, name: str) -> UID:
    """The identifier of a thing: the same for the same name in the same space (PS3.5, B.2)."""
    from pydicom.uid import UID

    return UID(f"2.25.{uuid5(space, name).int}")
