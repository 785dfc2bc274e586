"""A finished translation on disk, with names that would like to be HTML."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medi2i.volume import Volume, load_volume, save_volume

SHAPE = (20, 26, 18)
AFFINE = np.array([[-2.0, 0, 0.3, 19], [0, 1.8, 0, -22], [0.3, 0, 2.2, 5], [0, 0, 0, 1]])
EVIL = "<script>window.hacked = 1</script>"
NAME = "sub-<script>window.hacked=1<_T1w.nii.gz"  # a file name takes all but a slash


@dataclass(frozen=True)
class Finished:
    """Where everything is."""

    folder: Path
    source: Path
    scan: Path
    reference: Path
    record: dict[str, Any]

    def volume(self, what: str) -> Volume:
        """One of the files, upright."""
        return load_volume(getattr(self, what)).canonical()


def waves(seed: int) -> Volume:
    """Something like a head: 0 outside, up to about 1000 inside."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    phase = np.random.default_rng(seed).uniform(0, 6, 3)[:, None, None, None]
    inside = np.square(grid * 1.2).sum(0) < 1
    return Volume.of(np.where(inside, 600 + 300 * np.sin(4 * grid + phase).mean(0), 0), AFFINE)


def finish(folder: Path, person: str = "", *, name: str = NAME) -> Finished:
    """Write source, synthetic scan with uncertainty, side-car, reference."""
    name = f"{person}_T1w.nii.gz" if person else name
    stem = person or "evil"
    source = save_volume(waves(1), folder / name)
    scan = save_volume(waves(2), folder / f"{stem}_desc-synth_T2w.nii.gz")
    map_ = save_volume(waves(3), folder / f"{stem}_desc-synth_T2w_uncertainty.nii.gz")
    reference = save_volume(waves(4), folder / f"{person or name[:-11]}_T2w.nii.gz")
    record = {
        "Synthetic": True,
        "Description": "SYNTHETIC T2w",
        "SourceContrast": ["T1w"],
        "TargetContrast": "T2w",
        "Sources": [{"Name": name, "SHA256": hashlib.sha256(source.read_bytes()).hexdigest()}],
        "Model": {"Name": f"unet {EVIL}", "SHA256": "0" * 64},
        "WorkingShape": list(SHAPE),
        "Warnings": [f"moved by 2 mm {EVIL}"],
    }
    for path, content in ((scan, record), (map_, {**record, "Map": "uncertainty"})):
        side = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
        side.write_text(json.dumps(content))
    return Finished(folder, source, scan, reference, record)


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """One translation."""
    return finish(tmp_path / "Jane Doe 1970-01-01")


class Parsed(HTMLParser):
    """A page taken apart.

    Attributes:
        tags: every element with its attributes.
        scripts: text of the script elements by id; "" is what runs.
        text: everything that is shown.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._in: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = (tag, dict(attrs))
        self.tags.append(self._in)

    def handle_endtag(self, tag: str) -> None:
        self._in = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self._in
        if tag == "script":
            name = attributes.get("id") or ""
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]
