"""Whether a scan shows nothing but a brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.inference.glance import Glance
from medi2i.inference.recognise import look, stripped
from medi2i.volume import Volume, load_volume


@pytest.mark.parametrize(("shown", "only"), [(0.5, True), (0.62, False), (1.0, False)])
def test_most_of_what_is_shown_is_brain(shown: float, only: bool) -> None:
    """A brain of half the width, in a scan that shows a box of `shown` of its width: 0.125 of
    0.125, of 0.238 and of all."""
    axes = np.meshgrid(*(np.abs(np.linspace(-1, 1, 50)),) * 3, indexing="ij")
    far = np.max(axes, axis=0)
    volume = Volume.of(np.where(far < shown, 500 + far, 7))
    brain = (far < 0.5).astype(np.float32)
    seen = Glance(Contrast.T1W, 1, {}, 1, volume, brain, 1.5 * brain - 1)
    assert stripped(volume, seen) is only
    assert stripped(volume, None) is None


def test_real_scans(shared_data: Path) -> None:
    for name, only in (("openms/sub-MS07", True), ("lgg/sub-TCGADU5855", False)):
        scan = next((shared_data / name / "anat").glob("*_FLAIR.nii.gz"))
        volume = load_volume(scan)
        assert stripped(volume, look(volume)) is only
