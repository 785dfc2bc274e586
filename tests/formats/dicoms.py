"""Small DICOM series of nobody, made with pydicom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, -0.8)

PATIENT = {
    "PatientName": "Planted^Name",
    "PatientID": "PLANTED-ID",
    "PatientBirthDate": "19010203",
    "PatientSex": "O",
}


def stored_values(shape: tuple[int, int, int] = (9, 16, 13), seed: int = 0) -> NDArray[np.int16]:
    """Something like a head, (slices, rows, columns), 0 to about 1000."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    phase = np.random.default_rng(seed).uniform(0, 6, 3)[:, None, None, None]
    inside = np.square(grid * 1.2).sum(0) < 1
    return np.where(inside, 600 + 400 * np.sin(4 * grid + phase).mean(0), 0).astype(np.int16)


def positions(
    count: int,
    orientation: Sequence[float] = AXIAL,
    *,
    step: float = 2.5,
    origin: Sequence[float] = (-20.5, -31.25, 7.0),
) -> NDArray[np.float64]:
    """The places of slices along their normal, LPS mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(origin) + np.arange(count)[:, None] * step * normal


def base(**tags: Any) -> Dataset:
    """What all instances have."""
    dataset = Dataset()
    for keyword, value in {
        **PATIENT,
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.5",
        "FrameOfReferenceUID": "1.2.3.4.9",
        "StudyDate": "20200102",
        "StudyTime": "101112",
        "StudyID": "1",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "",
        "SeriesNumber": 3,
        "SeriesDescription": "t1_mprage_sag",
        "Modality": "MR",
        "Manufacturer": "Scanners",
        "ManufacturerModelName": "One",
        "SoftwareVersions": "A",
        "PatientPosition": "HFS",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "RepetitionTime": 2300,
        "EchoTime": 2.9,
        "InversionTime": 900,
        "FlipAngle": 9,
        "ContrastBolusAgent": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "SliceThickness": 2.5,
        **tags,
    }.items():
        if value is not None:
            setattr(dataset, keyword, value)
    private = dataset.private_block(0x0029, "PLANTED CREATOR", create=True)
    private.add_new(0x10, "LO", "PLANTED PRIVATE")
    return dataset


def save(
    dataset: Dataset, path: Path, *, syntax: str = ExplicitVRLittleEndian, packed: bool = False
) -> Path:
    """Write an instance as a DICOM file; packed: compressed by pydicom's own encoders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian if packed else syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.preamble = b"PLANTED PREAMBLE".ljust(128, b"\0")
    if packed:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    values: NDArray[Any] | None = None,
    *,
    orientation: Sequence[float] = AXIAL,
    places: NDArray[np.float64] | None = None,
    spacing: tuple[float, float] = (1.25, 0.75),
    syntax: str = ExplicitVRLittleEndian,
    packed: bool = False,
    prefix: str = "IM",
    per_slice: Mapping[str, Sequence[Any]] | None = None,
    **tags: Any,
) -> list[Path]:
    """One file per slice; file names and instance numbers run against the order of places."""
    values = stored_values() if values is None else values
    places = positions(len(values), orientation) if places is None else places
    paths = []
    for index, (image, place) in enumerate(zip(values, places, strict=True)):
        dataset = base(**tags)
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = generate_uid()
        dataset.InstanceNumber = len(values) - index
        dataset.ImagePositionPatient = [round(float(v), 6) for v in place]
        dataset.ImageOrientationPatient = list(orientation)
        dataset.PixelSpacing = list(spacing)
        dataset.Rows, dataset.Columns = image.shape
        dataset.PixelRepresentation = int(np.issubdtype(image.dtype, np.signedinteger))
        for keyword, each in (per_slice or {}).items():
            setattr(dataset, keyword, each[index])
        order = ">" if "1.2.2" in syntax else "<"
        dataset.PixelData = image.astype(image.dtype.newbyteorder(order)).tobytes()
        dataset["PixelData"].VR = "OW"
        path = folder / f"{prefix}{len(values) - index:04d}"
        paths.append(save(dataset, path, syntax=syntax, packed=packed))
    return paths


def write_enhanced(
    path: Path, values: NDArray[Any], places: NDArray[np.float64], slopes: Sequence[float]
) -> Path:
    """One enhanced MR file: orientation and spacing shared, place and slope for each frame."""
    dataset = base(RepetitionTime=None, EchoTime=None, InversionTime=None, ScanningSequence=None)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(values)
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1.25, 0.75]
    shared.PixelMeasuresSequence[0].SliceThickness = 2.5
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for place, slope in zip(places, slopes, strict=True):
        own = Dataset()
        own.PlanePositionSequence = [Dataset()]
        own.PlanePositionSequence[0].ImagePositionPatient = [float(v) for v in place]
        own.PixelValueTransformationSequence = [Dataset()]
        own.PixelValueTransformationSequence[0].RescaleSlope = slope
        own.PixelValueTransformationSequence[0].RescaleIntercept = -1
        dataset.PerFrameFunctionalGroupsSequence.append(own)
    dataset.Rows, dataset.Columns = values.shape[1:]
    dataset.PixelRepresentation = 0
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return save(dataset, path)
