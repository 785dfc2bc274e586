"""Small people on disk, and samples that can be told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Cohort, find_cohort
from medi2i.data.supply import Sample
from medi2i.volume import Volume, save_volume

Voxels = NDArray[np.float32]
People = Mapping[str, Mapping[Contrast, Voxels]]
Write = Callable[..., Cohort]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Person -> contrast -> voxels, as a cohort on disk."""

    def cohort(people: People, study: str = "study", spacing: float = 1.0) -> Cohort:
        affine = np.diag([spacing, spacing, spacing, 1.0])
        for person, scans in people.items():
            for contrast, voxels in scans.items():
                path = tmp_path / study / person / "anat" / f"{person}_{contrast}.nii"
                save_volume(Volume.of(voxels, affine), path)
        return find_cohort(tmp_path / study)

    return cohort


def noise(shape: tuple[int, int, int] = (20, 18, 10), seed: int = 0) -> Voxels:
    """Every voxel another value, none of them air."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return (order.reshape(shape) / order.size * 900 + 100).astype(np.float32)


def ramp(axis: int, shape: tuple[int, int, int] = (20, 18, 10)) -> Voxels:
    """A value that tells the place along one axis; never air beyond the first plane."""
    return np.broadcast_to(
        np.arange(shape[axis], dtype=np.float32).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        ),
        shape,
    ).copy()


def alike(one: Sample, other: Sample) -> bool:
    """Whether two samples are the same to the last bit."""

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)

    return all(same(a, b) for a, b in zip(one, other, strict=True))
