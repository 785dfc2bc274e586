from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import ConfigError, TrainingError
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.training.log import Progress
from medi2i.training.plan import Optimiser, Plan
from medi2i.training.trainer import Trainer

SGD = Optimiser("sgd", lr=0.1, momentum=0.0)


class Scales(Translator):
    """Two numbers that play in turn: each is pulled towards the batch's mean."""

    paper = Paper("none")
    pairing = Pairing.PAIRED
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {"first": ("one",), "second": ("two",)}

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for layer in (self.one, self.two):
            nn.init.ones_(layer.weight)

    def play(self, batch: Batch) -> Iterator[Turn]:
        aim = batch.source.mean()
        for player, layer in (("first", self.one), ("second", self.two)):
            yield Turn(player, error=0.5 * (layer.weight - aim).square().sum())

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        return source * self.one.weight


def supply_of(*values: float, subjects: tuple[str, ...] = ()) -> Callable[[int], Iterator[Batch]]:
    """Round n sees value n, over and over."""

    def supply(start: int) -> Iterator[Batch]:
        number = start
        while True:
            image = torch.full((1, 1, 2, 2), values[number % len(values)])
            yield Batch(image, image, subjects=subjects)
            number += 1

    return supply


def plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "rounds": 4,
        "optimiser": SGD,
        "schedule": "constant",
        "average": 0.0,
        "log_every": 0,
        "validate_every": 0,
        "checkpoint_every": 0,
        **changes,
    }
    return Plan(**given)


def trained(folder: Path, values: tuple[float, ...] = (0.0,), **more: Any) -> Trainer:
    changes = {name: more.pop(name) for name in list(more) if name in Plan.__dataclass_fields__}
    trainer = Trainer(Scales(), supply_of(*values), plan(**changes), folder, **more)
    trainer.run()
    return trainer


def one(trainer: Trainer) -> float:
    return float(trainer.system.get_parameter("one.weight").detach())


def log(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "log.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["round", "name", "value"]
    return [(int(number), name, float(value)) for number, name, value in rows]


# ---- one round


def test_a_round_is_a_step_of_each_player(tmp_path: Path) -> None:
    trainer = trained(tmp_path, (0.0, 2.0), rounds=2)
    # 1 - 0.1 * (1 - 0) = 0.9, then 0.9 - 0.1 * (0.9 - 2) = 1.01
    assert one(trainer) == pytest.approx(1.01)
    assert float(trainer.system.get_parameter("two.weight").detach()) == pytest.approx(1.01)
    assert trainer.played == 2


def test_each_player_may_have_its_own_optimiser(tmp_path: Path) -> None:
    players = {"second": Optimiser("sgd", lr=1.0, momentum=0.0)}
    trainer = trained(tmp_path, rounds=1, players=players)
    assert one(trainer) == pytest.approx(0.9)
    assert float(trainer.system.get_parameter("two.weight").detach()) == 0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimiser_learns(tmp_path: Path, name: Any) -> None:
    trainer = trained(tmp_path, rounds=20, optimiser=Optimiser(name, lr=0.1, momentum=0.5))
    assert abs(one(trainer)) < 0.5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_learns(tmp_path: Path, precision: Any) -> None:
    trainer = trained(tmp_path, rounds=30, precision=precision)
    assert abs(one(trainer)) < 0.2


def test_gradients_are_clipped_to_a_norm(tmp_path: Path) -> None:
    trainer = trained(tmp_path, (-99.0,), rounds=1, clip=0.5)  # the gradient is 100
    assert one(trainer) == pytest.approx(1 - 0.1 * 0.5, abs=1e-5)
    assert one(trained(tmp_path, (0.9,), rounds=1, clip=0.5)) == pytest.approx(1 - 0.1 * 0.1)


def test_the_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    trained(tmp_path, rounds=4, schedule="poly", warmup=2, log_every=1)
    rates = [value for _, name, value in log(tmp_path) if name == "rate"]
    assert rates == pytest.approx([0.5, 1.0, 0.5**0.9, 0.25**0.9])
    trainer = trained(tmp_path / "again", rounds=2, schedule="linear", values=(0.0,))
    assert one(trainer) == pytest.approx(0.9 * 0.9)


# ---- averages


def test_the_moving_average_by_hand(tmp_path: Path) -> None:
    trainer = trained(tmp_path, (0.0, 2.0, -1.0), rounds=3, average=0.25)
    weight, average = 1.0, 1.0
    for played, aim in enumerate((0.0, 2.0, -1.0), start=1):
        weight -= 0.1 * (weight - aim)
        decay = min(0.25, (1 + played) / (10 + played))  # 2/11, 3/12, 0.25
        average = decay * average + (1 - decay) * weight
    assert float(trainer.average["one.weight"]) == pytest.approx(average, rel=1e-6)
    assert one(trainer) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_averaged_weights_are_lent_and_taken_back(tmp_path: Path, average: float) -> None:
    trainer = trained(tmp_path, average=average)
    own = trainer.system.get_parameter("one.weight")
    memory, value = own.data_ptr(), one(trainer)
    with trainer.averaged() as system:
        assert not system.training
        expected = float(trainer.average["one.weight"]) if average else value
        assert one(trainer) == expected
        system.to(torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert (own.data_ptr(), one(trainer)) == (memory, value)
    assert trainer.system.training


# ---- logs, scores, what is kept


def test_the_log_holds_means_between_its_rows(tmp_path: Path) -> None:
    trained(tmp_path, (1.0, 3.0, 1.0), rounds=3, log_every=2)
    # losses 0, 2, then (1.2 - 1)^2 / 2 = 0.02; the last round always has a row
    assert log(tmp_path) == [
        (2, "rate", 1.0),
        (2, "first/error", pytest.approx(1.0)),
        (2, "second/error", pytest.approx(1.0)),
        (3, "rate", 1.0),
        (3, "first/error", pytest.approx(0.02)),
        (3, "second/error", pytest.approx(0.02)),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.3])
    seen: list[float] = []
    kept: list[tuple[str, float]] = []

    def validate(system: Translator, played: int) -> dict[str, float]:
        seen.append(played)
        return {"ssim": next(scores), "psnr": float(played)}

    trainer = trained(
        tmp_path,
        rounds=5,
        average=0.5,
        log_every=4,
        validate_every=2,
        validate=validate,
        keep=lambda system, what: kept.append(
            (what, float(system.get_parameter("one.weight").detach()))
        ),
    )
    assert seen == [2, 4, 5]
    assert [what for what, _ in kept] == ["best", "best", "last"]
    assert kept[-1][1] == float(trainer.average["one.weight"])
    assert trainer.scores == {"ssim": 0.3, "psnr": 5.0}
    assert trainer.best == 0.5
    rows = [(played, name) for played, name, _ in log(tmp_path) if name.startswith("val/")]
    assert rows == [(n, f"val/{name}") for n in (2, 4, 5) for name in ("ssim", "psnr")]


def test_where_nothing_is_validated_the_last_is_the_best(tmp_path: Path) -> None:
    kept: list[str] = []
    trained(tmp_path, keep=lambda system, what: kept.append(what))
    assert kept == ["last", "best"]


def test_a_score_to_choose_by_that_never_comes(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='no "dice" to choose the best weights by; it gave ssi'):
        trained(tmp_path, validate_every=1, validate=lambda *_: {"ssim": 1.0}, better="dice")


def test_validation_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    def validate(system: Translator, played: int) -> dict[str, float]:
        return {"ssim": float(torch.rand(()))}

    trainer = Trainer(Scales(), supply_of(0.0), plan(validate_every=1), tmp_path, validate=validate)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trainer.run()
    assert torch.equal(torch.rand(3), expected)


def test_a_watcher_is_told_every_round(tmp_path: Path) -> None:
    told: list[Progress] = []
    trained(tmp_path, rounds=3, log_every=2, watch=told.append)
    assert [(p.played, p.rounds, bool(p.losses)) for p in told] == [
        (1, 3, False),
        (2, 3, True),
        (3, 3, True),
    ]
    assert all(p.rounds_per_second > 0 and 0 <= p.waiting <= 1 for p in told)


# ---- runs that cannot go on


def test_a_loss_that_is_not_finite_names_the_turn_and_the_people(tmp_path: Path) -> None:
    supply = supply_of(0.0, 0.0, math.nan, subjects=("sub-1", "sub-7"))
    trainer = Trainer(Scales(), supply, plan(checkpoint_every=1), tmp_path)
    with pytest.raises(
        TrainingError,
        match=r'round 2, turn of "first": a loss is not finite \(error nan\); '
        r'subjects in the batch: sub-1, sub-7\. ".*checkpoint\.pt" is whole and holds round 2: ',
    ):
        trainer.run()
    again = Trainer(Scales(), supply_of(0.0), plan(checkpoint_every=1), tmp_path)
    again.run()
    assert one(again) == pytest.approx(0.9**4)


class Steep(Scales):
    """A finite loss with an infinite slope."""

    def play(self, batch: Batch) -> Iterator[Turn]:
        yield Turn("second", root=(self.two.weight - 1).abs().sqrt().sum())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tmp_path: Path, clip: float | None
) -> None:
    system = Steep()
    trainer = Trainer(system, supply_of(0.0), plan(clip=clip), tmp_path)
    with pytest.raises(TrainingError, match='turn of "second": a gradient is not finite'):
        trainer.run()
    assert float(system.two.weight.detach()) == 1


def test_an_optimiser_for_nobody(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='unknown player "secnd"; did you mean "second"'):
        trained(tmp_path, players={"secnd": SGD})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rounds": 0}, "rounds is 0; at least 1 was expected"),
        ({"batch_size": 0}, "batch_size is 0; at least 1"),
        ({"log_every": -1}, "log_every is -1; at least 0"),
        ({"average": 1.0}, "average is 1; 0 <= average < 1"),
        ({"clip": 0.0}, "clip is 0; more than 0"),
    ],
)
def test_plans_that_no_run_can_follow(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan(**changes)


# ---- going on


def stopped(folder: Path, after: int, **changes: Any) -> None:
    """A run that ends in the middle, after its round `after`."""

    def watch(progress: Progress) -> None:
        if progress.played == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(folder, VALUES, watch=watch, **changes)


VALUES = (0.0, 2.0, -1.0, 0.5, 3.0)
LONG: dict[str, Any] = {
    "rounds": 10,
    "average": 0.9,
    "log_every": 4,
    "checkpoint_every": 3,
    "schedule": "cosine",
    "optimiser": Optimiser(lr=0.05),
}


@pytest.mark.parametrize("after", [[2], [3], [4, 5, 8], [9]], ids=str)
def test_a_resumed_run_ends_with_the_same_log_and_weights(tmp_path: Path, after: list[int]) -> None:
    """Checkpoints fall between rows of the log, so half-summed losses have to survive too."""
    whole = trained(tmp_path / "whole", VALUES, **LONG)
    for number in after:
        stopped(tmp_path / "parts", number, **LONG)
    resumed = trained(tmp_path / "parts", VALUES, **LONG)
    assert one(resumed) == one(whole)
    assert torch.equal(resumed.average["one.weight"], whole.average["one.weight"])
    logs = [(tmp_path / name / "log.csv").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    first = trained(tmp_path, VALUES, **LONG)
    before = (tmp_path / "log.csv").read_bytes()
    kept: list[str] = []
    again = trained(tmp_path, VALUES, keep=lambda system, what: kept.append(what), **LONG)
    assert (again.played, one(again)) == (10, one(first))
    assert (tmp_path / "log.csv").read_bytes() == before
    assert "last" in kept


def test_rows_beyond_the_checkpoint_and_half_rows_are_cut(tmp_path: Path) -> None:
    stopped(tmp_path, 5, **{**LONG, "log_every": 1})  # the checkpoint is of round 3
    assert max(number for number, _, _ in log(tmp_path)) == 5
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write("5,first/err")
    stopped(tmp_path, 4, **{**LONG, "log_every": 1})
    assert [number for number, name, _ in log(tmp_path) if name == "rate"] == [1, 2, 3, 4]


def test_the_past_is_on_disk_before_the_first_new_row(tmp_path: Path) -> None:
    stopped(tmp_path, 4, **{**LONG, "log_every": 3})
    seen: list[int] = []

    def supply(start: int) -> Iterator[Batch]:
        seen.append(len(log(tmp_path)))
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        Trainer(Scales(), supply, plan(**{**LONG, "log_every": 3}), tmp_path).run()
    assert seen == [3]


class Other(Scales):
    """The same players, another network."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Linear(2, 2)


def test_a_checkpoint_of_another_system(tmp_path: Path) -> None:
    trained(tmp_path, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r'checkpoint.pt" belongs to another system'):
        Trainer(Other(), supply_of(0.0), plan(), tmp_path).run()


def test_a_file_that_is_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="belongs to another system or configuration"):
        trained(tmp_path)
