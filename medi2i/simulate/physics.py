"""From tissue to signal: relaxation times, and each sequence's own equation.

    label -> tissue -> Relaxation (PD, T1, T2, T2*) -> Sequence.signal -> one number

Times are milliseconds, angles degrees, field strengths tesla, concentrations
mmol/l. Signals are in units of the signal of free water with everything
relaxed (proton density 1, TR infinite, TE 0) and keep their sign, so that
tissues cancel inside a voxel as they do in the scanner; the magnitude is taken
afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError

__all__ = [
    "LABELS",
    "PROTOCOLS",
    "InversionRecovery",
    "Mprage",
    "Relaxation",
    "Sequence",
    "SpinEcho",
    "SpoiledGradientEcho",
    "Tissue",
    "protocol",
    "relaxation",
    "with_contrast_agent",
]


class Tissue(Enum):
    """What a voxel can be made of."""

    AIR = "air"
    WHITE_MATTER = "white matter"
    CORTEX = "cortex"
    LIMBIC = "limbic and insular cortex"
    STRIATUM = "striatum"
    PALLIDUM = "pallidum"
    THALAMUS = "thalamus"
    BRAIN_STEM = "brain-stem"
    CSF = "cerebrospinal fluid"
    CHOROID_PLEXUS = "choroid plexus"
    LESION = "white-matter lesion"
    OEDEMA = "vasogenic oedema"
    NECROSIS = "necrosis"
    TUMOUR = "tumour without contrast uptake"
    ENHANCING = "tumour or plaque with contrast uptake"
    HAEMORRHAGE = "haemorrhage, early subacute"
    ISCHAEMIA = "infarct, acute to subacute"
    BLOOD = "blood"
    NERVE = "nerve"
    CORTICAL_BONE = "cortical bone"
    MARROW = "marrow"
    FAT = "fat"
    MUSCLE = "muscle"
    SKIN = "skin"
    MUCOSA = "mucosa"
    VITREOUS = "vitreous"
    LENS = "lens"


_LEFT_RIGHT = {
    (2, 41): Tissue.WHITE_MATTER,
    (3, 42): Tissue.CORTEX,
    (4, 43): Tissue.CSF,  # lateral ventricle
    (5, 44): Tissue.CSF,  # its temporal horn
    (7, 46): Tissue.WHITE_MATTER,  # cerebellar
    (8, 47): Tissue.CORTEX,  # cerebellar
    (10, 49): Tissue.THALAMUS,
    (11, 50): Tissue.STRIATUM,  # caudate
    (12, 51): Tissue.STRIATUM,  # putamen
    (13, 52): Tissue.PALLIDUM,
    (17, 53): Tissue.LIMBIC,  # hippocampus
    (18, 54): Tissue.LIMBIC,  # amygdala
    (25, 57): Tissue.LESION,
    (26, 58): Tissue.STRIATUM,  # accumbens
    (28, 60): Tissue.BRAIN_STEM,  # ventral diencephalon
    (30, 62): Tissue.BLOOD,
    (136, 163): Tissue.CHOROID_PLEXUS,
    (137, 164): Tissue.CHOROID_PLEXUS,
}

LABELS: Mapping[int, Tissue] = {
    0: Tissue.AIR,
    **{label: tissue for pair, tissue in _LEFT_RIGHT.items() for label in pair},
    14: Tissue.CSF,  # third ventricle
    15: Tissue.CSF,  # fourth ventricle
    16: Tissue.BRAIN_STEM,
    24: Tissue.CSF,  # between brain and skull, and in the sulci
    72: Tissue.CSF,  # fifth ventricle
    85: Tissue.NERVE,  # optic chiasm
    502: Tissue.BLOOD,  # artery
    506: Tissue.VITREOUS,
    507: Tissue.MUSCLE,  # other soft tissue
    508: Tissue.MUSCLE,  # of the eyes
    509: Tissue.MUCOSA,
    511: Tissue.SKIN,
    512: Tissue.NERVE,  # spinal cord
    514: Tissue.BLOOD,  # vein
    515: Tissue.CORTICAL_BONE,
    516: Tissue.MARROW,
    530: Tissue.NERVE,  # optic
    # The values from here on are medi2i's own.
    499: Tissue.LIMBIC,  # cingulate, insular and parahippocampal cortex
    600: Tissue.FAT,
    601: Tissue.LENS,
}
"""Label value -> tissue. FreeSurfer's numbers in the brain, SimNIBS' from 502 on."""


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What a sequence needs to know of a tissue.

    Attributes:
        pd: proton density relative to free water, 0 to 1.
        t1, t2, t2s: relaxation times in ms; all greater than 0.
    """

    pd: float
    t1: float
    t2: float
    t2s: float


# 1.5 T and 3 T. Sources, by the number behind each line:
#  1 Stanisz et al. 2005, doi:10.1002/mrm.20605 (white and grey matter, nerve, blood, muscle)
#  2 Wansapura et al. 1999, JMRI 9:531 (3 T: white matter 832/80, grey 1331/110)
#  3 Gelman et al. 2001, MRM 45:71 (3 T: T1 of the deep nuclei)
#  4 Peters et al. 2007, doi:10.1016/j.mri.2007.02.014 (T2* at 1.5, 3 and 7 T)
#  5 Whittall et al. 1997, doi:10.1002/mrm.1910370107 (water content; T2 of the nuclei at 1.5 T)
#  6 Gold et al. 2004, doi:10.2214/ajr.183.2.1830343 (fat, marrow, muscle)
#  7 Condon et al. 1987, JCAT 11:203 (fluid: T1 4 s and more, T2 about 2 s)
#  8 Du and Bydder 2013, NMR Biomed 26:489 (cortical bone: T2* below 1 ms)
#  9 Rooney et al. 2007, doi:10.1002/mrm.21122 (T1 as a power of the field; 1.5 T values follow it)
# 10 Kjaer et al. 1991, doi:10.3109/02841859109177614 (tumours at 1.5 T; types overlap)
# 11 de Blank et al. 2019, Pediatr Neurosurg 54:310 (3 T, T1: solid tumour 1444, of high grade 1863;
#    white matter around it 1261)
# 12 Noeth et al. 2020, doi:10.1002/nbm.4242 (3 T: T1 of glioblastoma falls by 838 +- 210 ms)
# 13 Blystad et al. 2020, doi:10.1038/s41598-020-75105-6 (rates and proton density around gliomas)
# 14 Damion et al. 2019, doi:10.1088/1361-6560/ab1442 (T2 of infarcts: + 1.4 to 1.9 ms an hour)
# 15 Petrovic et al. 2016, doi:10.1016/j.forsciint.2016.02.032 (blood as it ages, 3 T: T1 333 to
#    2153, T2 24 to 97; T2* keeps short)
# 16 Georgiades et al. 2001, AJNR 22:1732 (1.5 T: T2 is longest in cingulum and hippocampus, then
#    in the insula)
# Between sources that disagree (white matter at 3 T: 832 to 1084 ms) a value inside their range
# is taken. "~" marks a value carried over from the nearest measured tissue.
_RELAXATION: dict[Tissue, tuple[Relaxation, Relaxation]] = {
    Tissue.AIR: (Relaxation(0.0, 1.0, 1.0, 1.0), Relaxation(0.0, 1.0, 1.0, 1.0)),
    Tissue.WHITE_MATTER: (Relaxation(0.70, 650, 76, 66), Relaxation(0.70, 870, 72, 53)),  # 1-5 9
    Tissue.CORTEX: (Relaxation(0.82, 1150, 95, 84), Relaxation(0.82, 1500, 96, 66)),  # 1-5 9
    Tissue.LIMBIC: (Relaxation(0.83, 1170, 108, 94), Relaxation(0.83, 1530, 109, 74)),  # 16, ~
    Tissue.STRIATUM: (Relaxation(0.82, 1050, 85, 57), Relaxation(0.82, 1380, 80, 36)),  # 3 4 5
    Tissue.PALLIDUM: (Relaxation(0.76, 790, 68, 45), Relaxation(0.76, 1043, 60, 25)),  # 3 5, T2* ~
    Tissue.THALAMUS: (Relaxation(0.79, 930, 82, 65), Relaxation(0.79, 1218, 78, 50)),  # 3 5, T2* ~
    Tissue.BRAIN_STEM: (Relaxation(0.74, 760, 80, 66), Relaxation(0.74, 1000, 76, 53)),  # 1, ~
    Tissue.CSF: (Relaxation(1.0, 4000, 2000, 1000), Relaxation(1.0, 4300, 1800, 700)),  # 7
    Tissue.CHOROID_PLEXUS: (Relaxation(0.88, 1350, 180, 90), Relaxation(0.88, 1700, 170, 70)),  # ~
    Tissue.LESION: (Relaxation(0.88, 1250, 150, 120), Relaxation(0.88, 1550, 140, 95)),  # ~
    Tissue.OEDEMA: (Relaxation(0.86, 1180, 160, 125), Relaxation(0.86, 1480, 148, 100)),  # 11 13
    Tissue.NECROSIS: (Relaxation(0.95, 2300, 380, 230), Relaxation(0.95, 2700, 340, 170)),  # 10 ~
    Tissue.TUMOUR: (Relaxation(0.87, 1300, 150, 115), Relaxation(0.87, 1650, 138, 90)),  # 10 11
    Tissue.ENHANCING: (Relaxation(0.86, 1200, 128, 95), Relaxation(0.86, 1520, 116, 72)),  # 10-13
    Tissue.HAEMORRHAGE: (Relaxation(0.86, 520, 50, 20), Relaxation(0.86, 620, 42, 12)),  # 15
    Tissue.ISCHAEMIA: (Relaxation(0.85, 1250, 135, 110), Relaxation(0.85, 1580, 126, 85)),  # 14 ~
    # Flowing blood leaves the slice between excitation and echo: most of it gives no signal.
    Tissue.BLOOD: (Relaxation(0.25, 1441, 290, 200), Relaxation(0.25, 1932, 275, 50)),  # 1
    Tissue.NERVE: (Relaxation(0.72, 780, 76, 60), Relaxation(0.72, 1040, 78, 50)),  # 1
    Tissue.CORTICAL_BONE: (Relaxation(0.18, 220, 0.5, 0.4), Relaxation(0.18, 240, 0.4, 0.35)),  # 8
    # Fat: the part whose echoes add up; the many lines of its spectrum cancel the rest.
    # Bulk susceptibility shortens T2* in bone and at its borders.
    Tissue.MARROW: (Relaxation(0.55, 300, 110, 22), Relaxation(0.55, 380, 90, 14)),  # 6
    Tissue.FAT: (Relaxation(0.62, 288, 165, 50), Relaxation(0.62, 371, 133, 35)),  # 6
    Tissue.MUSCLE: (Relaxation(0.78, 1070, 37, 33), Relaxation(0.78, 1416, 34, 28)),  # 1 6
    Tissue.SKIN: (Relaxation(0.72, 850, 40, 25), Relaxation(0.72, 1000, 36, 20)),  # ~
    Tissue.MUCOSA: (Relaxation(0.85, 1150, 95, 60), Relaxation(0.85, 1450, 90, 45)),  # ~
    Tissue.VITREOUS: (Relaxation(1.0, 3900, 1000, 500), Relaxation(1.0, 4200, 900, 400)),  # ~ 7
    Tissue.LENS: (Relaxation(0.65, 900, 35, 25), Relaxation(0.65, 1150, 30, 20)),  # ~
}

# mmol/l a few minutes after a single dose; nothing passes an intact blood-brain barrier.
_UPTAKE: dict[Tissue, float] = {
    Tissue.BLOOD: 1.2,
    Tissue.CHOROID_PLEXUS: 0.8,
    Tissue.ENHANCING: 0.2,  # 12
    Tissue.MUCOSA: 0.6,
    Tissue.SKIN: 0.15,
    Tissue.MUSCLE: 0.12,
    Tissue.MARROW: 0.05,
}

# Gadobutrol in plasma, Rohrer et al. 2005, doi:10.1097/01.rli.0000184756.66360.d3: l/mmol/s
_R1 = {1.5: 5.2, 3.0: 5.0}
_R2 = {1.5: 6.1, 3.0: 7.1}


def _field_index(field: float) -> int:
    if field not in (1.5, 3.0):
        raise UsageError(f"field is {field} T; the relaxation tables hold 1.5 and 3.0.")
    return int(field == 3.0)


def relaxation(tissue: Tissue, *, field: float = 3.0) -> Relaxation:
    """Proton density and relaxation times of a tissue at 1.5 or 3 T.

    Raises:
        UsageError: another field strength.

    >>> relaxation(Tissue.FAT, field=1.5).t1
    288
    """
    return _RELAXATION[tissue][_field_index(field)]


def with_contrast_agent(tissue: Tissue, *, field: float = 3.0) -> Relaxation:
    """As `relaxation`, after a dose of gadolinium: 1/T = 1/T0 + r * concentration."""
    before = relaxation(tissue, field=field)
    dose = _UPTAKE.get(tissue, 0.0)
    if not dose:
        return before
    r1, r2 = _R1[field] * dose / 1000, _R2[field] * dose / 1000  # per ms
    return replace(
        before,
        # Enhanced vessels are seen: inflow and short T1 make up for what flow loses.
        pd=0.8 if tissue is Tissue.BLOOD else before.pd,
        t1=1 / (1 / before.t1 + r1),
        t2=1 / (1 / before.t2 + r2),
        t2s=1 / (1 / before.t2s + r2),
    )


class Sequence(Protocol):
    """Anything that turns a tissue into a signal."""

    def signal(self, tissue: Relaxation) -> float:
        """Signed signal; free water with everything relaxed gives 1."""
        ...


def _positive(**times: float) -> None:
    for name, value in times.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; a time in ms greater than 0 was expected.")


def _echo_before_repetition(te: float, tr: float) -> None:
    if te >= tr:
        raise UsageError(f"te ({te:g} ms) must be shorter than tr ({tr:g} ms).")


@dataclass(frozen=True, slots=True)
class SpinEcho:
    """90 - 180 - echo (Bernstein et al., Handbook of MRI Pulse Sequences, 2004, ch. 14).

    S = PD (1 - 2 exp(-(TR - TE/2)/T1) + exp(-TR/T1)) exp(-TE/T2)

    A turbo spin echo is described by its effective echo time.

    >>> water = Relaxation(pd=1.0, t1=4000.0, t2=2000.0, t2s=1000.0)
    >>> round(SpinEcho(tr=4000.0, te=100.0).signal(water), 4)
    0.5925
    """

    tr: float
    te: float

    def __post_init__(self) -> None:
        _positive(tr=self.tr, te=self.te)
        _echo_before_repetition(self.te, self.tr)

    def signal(self, tissue: Relaxation) -> float:
        """See the class."""
        recovered = (
            1 - 2 * math.exp(-(self.tr - self.te / 2) / tissue.t1) + math.exp(-self.tr / tissue.t1)
        )
        return tissue.pd * recovered * math.exp(-self.te / tissue.t2)


@dataclass(frozen=True, slots=True)
class InversionRecovery:
    """180 - TI - 90 - 180 - echo: FLAIR and STIR (Bydder and Young 1985, JCAT 9:659).

    S = PD (1 - 2 exp(-TI/T1) + 2 exp(-(TR - TE/2)/T1) - exp(-TR/T1)) exp(-TE/T2)

    With TR much longer than T1 the signal is zero at TI = T1 ln 2.
    """

    tr: float
    te: float
    ti: float

    def __post_init__(self) -> None:
        _positive(tr=self.tr, te=self.te, ti=self.ti)
        if self.ti + self.te >= self.tr:
            raise UsageError(
                f"ti + te ({self.ti:g} + {self.te:g} ms) must be shorter than tr ({self.tr:g} ms)."
            )

    def signal(self, tissue: Relaxation) -> float:
        """See the class."""
        recovered = (
            1
            - 2 * math.exp(-self.ti / tissue.t1)
            + 2 * math.exp(-(self.tr - self.te / 2) / tissue.t1)
            - math.exp(-self.tr / tissue.t1)
        )
        return tissue.pd * recovered * math.exp(-self.te / tissue.t2)


@dataclass(frozen=True, slots=True)
class SpoiledGradientEcho:
    """FLASH, SPGR (Haase et al. 1986, doi:10.1016/0022-2364(86)90433-6); E1 = exp(-TR/T1).

    S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*), largest at cos(a) = E1 (Ernst).
    """

    tr: float
    te: float
    flip: float

    def __post_init__(self) -> None:
        _positive(tr=self.tr, te=self.te, flip=self.flip)
        _echo_before_repetition(self.te, self.tr)

    def signal(self, tissue: Relaxation) -> float:
        """See the class."""
        angle, e1 = math.radians(self.flip), math.exp(-self.tr / tissue.t1)
        steady = (1 - e1) / (1 - math.cos(angle) * e1)
        return tissue.pd * math.sin(angle) * steady * math.exp(-self.te / tissue.t2s)


@dataclass(frozen=True, slots=True)
class Mprage:
    """Inversion, a pause, a train of low-angle gradient echoes, a pause; in its steady state.

    The train starts at TI minus half its length, so that the echo that decides the contrast falls
    on TI. During the train the magnetisation goes to M* = (1 - E1)/(1 - cos(a) E1) by cos(a) E1 per
    pulse (Mugler and Brookeman 1990, doi:10.1002/mrm.1910150117; written as in Marques et al. 2010,
    doi:10.1016/j.neuroimage.2009.10.002).

    Attributes:
        tr: from inversion to inversion, ms.
        ti: from inversion to the middle of the train, ms.
        te: echo time, ms.
        flip: of each pulse in the train, degrees.
        echo_spacing: between pulses, ms.
        echoes: number of pulses in the train.
        efficiency: part of the magnetisation that is inverted, 0 to 1.
    """

    tr: float
    ti: float
    te: float
    flip: float
    echo_spacing: float = 7.0
    echoes: int = 160
    efficiency: float = 0.96

    def __post_init__(self) -> None:
        _positive(tr=self.tr, ti=self.ti, te=self.te, flip=self.flip, spacing=self.echo_spacing)
        _echo_before_repetition(self.te, self.echo_spacing)
        half = self.echoes / 2 * self.echo_spacing
        if half > self.ti or self.ti + half > self.tr:
            raise UsageError(
                f"a train of {self.echoes} echoes, {self.echo_spacing:g} ms apart, does not fit "
                f"around ti {self.ti:g} ms in tr {self.tr:g} ms."
            )

    def signal(self, tissue: Relaxation) -> float:
        """See the class."""
        angle, half = math.radians(self.flip), self.echoes / 2 * self.echo_spacing
        e1 = math.exp(-self.echo_spacing / tissue.t1)
        decay = math.cos(angle) * e1
        target = (1 - e1) / (1 - decay)
        before = math.exp(-(self.ti - half) / tissue.t1)
        after = math.exp(-(self.tr - self.ti - half) / tissue.t1)
        # One period maps m, just before the inversion, to offset + slope * m; its fixed point:
        slope = -self.efficiency * before * math.pow(decay, self.echoes) * after
        offset = 1 + after * (target - 1 + (1 - before - target) * math.pow(decay, self.echoes))
        steady = offset / (1 - slope)
        start = 1 - (1 + self.efficiency * steady) * before
        middle = target + (start - target) * math.pow(decay, self.echoes / 2)
        return tissue.pd * math.sin(angle) * middle * math.exp(-self.te / tissue.t2s)


_MPRAGE = (
    Mprage(tr=1900, ti=900, te=3.0, flip=9),
    Mprage(tr=2300, ti=1000, te=3.0, flip=9),
)

PROTOCOLS: Mapping[Contrast, tuple[Sequence, Sequence]] = {
    Contrast.T1W: _MPRAGE,
    Contrast.T1CE: _MPRAGE,
    Contrast.T2W: (SpinEcho(tr=5000, te=100), SpinEcho(tr=6000, te=95)),
    Contrast.PDW: (SpinEcho(tr=3000, te=15), SpinEcho(tr=4000, te=12)),
    # TI nulls fluid of T1 4000 ms (1.5 T) and 4300 ms (3 T) at these TR and TE.
    Contrast.FLAIR: (
        InversionRecovery(tr=9000, te=120, ti=2360),
        InversionRecovery(tr=9000, te=125, ti=2467),
    ),
}
"""A usual clinical protocol per contrast, at 1.5 T and at 3 T."""


def protocol(contrast: Contrast | str, *, field: float = 3.0) -> Sequence:
    """The sequence that stands for a contrast when none is given.

    Raises:
        ContrastError: no protocol for this contrast.
        UsageError: a field other than 1.5 or 3.0 T.
    """
    wanted = Contrast.parse(contrast)
    if wanted not in PROTOCOLS:
        known = ", ".join(str(c) for c in PROTOCOLS)
        raise ContrastError(f"no protocol for {wanted}; there is one for {known}.")
    return PROTOCOLS[wanted][_field_index(field)]
