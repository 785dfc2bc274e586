"""DICOM in: series found, told apart, and read to the grid and values that SimpleITK reads."""

from __future__ import annotations

import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.errors import (
    DimensionError,
    FormatError,
    GeometryError,
    MissingFileError,
    UsageError,
)

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install medi2i[dicom]")

from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medi2i.formats.dicom import Series, series_in, stored
from tests.formats.dicoms import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    positions,
    save,
    stored_values,
    write_enhanced,
    write_series,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID = np.array([[-0.75, 0, 0, 20.5], [0, -1.25, 0, 31.25], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def only(path: Path) -> Series:
    found, broken = series_in(path)
    assert len(found) == 1
    assert not broken
    return found[0]


def by_simpleitk(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Voxels (X, Y, Z) and affine (RAS) as ITK's series reader has them."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    turned = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = turned * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS @ affine


# The grid and the values


@pytest.mark.parametrize(
    "orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE, tuple(-v for v in OBLIQUE[:3]) + OBLIQUE[3:]]
)
def test_grid_and_values_are_those_of_simpleitk(
    orientation: tuple[float, ...], tmp_path: Path
) -> None:
    write_series(tmp_path, orientation=orientation, RescaleSlope=2.5, RescaleIntercept=-100)
    scan = only(tmp_path).load()
    voxels, affine = by_simpleitk(tmp_path)
    assert scan.shape == (13, 16, 9)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
    assert np.array_equal(scan.voxels, voxels)
    assert [int(scan.header[code]) for code in ("sform_code", "qform_code")] == [1, 1]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_signed_and_unsigned(dtype: type[np.integer[Any]], tmp_path: Path) -> None:
    values: NDArray[Any] = stored_values().astype(dtype)
    values[4, 8, 6] = np.iinfo(dtype).max
    values[4, 8, 7] = np.iinfo(dtype).min
    write_series(tmp_path, values)
    assert np.array_equal(only(tmp_path).load().voxels, values.transpose(2, 1, 0))


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    slopes = [float(1 + index) for index in range(9)]
    write_series(tmp_path, per_slice={"RescaleSlope": slopes, "RescaleIntercept": [3] * 9})
    expected = stored_values().transpose(2, 1, 0) * np.array(slopes) + 3
    np.testing.assert_allclose(only(tmp_path).load().voxels, expected)


@pytest.mark.parametrize(
    ("syntax", "packed"),
    [
        (DeflatedExplicitVRLittleEndian, False),
        (RLELossless, True),
        (JPEGLSLossless, True),
        (JPEG2000Lossless, True),
    ],
)
def test_transfer_syntaxes(syntax: str, packed: bool, tmp_path: Path) -> None:
    values = stored_values((3, 48, 40))  # JPEG 2000 halves an image five times
    write_series(tmp_path, values, syntax=syntax, packed=packed)
    assert np.array_equal(only(tmp_path).load().voxels, values.transpose(2, 1, 0))


def lossless(tmp_path: Path) -> Path:
    """A series in the commonest compression of scanners, which SimpleITK writes."""
    plain = write_series(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for path in plain:
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(tmp_path / "packed" / f"{path.name}.dcm"))
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.LoadPrivateTagsOff()
        reader.SetFileName(str(path))
        writer.Execute(reader.Execute())
    return tmp_path / "packed"


def test_jpeg_lossless(tmp_path: Path) -> None:
    packed = lossless(tmp_path)
    dataset = dcmread(next(packed.iterdir()))
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    assert np.array_equal(only(packed).load().voxels, stored_values().transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("at", "value"), [(6, b"\xff"), (15, b"\0")], ids=["segmentation fault", "abort"]
)
def test_damaged_jpeg_lossless_ends_in_a_sentence(at: int, value: bytes, tmp_path: Path) -> None:
    """Either byte ends the process in which GDCM runs."""
    packed = lossless(tmp_path)
    for path in packed.iterdir():
        content = path.read_bytes()
        place = content.index(b"\xff\xd8\xff\xc3") + at
        path.write_bytes(content[:place] + value + content[place + 1 :])
    with pytest.raises(FormatError, match="GDCM, which unpacks them, broke off"):
        only(packed).load()


def test_a_missing_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import Decoder

    write_series(tmp_path, syntax=RLELossless, packed=True)
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    with pytest.raises(UsageError, match=r"RLE Lossless.*medi2i\[dicom\]"):
        only(tmp_path).load()


def test_without_pydicom_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UsageError, match=r"pip install medi2i\[dicom\]"):
        series_in(tmp_path)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    """Frames in the file run downwards, each with its own slope."""
    values = stored_values().astype(np.uint16)
    slopes = [float(1 + index) for index in range(9)]
    path = write_enhanced(tmp_path / "x.dcm", values[::-1], positions(9)[::-1], slopes[::-1])
    series = only(path)
    assert series.contrast is Contrast.T1W
    scan = series.load()
    np.testing.assert_allclose(scan.voxels, values.transpose(2, 1, 0) * np.array(slopes) - 1)
    np.testing.assert_allclose(scan.affine, GRID, atol=1e-9)


# What is wrong with a series; tests/formats/test_nasty.py has the table


def test_there_is_no_such_volume(tmp_path: Path) -> None:
    write_series(tmp_path, AcquisitionNumber=1)
    write_series(tmp_path, prefix="B", AcquisitionNumber=2)
    series = only(tmp_path)
    assert series.volumes == 2
    with pytest.raises(UsageError, match="no volume 2"):
        series.load(volume=2)


@pytest.mark.parametrize(
    ("keyword", "value", "says"),
    [
        ("ImagePositionPatient", None, "ImagePositionPatient"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "right angle"),
        ("PixelSpacing", [0, 1], "positive"),
    ],
)
def test_nonsense_geometry(keyword: str, value: Any, says: str, tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        dataset = dcmread(path)
        delattr(dataset, keyword) if value is None else setattr(dataset, keyword, value)
        save(dataset, path)
    with pytest.raises(GeometryError, match=says):
        only(tmp_path).load()


def test_other_images_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", Modality="CT")
    with pytest.raises(FormatError, match=r'modality "CT"; MR was expected'):
        only(tmp_path / "ct").load()
    write_series(tmp_path / "inverse", PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(FormatError, match="MONOCHROME1"):
        only(tmp_path / "inverse").load()


def test_too_many_voxels_are_refused_unread(tmp_path: Path) -> None:
    write_series(tmp_path)
    with pytest.raises(DimensionError, match="13 x 16 x 9 voxels; 1 to 100"):
        only(tmp_path).load(max_voxels=100)


def test_a_deflate_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_series(tmp_path, syntax=DeflatedExplicitVRLittleEndian)[0]
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + packer.compress(bytes(1 << 22)) + packer.flush())
    assert path.stat().st_size < 1 << 14
    monkeypatch.setattr(stored, "MAX_BYTES", 1 << 20)
    _, broken = series_in(tmp_path)
    assert [str(error) for error in broken] == [
        f'"{path}" inflates to more than {1 << 20} bytes; none so large is read.'
    ]


# Finding and telling apart


def test_series_are_told_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    t2: dict[str, Any] = {
        "SeriesInstanceUID": "1.2.9",
        "SeriesNumber": 7,
        "SeriesDescription": "t2_tse_tra",
    }
    times: dict[str, Any] = {"RepetitionTime": 4000, "EchoTime": 100, "InversionTime": None}
    write_series(tmp_path / "a", prefix="T2", ScanningSequence="SE", **t2, **times)
    (tmp_path / "a" / "notes.txt").write_text("no scan")
    found, _ = series_in(tmp_path)
    assert [(s.label, s.description, s.contrast) for s in found] == [
        ("3", "t1_mprage_sag", Contrast.T1W),
        ("7", "t2_tse_tra", Contrast.T2W),
    ]
    assert [len(s.files) for s in found] == [9, 9]


def test_echoes_and_orientations_of_one_series_are_lettered(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_series(tmp_path, prefix="E", EchoTime=90)
    write_series(tmp_path, prefix="S", orientation=SAGITTAL)
    found, _ = series_in(tmp_path)
    assert sorted(s.label for s in found) == ["3a", "3b", "3c"]


@pytest.mark.parametrize(
    ("tags", "contrast"),
    [
        ({"SeriesDescription": "AX T1 +C", "InversionTime": None}, Contrast.T1CE),
        ({"ContrastBolusAgent": "Gadovist"}, Contrast.T1CE),
        (
            {
                "SeriesDescription": "head",
                "ScanningSequence": ["SE", "IR"],
                "RepetitionTime": 9000,
                "EchoTime": 90,
                "InversionTime": 2500,
            },
            Contrast.FLAIR,
        ),
        ({"SeriesDescription": "head", "InversionTime": None}, None),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "LOCALIZER"]}, None),
        ({"SeriesDescription": "t2_tse"}, None),  # the times say T1w
    ],
)
def test_contrast_from_tags(
    tags: dict[str, Any], contrast: Contrast | None, tmp_path: Path
) -> None:
    write_series(tmp_path, **tags)
    assert only(tmp_path).contrast is contrast


def test_files_without_an_image_or_readable_content(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", generate_uid()
    save(report, tmp_path / "report.dcm")
    (tmp_path / "stump.dcm").write_bytes(paths[0].read_bytes()[:300])
    found, _ = series_in(tmp_path)
    assert len(found) == 1
    assert found[0].load().shape == (13, 16, 9)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds no DICOM image"):
        series_in(tmp_path)
    with pytest.raises(MissingFileError, match="does not exist"):
        series_in(tmp_path / "x")


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    try:
        (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "a" / "nowhere").symlink_to(tmp_path / "gone")
    except OSError:
        pytest.skip("links cannot be made here")
    assert len(only(tmp_path).files) == 9


# Archives


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder.parent))
    return archive


def test_an_archive_reads_as_its_folder_and_leaves_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", RescaleSlope=2)
    archive = zipped(tmp_path / "in", tmp_path / "x.zip")
    before = sorted(tmp_path.rglob("*"))
    packed, plain = only(archive), only(tmp_path / "in")
    one, other = packed.load(), plain.load()
    assert np.array_equal(one.voxels, other.voxels)
    assert np.array_equal(one.affine, other.affine)
    assert packed.record() == plain.record()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:\\evil", "..\\evil"])
def test_an_archive_that_leads_out_of_itself(name: str, tmp_path: Path) -> None:
    path = write_series(tmp_path / "in")[0]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(name, path.read_bytes())
    with pytest.raises(FormatError, match="leads out of it"):
        series_in(tmp_path / "x.zip")


def test_a_damaged_archive(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    archive = zipped(tmp_path / "in", tmp_path / "x.zip")
    content = bytearray(archive.read_bytes())
    content[200:2000] = bytes(1800)
    archive.write_bytes(content)
    with pytest.raises(FormatError, match="cannot be unpacked"):
        series_in(archive)
