from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medi2i import Volume, translate
from medi2i.choices import called
from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.inference import engines, faster
from medi2i.inference.engines import BOUND, EngineName, check_engine
from medi2i.inference.samples import run_samples
from medi2i.inference.translate import UNCERTAINTY, run_model
from medi2i.model import Model, build_system
from medi2i.task import Task, View
from tests.inference.chance import Dropped, model_of

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
AUTO, TORCH, COMPILE, OPENVINO = EngineName
ANY = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
SPAN = 500.0

needs_openvino = pytest.mark.skipif(
    OPENVINO not in engines.there("cpu"), reason="the extra openvino is not installed"
)


def tiny(view: View | None = None, seed: int = 0, **arguments: object) -> Model:
    torch.manual_seed(seed)
    view = view or View(dims=2, slices=3)
    chosen = {"features": (4, 8), **arguments}
    return Model("tiny", "unet", chosen, ANY, view, build_system("unet", chosen, ANY, view).eval())


@pytest.fixture
def scan() -> Volume:
    voxels = np.random.default_rng(0).random((20, 18, 8)).astype(np.float32) * SPAN + 100
    return Volume.of(voxels, np.diag([-1.0, 1.0, 1.0, 1.0]))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a process that remembers nothing."""
    monkeypatch.setenv("MEDI2I_CACHE", str(tmp_path / "cache"))
    faster._held.clear()
    return tmp_path / "cache"


def ran_by(
    engine: EngineName, scan: Volume, model: Model, target: Contrast = T2W, **more: Any
) -> Any:
    torch.manual_seed(7)
    return run_model(model, {T1W: scan}, target, engine=engine, device="cpu", **more)


def farthest(one: Any, other: Any) -> float:
    return float(np.abs(one.volume.voxels - other.volume.voxels).max()) / SPAN


# ---- OpenVINO gives what torch gives


@needs_openvino
@pytest.mark.parametrize("view", [View(slices=3), View(dims=3, patch=8)], ids=["slabs", "patches"])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_openvino_gives_the_same(scan: Volume, view: View, batch_size: int) -> None:
    """Of slabs, 8 in batches of 3: the last two are no whole batch."""
    model = tiny(view)
    expected = ran_by(TORCH, scan, model, batch_size=batch_size)
    result = ran_by(OPENVINO, scan, model, batch_size=batch_size)
    assert result.engine["Name"] == "openvino"
    assert 0 < result.engine["LargestDifference"] <= BOUND
    assert result.warnings == ()
    assert "engine" in result.seconds
    assert 0 < farthest(result, expected) < 1e-5
    assert expected.engine == {"Name": "torch"}


@needs_openvino
def test_each_target_and_each_look_has_a_network_of_its_own(scan: Volume) -> None:
    """Tracing might have kept the first target, or the first shape, for all."""
    model = tiny(conditioning="heads")
    made = []
    for target, quality in ((T2W, "fast"), (FLAIR, "best")):
        result = ran_by(OPENVINO, scan, model, target, quality=quality)
        assert result.engine["Name"] == "openvino"
        assert farthest(result, ran_by(TORCH, scan, model, target, quality=quality)) < 1e-5
        made.append(result)
    assert farthest(*made) > 1e-2


@needs_openvino
def test_uncertainty_goes_the_same_way(scan: Volume) -> None:
    model = tiny(spread=1.0)
    expected, result = (ran_by(e, scan, model, uncertainty=True) for e in (TORCH, OPENVINO))
    assert result.engine["Name"] == "openvino"
    one, other = (r.maps[UNCERTAINTY].voxels for r in (expected, result))
    np.testing.assert_allclose(other, one, rtol=1e-4)
    assert farthest(ran_by(OPENVINO, scan, model), expected) < 1e-5, "another pass, another key"


@needs_openvino
def test_what_was_converted_is_kept_on_disk(
    scan: Volume, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    first = ran_by(OPENVINO, scan, model)
    (kept,) = cache.iterdir()
    traced = faster._traced

    def forbidden(*_: object) -> None:
        raise AssertionError("was to be read from the cache")

    monkeypatch.setattr(faster, "_traced", forbidden)
    faster._held.clear()
    assert farthest(ran_by(OPENVINO, scan, model), first) == 0

    monkeypatch.setattr(faster, "_traced", traced)
    faster._held.clear()
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert farthest(ran_by(OPENVINO, scan, model), first) == 0, "a spoiled file is made anew"


@needs_openvino
def test_other_weights_are_another_network(scan: Volume) -> None:
    model = tiny()
    ran_by(OPENVINO, scan, model)
    model.system.load_state_dict(tiny(seed=1).system.state_dict())
    result = ran_by(OPENVINO, scan, model)
    assert result.engine["Name"] == "openvino"
    assert farthest(result, ran_by(TORCH, scan, model)) < 1e-5


def test_the_cache_does_not_grow_for_ever(cache: Path) -> None:
    names = [f"{number:02}.blob" for number in range(faster.KEPT + 2)]
    for age, name in enumerate(names):
        faster._write(cache / name, name.encode())
        os.utime(cache / name, (age, age))
    assert faster._read(cache / names[2]) == names[2].encode(), "it is the youngest now"
    faster._write(cache / "another.blob", b"")
    kept = {path.name for path in cache.iterdir()}
    assert len(kept) == faster.KEPT
    assert kept.issuperset({names[2], "another.blob"})
    assert names[3] not in kept


@needs_openvino
def test_a_cache_that_cannot_be_written_is_none(
    scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDI2I_CACHE", str(tmp_path / "file" / "cache"))
    assert ran_by(OPENVINO, scan, tiny()).engine["Name"] == "openvino"


@needs_openvino
def test_signals_still_arrive_after_networks_are_given_up(
    scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each core of OpenVINO lays a stack for signal handlers and puts the one before it back when
    it goes. Given up in the order in which they were made, two left a stack that was gone, and
    Ctrl-C ended the process on the spot."""
    monkeypatch.setattr(faster, "HELD", 1)
    for seed in range(2):
        assert ran_by(OPENVINO, scan, tiny(seed=seed)).engine["Name"] == "openvino"
    faster._held.clear()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@needs_openvino
def test_openvino_tells_nobody_that_it_is_used(scan: Volume) -> None:
    ran_by(OPENVINO, scan, tiny())
    assert sys.modules["openvino_telemetry"] is None


# ---- and where it does not, torch does it again


@pytest.mark.parametrize("off", [3 * BOUND, float("nan")])
def test_beyond_the_bound_torch_does_it_again(
    scan: Volume, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is right but for one voxel in the middle window."""
    tries: list[int] = []

    def wrong(_: object, eager: Callable[[Tensor], Tensor], *__: object) -> Any:
        def run(windows: Tensor) -> Tensor:
            tries.append(len(windows))
            images = eager(windows).clone()
            images[-1, 0, 5, 5] += 2 * off
            return images

        return run

    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    monkeypatch.setattr(faster, "converted", wrong)
    expected = ran_by(TORCH, scan, tiny(), batch_size=5)
    result = ran_by(OPENVINO, scan, tiny(), batch_size=5)
    assert tries == [5]
    assert farthest(result, expected) == 0
    assert result.engine["Name"] == "torch"
    assert "openvino: it differs from torch by" in result.engine["InsteadOf"]
    (warning,) = result.warnings
    assert warning.startswith("torch ran the network instead of openvino: it differs")


def test_a_small_difference_is_told(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    monkeypatch.setattr(faster, "compiled", lambda _, eager, *__: lambda w: eager(w) + 2 * 3e-5)
    result = ran_by(COMPILE, scan, tiny())
    assert result.engine["LargestDifference"] == pytest.approx(3e-5, rel=0.1)
    assert result.engine["Bound"] == BOUND


def test_a_network_that_cannot_be_converted(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object) -> None:
        raise TypeError("sums\nSummary:\n-- No rule for aten::odd")

    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    monkeypatch.setattr(engines, "there", lambda _: [TORCH, OPENVINO])
    monkeypatch.setattr(engines, "WORTH", 0)
    monkeypatch.setattr(faster, "converted", no)
    expected = ran_by(TORCH, scan, tiny())
    for asked, warnings in ((OPENVINO, 1), (AUTO, 0)):
        result = ran_by(asked, scan, tiny())
        assert farthest(result, expected) == 0
        reason = "openvino: it cannot run this network (TypeError: No rule for aten::odd)"
        assert result.engine == {"Name": "torch", "InsteadOf": reason}
        assert len(result.warnings) == warnings


def test_chance_is_torchs_own(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same seed, same noise, whatever was tried before."""

    class Noisy(Dropped):
        def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
            return super().translate(source, target=target) + torch.rand(1)

    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    expected, result = (ran_by(e, scan, model_of(Noisy)) for e in (TORCH, OPENVINO))
    assert farthest(result, expected) == 0
    assert result.engine["InsteadOf"] == "openvino: the network draws random numbers"


def test_samples_are_drawn_by_torch(scan: Volume) -> None:
    assert run_samples(model_of(Dropped), {T1W: scan}, T2W, samples=2).engine == {"Name": "torch"}


# ---- which one


@needs_openvino
def test_auto_takes_openvino_for_large_scans(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = int(np.prod(scan.shape))
    for worth, name in ((voxels, "openvino"), (voxels + 1, "torch")):
        monkeypatch.setattr(engines, "WORTH", worth)
        assert ran_by(AUTO, scan, tiny()).engine["Name"] == name
    monkeypatch.setattr(engines, "there", lambda _: [TORCH])
    monkeypatch.setattr(engines, "WORTH", 0)
    assert ran_by(AUTO, scan, tiny()).engine == {"Name": "torch"}


def test_one_that_is_not_there(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(UsageError, match=r"not installed: pip install medi2i\[openvino\]"):
        translate(scan, to="t2", source="t1", model=tiny(), engine="openvino", device="cpu")
    with pytest.raises(UsageError, match=r"a C\+\+ compiler .* is not installed"):
        check_engine(COMPILE, "cpu")
    with pytest.raises(UsageError, match="triton is not installed"):
        check_engine(COMPILE, "cuda")
    with pytest.raises(UsageError, match="runs on the CPU, not on cuda"):
        check_engine(OPENVINO, "cuda")
    with pytest.raises(UsageError, match='engine "tensorrt" is unknown; one of auto, torch'):
        called("engine", "tensorrt", EngineName)


def test_torch_compile_gets_the_whole_pass(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    def compile_(run: Callable[[Tensor], Tensor], *, dynamic: bool) -> Callable[[Tensor], Tensor]:
        given.append(dynamic)
        return run

    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    monkeypatch.setattr(torch, "compile", compile_)
    model = tiny()
    result = ran_by(COMPILE, scan, model, batch_size=3)
    assert result.engine["Name"] == "compile"
    assert result.engine["LargestDifference"] < 1e-5, "one window alone, and among others"
    assert farthest(result, ran_by(TORCH, scan, model, batch_size=3)) == 0
    ran_by(COMPILE, scan, model, batch_size=3)
    assert given == [False], "once per process"
