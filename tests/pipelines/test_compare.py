from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medi2i.config import read_yaml
from medi2i.contrasts import Contrast
from medi2i.model import build_system
from medi2i.systems import SYSTEMS
from medi2i.volume import Volume, load_volume, save_volume
from tests.pipelines.stories import PIPELINES, story

whole, one = story("compare"), story("compare_one")


@pytest.fixture
def study(make_study: Callable[..., Path], tmp_path: Path) -> Path:
    """Two people to learn from and five held back, one of them with a lesion mask."""
    people = dict.fromkeys(["sub-1", "sub-2"], "train") | dict.fromkeys(
        [f"sub-{number}" for number in range(3, 8)], "val"
    )
    root = make_study(tmp_path / "study", people)
    scan = load_volume(root / "sub-3" / "anat" / "sub-3_T1w.nii")
    mask = np.zeros(scan.shape)
    mask[10:13, 8:11, 5:7] = 1
    place = root / "derivatives" / "expert" / "sub-3" / "anat" / "sub-3_label-lesion_mask.nii"
    save_volume(scan.like(mask), place)
    return root


class Here:
    """Runs what would be a process of its own in this one; systems in `broken` fail."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.broken: set[str] = set()

    def run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        assert not check
        assert Path(command[1]).name == "compare_one.py"
        if command[2] in self.broken:
            return subprocess.CompletedProcess(command, 1)
        self.trained.append(command[2])
        one.main(command[2:])
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    runner = Here()
    monkeypatch.setattr(subprocess, "run", runner.run)
    return runner


def words(out: Path, study: Path, *more: str) -> list[str]:
    return [str(out), "--data", str(study), "--size", "32", "--device", "cpu", *more]


def test_one_table_of_everything(here: Here, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = words(out, study, "--rounds", "2", "--systems", "unet", "pix2pix")
    here.broken.add("unet")
    with pytest.raises(SystemExit, match="failed: unet"):
        whole.main(command)
    first = (out / "pix2pix" / "result.json").stat().st_mtime_ns
    here.broken.clear()
    whole.main(command)  # only what is missing is done
    assert here.trained == ["pix2pix", "unet"]
    assert (out / "pix2pix" / "result.json").stat().st_mtime_ns == first
    with (out / "table.csv").open(encoding="utf-8") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["identity", "pointwise", "pix2pix", "unet"]
    for name, row in rows.items():
        assert row["cases"] == "5"
        assert float(row["ssim low"]) <= float(row["ssim"]) <= float(row["ssim high"])
        assert float(row["through-plane"]) > 0
        assert 0 <= float(row["orientation"]) <= 1
        if row["method"] == "identity":
            assert float(row["orientation"]) == pytest.approx(1)
            assert float(row["displacement 95"]) < 0.1
        assert float(row["lesion MAE"]) > 0
        assert (row["rounds"] == "2") is (name in here.trained)
        assert (row["p (ssim against pointwise)"] == "") is (name == "pointwise")
    assert int(rows["pix2pix"]["parameters"]) > int(rows["unet"]["parameters"]) > 0
    assert rows["unet"]["pairing"] == "paired"
    markdown = (out / "table.md").read_text(encoding="utf-8")
    assert len({line.count("|") for line in markdown.splitlines() if "|" in line}) == 1
    with Image.open(out / "picture.png") as picture:
        assert np.asarray(picture).std() > 0
    assert len(json.loads((out / "scores.json").read_text())["rows"]) == 5 * 4
    # nothing else may be mixed in
    with pytest.raises(SystemExit):
        whole.main([*command, "--seed", "2"])


def test_a_run_that_was_stopped_goes_on(
    here: Here, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one, "FEWEST", 3)  # they take over a tenth of 6 ms
    monkeypatch.setattr(whole, "report", lambda systems, chosen: "")  # the longest part
    out = tmp_path / "out"
    command = words(out, study, "--minutes", "0.0001", "--systems", "unet")
    whole.main(command)
    run = out / "unet"
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    rounds = json.loads((run / "rounds.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert result["rounds"] == rounds >= 1
    # stopped while it translated: what was trained and planned stays
    (run / "result.json").unlink()
    whole.main(command)
    assert here.trained == ["unet", "unet"]
    again = json.loads((run / "result.json").read_text())
    assert again | {"s / volume": 0} == result | {"s / volume": 0}
    for name in ("rounds.json", "trained.json", "checkpoint.pt"):
        assert (run / name).stat().st_mtime_ns == before[name]
    # stopped while it trained: the same number of rounds, so the same schedule
    (run / "result.json").unlink()
    (run / "trained.json").unlink()
    whole.main(command)
    assert json.loads((run / "result.json").read_text())["rounds"] == rounds
    assert (run / "rounds.json").stat().st_mtime_ns == before["rounds.json"]


def frame(**changes: Any) -> argparse.Namespace:
    """What compare.py tells every system alike."""
    told = {
        "size": 64,
        "seed": 3,
        "spacing": 2.0,
        "budget": "small",
        "source": Contrast.T1W,
        "target": Contrast.FLAIR,
        "misalignment": 0.0,
        "domains": None,
        "faster": 1.0,
    }
    return argparse.Namespace(**told | changes)


TRANSLATING = [name for name, system in SYSTEMS.items() if not system.reconstructs]


@pytest.mark.parametrize("budget", ["small", "full"])
@pytest.mark.parametrize("name", TRANSLATING)
def test_every_system_can_be_built_in_the_frame(name: str, budget: str) -> None:
    known = read_yaml(PIPELINES / "compare.yaml")
    assert name in known, f"pipelines/compare.yaml lacks {name}"
    assert set(known[name]) <= {"frame", "small", "domains"}
    chosen = frame(size=64 if budget == "small" else 256, budget=budget)
    config = one.configured(name, chosen, 50)
    sizes = {}
    with torch.device("meta"):
        system = build_system(name, config.arguments, config.task, config.view)
        sizes[budget] = sum(p.numel() for p in system.parameters())
    if budget == "small":
        assert sizes[budget] < 4e6
    plan = config.training
    assert (plan.rounds, plan.seed, config.view.spacing) == (50, 3, 2.0)
    assert (config.data.size, config.data.augmentation) == (chosen.size, one.LOOKS)
    assert ((Contrast.T1W,), (Contrast.FLAIR,)) in config.task.pairs()
    assert plan.average <= 0.8


def test_variants_are_their_system_but_for_a_part_of_the_recipe() -> None:
    chosen = frame()
    variants = read_yaml(PIPELINES / "compare.yaml")["variants"]
    assert {"cyclegan+guidance", "cyclegan+slab"} <= set(variants)
    for name, variant in variants.items():
        plain, config = (one.configured(s, chosen, 50) for s in (variant["system"], name))
        assert config != plain
        assert set(variant) <= {"system", "guidance", "view", "arguments", "data", "quality"}
        parts = ("guidance", "view", "arguments", "data")
        same = {part: getattr(plain, part) for part in parts}
        assert dataclasses.replace(config, **same) == plain
    guided = one.configured("cyclegan+guidance-unsure", chosen, 50)
    assert (guided.system, guided.guidance.confidence) == ("cyclegan", False)
    assert (guided.guidance.weight, guided.view.slices) == (10.0, 1)
    judged = one.configured("cyclegan+two-judged", chosen, 50).arguments
    assert judged == {**one.configured("cyclegan", chosen, 50).arguments, "judged": 2}
    slab = one.configured("cyclegan+slab", chosen, 50)
    assert (slab.guidance.weight, slab.view.slices, slab.view.spacing) == (0.0, 3, 2.0)
    patches = one.configured("unet+patches", chosen, 50)
    assert (patches.view.dims, patches.view.patch, patches.data.size) == (3, 32, 32)
    assert patches.data.augmentation == one.LOOKS
    assert one.variant_of("unet+planes")["quality"] == "planes"
    assert not one.variant_of("unet")


def test_words_of_the_frame_become_numbers() -> None:
    chosen = frame(seed=0, spacing=1.0, target=Contrast.T2W, misalignment=3.0)
    assert one.configured("pix2pix", chosen, 100).arguments["depth"] == 6
    assert one.configured("cegan", chosen, 100).arguments["warmup"] == 4
    assert one.configured("starganv2", chosen, 100).arguments["fade"] == 100
    assert one.configured("stargan", chosen, 100).arguments["window"] == 64
    assert one.configured("reggan", chosen, 100).data.misalignment == 3.0


def test_names_and_kinds_of_systems(tmp_path: Path) -> None:
    def systems(*names: str) -> list[str]:
        arguments = ["--budget", "full", "--systems", *names]
        out = tmp_path / "-".join(names)
        found: list[str] = whole.read_arguments([str(out), *arguments]).systems
        return found

    assert systems("unet", "pix2pix") == ["pix2pix", "unet"]
    paired, unpaired = (
        [n for n in TRANSLATING if SYSTEMS[n].pairing.value == kind]
        for kind in ("paired", "unpaired")
    )
    assert systems("paired") == paired
    assert systems("paired", "unpaired") == [*paired, *unpaired]
    assert systems("cyclegan+guidance", "cyclegan") == ["cyclegan", "cyclegan+guidance"]


def test_a_constant_image_has_no_ratio_and_the_lesion_is_scored_up_to_gain() -> None:
    rng = np.random.default_rng(0)
    target = Volume.of(rng.random((12, 12, 12)))
    brain = np.ones(target.shape, bool)
    lesions = np.zeros_like(brain)
    lesions[5:8, 5:8, 5:8] = True
    flat = whole.beyond_similarity(np.full(target.shape, 3.0), target, brain, lesions)
    assert list(flat) == ["lesion MAE"]
    same = whole.beyond_similarity(100 - 7 * target.voxels, target, brain, lesions)
    assert same["lesion MAE"] == pytest.approx(0, abs=0.01)
    assert same["through-plane"] == pytest.approx(1, abs=0.01)
    healthy = whole.beyond_similarity(target.voxels, target, brain, lesions & False)
    assert list(healthy) == ["through-plane"]
