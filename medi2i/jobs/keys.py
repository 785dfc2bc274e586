"""What a result was made of, in its side-car: whoever runs the same again finds it done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medi2i.errors import OutputError
from medi2i.formats.names import beside
from medi2i.formats.synthetic import Files
from medi2i.jobs.plan import Job, Options
from medi2i.model import Model

__all__ = ["KEY", "changes", "key_of"]

KEY = "MadeOf"


def key_of(job: Job, model: Model, options: Options) -> dict[str, Any]:
    """All that the voxels of a result depend on, but for rounding.

    Not in it: engine, device, size of batches, number of threads; version of medi2i, so that a
    correction in another place does not make a cohort worthless: --overwrite makes it anew.
    """
    return {
        "Sources": {str(contrast): scan.sha256 for contrast, scan in job.sources.items()},
        "Model": model.sha256,
        "Target": str(options.target),
        "Volume": options.volume,
        "Samples": options.samples,
        "Uncertainty": options.uncertainty,
        "Quality": options.quality,
        "Seed": options.seed,
        "Type": options.dtype,
    }


def changes(files: Files, key: Mapping[str, Any]) -> list[str] | None:
    """What has to be said before a result is made: nothing for a new one.

    Returns:
        None where it is there, made of the same; else the names of what is not the same.

    Raises:
        OutputError: something is there that does not say what it was made of.
    """
    if not any(scan.exists() for scan in files.scans):
        return []
    try:
        record = json.loads(beside(files.output, ".json").read_text(encoding="utf-8"))
        before = record[KEY]
        changed = [name for name, value in key.items() if before.get(name) != value]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise OutputError(
            f'"{files.output}" exists, and its side-car does not say what it was made of; give '
            "--overwrite to replace it"
        ) from None
    if changed:
        return changed
    return None if all(path.exists() for path in files.paths) else ["Files"]
