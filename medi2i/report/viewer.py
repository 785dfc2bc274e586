"""NiiVue, the viewer in a page, taken out of the installed package ipyniivue; never downloaded.

ipyniivue's own script is made for Jupyter. Within it lies NiiVue as one module, percent-encoded,
which it writes into the pages that it saves: that module is taken. (NiiVue: BSD-2-Clause,
doi 10.5281/zenodo.5786269.)
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote

__all__ = ["HOW", "PACKAGE", "Viewer", "extract", "find_viewer"]

PACKAGE = "ipyniivue"
HOW = (
    "For scrolling and blending install the viewer, pip install medi2i[report], and make this "
    "page again."
)
"""How to get the viewer."""

# What encodeURIComponent leaves, in a literal longer than any message.
_ENCODED = re.compile(r'"([A-Za-z0-9%_.!~*\'()-]{200000,})"')
_EXPORTS = re.compile(r"export\s*\{[^}]*\bNiivue\b[^}]*\};?\s*$")


@dataclass(frozen=True)
class Viewer:
    """NiiVue.

    Attributes:
        code: an ECMAScript module that exports `Niivue` and `NVImage`, gzip-compressed.
        version: of the package that it was found in.
        licence: its text, which goes wherever the code goes.
    """

    code: bytes
    version: str
    licence: str


def extract(script: str) -> str | None:
    """The module within ipyniivue's script; None where there is none."""
    for literal in _ENCODED.finditer(script):
        module = unquote(literal.group(1))
        if _EXPORTS.search(module[-4000:]):
            return module
    return None


@cache
def find_viewer() -> Viewer | None:
    """The viewer of this installation; None where it has none. The package is not imported."""
    spec = util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    script = Path(next(iter(spec.submodule_search_locations))) / "static" / "widget.js"
    try:
        module = extract(script.read_text(encoding="utf-8"))
        distribution = metadata.distribution(PACKAGE)
    except (OSError, UnicodeDecodeError, metadata.PackageNotFoundError):
        return None
    if module is None:
        return None
    licences = [
        str(file.read_text()) for file in distribution.files or () if file.name == "LICENSE"
    ]
    return Viewer(
        gzip.compress(module.encode(), mtime=0),
        distribution.version,
        licences[0] if licences else "NiiVue, BSD 2-Clause License",
    )
