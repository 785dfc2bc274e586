from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medi2i.contrasts import Contrast
from medi2i.errors import ConfigError, ModelError
from medi2i.model import Model, build_system, read_model, read_record, read_task, write_model
from medi2i.task import Task, View

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
TASK = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
VIEW = View(slices=3, spacing=1.0)
ARGUMENTS = {"features": [2, 4], "norm": "batch"}

Edit = Callable[..., None]


def fresh(card: dict[str, Any] | None = None) -> Model:
    torch.manual_seed(0)
    system = build_system("unet", ARGUMENTS, TASK, VIEW)
    return Model("tiny", "unet", ARGUMENTS, TASK, VIEW, system, card=card or {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(fresh(), tmp_path / "tiny")


@pytest.fixture
def edit(folder: Path) -> Edit:
    """Changes what model.json says; None takes a key out."""

    def change(**changes: Any) -> None:
        path = folder / "model.json"
        record = json.loads(path.read_text()) | changes
        record = {key: value for key, value in record.items() if value is not None}
        path.write_text(json.dumps(record))

    return change


# ---- there and back


def test_a_model_comes_back_whole(tmp_path: Path) -> None:
    card = {"licence": "CC BY 4.0", "scores": {"ssim": 0.5}, "words": "Köpfe"}
    model = fresh(card)
    model.system.rounds += 7
    back = read_model(write_model(model, tmp_path / "a" / "b"))
    assert (back.name, back.system_name, back.task, back.view) == ("tiny", "unet", TASK, VIEW)
    assert back.arguments == ARGUMENTS
    assert back.normaliser == "robust"
    assert back.card == card
    assert back.parameters == model.parameters > 100
    assert not back.system.training
    for name, tensor in model.system.state_dict().items():
        assert torch.equal(back.system.state_dict()[name], tensor), name
    weights = (tmp_path / "a" / "b" / "weights.safetensors").read_bytes()
    assert back.sha256 == hashlib.sha256(weights).hexdigest()


def test_equal_models_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_model(fresh(), tmp_path / name)
    for file in ("weights.safetensors", "model.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_memory_order_does_not_matter(tmp_path: Path, folder: Path) -> None:
    model = fresh()
    model.system.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    write_model(model, tmp_path / "last")
    assert read_model(tmp_path / "last").sha256 == read_model(folder).sha256


def test_the_record_alone(folder: Path) -> None:
    record = read_record(folder)
    assert record["task"] == {
        "sources": ["T1w", "T2w", "FLAIR"],
        "targets": ["T1w", "T2w", "FLAIR"],
        "on_demand": True,
    }
    assert record["parameters"] == fresh().parameters
    assert read_task(folder) == TASK


def test_what_a_model_accepts() -> None:
    model = fresh()
    assert model.accepts((T1W,), FLAIR)
    assert not model.accepts((T1W,), T1W)
    assert not model.accepts((T1W, T2W), FLAIR)
    assert not model.accepts((T1W,), Contrast.PDW)


# ---- systems from words


def test_what_follows_from_task_and_view_may_not_be_given() -> None:
    with pytest.raises(ConfigError, match='"unet" give dims, slices, which follow from the task'):
        build_system("unet", {"slices": 3, "dims": 2}, TASK, VIEW)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "sentence"),
    [
        ("unett", {}, ModelError, r'system "unett" is not in the catalogue .* mean "unet"\?'),
        ("unet", {"feature": [1]}, ConfigError, r'key "feature"; did you mean "features"\?'),
        ("unet", {"features": "32"}, ConfigError, "features of arguments of system"),
        ("unet", {"norm": "layer"}, ConfigError, "'layer'; Input should be 'instance', 'batch'"),
        ("pix2pix", {"depth": 2.5}, ConfigError, "depth .* is 2.5"),
    ],
)
def test_bad_words(
    name: str, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        build_system(name, arguments, TASK, VIEW)


# ---- folders that are no model


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"does not exist; weights.safetensors and model.json were"
    ):
        read_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no model.json"):
        read_model(tmp_path)


def test_missing_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r'model ".*tiny" lacks weights.safetensors'):
        read_model(folder)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"\x00"])
def test_weights_that_model_json_does_not_vouch_for(
    folder: Path, change: Callable[[bytes], bytes]
) -> None:
    path = folder / "weights.safetensors"
    raw = path.read_bytes()
    path.write_bytes(change(raw[:-1] + b"\x01"))
    with pytest.raises(ModelError, match=r"sha256 \w{12}\.\.\., model.json promises \w{12}\.\.\."):
        read_model(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "holds list; an object was expected"),
        (b"{}", "lacks format, name, system, arguments, task, view"),
    ],
)
def test_records_that_are_none(folder: Path, text: bytes, sentence: str) -> None:
    (folder / "model.json").write_bytes(text)
    with pytest.raises(ModelError, match=sentence):
        read_model(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, 'model.json" has format 2; this version of medi2i reads 1'),
        ({"format": 2, "sha256": None}, "has format 2; this version"),  # before what it lacks
        ({"sha256": None, "card": None}, 'model.json" lacks sha256, card'),
        ({"arguments": [1]}, r'arguments in ".*model.json" is \[1\]; dict was expected'),
        ({"normaliser": "soft"}, 'normaliser in .* is "soft"; robust or none was expected'),
        ({"system": "unett"}, r'system "unett" is not in the catalogue .*did you mean "unet"\?'),
        ({"arguments": {"feature": [2]}}, r'unknown key "feature"; did you mean "features"\?'),
        ({"arguments": {"features": [2, "4"]}}, "describes no model that can be built: features"),
        ({"arguments": {"dims": 2}}, "dims, which follow from the task"),
        ({"task": {"sources": ["T1w"]}}, 'lacks the key "targets"'),
        ({"task": {"sources": ["T9w"], "targets": ["T2w"]}}, r"sources of task .*'T9w'"),
        ({"task": {"sources": ["T1w"], "targets": ["T1w"]}}, "both source and target"),
        ({"view": {"slice": 3}}, r'unknown key "slice"; did you mean "slices"\?'),
        ({"view": {"slices": 2}}, "slices is 2 with dims 2"),
    ],
)
def test_records_that_describe_no_model(
    folder: Path, edit: Edit, changes: dict[str, Any], sentence: str
) -> None:
    edit(**changes)
    with pytest.raises(ModelError, match=sentence):
        read_model(folder)


@pytest.mark.parametrize("change", ["more", "less", "shape", "not safetensors"])
def test_weights_of_another_network(folder: Path, edit: Edit, change: str) -> None:
    path = folder / "weights.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    first = next(name for name in state if name.endswith("conv.weight"))
    if change == "more":
        state["extra"] = torch.zeros(1)
    elif change == "less":
        del state[first]
    else:
        state[first] = state[first][:, :1].clone()
    raw = b"no" * 20 if change == "not safetensors" else safetensors.torch.save(state)
    path.write_bytes(raw)
    edit(sha256=hashlib.sha256(raw).hexdigest())
    with pytest.raises(ModelError, match=r'weights of model ".*" do not fit system "unet"'):
        read_model(folder)
