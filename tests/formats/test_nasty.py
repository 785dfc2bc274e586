"""Ten nasty DICOM series: each ends in the right voxels and grid, or in its own sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import DimensionError, FormatError, GeometryError, InputError

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install medi2i[dicom]")

from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from medi2i.formats.dicom import series_in
from medi2i.volume import Volume
from tests.formats.dicoms import (
    OBLIQUE,
    SAGITTAL,
    positions,
    save,
    stored_values,
    write_series,
)

Voxels = NDArray[Any]
Affine = NDArray[np.float64]

UPRIGHT = np.array([[-0.75, 0, 0, 20.5], [0, -1.25, 0, 31.25], [0, 0, 2.5, 7], [0, 0, 0, 1]])
"""Columns 0.75 mm apart to the left, rows 1.25 mm to the back, slices 2.5 mm up: RAS."""
PLAIN = stored_values().transpose(2, 1, 0)
OTHER = stored_values(seed=1).transpose(2, 1, 0)


class Right(NamedTuple):
    """What is read: of each series, by label, its voxels (X, Y, Z) and its grid, RAS."""

    volumes: dict[str, tuple[Voxels, Affine]]
    volume: int | None = None
    """Which one of a 4-D series is asked for."""
    broken: tuple[str, ...] = ()
    """What is said of files that cannot be read, while others can."""


class Refused(NamedTuple):
    """The sentence that says why not, and the kind of error."""

    error: type[InputError]
    says: str


class Row(NamedTuple):
    """A series as it lies in a folder, and what must come of it."""

    make: Callable[[Path], Any]
    ends: Right | Refused


# ---- what makes them nasty


def without(*numbers: int) -> Callable[[Path], None]:
    """Slices that were not sent."""

    def make(folder: Path) -> None:
        paths = write_series(folder)
        for number in numbers:
            paths[number].unlink()

    return make


def sent_twice(folder: Path) -> None:
    """One file under two names: one instance."""
    shutil.copy(write_series(folder)[3], folder / "copy")


def made_twice(folder: Path) -> None:
    """Another instance in the place of one."""
    dataset = dcmread(write_series(folder)[3])
    dataset.SOPInstanceUID = generate_uid()
    save(dataset, folder / "again")


def moved(shift: Callable[[Affine], None]) -> Callable[[Path], None]:
    """Slices in other places than even ones."""

    def make(folder: Path) -> None:
        places = positions(9)
        shift(places)
        write_series(folder, places=places)

    return make


def tilted(places: Affine) -> None:
    """0.5 mm to the front for each 2.5 mm up: 11.31 degrees, 4 mm after 8 steps."""
    places[:, 1] += np.arange(9) * 0.5


def jumping(places: Affine) -> None:
    places[5:, 2] += 0.9


def rounded(places: Affine) -> None:
    """As scanners write them: to a twentieth of a millimetre."""
    places[:, 2] += np.tile([0.0, 0.04, -0.03], 3)


def mixed(folder: Path) -> None:
    """Two series in one folder, their files in turns, and a third orientation in the first."""
    write_series(folder)
    write_series(folder, stored_values(seed=1), prefix="J", EchoTime=90)
    write_series(
        folder, prefix="S", orientation=SAGITTAL, SeriesInstanceUID="1.2.9", SeriesNumber=7
    )


def cut(byte_count: int, *, packed: bool = False) -> Callable[[Path], None]:
    """A file that ends too early, in its pixels."""

    def make(folder: Path) -> None:
        options: dict[str, Any] = {"syntax": RLELossless, "packed": True} if packed else {}
        path = write_series(folder, **options)[2]
        path.write_bytes(path.read_bytes()[:-byte_count])

    return make


def cut_in_the_header(folder: Path) -> None:
    """A file that ends before it says how large its image is."""
    path = write_series(folder)[8]
    path.write_bytes(path.read_bytes()[:300])


def said_to_be(syntax: str, *, is_: str = "1.2.840.10008.1.2.1") -> Callable[[Path], None]:
    """Files whose header names another transfer syntax than their data set has."""

    def make(folder: Path) -> None:
        for path in write_series(folder, syntax=is_):
            dataset = path.read_bytes()
            old, new = is_.encode(), syntax.encode()
            # an element of even length: padded with a zero, and as long as it was
            size = len(old) + len(old) % 2
            assert len(new) <= size
            field = new.ljust(size, b"\0")
            path.write_bytes(dataset.replace(old.ljust(size, b"\0"), field, 1))

    return make


def repeated(folder: Path) -> None:
    """Two acquisitions of every place."""
    write_series(folder, AcquisitionNumber=1)
    write_series(folder, stored_values(seed=1), prefix="B", AcquisitionNumber=2)


def repeated_in_part(folder: Path) -> None:
    """A second acquisition that was stopped after four slices."""
    repeated(folder)
    for path in sorted(folder.glob("B*"))[4:]:
        path.unlink()


def slices(count: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_series(folder, stored_values()[:count])

    return make


def oblique_grid() -> Affine:
    """By hand from the orientation: LPS columns of row, column and normal; then RAS."""
    row, column = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * 0.75, column * 1.25
    lps[:3, 2] = np.cross(row, column) * 2.5
    lps[:3, 3] = (-20.5, -31.25, 7.0)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


SIDEWAYS = np.array([[0, 0, 2.5, 20.5], [-0.75, 0, 0, 31.25], [0, -1.25, 0, 7], [0, 0, 0, 1]])
"""Columns to the back, rows down, slices to the right."""

NASTY: dict[str, Row] = {
    "missing slice": Row(
        without(4),
        Refused(
            GeometryError,
            '1 slice(s) of DICOM series 3 are missing between "IM0006" and "IM0004", 5 mm apart '
            "where the others are 2.5 mm; a whole series was expected.",
        ),
    ),
    "missing slices, most": Row(
        without(1, 2, 4, 6), Refused(GeometryError, "2 slice(s) of DICOM series 3 are missing")
    ),
    "missing slice, the last": Row(without(8), Right({"3": (PLAIN[..., :8], UPRIGHT)})),
    "duplicate, one instance": Row(sent_twice, Right({"3": (PLAIN, UPRIGHT)})),
    "duplicate, two instances": Row(
        made_twice, Refused(GeometryError, 'lie in one place: "IM0006" and "again".')
    ),
    "tilt": Row(
        moved(tilted),
        Refused(
            GeometryError,
            "are sheared against each other: they lie up to 4 mm off the line along their normal "
            "(gantry tilt 11.31 degrees). A stack at right angles was expected",
        ),
    ),
    "uneven": Row(
        moved(jumping),
        Refused(GeometryError, 'unevenly spaced: between "IM0005" and "IM0004", 3.4 mm'),
    ),
    "uneven by rounding": Row(moved(rounded), Right({"3": (PLAIN, UPRIGHT)})),
    "mixed series": Row(
        mixed, Right({"3a": (PLAIN, UPRIGHT), "3b": (OTHER, UPRIGHT), "7": (PLAIN, SIDEWAYS)})
    ),
    "truncated file": Row(
        cut(100), Refused(FormatError, 'The pixels of "{folder}/IM0007" are truncated or damaged')
    ),
    "truncated file, packed": Row(
        cut(100, packed=True), Refused(FormatError, 'IM0007" are truncated or damaged')
    ),
    "truncated file, in the header": Row(
        cut_in_the_header,
        Right(
            {"3": (PLAIN[..., :8], UPRIGHT)},
            broken=('IM0001" is truncated or damaged: its header promises an image',),
        ),
    ),
    "wrong transfer syntax, packed": Row(
        said_to_be("1.2.840.10008.1.2.5"), Refused(FormatError, "are truncated or damaged")
    ),
    "wrong transfer syntax, big-endian": Row(
        said_to_be("1.2.840.10008.1.2.2"),
        Refused(
            FormatError,
            "holds no DICOM image that can be read, in 9 files. "
            '"{folder}/IM0001" is truncated or damaged: its header promises an image (MR Image '
            "Storage), and by the transfer syntax that it names (Explicit VR Big Endian) there is "
            "none.",
        ),
    ),
    "wrong transfer syntax, implicit": Row(
        said_to_be("1.2.840.10008.1.2"), Right({"3": (PLAIN, UPRIGHT)})
    ),
    "4-D": Row(
        repeated,
        Refused(
            DimensionError,
            "DICOM series 3 holds 2 volumes of 9 slices; a single one was expected: choose it with "
            "--volume, counted from 0.",
        ),
    ),
    "4-D, chosen": Row(repeated, Right({"3": (OTHER, UPRIGHT)}, volume=1)),
    "4-D, stopped": Row(repeated_in_part, Refused(GeometryError, "lie in one place")),
    "oblique": Row(
        lambda folder: write_series(folder, orientation=OBLIQUE),
        Right({"3": (PLAIN, oblique_grid())}),
    ),
    "one slice": Row(
        slices(1),
        Refused(
            DimensionError,
            "DICOM series 3 holds a single slice; a volume of at least two slices was expected.",
        ),
    ),
    "two slices": Row(slices(2), Right({"3": (PLAIN[..., :2], UPRIGHT)})),
    "big-endian": Row(
        lambda folder: write_series(folder, syntax=ExplicitVRBigEndian),
        Right({"3": (PLAIN, UPRIGHT)}),
    ),
    "implicit": Row(
        lambda folder: write_series(folder, syntax=ImplicitVRLittleEndian),
        Right({"3": (PLAIN, UPRIGHT)}),
    ),
}


def read(folder: Path, volume: int | None) -> tuple[dict[str, Volume], list[FormatError]]:
    found, broken = series_in(folder)
    return {series.label: series.load(volume=volume) for series in found}, broken


@pytest.mark.parametrize("case", NASTY)
def test_ends_right_or_with_its_own_sentence(case: str, tmp_path: Path) -> None:
    make, ends = NASTY[case]
    make(tmp_path)
    if isinstance(ends, Refused):
        with pytest.raises(ends.error) as refusal:
            read(tmp_path, None)
        assert type(refusal.value) is ends.error
        assert ends.says.replace("{folder}", str(tmp_path)) in str(refusal.value)
        return
    scans, broken = read(tmp_path, ends.volume)
    assert len(broken) == len(ends.broken)
    for error, says in zip(broken, ends.broken, strict=True):
        assert says in str(error)
    assert set(scans) == set(ends.volumes)
    for label, (voxels, affine) in ends.volumes.items():
        assert np.array_equal(scans[label].voxels, voxels), label
        assert voxels.any()
        # the last of places that are rounded lies 0.03 mm too low, which eight steps share
        near = 0.005 if "rounding" in case else 1e-5
        np.testing.assert_allclose(scans[label].affine, affine, atol=near)


def test_the_ten_are_all_there() -> None:
    ten = (
        *("missing slice", "duplicate", "tilt", "mixed series", "truncated file"),
        *("wrong transfer syntax", "4-D", "oblique", "one slice", "big-endian"),
    )
    for name in ten:
        assert any(case.startswith(name) for case in NASTY), name
