"""Numbers: each precision beside float64, and what a run says that diverges."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.contrasts import Contrast
from medi2i.errors import TrainingError
from medi2i.model import build_system
from medi2i.systems.base import Translator, Turn
from medi2i.task import Task, View
from medi2i.training.checkpoint import load_checkpoint
from medi2i.training.plan import Optimiser
from medi2i.training.trainer import Trainer
from tests.cli.conftest import Call
from tests.conftest import MakeStudy
from tests.training.test_trainer import Scales, Steep, plan, supply_of

# ---- precisions

ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half the distance from 1 to the next number."""
IMAGES = 16.0
"""Roundoffs by which an image may differ from that of float64, in its norm; measured 2 to 12."""
GRADIENTS = {torch.float32: 128.0}
"""Likewise for gradients: measured 10 to 53. In half precision the absolute error's slope is of the
other sign for a share of the voxels that grows with the roundoff, so that a gradient's error grows
with its root."""
ROOTS = 8.0
"""Roots of the roundoff, in half precision; measured 0.8 to 6.8."""
SYSTEMS: dict[str, dict[str, Any]] = {
    "unet": {"features": (8, 16)},
    "pix2pix": {"depth": 3, "features": 8, "patch": 1},
    "cyclegan": {"features": 4, "blocks": 2, "patch": 1},
}


def system_of(name: str) -> Translator:
    torch.manual_seed(0)
    task = Task((Contrast.T1W,), (Contrast.T2W,))
    return build_system(name, SYSTEMS[name], task, View(dims=2, slices=1))


def batch_of() -> Batch:
    random = torch.Generator().manual_seed(1)
    source, target, weight = 2 * torch.rand(3, 2, 1, 32, 32, generator=random) - 1
    return Batch(source, target, weight.abs(), target_weight=weight.abs(), target_slab=target)


def exact(batch: Batch) -> Batch:
    made: dict[str, Any] = {
        f.name: value.double()
        for f in fields(batch)
        if isinstance(value := getattr(batch, f.name), Tensor)
    }
    return replace(batch, **made)


def worked_out(system: Translator, batch: Batch, scale: float) -> tuple[Tensor, Tensor]:
    """A translation, and the gradient of the first turn of a round, as one vector each.

    Args:
        scale: of the loss, as the trainer has it for float16.
    """
    system.eval()  # without dropout, which each precision would draw for itself
    image = system.translate(batch.source)
    turn = next(iter(system.play(batch)))
    parameters = system.parameters_of(turn.player)
    (turn.objective * scale).backward(inputs=parameters)
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    return image.detach().flatten().double(), torch.cat(gradients).double() / scale


@pytest.mark.parametrize("kind", ROUNDOFF, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_each_precision_is_as_near_to_float64_as_its_digits_allow(
    name: str, kind: torch.dtype
) -> None:
    system, batch = system_of(name), batch_of()
    reference = worked_out(copy.deepcopy(system).double(), exact(batch), 1.0)
    with torch.autocast("cpu", kind, enabled=kind is not torch.float32):
        found = worked_out(system, batch, 2.0**12 if kind is torch.float16 else 1.0)
    image, gradient = (
        float((one - true).norm() / true.norm()) for one, true in zip(found, reference, strict=True)
    )
    roundoff = ROUNDOFF[kind]
    assert 0 < image < IMAGES * roundoff
    assert 0 < gradient < GRADIENTS.get(kind, ROOTS / roundoff**0.5) * roundoff


# ---- runs that diverge


class Leap(Scales):
    """Pulled gently for two rounds, then away beyond all numbers, by a finite gradient."""

    def play(self, batch: Batch) -> Iterator[Turn]:
        del batch
        yield Turn("second", leap=self.two.weight.sum() * (1e38 if self.rounds >= 2 else 1e-9))


def test_weights_that_are_not_finite_never_reach_a_checkpoint(tmp_path: Path) -> None:
    steep = Optimiser("sgd", lr=1e3, momentum=0.0)
    trainer = Trainer(Leap(), supply_of(0.0), plan(optimiser=steep, checkpoint_every=1), tmp_path)
    with pytest.raises(
        TrainingError, match=r"round 3, weights two\.weight are not .*\.pt\" is whole and holds r"
    ):
        trainer.run()
    kept = load_checkpoint(tmp_path / "checkpoint.pt")["system"]
    assert int(kept["rounds"]) == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())


def test_float16_gives_up_when_no_scale_does(tmp_path: Path) -> None:
    """Its scaler skips rounds whose gradients are not finite: not for ever."""
    trainer = Trainer(Steep(), supply_of(0.0), plan(precision="float16", rounds=99), tmp_path)
    with pytest.raises(TrainingError, match=r"round 40, .*however the loss is scaled, is not fini"):
        trainer.run()
    assert float(trainer.system.get_parameter("two.weight").detach()) == 1


RUN = """
system: unet
task: {sources: [T1w], targets: [T2w]}
arguments: {features: [4, 8]}
data: {size: 16}
training: {rounds: 40, batch_size: 1, workers: 0, log_every: 1, validate_every: 0,
  checkpoint_every: 1, schedule: constant, optimiser: {name: sgd, lr: 1.0e+8, momentum: 0.0}}
"""


def test_a_run_that_diverges_on_the_command_line(
    call: Call, make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "study", {"sub-1": "train"})
    (tmp_path / "run.yaml").write_text(RUN)
    answer = call("train", tmp_path / "run.yaml", "--data", study, "-o", tmp_path / "run", "-q")
    assert answer.code == 3
    said = " ".join(answer.err.split())
    assert said.startswith("error: round ")
    assert "not finite" in said
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["system"]
    assert f'checkpoint.pt" is whole and holds round {int(kept["rounds"])}' in said
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())
