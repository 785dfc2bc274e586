"""DICOM: series of MR images in, derived series out."""

from __future__ import annotations

from medi2i.formats.dicom.series import Series, check_installed, series_in
from medi2i.formats.dicom.stored import is_dicom
from medi2i.formats.dicom.synthetic import check_series_free, sidecar_of, writing_series

__all__ = [
    "Series",
    "check_installed",
    "check_series_free",
    "is_dicom",
    "series_in",
    "sidecar_of",
    "writing_series",
]
