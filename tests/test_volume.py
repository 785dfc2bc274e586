from __future__ import annotations

import gzip
import itertools
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medi2i import files
from medi2i.errors import (
    DimensionError,
    FormatError,
    GeometryError,
    InputError,
    IntensityError,
    Medi2iError,
    MissingFileError,
    OutputError,
    UsageError,
)
from medi2i.volume import Volume, load_volume, save_volume

DATA = Path(__file__).parents[2] / "shared" / "data"
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SHAPE = (7, 4, 5)
ODD = (9, 5, 3)


def opened(path: Path) -> Any:
    """As nibabel, the reference here, reads it."""
    return nib.load(path)


def rotation(degrees: float) -> Any:
    """About an axis that is none of the three."""
    axis, angle = np.array([1, 2, 3]) / np.sqrt(14), np.deg2rad(degrees)
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def oriented(
    order: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (1, 1, 1), degrees: float = 17
) -> Any:
    affine = np.eye(4)
    axes = np.eye(3)[list(order)].T * np.array(signs)
    affine[:3, :3] = rotation(degrees) @ axes @ np.diag([0.9, 1.25, 3.3])
    affine[:3, 3] = (-71.25, 12.5, 33.75)
    return affine


def numbered(shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(100, 50, shape).astype(np.float32)


def write(path: Path, **changes: object) -> Path:
    """A small valid file, then raw changes to its header by field name."""
    image = nib.Nifti1Image(numbered(), oriented())
    raw = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for field, value in changes.items():
        header[field] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw), mtime=0) if path.suffix == ".gz" else bytes(raw))
    return path


# ---- laws


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("degrees", [0, 17, 44])
def test_canonical_and_back(order: tuple[int, ...], signs: tuple[int, ...], degrees: float) -> None:
    voxels, affine = numbered(ODD), oriented(order, signs, degrees)
    volume = Volume.of(voxels, affine)
    canonical = volume.canonical()
    reference = nib.as_closest_canonical(nib.Nifti1Image(voxels, affine))
    assert np.array_equal(canonical.voxels, reference.get_fdata(dtype=np.float32))
    assert np.array_equal(canonical.affine, reference.affine)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    assert all(stride > 0 for stride in canonical.voxels.strides)  # torch takes no other

    back = canonical.oriented_as(volume)
    assert np.array_equal(back.voxels, voxels)
    assert np.array_equal(back.affine, affine)
    assert back.header is volume.header


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_whole_way_through_a_file(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    image = nib.Nifti1Image(numbered(ODD), oriented(order, signs))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 4)
    nib.save(image, tmp_path / "in.nii.gz")
    volume = load_volume(tmp_path / "in.nii.gz")
    canonical = volume.canonical()
    result = canonical.like(canonical.voxels.copy()).oriented_as(volume)
    out = opened(save_volume(result, tmp_path / "out.nii.gz"))
    original = opened(tmp_path / "in.nii.gz")
    assert np.array_equal(out.get_fdata(dtype=np.float32), numbered(ODD))
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(out.header[field], original.header[field]), field
    assert np.array_equal(out.get_qform(), original.get_qform())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 4), (3, 3)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_forms_codes_zooms_and_units_are_kept(
    tmp_path: Path, suffix: str, codes: tuple[int, int], kind: type[nib.Nifti1Image]
) -> None:
    image = kind(numbered(), None)
    image.header["pixdim"][1:4] = (0.9, 1.25, 3.3)
    if codes[0]:
        image.set_qform(oriented((1, 0, 2), (1, -1, 1)), codes[0], update_affine=False)
    if codes[1]:  # another form than the qform, as after a registration
        image.set_sform(oriented((1, 0, 2), (1, -1, 1), 20), codes[1], update_affine=False)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"], image.header["aux_file"] = b"DOE^JOHN", b"john.txt"
    image.header["intent_name"] = b"john"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    path = tmp_path / f"in{suffix}"
    nib.save(image, path)
    original = opened(path)

    volume = load_volume(path)
    assert np.array_equal(volume.affine, original.affine)
    assert np.array_equal(volume.voxels, numbered())
    out = save_volume(volume, tmp_path / f"out{suffix}", description="medi2i synthetic")
    saved = opened(out)
    assert type(saved) is type(original)
    assert np.array_equal(saved.affine, original.affine)
    assert np.array_equal(saved.get_qform(), original.get_qform())
    assert np.array_equal(saved.get_sform(), original.get_sform())
    assert np.array_equal(saved.header["pixdim"][:4], original.header["pixdim"][:4])
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert saved.header[field] == original.header[field]
    assert saved.header["descrip"].item() == b"medi2i synthetic"
    raw = gzip.decompress(out.read_bytes()) if suffix == ".nii.gz" else out.read_bytes()
    assert b"john" not in raw.lower()
    assert not saved.header.extensions

    again = load_volume(out)
    assert np.array_equal(again.affine, volume.affine)
    assert np.array_equal(again.voxels, volume.voxels)
    second = save_volume(again, tmp_path / f"again{suffix}", description="medi2i synthetic")
    assert second.read_bytes() == out.read_bytes()  # equal input, equal bytes, whatever the name


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 4)])
def test_a_canonical_volume_can_be_saved_too(tmp_path: Path, codes: tuple[int, int]) -> None:
    image = nib.Nifti1Image(numbered(), None)
    for code, put in zip(codes, (image.set_qform, image.set_sform), strict=True):
        if code:
            put(oriented((2, 0, 1), (-1, 1, -1)), code)  # type: ignore[no-untyped-call]
    nib.save(image, tmp_path / "in.nii")
    canonical = load_volume(tmp_path / "in.nii").canonical()
    saved = opened(save_volume(canonical, tmp_path / "out.nii"))
    np.testing.assert_allclose(saved.affine, np.array(canonical.affine), atol=1e-5)
    assert saved.header["sform_code"] == (codes[1] or codes[0] or 2)
    assert saved.header["qform_code"] == codes[0]
    np.testing.assert_allclose(saved.header.get_zooms(), np.array(canonical.spacing), rtol=1e-6)


# ---- load


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (0, 7), (np.nan, 0), (0.37, -1024.5)])
def test_every_dtype_and_scaling(
    tmp_path: Path, order: str, dtype: str, slope: float, inter: float
) -> None:
    raw = np.arange(120).reshape(4, 5, 6).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_shape(raw.shape)
    header.set_data_dtype(raw.dtype)
    header["pixdim"][1:4] = 1
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 368, slope, inter
    body = raw.astype(order + dtype).tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(20) + body)
    expected = raw if slope in (0, 1) or np.isnan(slope) else raw * np.float64(slope) + inter
    volume = load_volume(tmp_path / "a.nii")
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, expected.astype(np.float32))
    assert volume.voxels.flags.f_contiguous


def test_nifti_2_of_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    header = nib.Nifti2Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nib.Nifti2Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), oriented(), header)
    nib.save(image, path)
    raw = path.read_bytes()
    assert raw[:4] == (540).to_bytes(4, "big")
    volume = load_volume(path)
    assert np.array_equal(volume.voxels, image.get_fdata())
    assert np.array_equal(volume.affine, opened(path).affine)
    path.write_bytes(raw[:400])
    with pytest.raises(FormatError, match="NIfTI-2 header has 540"):
        load_volume(path)


def test_odd_names(tmp_path: Path) -> None:
    path = write(tmp_path / "Müller tête 頭.T1.NII.gz".replace("NII", "nii"))
    assert load_volume(path).name == path.name
    assert load_volume(str(path)).shape == SHAPE
    upper = path.rename(tmp_path / "B.NII.GZ")
    assert load_volume(upper).shape == SHAPE


def test_4d(tmp_path: Path) -> None:
    voxels = numbered((4, 5, 6, 3))
    for name in ("a.nii", "a.nii.gz"):
        path = tmp_path / name
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
        with pytest.raises(
            DimensionError, match=r"has 4 dimensions \(4, 5, 6, 3\); .* choose one with --volume"
        ):
            load_volume(path)
        for volume in range(3):
            assert np.array_equal(load_volume(path, volume=volume).voxels, voxels[..., volume])
        for volume in (3, -1):
            with pytest.raises(UsageError, match="counted from 0"):
                load_volume(path, volume=volume)
        chosen = load_volume(path, volume=1)
        out = opened(save_volume(chosen, path, overwrite=True))
        assert out.shape == (4, 5, 6)
        nib.save(nib.Nifti1Image(voxels[..., :1, None], np.eye(4)), path)  # trailing ones
        assert load_volume(path).shape == (4, 5, 6)
        assert load_volume(path, volume=0).shape == (4, 5, 6)


def header_of(order: str, **changes: object) -> Callable[[Path], object]:
    return lambda folder: write(folder / order, **changes)


def cut(name: str, length: int) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        path = write(folder / name)
        path.write_bytes(path.read_bytes()[:length])

    return make


def saved(name: str, voxels: NDArray[np.generic]) -> Callable[[Path], object]:
    return lambda folder: nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / name)


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


RGB = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
HOLES = numbered()
HOLES[0, 0, :3] = (np.nan, np.inf, -np.inf)
BAD_INPUT: list[tuple[str, Callable[[Path], object], type[Medi2iError], str]] = [
    ("a.nii", lambda folder: None, MissingFileError, "does not exist"),
    ("a.nii", lambda folder: (folder / "a.nii").mkdir(), MissingFileError, "is a folder"),
    ("a.mha", put("a.mha", b"x"), FormatError, "only NIfTI"),
    ("a.nii", put("a.nii", b""), FormatError, "ends after 0 bytes"),
    ("a.nii", put("a.nii", b"x" * 1000), FormatError, "is not NIfTI"),
    ("a.nii.gz", put("a.nii.gz", b"x" * 1000), FormatError, "is not gzip-compressed"),
    ("a.nii.gz", put("a.nii.gz", gzip.compress(b"x" * 999)), FormatError, "is not NIfTI"),
    ("a.nii", put("a.nii", gzip.compress(b"x" * 999)), FormatError, "is gzip-compressed"),
    ("a.nii", header_of("a.nii", magic=b"xyz"), FormatError, "is not NIfTI"),
    ("a.nii", header_of("a.nii", magic=b"ni1"), FormatError, "pair"),
    ("a.nii", cut("a.nii", 200), FormatError, "ends after 200"),
    ("a.nii", cut("a.nii", 600), FormatError, "truncated"),
    ("a.nii.gz", cut("a.nii.gz", 300), FormatError, "truncated"),
    ("a.nii.gz", cut("a.nii.gz", 30), FormatError, "truncated"),
    ("a.nii.gz", cut("a.nii.gz", -4), FormatError, "truncated"),
    ("a.nii", header_of("a.nii", dim=[3, 70, 40, 50, 1, 1, 1, 1]), FormatError, "truncated"),
    ("a.nii.gz", header_of("a.nii.gz", dim=[3, 7, 4, 6, 1, 1, 1, 1]), FormatError, "truncated"),
    ("a.nii.gz", header_of("a.nii.gz", dim=[3, 900, 900, 900, 1, 1, 1, 1]), FormatError, "trunc"),
    ("a.nii", header_of("a.nii", dim=[3, 7, 4, 4, 1, 1, 1, 1]), FormatError, "longer"),
    ("a.nii.gz", header_of("a.nii.gz", dim=[3, 7, 4, 4, 1, 1, 1, 1]), FormatError, "longer"),
    ("a.nii", header_of("a.nii", dim=[3, 32767, 32767, 9, 1, 1, 1, 1]), DimensionError, "at most"),
    ("a.nii", header_of("a.nii", dim=[0, 7, 4, 5, 1, 1, 1, 1]), FormatError, "claims 0"),
    ("a.nii", header_of("a.nii", dim=[8, 7, 4, 5, 1, 1, 1, 1]), FormatError, "claims 8"),
    ("a.nii", header_of("a.nii", dim=[3, 7, 0, 5, 1, 1, 1, 1]), DimensionError, "empty"),
    ("a.nii", header_of("a.nii", dim=[3, 7, -4, 5, 1, 1, 1, 1]), DimensionError, "empty"),
    ("a.nii", header_of("a.nii", dim=[2, 7, 20, 1, 1, 1, 1, 1]), DimensionError, "single slice"),
    ("a.nii", saved("a.nii", numbered((7, 4, 1))), DimensionError, "single slice"),
    ("a.nii", saved("a.nii", numbered((1, 4, 7))), DimensionError, "single slice"),
    ("a.nii", saved("a.nii", RGB), FormatError, "RGB"),
    ("a.nii", saved("a.nii", numbered().astype("c8")), FormatError, "complex"),
    ("a.nii", header_of("a.nii", datatype=1), FormatError, "bits"),
    ("a.nii", header_of("a.nii", datatype=77), FormatError, "unknown type 77"),
    ("a.nii", header_of("a.nii", vox_offset=0), FormatError, "at byte 0"),
    ("a.nii", header_of("a.nii", vox_offset=np.nan), FormatError, "at byte nan"),
    ("a.nii", header_of("a.nii", vox_offset=352.5), FormatError, "at byte 352.5"),
    ("a.nii", header_of("a.nii", vox_offset=1e30), FormatError, "at byte 1e"),
    ("a.nii", header_of("a.nii", scl_slope=2, scl_inter=np.nan), FormatError, "scl_inter"),
    ("a.nii", header_of("a.nii", pixdim=[1, 1, 0, 1, 1, 1, 1, 1]), GeometryError, "voxel size"),
    ("a.nii", header_of("a.nii", pixdim=[1, 1, -1, 1, 1, 1, 1, 1]), GeometryError, "voxel size"),
    ("a.nii", header_of("a.nii", pixdim=[1, np.inf, 1, 1, 1, 1, 1, 1]), GeometryError, "voxel siz"),
    ("a.nii", header_of("a.nii", srow_x=[0, 0, 0, 0]), GeometryError, "singular"),
    ("a.nii", header_of("a.nii", srow_x=[np.nan, 0, 0, 0]), GeometryError, "finite"),
    (
        "a.nii",
        header_of("a.nii", sform_code=0, qform_code=1, quatern_b=3, quatern_c=3),
        GeometryError,
        "not a rotation",
    ),
    ("a.nii.gz", saved("a.nii.gz", HOLES), IntensityError, "3 of the 140 voxels"),
    ("a.nii", saved("a.nii", numbered().astype("f8") * 1e300), IntensityError, "140 of the 140"),
]


@pytest.mark.parametrize("standard", [False, True], ids=["isal", "gzip"])
@pytest.mark.parametrize(("name", "make", "error", "match"), BAD_INPUT)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make: Callable[[Path], object],
    error: type[Medi2iError],
    match: str,
    standard: bool,
) -> None:
    if standard:
        monkeypatch.setattr(files, "_GzipFile", gzip.GzipFile)
    make(tmp_path)
    with pytest.raises(error, match=match) as caught:
        load_volume(tmp_path / name)
    assert caught.type is error
    assert name in str(caught.value)


def test_damage_in_the_middle_of_gzip(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    good = path.read_bytes()
    for place in range(12, len(good), 37):  # a flipped byte anywhere: an error or, never, others
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        with pytest.raises(InputError):
            load_volume(path)


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        load_volume(path)


def test_max_voxels_counts_all_volumes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(numbered((4, 5, 6, 3)), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DimensionError, match="360 voxels"):
        load_volume(tmp_path / "a.nii", volume=0, max_voxels=359)
    assert load_volume(tmp_path / "a.nii", volume=0, max_voxels=360).shape == (4, 5, 6)


def test_memory_is_the_voxels_and_a_little(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 500, (256, 256, 120), dtype=np.int16)
    nib.save(nib.Nifti1Image(raw, np.eye(4)), tmp_path / "a.nii.gz")
    tracemalloc.start()
    volume = load_volume(tmp_path / "a.nii.gz")
    loading = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    save_volume(volume, tmp_path / "b.nii.gz")
    saving = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loading < volume.voxels.nbytes + 40e6
    assert saving < volume.voxels.nbytes + 40e6


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(FormatError, match="longer"):
        load_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


# ---- save


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float64"])
def test_save_dtypes(tmp_path: Path, dtype: str) -> None:
    voxels = np.linspace(0, 100, 140, dtype=np.float32).reshape(SHAPE)
    saved = opened(save_volume(Volume.of(voxels), tmp_path / "a.nii.gz", dtype=dtype))
    assert saved.get_data_dtype() == np.dtype(dtype)
    raw = np.asarray(saved.dataobj.get_unscaled())
    assert np.array_equal(raw, np.rint(voxels) if dtype != "float64" else voxels)
    header = struct.unpack_from("<2f", gzip.decompress((tmp_path / "a.nii.gz").read_bytes()), 112)
    assert header == (1.0, 0.0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 256), ("uint8", -1, 9), ("int8", -129, 0), ("int16", 0, 4e4), ("int32", 0, 3e9)],
)
def test_values_that_do_not_fit_are_refused(
    tmp_path: Path, dtype: str, low: float, high: float
) -> None:
    voxels = np.linspace(low, high, 140).reshape(SHAPE)
    with pytest.raises(UsageError, match=f"do not fit {dtype}"):
        save_volume(Volume.of(voxels), tmp_path / "new" / "a.nii", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_what_save_refuses(tmp_path: Path) -> None:
    volume = Volume.of(numbered())
    with pytest.raises(UsageError, match="only NIfTI"):
        save_volume(volume, tmp_path / "a.mha")
    with pytest.raises(UsageError, match="choose one of"):
        save_volume(volume, tmp_path / "a.nii", dtype="complex64")
    with pytest.raises(IntensityError, match="3 of the 140"):
        save_volume(volume.like(HOLES), tmp_path / "a.nii")
    assert not list(tmp_path.iterdir())
    save_volume(volume, tmp_path / "a.nii")
    before = (tmp_path / "a.nii").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save_volume(volume.like(numbered() + 1), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes() == before
    save_volume(volume.like(numbered() + 1), tmp_path / "a.nii", overwrite=True)
    assert (tmp_path / "a.nii").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_long_description_is_cut_between_characters(tmp_path: Path) -> None:
    out = save_volume(Volume.of(numbered()), tmp_path / "a.nii", description="x" + "ü" * 60)
    assert opened(out).header["descrip"].item() == ("x" + "ü" * 39).encode()


def test_an_affine_of_ones_own_is_kept(tmp_path: Path) -> None:
    affine = oriented((2, 1, 0), (1, -1, 1))
    volume = Volume.of(numbered(), affine, name="mine")
    saved = opened(save_volume(volume, tmp_path / "a.nii"))
    np.testing.assert_allclose(saved.affine, np.array(affine), rtol=1e-6)
    assert saved.header.get_xyzt_units()[0] == "mm"
    sheared = affine.copy()
    sheared[:3, 0] += 0.2 * affine[:3, 1]
    saved = opened(save_volume(Volume.of(numbered(), sheared), tmp_path / "b.nii"))
    np.testing.assert_allclose(saved.affine, np.array(sheared), rtol=1e-6)


# ---- Volume


def test_of_like_and_repr() -> None:
    volume = Volume.of(np.ones((3, 4, 5), np.int16), np.diag([1, 2, 3, 1]), name="x.nii")
    assert volume.voxels.dtype == np.float32
    assert volume.shape == (3, 4, 5)
    assert volume.spacing == (1, 2, 3)
    assert repr(volume) == 'Volume(3 x 4 x 5 voxels of 1 x 2 x 3 mm, RAS, "x.nii")'
    other = volume.like(np.zeros((3, 4, 5)), name="y.nii")
    assert (other.name, other.affine is volume.affine) == ("y.nii", True)
    with pytest.raises(DimensionError, match=r"\(3, 4, 6\)"):
        volume.like(np.zeros((3, 4, 6)))


@pytest.mark.parametrize(
    ("voxels", "affine", "error"),
    [
        (np.zeros((3, 4)), None, DimensionError),
        (np.zeros((3, 4, 5, 2)), None, DimensionError),
        (np.zeros((3, 4, 1)), None, DimensionError),
        (np.zeros((3, 4, 5), complex), None, IntensityError),
        (np.full((3, 4, 5), np.nan), None, IntensityError),
        (np.full((3, 4, 5), 1e300), None, IntensityError),
        (np.zeros((3, 4, 5)), np.zeros((4, 4)), GeometryError),
        (np.zeros((3, 4, 5)), np.eye(3), GeometryError),
        (np.zeros((3, 4, 5)), np.ones((4, 4)), GeometryError),
    ],
)
def test_of_refuses(
    voxels: NDArray[np.generic], affine: NDArray[np.float64] | None, error: type[Medi2iError]
) -> None:
    with pytest.raises(error):
        Volume.of(voxels, affine)


def test_oriented_as_refuses_another_grid() -> None:
    volume = Volume.of(numbered(), oriented((1, 2, 0)))
    with pytest.raises(GeometryError, match="canonical"):
        Volume.of(numbered((6, 5, 4))).oriented_as(volume)
    canonical = volume.canonical()
    moved = Volume.of(canonical.voxels, canonical.affine + np.eye(4, k=3))
    with pytest.raises(GeometryError, match="canonical"):
        moved.oriented_as(volume)


# ---- resampling


def test_equal_grids_are_left_alone() -> None:
    volume = Volume.of(numbered(), oriented())
    nearly = oriented() + 1e-7 * np.eye(4, k=1)
    assert volume.resampled_onto(Volume.of(numbered(), nearly)) is volume


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_resampling_onto_turned_axes_is_turning(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    volume = Volume.of(numbered(), oriented(order, signs))
    canonical = volume.canonical()
    resampled = volume.resampled_onto(canonical)
    np.testing.assert_allclose(resampled.voxels, canonical.voxels, rtol=1e-4, atol=1e-3)
    nearest = canonical.resampled_onto(volume, linear=False)
    assert np.array_equal(nearest.voxels, volume.voxels)


def test_resampling_written_out() -> None:
    voxels = np.zeros((4, 2, 2), np.float32)
    voxels[:] = np.array([0, 10, 20, 30], np.float32)[:, None, None]
    source = Volume.of(voxels)
    shifted = np.eye(4)
    shifted[0, 3] = 1.5  # mm to the right
    onto = Volume.of(np.zeros((4, 2, 2)), shifted)
    assert source.resampled_onto(onto).voxels[:, 0, 0].tolist() == [15, 25, 0, 0]
    # The transform maps a point of the target's space to the source's, in LPS: x is left.
    left = sitk.TranslationTransform(3, (1.0, 0.0, 0.0))
    assert source.resampled_onto(onto, transform=left).voxels[:, 0, 0].tolist() == [5, 15, 25, 0]
    assert source.resampled_onto(source, transform=left).voxels[:, 0, 0].tolist() == [0, 0, 10, 20]


# ---- real scans


@pytest.mark.parametrize(
    "scan",
    [
        "volumes/sub-KIRBY113/anat/sub-KIRBY113_T1w.nii.gz",
        "openms/sub-RAW12s1/anat/sub-RAW12s1_T2w.nii.gz",
        "lgg/sub-TCGADU5854/anat/sub-TCGADU5854_FLAIR.nii.gz",
    ],
)
def test_real_scans_keep_everything(tmp_path: Path, scan: str) -> None:
    if not (DATA / scan).exists():
        pytest.skip("the real scans in ../shared/data are absent")
    original = opened(DATA / scan)
    volume = load_volume(DATA / scan)
    result = volume.canonical().oriented_as(volume)
    saved = opened(save_volume(result, tmp_path / "out.nii.gz"))
    voxels = original.get_fdata(dtype=np.float32)
    assert np.array_equal(saved.get_fdata(dtype=np.float32), voxels)
    assert np.array_equal(saved.affine, original.affine)
    assert saved.header.get_zooms() == original.header.get_zooms()
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert saved.header[field] == original.header[field]


def test_real_transforms_bring_contrasts_together() -> None:
    folder = DATA / "openms" / "sub-RAW12s1" / "anat"
    if not folder.exists():
        pytest.skip("the real scans in ../shared/data are absent")
    flair = load_volume(folder / "sub-RAW12s1_FLAIR.nii.gz")
    t1w = load_volume(folder / "sub-RAW12s1_T1w.nii.gz")
    transform = sitk.ReadTransform(str(folder / "sub-RAW12s1_from-T1w_to-FLAIR_xfm.txt"))

    def agreement(volume: Volume) -> float:
        """Of the two head outlines (Dice)."""
        one, two = volume.voxels > 60, flair.voxels > 40
        return float(2 * (one & two).sum() / (one.sum() + two.sum()))

    plain, moved = t1w.resampled_onto(flair), t1w.resampled_onto(flair, transform=transform)
    assert moved.shape == flair.shape
    assert agreement(moved) > max(0.9, agreement(plain) - 0.01)
