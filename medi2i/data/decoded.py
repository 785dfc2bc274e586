"""People as windows are cut from them: decoded once, on one grid, normalised, kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Subject
from medi2i.data.registration import load_together
from medi2i.files import atomic_write
from medi2i.normalise import fit_scaling
from medi2i.resolution import resize, working_shape
from medi2i.task import View

__all__ = ["AIR", "Box", "Decoder", "Pads", "Prepared"]

AIR = -1.0

Box = tuple[slice, slice, slice | NDArray[np.intp]]
"""An index into (X, Y, Z); a slab names its slices, because the outermost may be seen twice."""

Pads = Sequence[tuple[int, int]]
"""How much air a window has before and behind the volume, along each axis."""


@dataclass(frozen=True)
class Prepared:
    """One person, decoded: every contrast on one canonical grid, normalised to [-1, 1]."""

    name: str
    contrasts: tuple[Contrast, ...]
    voxels: NDArray[np.float16]
    """(C, X, Y, Z), in the order of `contrasts`."""
    tissue: NDArray[np.bool_]
    """(X, Y, Z): where there is anything but air."""
    heights: NDArray[np.intp]
    """Axial slices that are worth a window."""
    bounds: tuple[tuple[int, int], ...]
    """First voxel of tissue along each axis, and the one behind the last."""

    def stack(self, wanted: Sequence[Contrast], box: Box, pads: Pads) -> Tensor:
        """(C, *window) float32 of the wanted contrasts; air for those that were not acquired."""
        stacked = np.full((len(wanted), *self.tissue[box].shape), AIR, np.float32)
        for place, contrast in enumerate(wanted):
            if contrast in self.contrasts:
                stacked[place] = self.voxels[self.contrasts.index(contrast)][box]
        return _padded(torch.from_numpy(stacked), pads, AIR)

    def inside(self, box: Box, pads: Pads) -> Tensor:
        """(1, *window) float32: 1 in tissue, 0 in air."""
        return _padded(torch.from_numpy(self.tissue[box].astype(np.float32))[None], pads, 0.0)


class Decoder:
    """Decodes people, each once.

    Args:
        view: at which resolution.
        cache: folder that keeps decoded volumes between runs; None keeps them in memory only.
    """

    def __init__(self, view: View, cache: Path | None = None) -> None:
        self.view = view
        self.cache = cache
        self._prepared: dict[tuple[str, ...], Prepared] = {}

    def __call__(
        self, subject: Subject, wanted: Sequence[Contrast], *, scaled_as: Subject | None = None
    ) -> Prepared:
        """Those of the wanted contrasts that a person has, on the grid of the first.

        Args:
            scaled_as: whose scans fit the intensity scale; by default the person's own.

        Raises:
            InputError: a scan or a transform cannot be read.
        """
        contrasts = tuple(c for c in wanted if c in subject.scans)
        key = tuple(str(one.scans[c]) for one in (subject, scaled_as or subject) for c in contrasts)
        if key not in self._prepared:
            self._prepared[key] = self._decode(subject, contrasts, scaled_as)
        return self._prepared[key]

    def _decode(
        self, subject: Subject, contrasts: tuple[Contrast, ...], scaled_as: Subject | None
    ) -> Prepared:
        kept = self.kept_at(subject, contrasts, scaled_as=scaled_as)
        if kept is not None and kept.is_file():
            voxels = np.load(kept, mmap_mode="r")
        else:
            voxels = self._normalised(subject, contrasts, scaled_as)
            if kept is not None:
                atomic_write(kept, lambda stream: np.save(stream, voxels))
        tissue = (voxels > AIR + 0.1).any(0)
        heights = np.flatnonzero(tissue.mean((0, 1)) > 0.02)
        filled = [np.flatnonzero(tissue.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
        bounds = tuple((int(inside[0]), int(inside[-1]) + 1) for inside in filled)
        if not len(heights):  # a sliver of tissue: any slice of it will do
            heights = filled[2]
        return Prepared(subject.name, contrasts, voxels, tissue, heights, bounds)

    def _normalised(
        self, subject: Subject, contrasts: tuple[Contrast, ...], scaled_as: Subject | None
    ) -> NDArray[np.float16]:
        """(C, X, Y, Z): every contrast on the first one's grid, at the working resolution."""
        volumes = load_together(subject, contrasts)
        fitted_to = volumes if scaled_as is None else load_together(scaled_as, contrasts)
        reference = volumes[contrasts[0]]
        shape = working_shape(reference.shape, reference.spacing, self.view.spacing, self.view.axes)
        result = np.empty((len(contrasts), *shape), np.float16)
        for place, (contrast, volume) in enumerate(volumes.items()):
            known = fitted_to[contrast]
            scaled = fit_scaling(known.voxels, name=known.name).apply(volume.voxels)
            tensor = torch.from_numpy(np.ascontiguousarray(scaled))[None]
            result[place] = resize(tensor, shape)[0].numpy()
        return result

    def kept_at(
        self,
        subject: Subject,
        contrasts: Sequence[Contrast],
        *what: str,
        scaled_as: Subject | None = None,
    ) -> Path | None:
        """The cache file: its name changes with the scans, their dates and the resolution.

        Args:
            what: is kept, where it is not the decoded scans themselves.
            scaled_as: whose scans fit the intensity scale; by default the person's own.
        """
        if self.cache is None:
            return None
        words = [str(self.view.spacing), str(self.view.axes), "1", *what]
        paths = [*(subject.scans[c] for c in contrasts), *subject.transforms.values()]
        paths += [] if scaled_as is None else [scaled_as.scans[c] for c in contrasts]
        for path in paths:
            stat = path.stat()
            words += [str(path.resolve()), str(stat.st_mtime_ns), str(stat.st_size)]
        return self.cache / f"{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:24]}.npy"


def _padded(window: Tensor, pads: Pads, value: float) -> Tensor:
    flat = [n for pair in reversed(pads) for n in pair]
    return torch.nn.functional.pad(window, flat, value=value) if any(flat) else window
