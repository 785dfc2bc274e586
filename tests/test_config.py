from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from medi2i.config import build, checked, read_yaml, unknown
from medi2i.contrasts import Contrast
from medi2i.errors import ConfigError, MissingFileError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    steps: int = 3


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    each: Mapping[str, Inner] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    loud: bool = False
    contrasts: tuple[Contrast, ...] = ()
    anything: Mapping[str, Any] = field(default_factory=dict)


def made(**given: Any) -> Outer:
    return build(Outer, {"name": "x", **given}, where='"run.yaml"')


def test_values_become_what_is_annotated() -> None:
    outer = made(
        inner={"rate": 1},
        each={"g": {"steps": 5}, "d": Inner(2.0)},
        sizes=[1, 2],
        pair=[0, 1],
        contrasts=["T1w", "FLAIR"],
        limit=3,
        anything={"deep": [1, {"x": None}]},
    )
    assert outer == Outer(
        "x",
        Inner(1.0),
        {"g": Inner(steps=5), "d": Inner(2.0)},
        (1, 2),
        (0.0, 1.0),
        contrasts=(Contrast.T1W, Contrast.FLAIR),
        limit=3.0,
        anything={"deep": [1, {"x": None}]},
    )
    assert isinstance(outer.inner.rate, float)
    assert made(limit=None).limit is None


def test_what_is_built_already_is_left_as_it_is() -> None:
    inner = Inner(rate=0.5)
    assert made(inner=inner, sizes=(4,)) == Outer("x", inner, sizes=(4,))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nmae": "y"}, r'"run.yaml" has the unknown key "nmae"; did you mean "name"\?'),
        ({"zzz": 1}, 'unknown key "zzz"; known are name, inner, each'),
        ({"inner": {"stpes": 1}}, r'inner of "run.yaml" has .* "stpes"; did you mean "steps"\?'),
        ({"each": {"g": {"rat": 1}}}, r'g in each of "run.yaml" has .* did you mean "rate"\?'),
        ({1: 2}, 'unknown key "1"'),
    ],
)
def test_unknown_keys_name_the_nearest(given: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build(Outer, {"name": "x", **given}, where='"run.yaml"')


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"inner": {"steps": "3"}}, "steps of inner of .* is '3'; Input should be a valid integer"),
        ({"inner": {"steps": 2.5}}, "steps of inner of .* is 2.5; Input should be a valid integer"),
        ({"inner": {"steps": True}}, "steps .* is True; Input should be a valid integer"),
        ({"inner": {"rate": "0.1"}}, "rate .* is '0.1'; Input should be a valid number"),
        ({"inner": 3}, 'inner of "run.yaml" is 3; Input should be'),
        ({"inner": None}, 'inner of "run.yaml" is None; Input should be'),
        ({"each": {"g": {"steps": "3"}}}, "steps of g in each of .* is '3'"),
        ({"sizes": ["1", "2"]}, r"sizes of .* is \['1', '2'\]; Input should be a valid integer"),
        ({"sizes": [True]}, "Input should be a valid integer"),
        ({"sizes": 3}, "sizes .* is 3; Input should be a valid array"),
        ({"pair": [1, 2, 3]}, "pair of .* is"),
        ({"kind": "c"}, "kind .* is 'c'; Input should be 'a' or 'b'"),
        ({"loud": "yes"}, "loud .* is 'yes'; Input should be a valid boolean"),
        ({"loud": 1}, "loud .* is 1; Input should be a valid boolean"),
        ({"name": 3}, "name .* is 3; Input should be a valid string"),
        ({"contrasts": ["T9w"]}, "contrasts of"),
        ({"limit": object()}, "no configuration can hold"),
    ],
)
def test_wrong_types(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(**given)


def test_a_missing_key() -> None:
    with pytest.raises(ConfigError, match=r'"run.yaml" lacks the key "name"'):
        build(Outer, {}, where='"run.yaml"')


def test_functions_are_checked_like_classes() -> None:
    def area(*, sides: Sequence[int], scale: float = 1.0) -> float:
        return scale * sides[0] * sides[1]

    assert build(area, {"sides": [2, 3], "scale": 2}, where="area") == 12
    assert checked(area, {"sides": (2, 3)}, where="area") == {"sides": [2, 3]}
    with pytest.raises(ConfigError, match='area has the unknown key "scal"; did you mean "scale"'):
        checked(area, {"sides": (2, 3), "scal": 1}, where="area")


def test_a_sentence_without_a_near_name_lists_what_is_known() -> None:
    assert unknown("key", "q", ["alpha", "beta"], where="it") == (
        'it has the unknown key "q"; known are alpha, beta'
    )


def test_numbers_that_yaml_1_1_takes_for_words(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-3\nbig: 2.5E+4\nword: 1e\nplain: 3\nhex: 0x10\n")
    assert read_yaml(path) == {"lr": 0.001, "big": 25000.0, "word": "1e", "plain": 3, "hex": 16}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"a: [1", "is not valid YAML"),
        (b"\xff\xfe", "is not valid YAML"),
        (b"- 1\n- 2\n", "holds list; keys and values were expected"),
        (b"", "holds NoneType; keys and values"),
        (b"!!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: bytes, sentence: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=sentence):
        read_yaml(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r'run.yaml" does not exist'):
        read_yaml(tmp_path / "run.yaml")
