"""A derived MR series: what was computed, on the slices of the series it was computed from.

Its identifiers follow from what it holds, and it has no date but the study's: the same again is the
same series, which an archive keeps once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from medi2i import __version__
from medi2i.errors import GeometryError
from medi2i.files import whole_folder
from medi2i.formats.dicom.burn import burned
from medi2i.formats.dicom.codes import dcm, identifier
from medi2i.formats.dicom.deidentify import deidentified
from medi2i.formats.dicom.frames import Frame
from medi2i.formats.dicom.series import Series, check_installed
from medi2i.formats.dicom.stored import quiet
from medi2i.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Derivation", "Quantised", "Writer", "quantised", "write_derived"]

KEPT = (
    # patient
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "OtherPatientIDs", "EthnicGroup"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    # study
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "LongitudinalTemporalInformationModified"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"),
    *("ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID"),
    # series, frame of reference, image
    *("Laterality", "PatientPosition", "PositionReferenceIndicator", "BurnedInAnnotation"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
"""What is as true of the derived images as of the acquired ones. All else is left behind, private
elements and the acquisition's parameters too."""
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""What must be there, if only empty."""
LIMIT = 32767
TINY = 1e-30
WARNING = "NOT FOR DIAGNOSIS"


@dataclass(frozen=True)
class Derivation:
    """How a series came about.

    Attributes:
        target: the contrast that was computed.
        sources: what it was computed from, by contrast; the first gives slices, patient and study.
        volume: which volume of a 4-D source.
        model: name and checksum of the model.
        burn_in: whether the word SYNTHETIC is written into the pixels.
        deidentify: whether the patient is taken out.
    """

    target: str
    sources: dict[str, Series]
    model: str
    volume: int | None = None
    burn_in: bool = False
    deidentify: bool = False

    @property
    def first(self) -> Series:
        """The series whose slices are taken over."""
        return next(iter(self.sources.values()))

    @property
    def description(self) -> str:
        """For DerivationDescription, which takes 1024 characters."""
        said = (
            f"SYNTHETIC {self.target} computed from {' + '.join(self.sources)} by medi2i"
            f" {__version__}, model {self.model}; not acquired; for research, {WARNING}"
        )
        return said[:1024]


@dataclass(frozen=True, slots=True)
class Quantised:
    """Values as whole numbers: `stored` times `slope` is within half a slope of each.

    Attributes:
        stored: (X, Y, Z) int16.
        slope: as DICOM can write it, in 16 characters; 0 stays 0.
    """

    stored: NDArray[np.int16]
    slope: float


def quantised(values: NDArray[np.float32]) -> Quantised:
    """Values as int16 and one slope.

    >>> found = quantised(np.array([[[-2.0, 0.0, 1.0]]], np.float32))
    >>> found.stored.tolist(), round(found.slope * 32767, 5)
    ([[[-32767, 0, 16383]]], 2.0)
    """
    largest = float(np.abs(values).max())
    # rounded up to what 16 characters hold, so that the largest value still fits
    slope = float(f"{largest / LIMIT * (1 + 1e-7):.8e}") if largest > TINY else 1.0
    return Quantised(np.rint(values.astype(np.float64) / slope).astype(np.int16), slope)


@contextmanager
def write_derived(
    folder: Path, derivation: Derivation, *, overwrite: bool = False
) -> Iterator[Writer]:
    """Write a derived series into a new folder, which appears whole at the end of the block.

    In the block hand the writer the volume, which lies on the grid of the first source.

    Raises:
        OutputError: `folder` exists and `overwrite` is False, or it cannot be written.
        GeometryError: the volume lies on another grid.
        UsageError: the slices are too small for the word that is to be burned in.
    """
    check_installed()
    with whole_folder(folder, overwrite=overwrite) as stage:
        yield Writer(stage, derivation)


@dataclass
class Writer:
    """Writes one file per slice; made by :func:`write_derived`."""

    folder: Path
    derivation: Derivation

    def write(self, volume: Volume) -> None:
        """Write all slices."""
        ordered = self.derivation.first.stack(self.derivation.volume)
        if volume.shape != ordered.shape or not np.allclose(volume.affine, ordered.affine):
            raise GeometryError(
                f"{volume} does not lie on the grid of {self.derivation.first.name}, whose slices"
                " it should be written on."
            )
        values = burned(volume.voxels) if self.derivation.burn_in else volume.voxels
        pixels = quantised(values)
        low, high = (float(v) for v in np.percentile(volume.voxels, (1, 99.5)))
        with quiet():
            own = self._space(pixels)
            common = self._common(ordered.frames[0].stored.read(pixels=False), own)
            common.WindowCenter = _decimal((low + high) / 2)
            common.WindowWidth = _decimal(max(high - low, pixels.slope))
            common.RescaleSlope, common.RescaleIntercept = _decimal(pixels.slope), _decimal(0)
            common.SpacingBetweenSlices = _decimal(ordered.spacing[2])
            for number, frame in enumerate(ordered.frames, start=1):
                one = self._instance(common, frame, number, identifier(own, str(number)))
                if self.derivation.deidentify:
                    one = deidentified(one)
                one.PixelData = pixels.stored[:, :, number - 1].T.astype("<i2").tobytes()
                one["PixelData"].VR = "OW"
                one.save_as(self.folder / f"IM{number:04d}.dcm", enforce_file_format=True)

    def _space(self, pixels: Quantised) -> UUID:
        """Where the identifiers of this series come from: all that it is made of."""
        digest = hashlib.sha256(pixels.stored.tobytes())
        digest.update(f"{pixels.slope} {self.derivation.description}".encode())
        for series in self.derivation.sources.values():
            for frame in series.frames:
                digest.update(f"{frame.uid} {frame.index} ".encode())
        return uuid5(NAMESPACE_OID, digest.hexdigest())

    def _common(self, source: Dataset, own: UUID) -> Dataset:
        """What all slices share."""
        from pydicom import Dataset
        from pydicom.uid import MRImageStorage

        derivation, new = self.derivation, Dataset()
        if "SpecificCharacterSet" in source:
            new.SpecificCharacterSet = source.SpecificCharacterSet
        for keyword in KEPT:
            if keyword in source:
                new[keyword] = source[keyword]
        for keyword in REQUIRED:
            if keyword not in new:
                setattr(new, keyword, "")
        equipment = _equipment("109102", "Processing Equipment")
        equipment.Manufacturer, equipment.SoftwareVersions = "medi2i", __version__
        equipment.ManufacturerModelName = derivation.model[:64]
        equipment.ContributionDescription = derivation.description
        acquired = _equipment("109101", "Acquisition Equipment")
        acquired.Manufacturer = source.get("Manufacturer") or "unknown"
        for keyword in ("ManufacturerModelName", "SoftwareVersions"):
            if source.get(keyword):
                acquired[keyword] = source[keyword]
        tags: dict[str, Any] = {
            "SOPClassUID": MRImageStorage,
            "Modality": "MR",
            "FrameOfReferenceUID": source.get("FrameOfReferenceUID")
            or identifier(own, "frame of reference"),
            # there is nothing else that models know; of one brain no side needs to be told
            "BodyPartExamined": source.get("BodyPartExamined") or "BRAIN",
            "SyntheticData": "YES",
            "SeriesInstanceUID": identifier(own, "series"),
            "SeriesNumber": _beside(derivation.first.number),
            "SeriesDescription": f"SYNTH {derivation.target} (medi2i) {WARNING}",
            "Manufacturer": "medi2i",
            "ManufacturerModelName": derivation.model[:64],
            "SoftwareVersions": __version__,
            "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
            "ImageComments": f"SYNTHETIC {derivation.target}, computed; {WARNING}",
            "DerivationDescription": derivation.description,
            "ContributingEquipmentSequence": [acquired, equipment],
            # of no scanner's sequence: RM is "research mode"
            "ScanningSequence": "RM",
            "SequenceVariant": "NONE",
            **dict.fromkeys(("ScanOptions", "MRAcquisitionType", "AcquisitionNumber"), ""),
            **dict.fromkeys(("RepetitionTime", "EchoTime", "EchoTrainLength"), None),
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleType": "US",
        }
        for keyword, value in tags.items():
            setattr(new, keyword, value)
        return new

    def _instance(self, common: Dataset, frame: Frame, number: int, uid: str) -> Dataset:
        """One slice, without its pixels."""
        from pydicom import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        one = Dataset()
        one.update(common)
        one.SOPInstanceUID, one.InstanceNumber = uid, number
        one.ImagePositionPatient = [_decimal(value) for value in frame.position]
        one.ImageOrientationPatient = [_decimal(value) for value in frame.orientation]
        one.PixelSpacing = [_decimal(value) for value in frame.spacing]
        one.SliceThickness = _decimal(frame.thickness[0]) if frame.thickness else None
        one.Columns, one.Rows = frame.shape
        one.SourceImageSequence = [_reference(frame, preserved=True)]
        for series in list(self.derivation.sources.values())[1:]:
            one.SourceImageSequence.append(_reference(_nearest(series.frames, frame)))
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.ImplementationVersionName = f"MEDI2I {__version__}"[:16]
        return one


def _reference(frame: Frame, *, preserved: bool = False) -> Dataset:
    from pydicom import Dataset
    from pydicom.uid import UID

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class, frame.uid
    if frame.index or "Enhanced" in UID(frame.sop_class).name:
        item.ReferencedFrameNumber = frame.index + 1
    item.PurposeOfReferenceCodeSequence = [
        dcm("121322", "Source image for image processing operation")
    ]
    if preserved:
        item.SpatialLocationsPreserved = "YES"
    return item


def _nearest(frames: Sequence[Frame], to: Frame) -> Frame:
    """The slice of another series that lies closest along its normal."""
    normal = np.cross(to.orientation[:3], to.orientation[3:])
    return min(frames, key=lambda f: abs(float(np.subtract(f.position, to.position) @ normal)))


def _equipment(code: str, meaning: str) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [dcm(code, meaning)]
    return item


def _beside(number: int | None) -> int:
    """A series number that sorts behind the scanner's."""
    return 9000 + (number or 0) if (number or 0) < 1000 else (number or 0) * 10 + 9


def _decimal(value: float) -> Any:
    """As DICOM writes numbers: 16 characters at most."""
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)
