"""What a synthetic scan is called."""

from __future__ import annotations

import re
from pathlib import Path

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError

__all__ = [
    "EXTENSIONS",
    "SYNTHETIC",
    "beside",
    "is_synthetic",
    "stem_of",
    "subject_prefix",
    "synthetic_name",
    "without_folders",
]

SYNTHETIC = "desc-synth"
EXTENSIONS = (".nii.gz", ".nii")


def stem_of(path: Path) -> str:
    """The file name without .nii or .nii.gz.

    >>> stem_of(Path("a/sub-01_T1w.nii.gz"))
    'sub-01_T1w'
    """
    for extension in EXTENSIONS:
        if path.name.lower().endswith(extension):
            return path.name[: -len(extension)]
    return path.stem


def subject_prefix(path: Path) -> str:
    """What the contrasts of one head have in common in their names.

    >>> subject_prefix(Path("sub-01_ce-gad_T1w.nii.gz")), subject_prefix(Path("t1.nii.gz"))
    ('sub-01', '')
    >>> subject_prefix(Path("IXI002-Guys-0828-T1.nii.gz"))
    'IXI002-Guys-0828'
    """
    words = stem_of(path).split("_")
    joint = "_"
    if len(words) == 1 and not _names_contrast(words[0]):
        words, joint = words[0].split("-"), "-"
    return joint.join(w for w in words if w.lower() != "ce-gad" and not _names_contrast(w))


def _names_contrast(word: str) -> bool:
    try:
        Contrast.parse(word)
    except ContrastError:
        return False
    return True


def synthetic_name(source: Path, target: Contrast) -> str:
    """The name of the translation of `source`.

    BIDS names lose their own contrast; any other name keeps all it says.

    >>> synthetic_name(Path("sub-01_ses-2_T1w.nii.gz"), Contrast.T2W)
    'sub-01_ses-2_desc-synth_T2w.nii.gz'
    >>> synthetic_name(Path("t1.nii"), Contrast.T2W)
    't1_desc-synth_T2w.nii.gz'
    """
    stem = stem_of(source)
    if stem.startswith("sub-"):
        stem = subject_prefix(source) or stem
    entities, suffix = ("ce-gad_", "T1w") if target is Contrast.T1CE else ("", str(target))
    return f"{stem}_{entities}{SYNTHETIC}_{suffix}.nii.gz"


def beside(scan: Path, ending: str) -> Path:
    """The companion of a scan: `beside(Path("a_T2w.nii.gz"), ".json")` is ``a_T2w.json``."""
    return scan.with_name(stem_of(scan) + ending)


def is_synthetic(path: Path) -> bool:
    """Whether a file says of itself that medi2i made it."""
    return SYNTHETIC in stem_of(path).split("_")


def without_folders(message: str) -> str:
    """A message with files by their names alone: the folders above them may name somebody.

    >>> without_folders('"/data/Jane Doe/sub-1_T1w.nii.gz" is truncated')
    '"sub-1_T1w.nii.gz" is truncated'
    """
    return re.sub(r'"[^"\n]*[/\\]([^"/\\\n]+)"', r'"\1"', message)
