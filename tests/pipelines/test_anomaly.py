from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from medi2i.anomaly.beside import by_dice
from medi2i.anomaly.table import AnomalyRow, AnomalyTable
from medi2i.volume import save_volume
from tests.anomaly.test_find import SPOT, flair
from tests.pipelines.stories import PIPELINES, story

whole, one = story("anomaly"), story("compare_one")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Four people with a lesion, two of them held back."""
    root = tmp_path / "study"
    rows = ["participant_id\tsplit"]
    for number in range(1, 5):
        name = f"sub-{number}"
        scan = flair(seed=number)
        save_volume(scan, root / name / "anat" / f"{name}_FLAIR.nii.gz")
        mask = np.zeros(scan.shape, np.uint8)
        mask[SPOT] = 1
        place = root / "derivatives" / "expert" / name / "anat"
        save_volume(scan.like(mask), place / f"{name}_label-lesion_mask.nii.gz")
        rows.append(f"{name}\t{'train' if number < 3 else 'val'}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def test_one_command_from_slices_to_a_table(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        assert not check
        if command[2] == "stargan":
            return subprocess.CompletedProcess(command, 1)
        trained.append(command[2])
        one.main(command[2:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    out = tmp_path / "out"
    words = [str(out), "--data", str(study), "--rounds", "2", "--size", "32", "--device", "cpu"]
    words += ["--tuning", "1", "--systems", "fixed_point_gan", "stargan", "vae"]
    with pytest.raises(SystemExit, match="failed: stargan"):
        whole.main(words)
    assert trained == ["fixed_point_gan", "vae"]
    table = (out / "table.md").read_text()
    for name in ("intensity", *trained):
        assert f"| {name} |" in table
    assert "1 other people" in table
    assert "| parameters | rounds | minutes |" in table
    for name in ("good", "bad"):
        with Image.open(out / f"{name}.png") as picture:
            assert np.asarray(picture).std() > 0
    for name in ("scores.csv", "scores.json", "scores.md"):
        assert (out / name).is_file()
    with pytest.raises(SystemExit):  # nothing else may be mixed in
        whole.main([*words, "--seed", "2"])
    assert len(trained) == 2


def test_everyone_learns_from_what_it_may_see(tmp_path: Path) -> None:
    words = ["--from", "FLAIR", "--domains", "healthy", "diseased", "--faster", "5"]
    seen = {}
    for system in whole.SYSTEMS:
        recipe = one.read_config(PIPELINES.parent / "configs" / f"{system}.yaml")
        chosen = arguments(one, [system, str(tmp_path), "--data", ".", "--rounds", "9", *words])
        config = one.configured(system, chosen, 9)
        seen[system] = config.task.domains
        assert config.task.sources == config.task.targets
        assert config.training.optimiser.lr == pytest.approx(5 * recipe.training.optimiser.lr)
        assert config.arguments.get("l1", 0) == 0
    assert seen["vae"] == seen["denoising_autoencoder"] == ("healthy",)
    assert seen["stargan"] == seen["fixed_point_gan"] == ("healthy", "diseased")


def arguments(module: ModuleType, words: list[str]) -> object:
    """What a story makes of a command line, without doing it."""
    found: list[object] = []

    def stop(chosen: object) -> None:
        found.append(chosen)
        sys.exit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", stop)
        with pytest.raises(SystemExit):
            module.main(words)
    return found[0]


def test_cases_from_the_worst_to_the_best() -> None:
    rows = [
        AnomalyRow(case, method, {"dice": value})
        for method, values in {"a": (0.5, 0.9, float("nan")), "b": (0.7, 0.1, 0.3)}.items()
        for case, value in zip("xyz", values, strict=True)
    ]
    assert list(by_dice(AnomalyTable(tuple(rows), ())).items()) == [("y", 0.5), ("x", 0.6)]
