from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medi2i.contrasts import Contrast
from medi2i.data.augment import Augmentation
from medi2i.errors import CohortError, ConfigError, ContrastError, UsageError
from medi2i.experiment import Config, read_config, run_experiment
from medi2i.inference.translate import translate
from medi2i.model import build_system, read_model
from medi2i.task import Task, View
from medi2i.training.log import Progress
from medi2i.training.plan import Optimiser

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))

TINY: dict[str, Any] = {
    "system": "unet",
    "task": {"sources": ["t1", "T2w"], "targets": ["T1w", "t2"], "on_demand": True},
    "arguments": {"features": [4, 8], "norm": "batch"},
    "view": {"slices": 3},
    "data": {"size": 16, "augmentation": dict.fromkeys(Augmentation.__dataclass_fields__, 0.0)},
    "training": {
        "rounds": 4,
        "batch_size": 2,
        "log_every": 2,
        "validate_every": 2,
        "checkpoint_every": 2,
        "workers": 0,
        "players": {"regressor": {"name": "adamw", "lr": 0.01}},
    },
    "card": {"licence": "none"},
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A YAML file with TINY's content, but for the given keys; None takes one out."""

    def file(name: str = "tiny.yaml", **changes: Any) -> Path:
        content = {k: v for k, v in (TINY | changes).items() if v is not None}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content))
        return path

    return file


# ---- configurations


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_can_be_run(path: Path) -> None:
    config = read_config(path)
    with torch.device("meta"):
        system = build_system(config.system, config.arguments, config.task, config.view)
    assert set(config.training.players) <= set(system.players)


def test_there_are_configurations() -> None:
    assert CONFIGS


def test_words_become_a_run(write: Write) -> None:
    config = read_config(write("my run.yaml"))
    assert config.name == "my run"
    assert config.task == Task((T1W, T2W), (T1W, T2W), on_demand=True)
    assert config.view == View(slices=3)
    assert config.arguments == {"features": [4, 8], "norm": "batch"}
    assert config.training.players == {"regressor": Optimiser("adamw", lr=0.01)}
    assert not config.data.augmentation.active
    assert isinstance(config, Config)


def test_changes_replace_what_the_file_says(write: Write) -> None:
    config = read_config(write(), rounds=9, seed=None)
    assert (config.training.rounds, config.training.seed) == (9, 0)
    assert read_config(write(training=None), rounds=3).training.rounds == 3


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"taks": 1}, ConfigError, 'tiny.yaml" has the unknown key "taks"; did you mean "task"'),
        ({"system": None}, ConfigError, 'lacks the key "system"'),
        ({"task": None}, ConfigError, 'lacks the key "task" with its sources and targets'),
        ({"task": {"sources": "T1w"}}, ConfigError, "sources of task .* a list of contrasts is"),
        ({"task": {"sources": ["T1w"]}}, ConfigError, "targets of task .* is None; a list"),
        ({"task": {"sources": ["t9"], "targets": ["t2"]}}, ContrastError, '"t9" is not a contrast'),
        (
            {"task": {"sources": ["t1"], "targets": ["t2"], "on_deman": True}},
            ConfigError,
            'unknown key "on_deman"; did you mean "on_demand"',
        ),
        ({"view": {"slices": 2}}, UsageError, "slices is 2 with dims 2"),
        ({"view": {"dim": 2}}, ConfigError, 'view of .* unknown key "dim"; did you mean "dims"'),
        ({"data": {"augmentation": {"flop": 1}}}, ConfigError, '"flop"; did you mean "flip"'),
        ({"training": [1]}, ConfigError, r"training of .* is \[1\]; keys and values"),
        ({"training": {"rounds": "many"}}, ConfigError, "rounds of training of .* is 'many'"),
        ({"training": {"rounds": 0}}, ConfigError, "rounds is 0; at least 1"),
        (
            {"training": {"players": {"regressor": {"lrr": 1}}}},
            ConfigError,
            'regressor in players of training .* unknown key "lrr"; did you mean "lr"',
        ),
        ({"validation": {"better": "mae"}}, ConfigError, "better .* is 'mae'; Input should be"),
    ],
)
def test_bad_configurations(
    write: Write, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        read_config(write(**changes))


# ---- runs


def stop(progress: Progress) -> None:
    """Watches a run, and ends it after three rounds."""
    if progress.played == 3:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, make_study: Any) -> Path:
    people = {"sub-1": "train", "sub-2": "train", "sub-3": "val", "sub-4": None}
    folder: Path = make_study(tmp_path_factory.mktemp("study"), people)
    return folder


def test_a_run_from_scans_to_a_model(write: Write, study: Path, tmp_path: Path) -> None:
    run, prepared, rounds = tmp_path / "run", [], []
    scores = run_experiment(
        read_config(write()),
        [study],
        run,
        device="cpu",
        cache=tmp_path / "cache",
        prepared=lambda *told: prepared.append(told),
        watch=lambda progress: rounds.append(progress.played),
    )
    assert prepared == [(1, 2, "sub-1"), (2, 2, "sub-2")]
    assert rounds == [1, 2, 3, 4]
    routes = ("T1w-T2w", "T2w-T1w")
    names = ("psnr", "ssim", "mae")
    assert set(scores) >= {*names, *(f"{route}/{name}" for route in routes for name in names)}
    mean = sum(scores[f"{route}/ssim"] for route in routes) / 2
    assert scores["ssim"] == pytest.approx(mean)
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        f"round-{played:07d}_{route}.png" for played in (2, 4) for route in routes
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 2

    best, last = read_model(run / "best"), read_model(run / "last")
    assert last.name == "tiny"
    assert last.card == {
        "licence": "none",
        "subjects": ["sub-1", "sub-2"],
        "scans": {"in_plane_mm": [1.0, 1.0], "slices_mm": [1.0, 1.0]},
        "rounds": 4,
    }
    assert best.card["rounds"] in (2, 4)
    scan = study / "sub-3" / "anat" / "sub-3_T1w.nii"
    assert translate(scan, to="t2", model=run / "best", device="cpu").shape == (24, 20, 12)

    with (run / "log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["name"] for row in rows if row["round"] == "4"} >= {
        "rate",
        "regressor/error",
        "val/ssim",
        "val/T1w-T2w/psnr",
    }
    again = yaml.safe_load((run / "config.yaml").read_text())
    assert again["training"]["rounds"] == 4
    assert again["task"]["sources"] == ["T1w", "T2w"]


def test_the_remembered_configuration_is_one(write: Write, study: Path, tmp_path: Path) -> None:
    config = read_config(write(), rounds=1)
    run_experiment(config, [study], tmp_path / "run", device="cpu")
    assert read_config(tmp_path / "run" / "config.yaml") == config


def test_another_configuration_may_not_go_on(write: Write, study: Path, tmp_path: Path) -> None:
    run_experiment(read_config(write(), rounds=1), [study], tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="holds a run with another configuration"):
        run_experiment(read_config(write(), rounds=2), [study], tmp_path / "run", device="cpu")


def test_a_run_that_was_stopped_goes_on(write: Write, study: Path, tmp_path: Path) -> None:
    config = read_config(write())

    run_experiment(config, [study], tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, [study], tmp_path / "parts", device="cpu", watch=stop)
    run_experiment(config, [study], tmp_path / "parts", device="cpu")
    for name in ("last/weights.safetensors", "last/model.json", "log.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ---- runs that begin with a model


def test_a_run_begins_where_a_model_ended(write: Write, study: Path, tmp_path: Path) -> None:
    run_experiment(read_config(write(), rounds=2), [study], tmp_path / "first", device="cpu")
    before = read_model(tmp_path / "first" / "last")
    still = {**TINY["training"], "players": {"regressor": {"name": "sgd", "lr": 0.0}}}
    start = str(tmp_path / "first" / "last")
    config = read_config(write(training=still), start=start, rounds=1)
    run_experiment(config, [study], tmp_path / "second", device="cpu")
    after = read_model(tmp_path / "second" / "last")
    for name, parameter in after.system.named_parameters():
        assert torch.equal(parameter, before.system.get_parameter(name)), name
    assert int(after.system.rounds) == 1  # counted from its own beginning
    assert after.card["start"] == "last"  # a name, and no path of this machine

    config = read_config(write(), start=start)
    run_experiment(config, [study], tmp_path / "third", device="cpu")
    moved = read_model(tmp_path / "third" / "last")
    weights = [model.system.state_dict() for model in (before, moved)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_that_was_stopped_does_not_begin_again(
    write: Write, study: Path, tmp_path: Path
) -> None:
    run_experiment(read_config(write(), rounds=1), [study], tmp_path / "first", device="cpu")
    config = read_config(write(), start=str(tmp_path / "first" / "best"))

    run_experiment(config, [study], tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, [study], tmp_path / "parts", device="cpu", watch=stop)
    shutil.rmtree(tmp_path / "first")  # it is not needed again
    run_experiment(config, [study], tmp_path / "parts", device="cpu")
    both = [tmp_path / run / "last" / "weights.safetensors" for run in ("whole", "parts")]
    assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": {"sources": ["T1w"], "targets": ["T2w"]}}, "and the run T1w -> T2w: name the"),
        ({"arguments": {"features": [8, 8], "norm": "batch"}}, r"run lacks features \[4, 8\]"),
        ({"view": {"slices": 1}}, "its view has 3 slices and dims 2"),
        ({"system": "starganv2", "arguments": {}}, 'is of system "unet", and the run of "stargan'),
    ],
)
def test_a_model_that_does_not_fit_begins_nothing(
    write: Write, study: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    run_experiment(read_config(write(), rounds=1), [study], tmp_path / "first", device="cpu")
    training = {**TINY["training"], "players": {}}
    config = read_config(
        write(**{"training": training, **changes}), start=str(tmp_path / "first" / "last")
    )
    with pytest.raises(ConfigError, match=sentence):
        run_experiment(config, [study], tmp_path / "second", device="cpu")
    assert not (tmp_path / "second").exists()


def test_what_is_shipped_can_be_trained_further(write: Write, study: Path, tmp_path: Path) -> None:
    """Also by people who have two of its five contrasts."""
    recipe = yaml.safe_load((CONFIGS[0].parent / "finetune.yaml").read_text())
    small = {**TINY["training"], "rounds": 1, "players": {}}
    data = {**recipe["data"], "size": 32}
    path = write(**{**recipe, "training": small, "data": data})
    scores = run_experiment(read_config(path), [study], tmp_path / "run", device="cpu")
    assert 0 < scores["T1w-T2w/ssim"] <= 1
    assert read_model(tmp_path / "run" / "last").card["start"] == "default"


def test_without_a_validation_split_nothing_is_scored(
    write: Write, tmp_path: Path, make_study: Any
) -> None:
    study = make_study(tmp_path / "study", {"sub-1": None})
    scores = run_experiment(read_config(write(), rounds=2), [study], tmp_path / "run", device="cpu")
    assert scores == {}
    weights = [tmp_path / "run" / name / "weights.safetensors" for name in ("best", "last")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "run" / "samples").exists()


def test_several_sources_and_targets_in_3d(write: Write, tmp_path: Path, make_study: Any) -> None:
    people = {"sub-1": "train", "sub-2": "val"}
    contrasts = ("T1w", "T2w", "FLAIR", "PDw")
    study = make_study(tmp_path / "study", people, contrasts, shape=(16, 16, 12))
    config = read_config(
        write(
            task={"sources": ["T1w", "FLAIR"], "targets": ["T2w", "PDw"]},
            view={"dims": 3, "patch": 12},
            system="pix2pix",
            arguments={"depth": 3, "features": 2, "patch": 1},
            training={**TINY["training"], "rounds": 2, "players": {"discriminator": {"lr": 0.01}}},
        )
    )
    scores = run_experiment(config, [study], tmp_path / "run", device="cpu")
    assert {"T1w+FLAIR-T2w/ssim", "T1w+FLAIR-PDw/ssim"} <= set(scores)
    model = read_model(tmp_path / "run" / "last")
    assert model.task == Task((T1W, FLAIR), (T2W, Contrast.PDW))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"validation": {"protocol": "brian-3d"}}, UsageError, "brian-3d"),
        ({"arguments": {"featurs": [1]}}, ConfigError, 'unknown key "featurs"'),
        (
            {"task": {"sources": ["T1w"], "targets": ["FLAIR"]}},
            CohortError,
            "none of 2 subjects has T1w and FLAIR; found: T1w 2, T2w 2",
        ),
        ({"training": {"players": {"regresor": {}}}}, ConfigError, 'did you mean "regressor"'),
    ],
)
def test_what_stops_a_run_at_the_door(
    write: Write,
    study: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        run_experiment(read_config(write(**changes)), [study], tmp_path / "run", device="cpu")


def test_a_run_that_never_began_may_begin_otherwise(
    write: Write, study: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training = {**TINY["training"], "rounds": 1, "players": {"regresor": {}}}
    with pytest.raises(ConfigError, match="regressor"):
        run_experiment(read_config(write(training=training)), [study], run, device="cpu")
    assert (run / "config.yaml").is_file()
    run_experiment(read_config(write(), rounds=1), [study], run, device="cpu")


def test_splits_without_a_train(write: Write, tmp_path: Path, make_study: Any) -> None:
    study = make_study(tmp_path / "study", {"sub-1": "training", "sub-2": "val"})
    with pytest.raises(CohortError, match='"train"; the splits found are training, val'):
        run_experiment(read_config(write()), [study], tmp_path / "run", device="cpu")


# ---- unpaired

UNPAIRED: dict[str, Any] = {
    "system": "revgan",
    "task": {"sources": ["T1w"], "targets": ["T2w"]},
    "arguments": {
        "objective": "unpaired", "depth": 1, "features": 4, "patch": 1, "patch_features": 4
    },
    "view": {"slices": 1},
    "training": {**TINY["training"], "players": {}},
}  # fmt: skip


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, make_study: Any) -> tuple[Path, Path]:
    """Two studies: T1w of some people, T2w of others, and both of one who is held back."""
    folder = tmp_path_factory.mktemp("halves")
    make_study(folder / "one", {"sub-1": "train", "sub-2": "train"}, ("T1w",))
    people = {"sub-5": "train", "sub-6": "train", "sub-9": "val"}
    make_study(folder / "two", people, ("T1w", "T2w"))
    for name in ("sub-5", "sub-6"):
        (folder / "two" / name / "anat" / f"{name}_T1w.nii").unlink()
    return folder / "one", folder / "two"


def test_a_run_without_pairs(write: Write, halves: tuple[Path, Path], tmp_path: Path) -> None:
    config = read_config(write(**UNPAIRED))
    told: list[str] = []
    scores = run_experiment(config, halves, tmp_path / "run", device="cpu", notice=told.append)
    assert {"ssim", "T1w-T2w/psnr"} <= set(scores)
    assert told == []
    card = read_model(tmp_path / "run" / "last").card
    assert card["subjects"] == ["sub-1", "sub-2", "sub-5", "sub-6"]
    assert card["unpaired"] == {"heights": "matching", "implicit": 0.0}

    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, halves, tmp_path / "parts", device="cpu", watch=stop)
    run_experiment(config, halves, tmp_path / "parts", device="cpu")
    for name in ("last/weights.safetensors", "log.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_how_unpaired_windows_are_drawn_matters(write: Write, study: Path, tmp_path: Path) -> None:
    """One study, split by itself into two halves; each setting is another run."""
    weights = set()
    settings: list[dict[str, Any]] = [{}, {"heights": "random"}, {"implicit": 1.0}]
    for number, more in enumerate(settings):
        config = read_config(write(**UNPAIRED, data={**TINY["data"], **more}), rounds=2)
        run_experiment(config, [study], tmp_path / str(number), device="cpu")
        weights.add((tmp_path / str(number) / "last" / "weights.safetensors").read_bytes())
    assert len(weights) == 3


def test_held_back_people_without_pairs_score_nothing(
    write: Write, tmp_path: Path, make_study: Any
) -> None:
    people = {"sub-1": "train", "sub-2": "train", "sub-3": "val"}
    study = make_study(tmp_path / "study", people)
    (study / "sub-3" / "anat" / "sub-3_T2w.nii").unlink()
    told: list[str] = []
    config = read_config(write(**UNPAIRED), rounds=1)
    scores = run_experiment(config, [study], tmp_path / "run", device="cpu", notice=told.append)
    assert scores == {}
    (sentence,) = told
    assert sentence.startswith('none of 1 subjects in split "val" has both ends of a translation')
    assert "(T1w -> T2w): nothing is scored" in sentence


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"heights": "any"}, "heights of data of .* is 'any'"),
        ({"allowed": "sub-1"}, "allowed of data of"),
    ],
)
def test_bad_words_on_unpaired_windows(write: Write, data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_config(write(**UNPAIRED, data=data))


def test_paired_systems_take_no_unpaired_settings(
    write: Write, study: Path, tmp_path: Path
) -> None:
    config = read_config(write(data={"heights": "random", "allowed": ["sub-1"]}))
    with pytest.raises(ConfigError, match="data has heights, allowed, which say how unpaired"):
        run_experiment(config, [study], tmp_path / "run", device="cpu")


def test_one_side_is_empty(write: Write, tmp_path: Path, make_study: Any) -> None:
    study = make_study(tmp_path / "study", {"sub-1": "train", "sub-2": "train"}, ("T1w",))
    with pytest.raises(CohortError, match=r"none of 2 subjects has T2w.*add people who have T2w"):
        run_experiment(read_config(write(**UNPAIRED)), [study], tmp_path / "run", device="cpu")


def test_a_run_from_before_a_setting_existed_goes_on(
    write: Write, study: Path, tmp_path: Path
) -> None:
    config = read_config(write(), rounds=1)
    run_experiment(config, [study], tmp_path / "run", device="cpu")
    path = tmp_path / "run" / "config.yaml"
    written = yaml.safe_load(path.read_text())
    del written["data"]["heights"]
    path.write_text(yaml.safe_dump(written))
    run_experiment(config, [study], tmp_path / "run", device="cpu")
    written["data"]["size"] = 32
    path.write_text(yaml.safe_dump(written))
    with pytest.raises(ConfigError, match="another configuration"):
        run_experiment(config, [study], tmp_path / "run", device="cpu")


# ---- guidance


def test_a_guided_run_goes_on_where_it_stopped(write: Write, study: Path, tmp_path: Path) -> None:
    guidance = {"weight": 4.0, "ramp": 0.5, "confidence": False}
    guided = read_config(write(guidance=guidance))
    plain = read_config(write(name="plain.yaml"))
    assert (guided.guidance.method, plain.guidance.weight) == ("demons", 0)
    cache = tmp_path / "cache"
    run_experiment(guided, [study], tmp_path / "whole", device="cpu", cache=cache)
    run_experiment(plain, [study], tmp_path / "plain", device="cpu", cache=cache)
    with (tmp_path / "whole" / "log.csv").open() as stream:
        logged = {row["name"] for row in csv.DictReader(stream)}
    assert "regressor/guidance" in logged

    with pytest.raises(KeyboardInterrupt):
        run_experiment(guided, [study], tmp_path / "parts", device="cpu", cache=cache, watch=stop)
    run_experiment(guided, [study], tmp_path / "parts", device="cpu", cache=cache)
    weights = [
        (tmp_path / run / "last" / "weights.safetensors").read_bytes()
        for run in ("whole", "parts", "plain")
    ]
    assert weights[0] == weights[1] != weights[2]


def test_a_run_of_patches_is_guided(write: Write, study: Path, tmp_path: Path) -> None:
    solid = write(guidance={"ramp": 0.0}, view={"dims": 3, "patch": 16})
    run_experiment(read_config(solid), [study], tmp_path / "run", device="cpu")
    with (tmp_path / "run" / "log.csv").open() as stream:
        logged = [row["value"] for row in csv.DictReader(stream) if "guidance" in row["name"]]
    assert logged
    assert all(float(value) > 0 for value in logged)


def test_a_setting_of_guidance_that_there_is_not(write: Write) -> None:
    with pytest.raises(ConfigError, match="strength"):
        read_config(write(guidance={"strength": 1.0}))
