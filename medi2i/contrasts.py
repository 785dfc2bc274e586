"""The MRI contrasts by name, and how to read them from file names and side-cars.

What stands in a BIDS name (version 1.10, entity ``ce`` and suffix) or in the
side-car JSON beside a scan is evidence. Where it is missing or contradicts
itself the answer is ``None``: the caller asks, nobody guesses.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from medi2i.errors import ContrastError, FormatError

__all__ = ["Contrast", "contrast_of", "contrast_told"]


class Contrast(StrEnum):
    """One MRI contrast; the value is its BIDS name.

    >>> Contrast.parse("t1c")
    <Contrast.T1CE: 'ce-gad_T1w'>
    >>> str(Contrast.T2W)
    'T2w'
    """

    T1W = "T1w"
    T2W = "T2w"
    FLAIR = "FLAIR"
    PDW = "PDw"
    T1CE = "ce-gad_T1w"

    @classmethod
    def parse(cls, text: str) -> Contrast:
        """The contrast that `text` names, in any case and with any of - _ + or space between.

        Raises:
            ContrastError: no contrast has this name; the message lists the known ones.

        >>> Contrast.parse("T2-weighted")
        <Contrast.T2W: 'T2w'>
        """
        found = _named(text)
        if found is None:
            near = difflib.get_close_matches(_key(text), _ALIASES, n=1)
            hint = f" (nearest: {_ALIASES[near[0]]})" if near else ""
            known = ", ".join(str(contrast) for contrast in cls)
            raise ContrastError(f'"{text}" is not a contrast that is known here: {known}{hint}.')
        return found


_SPELLINGS = {
    Contrast.T1W: "t1w t1 t1n t1weighted mprage t1mprage t1wmprage mp2rage spgr t1spgr bravo t1pre",
    Contrast.T1CE: "cegadt1w t1c t1ce t1gd t1gad t1post t1wce t1wgd t1wpost t1contrast t1km t1cw"
    " t1cegad t1wcegad cet1 cet1w gdt1 postt1",
    Contrast.T2W: "t2w t2 t2weighted",
    Contrast.FLAIR: "flair t2f t2flair t2wflair fla flairw",
    Contrast.PDW: "pdw pd pdweighted protondensity",
}
_ALIASES = {key: contrast for contrast, keys in _SPELLINGS.items() for key in keys.split()}
_ENTITY = re.compile(
    r"(sub|ses|sample|task|tracksys|acq|ce|trc|stain|rec|dir|run|mod|echo|flip|inv|mt|part|proc"
    r"|hemi|space|split|recording|chunk|seg|res|den|label|desc|from|to|mode|tpl|atlas)-[^-]+"
)
_NOT_A_SCAN = {
    "mask",
    "seg",
    "dseg",
    "probseg",
    "label",
    "labels",
    "xfm",
    "t1map",
    "t2map",
}
_GADOLINIUM = re.compile(
    r"gad|^gd|gd-|magnevist|multihance|omniscan|prohance|dotarem|clariscan|elucirem|vueway"
    r"|eovist|primovist|ablavar|optimark"
)


def contrast_of(path: Path) -> Contrast | None:
    """The contrast of a scan as its name and its side-car tell it; None when they do not.

    The name: the BIDS suffix with its ``ce`` entity (``sub-1_ce-gad_T1w.nii.gz``), a bare stem
    (``t1.nii.gz``), the last word that names a contrast (``patient_t1_brain.nii.gz``). The
    side-car: ``x.json`` beside ``x.nii.gz`` with the sequence's names, times (seconds, as in
    BIDS) and contrast agent. None too when the two contradict each other.

    Raises:
        FormatError: the side-car is not a JSON object.

    >>> contrast_of(Path("sub-1_ce-gad_T1w.nii.gz"))
    <Contrast.T1CE: 'ce-gad_T1w'>
    >>> contrast_of(Path("scan7.nii.gz")) is None
    True
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    named, usable = _from_name(stem)
    if not usable:
        return None
    sidecar = _from_sidecar(path.with_name(stem + ".json"))
    if sidecar is None:
        return named
    told, enhanced, usable = sidecar
    if not usable:
        return None
    if told is Contrast.T1W and enhanced:
        told = Contrast.T1CE
    if named is None:
        return told
    if enhanced is not None and named is (Contrast.T1W if enhanced else Contrast.T1CE):
        return None
    if told is Contrast.T1W and named is Contrast.T1CE:  # the side-car is silent on the agent
        return named
    return named if told in (None, named) else None


def contrast_told(fields: Mapping[str, object]) -> Contrast | None:
    """The contrast that a scanner's own words tell; None when they do not, or contradict.

    Args:
        fields: under their BIDS names, times in seconds: EchoTime, RepetitionTime, InversionTime,
            ScanningSequence, SeriesDescription, ProtocolName, SequenceName, ContrastBolusAgent.

    >>> contrast_told({"SeriesDescription": "AX T1 MPRAGE +C"})
    <Contrast.T1CE: 'ce-gad_T1w'>
    """
    told, enhanced, _ = _from_fields(fields)
    return Contrast.T1CE if told is Contrast.T1W and enhanced else told


def _key(text: str) -> str:
    return re.sub(r"[\s_+-]", "", text.lower())


def _named(text: str) -> Contrast | None:
    return _ALIASES.get(_key(text))


def _from_name(stem: str) -> tuple[Contrast | None, bool]:
    """What the file name says, and False when what it says contradicts itself."""
    words = [word for word in re.split(r"[_\s.]+", stem) if word]
    if not words or words[-1].lower() in _NOT_A_SCAN:
        return None, False
    agents = [word[3:].lower() for word in words if word.lower().startswith("ce-")]
    named = [None if _ENTITY.fullmatch(word.lower()) else _named(word) for word in words]
    if len(words) == 1 and named[0] is None and not _ENTITY.fullmatch(stem.lower()):
        named = [_named(stem.rsplit("-", 1)[-1])]  # IXI002-Guys-0828-T1, BraTS-GLI-00000-000-t1c
    found = [contrast for contrast in named if contrast is not None]
    if not found:
        return None, not agents
    if len(set(found)) > 1 and named[-1] is None:  # t1_in_t2_space
        return None, False
    if named[-2:] == [Contrast.T1W, Contrast.FLAIR]:  # t1_flair: either
        return None, False
    if not agents:
        return found[-1], True
    if all(_GADOLINIUM.search(agent) for agent in agents):
        return (
            (Contrast.T1CE, True) if found[-1] in (Contrast.T1W, Contrast.T1CE) else (None, False)
        )
    return None, False


def _from_sidecar(path: Path) -> tuple[Contrast | None, bool | None, bool] | None:
    """Contrast, whether an agent was given (None: not said), and False for a contradiction."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f'Side-car "{path}" cannot be read: {error}.') from error
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f'Side-car "{path}" is not valid JSON: {error}.') from error
    if not isinstance(fields, dict):
        raise FormatError(
            f'Side-car "{path}" holds {type(fields).__name__}; an object was expected.'
        )
    return _from_fields(fields)


def _from_fields(fields: Mapping[str, object]) -> tuple[Contrast | None, bool | None, bool]:
    """The same of a side-car's fields."""
    agent = str(fields.get("ContrastBolusAgent", "")).strip().lower()
    enhanced = None if agent in ("", "n/a", "unknown") else agent not in ("none", "no", "without")
    told = {_from_times(fields)}
    for key in ("SeriesDescription", "ProtocolName", "SequenceName"):
        contrast, words_enhanced = _from_description(str(fields.get(key, "")))
        told.add(contrast)
        if words_enhanced is not None:
            if enhanced is not None and enhanced != words_enhanced:
                return None, None, False
            enhanced = words_enhanced
    told.discard(None)
    if len(told) > 1:
        return None, None, False
    return (told.pop() if told else None), enhanced, True


def _from_description(text: str) -> tuple[Contrast | None, bool | None]:
    """What a series description says: contrast, and whether it is after (True) an agent."""
    words = set(re.split(r"[^a-z0-9+*]+", text.lower().replace("+", " +")))
    found = {_ALIASES[word] for word in words if word in _ALIASES}
    post = bool(words & {"post", "gd", "gad", "km", "ce", "+c", "+gd", "postcontrast", "+gad"})
    pre = bool(words & {"pre", "native", "nativ", "precontrast", "non"})
    if Contrast.T1CE in found:
        post = True
        found = found - {Contrast.T1CE} | {Contrast.T1W}
    if Contrast.FLAIR in found:
        found.discard(Contrast.T2W)  # "T2 FLAIR"; "T1 FLAIR" stays ambiguous
    if words & {
        "t2*",
        "t2star",
        "swi",
        "swan",
        "dwi",
        "adc",
        "dti",
        "bold",
        "epi",
        "map",
    }:
        found = set()
    return (found.pop() if len(found) == 1 else None), (True if post and not pre else None)


def _from_times(fields: Mapping[str, object]) -> Contrast | None:
    """What echo, repetition and inversion time (s) say where they leave no doubt."""

    def seconds(key: str) -> float | None:
        value = fields.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number else None  # type: ignore[arg-type]

    echo, repetition = seconds("EchoTime"), seconds("RepetitionTime")
    inversion = seconds("InversionTime")
    sequence = str(fields.get("ScanningSequence", "")).upper()
    if echo is None or repetition is None or "EP" in sequence or "EffectiveEchoSpacing" in fields:
        return None
    if inversion:
        if 1.5 <= inversion <= 3.2 and repetition >= 4 and echo >= 0.06:
            return Contrast.FLAIR
        if 0.4 <= inversion <= 1.4 and repetition <= 3.5 and echo <= 0.02:
            return Contrast.T1W
        return None
    if "GR" in sequence:
        return None
    if repetition >= 2 and 0.07 <= echo <= 0.6:
        return Contrast.T2W
    if "SE" not in sequence:  # gradient echoes with these times can be anything
        return None
    if repetition >= 2 and echo <= 0.04:
        return Contrast.PDW
    return Contrast.T1W if 0.3 <= repetition <= 1.0 and echo <= 0.03 else None
