"""A phantom on a coarse grid, a quick N4, and a network that sees the phantom's brain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i import zoo
from medi2i.contrasts import Contrast
from medi2i.inference.glance import CLASSES, Glance, write_glance_net
from medi2i.networks.glance import GlanceNet
from medi2i.preparation import bias, brain
from medi2i.simulate import phantom
from medi2i.volume import Volume

SHAPE, SPACING = (45, 54, 45), (4.0, 4.0, 4.0)


@pytest.fixture(scope="session")
def heads() -> dict[Contrast, Volume]:
    """T1w, T2w and FLAIR of one head, without bias, on one grid."""
    return phantom(1, shape=SHAPE, spacing=SPACING, bias=0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """N4 on a coarser grid, with fewer rounds."""
    monkeypatch.setattr(bias, "SHRUNK_TO", 8.0)
    monkeypatch.setattr(bias, "ITERATIONS", (30, 30, 30))


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A network that takes for brain what is bright within 64 mm of the scan's middle."""
    see_brains(monkeypatch, tmp_path_factory.mktemp("zoo"))


def see_brains(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a stand-in for the shipped network into `folder`."""
    arguments: dict[str, Any] = {
        "classes": 6,
        "features": [2, 2],
        "encoder_blocks": [1, 1],
        "hidden": 3,
    }
    write_glance_net(GlanceNet(**arguments).eval(), folder / "glance", arguments, {})
    monkeypatch.setattr(zoo, "FOLDER", folder)
    monkeypatch.setattr(brain, "glance", look)


class Seen(Glance):
    """What is bright and near the middle is the brain."""

    @property
    def brain_mask(self) -> NDArray[np.bool_]:
        volume = self._volume
        lines = [
            (np.arange(n) - (n - 1) / 2) * step
            for n, step in zip(volume.shape, volume.spacing, strict=True)
        ]
        near = sum(np.square(g) for g in np.meshgrid(*lines, indexing="ij")) < 64**2
        bright: NDArray[np.bool_] = near & (volume.voxels > 0.1 * volume.voxels.max())
        return bright


def look(volume: Volume) -> Glance:
    shares = dict.fromkeys(CLASSES, 0.2)
    empty = np.zeros((1, 1, 1), np.float32)
    upright = volume.name != "odd.nii"
    return Seen(CLASSES[0], 0.2, shares, 0.99 if upright else 0.1, volume, empty, empty)
