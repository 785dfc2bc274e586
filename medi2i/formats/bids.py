"""What BIDS wants of a folder of derivatives."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medi2i import __version__
from medi2i.errors import UsageError
from medi2i.files import write_whole

__all__ = ["RAW", "describe_dataset", "uri_of"]

VERSION = "1.10.0"
RAW = "raw"
"""What derivatives call the data set that they come from."""
DESCRIPTION = "dataset_description.json"
IGNORED = ".bidsignore"


def describe_dataset(
    root: Path,
    name: str,
    command: str,
    raw: Path | None = None,
    *,
    readme: str = "",
    ignored: Sequence[str] = (),
) -> None:
    """Say at the top of a folder of derivatives what made it, where nothing says so yet.

    Args:
        name: of the data set.
        command: that made it.
        raw: the data set that it comes from; it is linked by its place relative to `root`.
        readme: what a person should know of it.
        ignored: patterns of files that BIDS has no names for.

    Raises:
        UsageError: the folder is a data set of another kind.
    """
    place = root / DESCRIPTION
    if place.exists():
        if _read(place).get("DatasetType") != "derivative":
            raise UsageError(
                f'"{root}" is a BIDS data set, but not one of derivatives; another folder was '
                "expected"
            )
        return
    content: dict[str, Any] = {
        "Name": name,
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": command, "Version": __version__}],
    }
    if raw is not None:
        link = Path(os.path.relpath(raw, root)).as_posix()
        source = {"URL": link}
        told = _read(raw / DESCRIPTION)
        if isinstance(doi := told.get("DatasetDOI"), str):
            source["DOI"] = doi.removeprefix("doi:")
        content |= {"SourceDatasets": [source], "DatasetLinks": {RAW: link}}
    if readme and not any(root.glob("README*")):
        write_whole(root / "README.md", f"# {name}\n\n{readme}\n")
    if ignored and not (root / IGNORED).exists():
        write_whole(root / IGNORED, "\n".join(ignored) + "\n")
    write_whole(place, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def uri_of(path: Path, raw: Path) -> str:
    """The BIDS URI of a file of the data set that derivatives come from.

    >>> uri_of(Path("study/sub-1/anat/sub-1_T1w.nii.gz"), Path("study"))
    'bids:raw:sub-1/anat/sub-1_T1w.nii.gz'
    """
    return f"bids:{RAW}:{path.relative_to(raw).as_posix()}"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
