from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import ndimage

from medi2i.volume import load_volume, save_volume
from tests.pipelines.stories import story

choosing = story("choosing")
PEOPLE = {"sub-1": "train", "sub-2": "train", "sub-3": "val", "sub-4": "val"}


@pytest.fixture
def comparison(make_study: Callable[..., Path], tmp_path: Path) -> Path:
    """What compare.py leaves, of four systems from very good to none, T1w -> T2w."""
    folder, study = tmp_path / "comparison", make_study(tmp_path / "study", PEOPLE)
    told = {"source": "T1w", "target": "T2w", "data": str(study)}
    rows = []
    for rank, system in enumerate(["a_perfect", "b_soft", "c_softer", "d_none"]):
        for name in ("sub-3", "sub-4"):
            anat = study / name / "anat"
            source, target = (load_volume(anat / f"{name}_{c}.nii") for c in ("T1w", "T2w"))
            made = target.voxels if system != "d_none" else source.voxels
            if system in ("b_soft", "c_softer"):
                made = ndimage.gaussian_filter(made, rank)
            save_volume(source.like(made), folder / system / "translated" / f"{name}_T2w.nii.gz")
            scores = {"psnr": 30.0 - 5 * rank, "ssim": 0.9 - 0.2 * rank}
            rows.append({"case": name, "method": system, **scores})
    (folder / "settings.json").write_text(json.dumps(told))
    (folder / "scores.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_the_criterion_ranks_systems_as_pairs_do(comparison: Path, tmp_path: Path) -> None:
    choosing.main([str(tmp_path / "out"), str(comparison)])
    with (tmp_path / "out" / "choosing.csv").open() as stream:
        rows = {row["system"]: row for row in csv.DictReader(stream)}
    assert float(rows["d_none"]["distance"]) == pytest.approx(1)
    assert float(rows["d_none"]["structure"]) == pytest.approx(1)
    assert float(rows["a_perfect"]["distance"]) < float(rows["c_softer"]["distance"])
    assert float(rows["a_perfect"]["ssim"]) == 0.9
    text = (tmp_path / "out" / "choosing.md").read_text()
    assert "rank correlations: criterion with psnr 0." in text
    assert text.index("a_perfect") < text.index("c_softer")


def test_a_folder_that_is_no_comparison_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"settings\.json"):
        choosing.main([str(tmp_path / "out"), str(tmp_path)])
