"""medi2i: one MRI contrast of the brain into another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medi2i.contrasts import Contrast
    from medi2i.evaluation.evaluate import evaluate
    from medi2i.inference.samples import sample
    from medi2i.inference.translate import translate
    from medi2i.model import Model
    from medi2i.preparation.prepare import prepare
    from medi2i.volume import Volume, load_volume, save_volume
    from medi2i.zoo import load_model

__all__ = [
    "Contrast",
    "Model",
    "Volume",
    "__version__",
    "evaluate",
    "load_model",
    "load_volume",
    "prepare",
    "sample",
    "save_volume",
    "translate",
]

_HOMES = {
    "Contrast": "medi2i.contrasts",
    "Model": "medi2i.model",
    "Volume": "medi2i.volume",
    "evaluate": "medi2i.evaluation.evaluate",
    "load_model": "medi2i.zoo",
    "load_volume": "medi2i.volume",
    "prepare": "medi2i.preparation.prepare",
    "sample": "medi2i.inference.samples",
    "save_volume": "medi2i.volume",
    "translate": "medi2i.inference.translate",
}
"""Where each public name lives. Imported when first used, so that the command line's help does
not wait for torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
