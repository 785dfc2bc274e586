"""Where experts drew lesions: masks that lie beside the scans of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medi2i.data.cohort import Subject
from medi2i.volume import Volume, load_volume

__all__ = ["expert_mask"]


def expert_mask(subject: Subject, like: Volume) -> NDArray[np.bool_] | None:
    """The expert's lesions on the grid of a canonical scan; None where nobody drew them.

    They are looked for beside the scans, as BIDS has it:
    derivatives/*/sub-*/[ses-*/]anat/sub-*_label-lesion_mask.nii[.gz].
    """
    pattern = f"derivatives/*/{subject.person}/**/{subject.name}_*label-lesion*mask.nii*"
    for path in sorted(Path(subject.study).glob(pattern)):
        inside: NDArray[np.bool_] = (
            load_volume(path).canonical().resampled_onto(like, linear=False).voxels > 0
        )
        return inside
    return None
