from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.contrasts import Contrast
from medi2i.model import Model, build_system
from medi2i.systems import SYSTEMS
from medi2i.task import Task, View
from medi2i.training.plan import Optimiser, Plan
from tests.pipelines.stories import story

benchmark, ways, parts = map(story, ("benchmark", "benchmark_translate", "benchmark_parts"))


@pytest.mark.filterwarnings("ignore::UserWarning:monai")
@pytest.mark.parametrize("view", [View(dims=2, slices=3), View(dims=3, patch=16)])
def test_all_do_the_same_work(view: View, tmp_path: Path) -> None:
    task = Task((Contrast.T1W, Contrast.T2W), (Contrast.T1W, Contrast.T2W), on_demand=True)
    arguments = {"features": (4, 8), "norm": "batch"}
    torch.manual_seed(0)
    system = build_system("unet", arguments, task, view)
    model = Model("tiny", "unet", arguments, task, view, system.eval())
    about = ways.make_scan(tmp_path, model, (20, 24, 20))
    assert about["translation"] == "T1w->T2w"
    turn = {"medi2i-torch": ways.with_medi2i(tmp_path, model, "cpu", "torch")}
    with torch.inference_mode():
        for name, way in ways.OTHERS.items():
            if name != "slices" or view.dims == 2:
                turn[name] = way(tmp_path, model, "cpu")
    for measured in turn.values():
        assert measured.keys() == turn["medi2i-torch"].keys()
        assert 0 < measured["network's share"] < 1
    alike = ways.agreement(tmp_path)
    assert alike.keys() == turn.keys()
    assert min(alike.values()) > 0.95


def test_factors_are_those_of_each_turn(tmp_path: Path) -> None:
    """A machine that becomes three times slower makes no way slower than the other."""
    turns = [{"medi2i": {"s": t, "SSIM": 0.5}, "other": {"s": 2 * t, "SSIM": 0.5}} for t in (1, 3)]
    table = benchmark.Table("sums", "", "s", turns)
    assert [table.factor(way) for way in turns[0]] == [1, 2]
    assert table.median("other", "s") == 4
    kinds = {way: {"s": t} for way, t in (("a, x", 1.0), ("b, x", 3.0), ("a, y", 5.0), ("b, y", 4))}
    paired = benchmark.Table("pairs", "", "s", [kinds])
    assert [paired.factor(way) for way in kinds] == [1, 3, 1, 0.8]
    benchmark.write(tmp_path, {"model": "none"}, [table, paired])
    text = (tmp_path / "benchmark.md").read_text()
    assert "| other | 4 | 0.500000 | 2.00 |" in text
    assert "| b, y | 4 | 0.80 |" in text
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert record["tables"][0]["turns"] == turns
    with Image.open(tmp_path / "benchmark.png") as page:
        assert page.getpixel((230 + 30, 6 + 22 + 8)) == (42, 111, 151), "the first bar is ours"


def test_every_way_is_measured_once_a_turn() -> None:
    called: list[str] = []

    def way(name: str) -> Callable[[], int]:
        def run() -> int:
            called.append(name)
            return len(called)

        return run

    turns = list(parts.in_turns({"a": way("a"), "b": way("b")}, 2, "value"))
    assert called == ["a", "b"] * 3, "and once to warm up"
    assert [turn["b"]["value"] for turn in turns] == [4, 6]


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_the_plain_loop_learns_what_the_trainer_does(name: str) -> None:
    """One step from equal weights: all parameters end where the trainer puts them."""
    small: dict[str, dict[str, int]] = {
        "pix2pix": {"depth": 4, "features": 4},
        "cyclegan": {"features": 4, "blocks": 1, "patch_features": 4, "patch": 1},
    }
    systems = []
    for _ in range(2):
        torch.manual_seed(0)
        systems.append(SYSTEMS[name](**small[name]))
    a, b = torch.rand((2, 1, 1, 32, 32)) * 2 - 1
    ours, plain = systems
    rate = Optimiser(betas=(0.5, 0.999))
    plan = Plan(
        rounds=parts.STEPS,
        optimiser=rate,
        schedule="constant",
        average=0,
        channels_last=False,
        log_every=0,
        validate_every=0,
        checkpoint_every=0,
    )
    parts.by_trainer(ours, Batch(a, b, target_slab=b), plan)
    step = getattr(parts, f"plain_{name}")(plain.train(), a, b)
    for _ in range(parts.STEPS):
        step()
    for (which, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if _counts(ours, which):
            torch.testing.assert_close(one, other, rtol=0, atol=3e-4, msg=which)


def _counts(system: nn.Module, name: str) -> bool:
    """Whether a parameter has a say: a constant before a norm has none, and drifts by rounding."""
    parameter: Tensor = system.get_parameter(name)
    return parameter.dim() > 1
