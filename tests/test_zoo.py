from __future__ import annotations

import os
from pathlib import Path

import pytest

from medi2i import zoo
from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, ModelError
from medi2i.model import Model, build_system, read_model, write_model
from medi2i.task import Task, View

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
ANY = Task((T1W, T2W), (T1W, T2W, FLAIR), on_demand=True)


def put(folder: Path, task: Task) -> Path:
    arguments = {"features": [2, 2]}
    system = build_system("unet", arguments, task, View())
    return write_model(Model(folder.name, "unet", arguments, task, View(), system), folder)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two: any-to-any, and one that needs two contrasts."""
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    put(tmp_path / "zoo" / "default", ANY)
    put(tmp_path / "zoo" / "pair", Task((T1W, FLAIR), (T2W,)))
    return tmp_path / "zoo"


def test_shipped_models_by_name(shelf: Path) -> None:
    assert zoo.shipped() == {"default": shelf / "default", "pair": shelf / "pair"}
    assert zoo.load_model("pair").name == "pair"


def test_any_folder_is_a_model_too(shelf: Path, tmp_path: Path) -> None:
    own = put(tmp_path / "mine", ANY)
    assert zoo.load_model(own).name == "mine"
    assert zoo.load_model(str(own)).task == ANY


def test_a_name_that_is_neither(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError,
        match=r'"defalt" is neither a shipped model \(default, pair\) nor a folder; '
        r'did you mean "default"\?',
    ):
        zoo.load_model("defalt")
    with pytest.raises(ModelError, match='runs/best" does not exist'):
        zoo.load_model("runs/best")


def test_a_model_is_found_by_what_is_asked(shelf: Path) -> None:
    assert zoo.find_model([T1W], FLAIR) == "default"
    assert zoo.find_model([T1W, FLAIR], T2W) == "pair"
    assert zoo.find_model([FLAIR, T1W], T2W) == "pair"


@pytest.mark.parametrize(
    ("sources", "target"), [([FLAIR], T1W), ([T1W], PDW), ([T1W, T2W], FLAIR), ([T1W, FLAIR], PDW)]
)
def test_what_no_model_does(shelf: Path, sources: list[Contrast], target: Contrast) -> None:
    with pytest.raises(
        ContrastError,
        match=r"no shipped model turns .* into .*; there is default: any of T1w, T2w -> any of "
        r"T1w, T2w, FLAIR; pair: T1w\+FLAIR -> T2w\. Train one, or name one with --model",
    ):
        zoo.find_model(sources, target)


def test_an_empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(ContrastError, match=r"there is none. Train one"):
        zoo.find_model([T1W], T2W)
    with pytest.raises(ModelError, match=r"shipped model \(none\) nor a folder"):
        zoo.folder_of("default")


def test_what_ships_is_whole() -> None:
    for name, folder in zoo.shipped().items():
        model = read_model(folder)
        assert model.name == name
        assert model.card


def test_where_converted_networks_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt":
        pytest.skip("the rules of other systems")
    monkeypatch.delenv("MEDI2I_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert zoo.cache_folder() == tmp_path / "xdg" / "medi2i"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert zoo.cache_folder() == tmp_path / ".cache" / "medi2i"
    monkeypatch.setenv("MEDI2I_CACHE", str(tmp_path / "here"))
    assert zoo.cache_folder() == tmp_path / "here"
