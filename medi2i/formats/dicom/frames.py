"""What a DICOM data set says of each of its images: one per file, or many in an enhanced one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medi2i.errors import FormatError
from medi2i.formats.dicom.stored import Stored

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Frame", "frames_of", "told_by"]

Numbers = tuple[float, ...]

UNDESCRIBED = 4096
"""Images of one file that are read without a group of their own for each."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image: where its pixels are stored, and where it lies in the patient.

    Attributes:
        stored, index: the file, and the number of the frame in it, from 0.
        uid, sop_class: of the instance.
        position: LPS mm of the centre of the first pixel; empty where it is not said.
        orientation: LPS unit vectors along a row, then down a column; empty where it is not said.
        spacing: mm between rows, between columns; empty where it is not said.
        shape: columns, rows.
        thickness: mm; empty where it is not said.
        slope, intercept: stored value -> value.
        kind: image type, echo time and the like: frames of one volume agree in it.
        order: tells apart images of one place: repetition, acquisition, number.
    """

    stored: Stored
    index: int
    uid: str
    sop_class: str
    position: Numbers
    orientation: Numbers
    spacing: Numbers
    shape: tuple[int, int]
    thickness: Numbers
    slope: float
    intercept: float
    kind: tuple[Any, ...]
    order: Numbers


def frames_of(stored: Stored, dataset: Dataset) -> Iterator[Frame]:
    """Every image of a data set (PS3.3 C.7.6.2; enhanced: C.7.6.16).

    Raises:
        FormatError: it promises images that it does not describe.
    """
    shared = _groups(dataset, "SharedFunctionalGroupsSequence")
    each = _groups(dataset, "PerFrameFunctionalGroupsSequence")
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < count <= max(len(each), UNDESCRIBED):
        raise FormatError(
            f'"{stored}" promises {count} images and describes {len(each)}; as many were expected.'
        )
    for index in range(count):
        own = each[index] if index < len(each) else None
        layers = [layer for layer in (own, shared[0] if shared else None) if layer is not None]
        find = _Finder(dataset, layers)
        content = "FrameContentSequence"
        yield Frame(
            stored,
            index,
            str(dataset.get("SOPInstanceUID", "")),
            str(dataset.get("SOPClassUID", "")),
            find.numbers("PlanePositionSequence", "ImagePositionPatient", 3),
            find.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
            find.numbers("PixelMeasuresSequence", "PixelSpacing", 2),
            (int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)),
            find.numbers("PixelMeasuresSequence", "SliceThickness", 1),
            find.number("PixelValueTransformationSequence", "RescaleSlope", 1.0),
            find.number("PixelValueTransformationSequence", "RescaleIntercept", 0.0),
            (
                _image_type(dataset, layers),
                round(_echo(find), 3),
                round(find.number("MRDiffusionSequence", "DiffusionBValue", 0.0), 1),
            ),
            (
                find.number(content, "TemporalPositionIndex", 0.0),
                find.number("", "TemporalPositionIdentifier", 0.0),
                find.number(content, "FrameAcquisitionNumber", 0.0),
                find.number("", "AcquisitionNumber", 0.0),
                find.number("", "InstanceNumber", 0.0),
                float(index),
            ),
        )


def told_by(dataset: Dataset) -> dict[str, object]:
    """What a data set says of its contrast, under BIDS names and in seconds."""
    shared = _groups(dataset, "SharedFunctionalGroupsSequence")
    each = _groups(dataset, "PerFrameFunctionalGroupsSequence")
    find = _Finder(dataset, [*each[:1], *shared[:1]])
    techniques = [str(word) for word in _several(dataset.get("ScanningSequence"))]
    spoken = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
    techniques += spoken.get(str(dataset.get("EchoPulseSequence", "")), [])
    techniques += ["EP"] if dataset.get("EchoPlanarPulseSequence") == "YES" else []
    agents = dataset.get("ContrastBolusAgentSequence") or []
    named = [str(agent.get("ContrastBolusAgent", "")) or _meaning(agent) for agent in agents]
    inversion = find.number("MRModifierSequence", "InversionTimes", 0.0)
    times = {
        "EchoTime": _echo(find),
        "RepetitionTime": find.number("MRTimingAndRelatedParametersSequence", "RepetitionTime", 0),
        "InversionTime": inversion or find.number("", "InversionTime", 0.0),
    }
    words = {
        "SeriesDescription": dataset.get("SeriesDescription"),
        "ProtocolName": dataset.get("ProtocolName"),
        "SequenceName": dataset.get("SequenceName") or dataset.get("PulseSequenceName"),
        "ScanningSequence": " ".join(techniques),
        "ContrastBolusAgent": dataset.get("ContrastBolusAgent") or " ".join(filter(None, named)),
    }
    return {
        **{key: value / 1000 for key, value in times.items() if value},
        **{key: str(value) for key, value in words.items() if value},
    }


@dataclass(frozen=True, slots=True)
class _Finder:
    """Looks an attribute up in a frame's own group, in the shared one, then at the top."""

    dataset: Dataset
    layers: list[Dataset]

    def value(self, sequence: str, keyword: str) -> Any:
        for layer in self.layers if sequence else ():
            items = layer.get(sequence) or []
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return self.dataset.get(keyword)

    def numbers(self, sequence: str, keyword: str, count: int) -> Numbers:
        values = _several(self.value(sequence, keyword))
        try:
            found = tuple(float(value) for value in values)
        except (TypeError, ValueError):
            return ()
        return found if len(found) == count else ()

    def number(self, sequence: str, keyword: str, default: float) -> float:
        """The first value of an attribute that may have several."""
        values = _several(self.value(sequence, keyword))
        try:
            return float(values[0]) if values else default
        except (TypeError, ValueError):
            return default


def _echo(find: _Finder) -> float:
    """Milliseconds."""
    effective = find.number("MREchoSequence", "EffectiveEchoTime", 0.0)
    return effective or find.number("", "EchoTime", 0.0)


def _image_type(dataset: Dataset, layers: list[Dataset]) -> tuple[str, ...]:
    """The words of the image type; of a frame where each has its own."""
    for layer in layers:
        frame = layer.get("MRImageFrameTypeSequence") or []
        if frame and frame[0].get("FrameType"):
            return tuple(map(str, _several(frame[0].FrameType)))
    return tuple(map(str, _several(dataset.get("ImageType"))))


def _groups(dataset: Dataset, keyword: str) -> list[Dataset]:
    return list(dataset.get(keyword) or [])


def _meaning(agent: Mapping[str, Any] | Dataset) -> str:
    return str(agent.get("CodeMeaning", ""))


def _several(value: Any) -> list[Any]:
    """One value, several or none, as a list."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)
