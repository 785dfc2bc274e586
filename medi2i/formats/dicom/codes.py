"""Codes of DICOM's own (PS3.16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["dcm"]


def dcm(value: str, meaning: str) -> Dataset:
    """The item of a code sequence.

    >>> dcm("113100", "Basic Application Confidentiality Profile").CodingSchemeDesignator
    'DCM'
    """
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
