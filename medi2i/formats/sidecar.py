"""Where a synthetic scan comes from, in a JSON file beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from medi2i import __version__
from medi2i.contrasts import Contrast
from medi2i.files import write_whole
from medi2i.formats.names import beside
from medi2i.inference.translate import Translation
from medi2i.model import Model

__all__ = ["Recorded", "Source", "as_text", "description", "provenance", "write_sidecar"]


class Recorded(Protocol):
    """A source that is more than one file."""

    def record(self) -> dict[str, Any]:
        """Its name and checksum."""


Source = Path | Recorded


def description(sources: Mapping[Contrast, Source], target: Contrast) -> str:
    """For the NIfTI header's `descrip`, at most 79 bytes.

    >>> description({Contrast.T1W: Path("x.nii")}, Contrast.T2W)
    'medi2i 0.1.0 T1w->T2w synthetic'
    """
    return f"medi2i {__version__} {'+'.join(map(str, sources))}->{target} synthetic"


def provenance(
    model: Model,
    sources: Mapping[Contrast, Source],
    target: Contrast,
    result: Translation,
    *,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """All that is needed to know, and to repeat, how a scan was made. File names, no folders."""
    return {
        "Synthetic": True,
        "Description": f"SYNTHETIC {target} computed from {' + '.join(map(str, sources))}; "
        "for research, not for diagnosis",
        "SourceContrast": [str(contrast) for contrast in sources],
        "TargetContrast": str(target),
        "Sources": [_record(source) for source in sources.values()],
        "Model": {
            "Name": model.name,
            "System": model.system_name,
            "Parameters": model.parameters,
            "SHA256": model.sha256,
        },
        "Normalisation": {
            "Method": model.normaliser,
            "Fitted": {name: scaling.as_dict() for name, scaling in result.scaling.items()},
            "OutputScale": str(next(iter(sources))),
        },
        "WorkingShape": list(result.working_shape),
        "Passes": list(result.passes),
        "Device": device,
        "Engine": dict(result.engine),
        "Seed": seed,
        "Warnings": list(result.warnings),
        "GeneratedBy": [
            {"Name": "medi2i", "Version": __version__},
            {"Name": "torch", "Version": str(torch.__version__)},
        ],
    }


def _record(source: Source) -> dict[str, Any]:
    if not isinstance(source, Path):
        return source.record()
    return {"Name": source.name, "SHA256": hashlib.sha256(source.read_bytes()).hexdigest()}


def write_sidecar(scan: Path, content: Mapping[str, Any]) -> Path:
    """Write `content` as JSON beside a scan."""
    return write_whole(beside(scan, ".json"), as_text(content))


def as_text(content: Mapping[str, Any]) -> str:
    """What a side-car holds, as JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
