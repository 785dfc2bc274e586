"""One prediction against its target: volumes or paths in, scores out."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from medi2i.errors import GeometryError
from medi2i.evaluation.protocols import Protocol
from medi2i.evaluation.protocols import protocol as protocol_called
from medi2i.evaluation.scoring import Scores
from medi2i.volume import Volume, load_volume

__all__ = ["Scan", "evaluate", "on_one_grid"]

Scan = Volume | str | os.PathLike[str]


def evaluate(
    predicted: Scan,
    target: Scan,
    *,
    source: Scan | None = None,
    mask: Scan | None = None,
    protocol: str | Protocol = "brain-3d",
) -> Scores:
    """Score a synthetic scan against the real one.

    Args:
        predicted, target: volumes or paths, on one grid; orientations may differ.
        source: the scan that was translated. `brain-3d` scores where it is above 0.
        mask: above 0 is inside; in its place, or, for `brasyn`, the tumour.
        protocol: by name ("brain-3d"), name and version ("brain-3d@1"), or itself.

    Raises:
        GeometryError: the grids differ. UsageError: an unknown protocol, or one that needs or
        takes no mask. InputError: a scan cannot be read or scored.

    >>> voxels = np.random.default_rng(0).random((16, 16, 16))
    >>> real, synthetic = Volume.of(voxels), Volume.of(voxels**1.2)
    >>> scores = evaluate(synthetic, real, source=real)
    >>> scores.protocol, round(scores.psnr), round(scores.ssim, 1)
    ('brain-3d@1', 35, 1.0)
    """
    chosen = protocol_called(protocol) if isinstance(protocol, str) else protocol
    scans = on_one_grid({"target": target, "prediction": predicted, "source": source, "mask": mask})
    return chosen.score(
        scans["prediction"].voxels,
        scans["target"].voxels,
        mask=scans["mask"].voxels if "mask" in scans else None,
        spacing=scans["target"].spacing,
        source=scans["source"].voxels if "source" in scans else None,
    )


def on_one_grid(scans: Mapping[str, Scan | None]) -> dict[str, Volume]:
    """The scans that are there, loaded and on canonical axes, once their grids agree.

    Grids agree when no corner of one lies further than a hundredth of a voxel from the other's:
    headers round.

    Args:
        scans: by role, such as "target"; None is passed over.

    Raises:
        GeometryError: they do not; the sentence names both.
    """
    loaded: dict[str, Volume] = {}
    for role, scan in scans.items():
        if scan is None:
            continue
        volume = scan if isinstance(scan, Volume) else load_volume(scan)
        loaded[role] = volume.canonical()
        first, reference = next(iter(loaded.items()))
        here, there = (
            f'The {word} "{found.name}"' if found.name else f"The {word}"
            for word, found in ((role, volume), (first, reference))
        )
        there = there[0].lower() + there[1:]
        if loaded[role].shape != reference.shape:
            raise GeometryError(
                f"{here} has {_times(loaded[role].shape)} voxels, {there} {_times(reference.shape)}"
                " (on RAS axes); they must lie on one grid: resample one onto the other."
            )
        corners = np.array(np.meshgrid(*((0, size - 1) for size in reference.shape), 1))
        difference = (loaded[role].affine - reference.affine) @ corners.reshape(4, -1)
        shift = float(np.linalg.norm(difference, axis=0).max())
        if shift > 0.01 * min(reference.spacing):
            raise GeometryError(
                f"{here} and {there} lie up to {shift:.3g} mm apart in space;"
                " they must lie on one grid: resample one onto the other."
            )
    return loaded


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
