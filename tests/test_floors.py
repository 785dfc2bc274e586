"""A module imports only from floors above its own, or from its own package; nothing in circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS = (
    ("errors",),
    (
        "choices",
        "contrasts",
        "files",
        "config",
        "geometry",
        "nifti",
        "resolution",
        "networks",
        "losses",
    ),
    ("conversions", "figures"),
    ("volume", "windows", "metrics"),
    ("normalise", "batch", "task", "simulate"),
    ("data", "systems"),
    ("model",),
    ("zoo",),
    ("training", "inference"),
    ("evaluation", "formats"),
    ("anomaly", "exchange"),
    ("report", "experiment", "preparation", "jobs"),
    ("cli",),
    ("__init__", "__main__"),
)
NEVER = {
    ("systems", "volume"): "systems see tensors in [-1, 1]",
    ("systems", "normalise"): "systems see tensors in [-1, 1]",
    ("systems", "windows"): "systems see tensors in [-1, 1]",
}
FLOOR_OF = {name: level for level, floor in enumerate(FLOORS) for name in floor}

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "medi2i").rglob("*.py"))
}


def _place(module: str) -> str:
    """`medi2i.data.pairs` -> `data`, the name that stands in the table."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module of medi2i, name taken from it or "") for every import, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "medi2i":
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names if (node.module or "").split(".")[0] == "medi2i" else ():
                inner = f"{node.module}.{alias.name}"
                if inner in FILES:
                    yield inner, ""
                else:
                    yield str(node.module), alias.name


GRAPH = {
    module: {other for other, name in _imports(path) if (other, name) != ("medi2i", "__version__")}
    for module, path in FILES.items()
}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_imports_only_from_above(module: str) -> None:
    place = _place(module)
    assert place in FLOOR_OF, f"{module} stands on no floor: add {place} to the table"
    for other in sorted(GRAPH[module]):
        theirs = _place(other)
        assert other in FILES, f"{module} imports {other}, which is not there"
        if theirs == place:
            continue
        assert FLOOR_OF[theirs] < FLOOR_OF[place], f"{module} imports {other} from below"
        assert (place, theirs) not in NEVER, f"{module}: {NEVER[place, theirs]}, not {other}"


def test_no_circles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def _public(path: Path) -> set[str] | None:
    """What `__all__` lists; None without one."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_says_what_is_public(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    content = [n for n in tree.body if not isinstance(n, ast.Expr | ast.Import | ast.ImportFrom)]
    if content and not module.endswith("__main__"):
        assert _public(FILES[module]) is not None, f"{module} has no __all__"


@pytest.mark.parametrize("story", sorted(p.name for p in (ROOT / "pipelines").glob("*.py")))
def test_stories_use_public_names(story: str) -> None:
    for module, name in _imports(ROOT / "pipelines" / story):
        public = _public(FILES[module])
        assert not name or (public is not None and name in public), f"{name} of {module}"
