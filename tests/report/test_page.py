"""The report of one scan as a file: what is in it, and what is not."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medi2i.anomaly.lesions import Lesion, lesion_table
from medi2i.errors import (
    FormatError,
    InputError,
    MissingFileError,
    OutputError,
    UsageError,
)
from medi2i.evaluation import Case, compare
from medi2i.report import Kind, Panel, page, report_on, write_report
from medi2i.report import viewer as viewers
from medi2i.report.embed import coarser, embed, packed
from medi2i.report.panels import aligned, difference
from medi2i.report.viewer import HOW, Viewer, extract, find_viewer
from medi2i.report.volumes import voxel_at
from medi2i.volume import Volume, save_volume
from tests.report.conftest import EVIL, Finished, Parsed, finish, waves

FAKE = Viewer(gzip.compress(b"export{Niivue};", mtime=0), "0.0", "a licence <b>")


@pytest.fixture(autouse=True)
def with_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer that stands in for NiiVue, which may not be installed."""
    monkeypatch.setattr(page, "find_viewer", lambda: FAKE)


def decoded(parsed: Parsed, number: int) -> nib.Nifti1Image:
    """A volume of a page."""
    content = gzip.decompress(base64.b64decode(parsed.scripts[f"volume-{number}"]))
    return nib.Nifti1Image.from_bytes(content)


# One page


def test_nothing_is_loaded_from_elsewhere(finished: Finished, tmp_path: Path) -> None:
    entry = report_on(finished.scan, tmp_path / "x.html", reference=finished.reference)
    parsed = Parsed(entry.page)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for key in ("src", "href", "srcset", "action", "data", "poster", "background"):
            assert (attributes.get(key) or "data:").startswith("data:")
    text = entry.page.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text


def test_only_the_own_script_may_run(finished: Finished) -> None:
    parsed = Parsed(report_on(finished.scan).page)
    (rules,) = (m["content"] for m in parsed.all("meta") if m.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[""].encode()).digest()).decode()
    assert rules is not None
    assert f"script-src 'sha256-{digest}' blob:" in rules
    assert rules.startswith("default-src 'none'")
    assert "unsafe" not in rules
    running = [s for s in parsed.all("script") if "type" not in s]
    assert len(running) == 1
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)


def test_names_are_text(finished: Finished) -> None:
    entry = report_on(finished.scan, reference=finished.reference)
    parsed = Parsed(entry.page)
    assert set(parsed.scripts) == {
        *("plan", "viewer-code", ""),
        *(f"volume-{number}" for number in range(5)),
    }
    assert finished.source.name in parsed.text
    assert f"unet {EVIL}" in parsed.text
    assert f"moved by 2 mm {EVIL}" in parsed.text
    assert entry.warnings == (f"moved by 2 mm {EVIL}",)
    assert EVIL not in entry.page.read_text()


def test_no_folder_no_date_no_other_name(finished: Finished) -> None:
    parsed = Parsed(report_on(finished.scan, finished.folder.parent / "x.html").page)
    shown = [str(value) for _, attributes in parsed.tags for value in attributes.values()]
    text = parsed.text + parsed.scripts["plan"]
    text += "".join(value for value in shown if not value.startswith("data:"))
    for told in ("Jane", "Doe", "1970", str(finished.folder.parent), finished.scan.name):
        assert told not in text
    header = gzip.decompress(base64.b64decode(parsed.scripts["volume-0"]))[:352]
    assert b"script" not in header


def test_volumes_are_what_went_in(finished: Finished) -> None:
    parsed = Parsed(report_on(finished.scan, reference=finished.reference).page)
    plan = json.loads(parsed.scripts["plan"])
    captions = [one["caption"] for one in plan]
    assert captions == [
        *("source T1w", "SYNTHETIC T2w", "reference T2w"),
        *("difference", "absolute error to be expected"),
    ]
    for number, what in enumerate(("source", "scan", "reference")):
        image, volume = decoded(parsed, number), finished.volume(what)
        step = float(np.ptp(volume.voxels)) / 255
        assert np.allclose(image.affine, volume.affine, atol=1e-5)
        assert np.abs(np.asarray(image.dataobj) - volume.voxels).max() <= 0.51 * step
        assert image.get_data_dtype() == np.uint8
        assert bytes(image.header["descrip"]).strip(b"\0") == b""
        assert plan[number]["kind"] == "image"
    assert [one["kind"] for one in plan[3:]] == ["difference", "map"]


def test_scores_are_those_of_the_protocol(finished: Finished) -> None:
    entry = report_on(finished.scan, reference=finished.reference)
    case = Case("x", "T1w->T2w", {"m": finished.scan}, finished.reference, finished.source)
    scores = compare([case]).rows[0].scores
    assert entry.figures == pytest.approx({"PSNR, dB": scores.psnr, "SSIM": scores.ssim})
    text = Parsed(entry.page).text
    assert f"{scores.psnr:.2f}" in text
    assert "Under brain-3d@1" in text
    assert "identity" in text


def test_scores_that_are_known_are_not_made_again(finished: Finished) -> None:
    case = Case("x", "T1w->T2w", {"m": finished.scan}, finished.reference, finished.source)
    known = compare([case], protocol="wang2004")
    entry = report_on(finished.scan, reference=finished.reference, scores=known)
    assert entry.figures["SSIM"] == known.rows[0].scores.ssim
    assert "Under wang2004@1" in Parsed(entry.page).text


def test_one_volume_of_a_four_dimensional_source(finished: Finished) -> None:
    first = nib.Nifti1Image.from_filename(finished.source)
    voxels = np.asarray(first.dataobj)
    nib.Nifti1Image(np.stack([voxels, 2 * voxels], -1), first.affine).to_filename(finished.source)
    record = {**finished.record, "Sources": [{"Name": finished.source.name}]}
    side = finished.scan.with_name(finished.scan.name.replace(".nii.gz", ".json"))
    side.write_text(json.dumps(record))
    image = decoded(Parsed(report_on(finished.scan, volume=1).page), 0)
    assert np.asarray(image.dataobj).max() == pytest.approx(2 * voxels.max(), rel=1e-5)


def test_pictures_without_the_viewer(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_viewer", lambda: None)
    parsed = Parsed(report_on(finished.scan).page)
    assert HOW in parsed.text
    assert not parsed.all("canvas")
    assert set(parsed.scripts) == {""}
    (details,) = (d for d in parsed.all("details") if d.get("id") == "still")
    assert "open" in details


@pytest.mark.parametrize("viewer", [FAKE, None])
def test_the_picture_is_in_every_page(
    viewer: Viewer | None, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_viewer", lambda: viewer)
    (image,) = Parsed(report_on(finished.scan).page).all("img")
    png = base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(png)).size[0] >= 420
    assert "SYNTHETIC T2w" in (image["alt"] or "")


def test_equal_input_gives_equal_bytes(finished: Finished, tmp_path: Path) -> None:
    first, second = (report_on(finished.scan, tmp_path / f"{n}.html").page for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_what_exists_stays(finished: Finished) -> None:
    written = report_on(finished.scan).page
    with pytest.raises(OutputError, match="exists already"):
        report_on(finished.scan)
    assert report_on(finished.scan, overwrite=True).page == written


# Volumes


def test_twelve_bits_where_the_window_is_narrow() -> None:
    voxels = waves(1).voxels.copy()
    voxels[0, 0, 0] = 10_000
    volume = Volume.of(voxels)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(packed(volume, (0.0, 1000.0))))
    assert image.get_data_dtype() == np.int16
    assert np.abs(np.asarray(image.dataobj) - voxels).max() <= 0.51 * 10_000 / 4095


def test_a_coarser_volume_lies_where_it_lay() -> None:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = (-7, 3, 1)
    ramp = np.arange(24.0)[:, None, None] - 7 + 0 * np.empty((24, 24, 6))  # x in mm
    found = coarser(Volume.of(ramp, affine), 2.0)
    assert found.shape == (12, 12, 6)
    assert found.spacing == pytest.approx((2, 2, 4))
    at = found.affine[0, 0] * np.arange(12) + found.affine[0, 3]
    assert found.voxels[2:-2, 5, 3] == pytest.approx(at[2:-2], abs=1e-4)


def test_volumes_keep_within_the_budget() -> None:
    noise = Volume.of(np.random.default_rng(0).normal(size=(40, 40, 10)), np.diag([1, 1, 4, 1]))
    files, spacing = embed([(noise, (-2.0, 2.0))] * 2, budget=8000)
    assert sum(map(len, files)) <= 8000
    assert spacing[0] == pytest.approx(spacing[1])
    assert spacing[2] == pytest.approx(4)  # what is coarse already stays


def test_another_grid_is_resampled_and_says_so() -> None:
    first = waves(1)
    other = Volume.of(first.voxels, np.diag([2.0, 2.0, 2.0, 1.0]))
    here, there = aligned([Panel("a", first), Panel("b", other)])
    assert here.caption == "a"
    assert there.caption == "b, resampled"
    assert there.volume.shape == here.volume.shape


def test_no_panels_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no volumes"):
        write_report(tmp_path / "x.html", [], {})


def test_the_difference_knows_no_gain_and_no_offset() -> None:
    target, inside = waves(2), waves(1)
    same = target.like(3 * target.voxels + 10)
    found = difference(same, target, inside)
    assert found is not None
    outside = inside.voxels == 0
    assert not found.voxels[outside].any()
    # What lies beyond the 0.5 and 99.5 percentiles is clipped in the target alone.
    assert np.median(np.abs(found.voxels[~outside])) < 0.005
    darker = target.like(np.where(np.arange(20)[:, None, None] < 5, 0, target.voxels))
    found = difference(darker, target, inside)
    assert found is not None
    assert found.voxels[:5][inside.voxels[:5] > 0].mean() < -0.2
    assert difference(same, target.like(np.full(target.shape, 5.0)), inside) is None


# What lies where


def test_a_source_that_is_gone_is_a_warning(finished: Finished) -> None:
    finished.source.unlink()
    entry = report_on(finished.scan)
    assert entry.warnings[-1] == "The source T1w is not shown: it was not found."
    assert json.loads(Parsed(entry.page).scripts["plan"])[0]["caption"] == "SYNTHETIC T2w"


def test_only_the_file_that_it_was_made_from_is_its_source(finished: Finished) -> None:
    with pytest.raises(InputError, match="checksum"):
        report_on(finished.scan, source=finished.reference)
    elsewhere = finished.folder / "deep" / "er"
    elsewhere.mkdir(parents=True)
    finished.source.rename(elsewhere / finished.source.name)
    save_volume(waves(9), finished.source)  # the same name, and somebody else's
    found = report_on(finished.scan, source=finished.folder)
    assert found.warnings == tuple(finished.record["Warnings"])
    assert decoded(Parsed(found.page), 0).shape == finished.volume("scan").shape


def test_a_reference_is_found_by_person_and_contrast(tmp_path: Path) -> None:
    one, _ = (finish(tmp_path / "all", person) for person in ("sub-01", "sub-02"))
    entry = report_on(one.scan, reference=tmp_path)
    alone = report_on(one.scan, tmp_path / "alone.html", reference=one.reference)
    assert entry.figures == alone.figures
    save_volume(waves(5), tmp_path / "copy" / one.reference.name)
    with pytest.raises(UsageError, match="could both be"):
        report_on(one.scan, tmp_path / "again.html", reference=tmp_path)


def test_without_source_and_mask_there_are_no_scores(finished: Finished) -> None:
    finished.source.unlink()
    entry = report_on(finished.scan, reference=finished.reference)
    assert entry.figures == {}
    assert "Not scored." in Parsed(entry.page).text


def test_maps_belong_to_another_scan(finished: Finished) -> None:
    map_ = finished.scan.with_name(finished.scan.name.replace("T2w", "T2w_uncertainty"))
    with pytest.raises(UsageError, match="belongs to another result"):
        report_on(map_)


@pytest.mark.parametrize(
    ("content", "error"), [("{", FormatError), ("[]", FormatError), (None, MissingFileError)]
)
def test_a_side_car_is_needed(
    content: str | None, error: type[Exception], finished: Finished
) -> None:
    side = finished.scan.with_name(finished.scan.name.replace(".nii.gz", ".json"))
    side.unlink()
    if content is not None:
        side.write_text(content)
    with pytest.raises(error, match="side-car"):
        report_on(finished.scan)


def test_bids_names_a_source_by_its_address(finished: Finished) -> None:
    checksum = finished.record["Sources"][0]["SHA256"]
    record = {
        **finished.record,
        "Sources": [f"bids:raw:anat/{finished.source.name}"],
        "MadeOf": {"Sources": {"T1w": checksum}},
    }
    side = finished.scan.with_name(finished.scan.name.replace(".nii.gz", ".json"))
    side.write_text(json.dumps(record))
    assert "source T1w" in Parsed(report_on(finished.scan).page).scripts["plan"]
    side.write_text(json.dumps({**record, "MadeOf": {"Sources": {"T1w": "0" * 64}}}))
    assert "not shown" in report_on(finished.scan, overwrite=True).warnings[-1]


def anomalies(folder: Path) -> tuple[Path, dict[str, object], str]:
    """A map with its companions, the side-car, the table."""
    scan = save_volume(waves(1), folder / "flair.nii.gz")
    for name in ("healthy", "difference"):
        save_volume(waves(2), folder / f"flair_desc-synth_{name}.nii.gz")
    share = waves(3)
    map_ = save_volume(share.like(share.voxels / 1000), folder / "flair_desc-synth_anomaly.nii.gz")
    record = {
        **{"Synthetic": True, "Map": "anomaly", "SourceContrast": ["FLAIR"], "ImageScore": 0.25},
        **{"Lesions": 2, "Sources": [{"Name": scan.name}], "Warnings": [], "Threshold": 0.125},
        **{"FalsePositiveRate": 0.001, "SmallestLesionMM3": 30.0, "LesionVolumeML": 2.75},
        "Calibration": {"rates": [0.5, 0.001], "values": [0.0625, 0.125], "origin": EVIL},
    }
    map_.with_name("flair_desc-synth_anomaly.json").write_text(json.dumps(record))
    lesions = [
        Lesion(1, 2.5, (-3.0, 4.5, 20.0), 0.25, 0.1875),
        Lesion(2, 0.25, (1.0, 0.0, 9.0), 0.2, 0.15),
    ]
    table = lesion_table(lesions)
    map_.with_name("flair_desc-synth_lesions.tsv").write_text(table)
    return map_, record, table


def test_anomalies(tmp_path: Path) -> None:
    map_, _, table = anomalies(tmp_path)
    entry = report_on(map_)
    parsed = Parsed(entry.page)
    plan = json.loads(parsed.scripts["plan"])
    assert [one["kind"] for one in plan] == ["image", "image", "difference", "probability"]
    assert plan[3]["window"] == [0.5, 1.0]
    assert entry.figures == {"image score": 0.25, "lesions": 2.0}
    assert entry.title == "What is not normal in FLAIR"
    assert entry.warnings == ()
    # every number of the table stands on the page, in its order
    lines = [line.split("\t") for line in table.splitlines()[1:]]
    shown = [cell["data-sort"] for cell in parsed.all("td") if "data-sort" in cell]
    assert [float(cell or "") for cell in shown[:12]] == [
        float(value) for line in lines for value in line[1:]
    ]
    assert shown[12:] == ["0.0625", "0.125"]
    (live,) = (section for section in parsed.all("section") if section.get("id") == "live")
    assert live["data-at"] == "-3.0 4.5 20.0"
    assert [b["data-at"] for b in parsed.all("button")] == ["-3 4.5 20", "1 0 9"]
    assert f"Calibrated on: {EVIL}." in parsed.text
    for said in ("threshold of the score0.125", "reaches it0.001", "their volume, ml2.75"):
        assert said in parsed.text
    assert EVIL not in entry.page.read_text()


def test_the_picture_is_cut_through_the_largest_lesion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_viewer", lambda: None)
    map_, _, _ = anomalies(tmp_path)
    one = Parsed(report_on(map_).page).all("img")[0]["src"]
    table = map_.with_name("flair_desc-synth_lesions.tsv")
    table.write_text(lesion_table(()))
    entry = report_on(map_, overwrite=True)
    assert Parsed(entry.page).all("img")[0]["src"] != one
    assert "None was found." in Parsed(entry.page).text
    upright = waves(1).canonical()
    place = upright.affine @ [4.2, 6.9, 5.0, 1]
    assert voxel_at([Panel("x", waves(1))], (place[0], place[1], place[2])) == (4, 7, 5)


def test_a_table_of_lesions_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    map_, _, _ = anomalies(tmp_path)
    table = map_.with_name("flair_desc-synth_lesions.tsv")
    table.write_text("id\tvolume_ml\n1\tmuch\n")
    with pytest.raises(FormatError, match="no table of lesions"):
        report_on(map_)
    table.unlink()
    assert "not shown" in report_on(map_).warnings[0]


def test_several_sources_are_given_in_their_order(finished: Finished) -> None:
    checksum = finished.record["Sources"][0]["SHA256"]
    record = {
        **finished.record,
        "SourceContrast": ["T1w", "FLAIR"],
        "Sources": [{"Name": finished.source.name, "SHA256": checksum}, {"Name": "x.nii.gz"}],
    }
    side = finished.scan.with_name(finished.scan.name.replace(".nii.gz", ".json"))
    side.write_text(json.dumps(record))
    entry = report_on(finished.scan, source=[finished.source, finished.reference])
    captions = [one["caption"] for one in json.loads(Parsed(entry.page).scripts["plan"])]
    assert captions[:2] == ["source T1w", "source FLAIR"]
    with pytest.raises(UsageError, match="made from 2 scans"):
        report_on(finished.scan, source=finished.source, overwrite=True)


def test_the_card_of_the_shipped_model(finished: Finished) -> None:
    from medi2i.model import read_record
    from medi2i.zoo import shipped

    folder = shipped()["default"]
    record = {**finished.record, "Model": {"SHA256": read_record(folder)["sha256"]}}
    side = finished.scan.with_name(finished.scan.name.replace(".nii.gz", ".json"))
    side.write_text(json.dumps(record))
    assert "lesions can be lost or invented" in Parsed(report_on(finished.scan).page).text
    side.write_text(json.dumps(finished.record))
    with pytest.raises(UsageError, match="not the one that made"):
        report_on(finished.scan, model=folder, overwrite=True)


def test_kinds_have_windows() -> None:
    volume = waves(1)
    assert Panel("x", volume, Kind.MAP).window()[0] == 0
    low, high = Panel("x", volume, Kind.DIFFERENCE).window()
    assert low == -high
    assert Panel("x", volume, Kind.PROBABILITY).window() == (0.5, 1.0)


# The viewer


def test_the_viewer_is_found_within_a_larger_script() -> None:
    module = "var a='" + "x " * 70_000 + "';export{a as b,Niivue};"
    encoded = module.replace(" ", "%20").replace("{", "%7B").replace("}", "%7D")
    encoded = encoded.replace("'", "%27").replace(",", "%2C").replace(";", "%3B")
    assert extract(f'var z="short",o2="{encoded.replace("=", "%3D")}";') == module
    assert extract('var z="short";') is None


def test_the_viewer_of_this_installation() -> None:
    found = find_viewer()
    if found is None:
        pytest.skip(f"{viewers.PACKAGE} is not installed")
    assert b"export{" in gzip.decompress(found.code)[-2000:].replace(b" ", b"")
    assert "BSD 2-Clause" in found.licence
    assert len(found.code) < 1_500_000
