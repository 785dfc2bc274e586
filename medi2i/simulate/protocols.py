"""How hospitals set up their scanners: ranges of sequence parameters and of slice geometry.

    style of examination, contrast -> the kinds of sequence in use -> one Sequence
    style of examination           -> one Geometry

A range is uniform and holds what a published protocol or recommendation asks for; its sources stand
beside it by number:

 1 ADNI: Jack et al. 2008, doi:10.1002/jmri.21049 (1.5 T MPRAGE, dual echo); ADNI 3 at 3 T
 2 Human Connectome Project: Glasser et al. 2013, doi:10.1016/j.neuroimage.2013.04.127
 3 Gliomas (TCGA and BraTS are of this kind): Ellingson et al. 2015, doi:10.1093/neuonc/nov095
 4 Multiple sclerosis, three makers, 1.5 and 3 T: Connick et al. 2018,
   doi:10.1136/bmjopen-2018-021944; slices: Traboulsee et al. 2016, doi:10.3174/ajnr.A4539
 5 Routine examinations: Lu et al. 2005, doi:10.1002/jmri.20356 (1.5 against 3 T)
 6 Dementia: Aalten et al. 2014, doi:10.1186/s12883-014-0254-4
 7 Parameter mapping: Weiskopf et al. 2013, doi:10.3389/fnins.2013.00095

Echo times are those that a plain spin echo of the same contrast would have: the variable refocusing
angles of a 3-D turbo spin echo let its nominal echo time be four times as long (Busse et al. 2006,
MRM 55:1030). For the same reason the shortest repetition times of 3-D FLAIR are left out: those
scans prepare T2 beforehand, which takes away the T1 weighting that the equation gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from medi2i.contrasts import Contrast
from medi2i.errors import UsageError
from medi2i.simulate.physics import (
    InversionRecovery,
    Mprage,
    Sequence,
    SpinEcho,
    SpoiledGradientEcho,
    Tissue,
    relaxation,
)

__all__ = [
    "GEOMETRY_RANGES",
    "PROTOCOL_RANGES",
    "Geometry",
    "GeometryRange",
    "ProtocolRange",
    "Style",
    "draw_geometry",
    "draw_sequence",
    "null_time",
]

Span = tuple[float, float]


class Style(StrEnum):
    """How an examination covers the head.

    VOLUMETRIC: 3-D, about 1 mm in all directions. SLICES: 2-D, fine in the plane, thick across.
    """

    VOLUMETRIC = "volumetric"
    SLICES = "slices"

    @classmethod
    def _missing_(cls, value: object) -> Style:
        known = ", ".join(cls)
        raise UsageError(f'"{value}" is not a style of examination; there are {known}.')


@dataclass(frozen=True, slots=True)
class ProtocolRange:
    """What one kind of sequence is set to, over hospitals.

    Attributes:
        sequence: makes the sequence from one value per name in `spans`.
        spans: smallest and largest value by name: ms, degrees. `ti_of_tr` stands for TI as a part
            of TR, `ti_of_null` for TI as a part of the one that nulls fluid.
        share: how often this kind is met, relative to the others of its contrast and style.
        fields: field strengths it is used at, T.
    """

    sequence: Callable[..., Sequence]
    spans: Mapping[str, Span]
    share: float = 1.0
    fields: tuple[float, ...] = (1.5, 3.0)

    def draw(self, rng: np.random.Generator, *, field: float) -> Sequence:
        """One sequence out of the range, uniformly."""
        values = {name: float(rng.uniform(*span)) for name, span in self.spans.items()}
        if "ti_of_tr" in values:
            values["ti"] = values.pop("ti_of_tr") * values["tr"]
        if "ti_of_null" in values:
            fluid = relaxation(Tissue.CSF, field=field)
            null = null_time(tr=values["tr"], te=values["te"], t1=fluid.t1)
            values["ti"] = values.pop("ti_of_null") * null
        if "echoes" in values:
            values["echoes"] = round(values["echoes"])
        return self.sequence(**values)


_MPRAGE = ProtocolRange(  # 1 2 3 4; with it Philips' TFE and GE's inverted SPGR
    Mprage,
    {
        "tr": (1900, 2400),
        "ti_of_tr": (0.41, 0.50),  # 900 of 2300 to 1000 of 2000 ms
        "te": (2.1, 4.0),
        "flip": (8, 12),
        "echo_spacing": (6.5, 7.5),
        "echoes": (160, 192),
    },
    share=0.75,
)
_T1W_VOLUMES = (
    _MPRAGE,
    ProtocolRange(  # 7, and older 3-D scans at 1.5 T
        SpoiledGradientEcho, {"tr": (15, 30), "te": (2.3, 6), "flip": (20, 30)}, share=0.25
    ),
)
_T1W_SLICES = (
    ProtocolRange(SpinEcho, {"tr": (450, 750), "te": (7, 20)}, share=0.65),  # 4 5
    ProtocolRange(  # 5
        SpoiledGradientEcho, {"tr": (150, 300), "te": (2.5, 5), "flip": (65, 85)}, share=0.35
    ),
)

PROTOCOL_RANGES: Mapping[tuple[Style, Contrast], tuple[ProtocolRange, ...]] = {
    (Style.VOLUMETRIC, Contrast.T1W): _T1W_VOLUMES,
    (Style.VOLUMETRIC, Contrast.T1CE): _T1W_VOLUMES,  # 3: the same before and after the agent
    (Style.VOLUMETRIC, Contrast.T2W): (  # 2 4
        ProtocolRange(SpinEcho, {"tr": (2700, 3500), "te": (95, 115)}),
    ),
    (Style.VOLUMETRIC, Contrast.FLAIR): (  # 1 4
        ProtocolRange(
            InversionRecovery,
            {"tr": (6500, 9000), "te": (115, 135), "ti_of_null": (0.95, 1.0)},
        ),
    ),
    (Style.VOLUMETRIC, Contrast.PDW): (
        ProtocolRange(  # 7
            SpoiledGradientEcho, {"tr": (20, 28), "te": (2, 8), "flip": (4, 6)}, share=0.5
        ),
        ProtocolRange(SpinEcho, {"tr": (2500, 4000), "te": (8, 25)}, share=0.5),
    ),
    (Style.SLICES, Contrast.T1W): _T1W_SLICES,
    (Style.SLICES, Contrast.T1CE): _T1W_SLICES,
    (Style.SLICES, Contrast.T2W): (  # 3 4 5 6
        ProtocolRange(SpinEcho, {"tr": (3200, 8000), "te": (88, 120)}, fields=(1.5,)),
        ProtocolRange(SpinEcho, {"tr": (3200, 8000), "te": (84, 108)}, fields=(3.0,)),
    ),
    (Style.SLICES, Contrast.FLAIR): (  # 3 4 5 6
        ProtocolRange(
            InversionRecovery,
            {"tr": (8000, 11500), "te": (100, 140), "ti_of_null": (0.94, 1.0)},
            fields=(1.5,),
        ),
        ProtocolRange(
            InversionRecovery,
            {"tr": (8000, 11500), "te": (95, 130), "ti_of_null": (0.94, 1.0)},
            fields=(3.0,),
        ),
    ),
    (Style.SLICES, Contrast.PDW): (  # 1 4
        ProtocolRange(SpinEcho, {"tr": (2500, 4500), "te": (8, 25)}),
    ),
}
"""The kinds of sequence in use, by style of examination and contrast."""


def null_time(*, tr: float, te: float, t1: float) -> float:
    """The inversion time, ms, at which `InversionRecovery` gives no signal for a tissue.

    TI = T1 ln(2 / (1 + 2 exp(-(TR - TE/2)/T1) - exp(-TR/T1))); T1 ln 2 for an endless TR.

    >>> round(null_time(tr=9000, te=120, t1=4000))
    2360
    """
    rest = 1 + 2 * math.exp(-(tr - te / 2) / t1) - math.exp(-tr / t1)
    return t1 * math.log(2 / rest)


def draw_sequence(
    contrast: Contrast | str, rng: np.random.Generator, *, style: Style, field: float = 3.0
) -> Sequence:
    """A sequence as some hospital may have set it up for a contrast.

    Args:
        contrast: by name. T1w with a contrast agent has the sequences of T1w: the agent changes
            the tissue (`physics.with_contrast_agent`).
        style: of the examination.
        field: 1.5 or 3.0 T.

    Raises:
        ContrastError: a name that is not known.
        UsageError: another field strength.
    """
    relaxation(Tissue.CSF, field=field)  # refuses a field without tables
    wanted = (Style(style), Contrast.parse(contrast))
    rows = [row for row in PROTOCOL_RANGES[wanted] if field in row.fields]
    shares = np.array([row.share for row in rows])
    row = rows[int(rng.choice(len(rows), p=shares / shares.sum()))]
    return row.draw(rng, field=field)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Voxels of one acquisition.

    Attributes:
        in_plane: side of a voxel in the slice, mm.
        thickness: of a slice, mm.
        gap: between two slices, mm; 0 in 3-D.
        axis: across the slices: 0 sagittal, 1 coronal, 2 axial, for axes ordered as in RAS.
    """

    in_plane: float
    thickness: float
    gap: float
    axis: int

    def __post_init__(self) -> None:
        for name, value in (("in_plane", self.in_plane), ("thickness", self.thickness)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}; a length in mm greater than 0 was expected.")
        if not (math.isfinite(self.gap) and self.gap >= 0):
            raise UsageError(f"gap is {self.gap}; 0 mm or more was expected.")
        if self.axis not in (0, 1, 2):
            raise UsageError(f"axis is {self.axis}; 0, 1 or 2 was expected.")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """From voxel centre to voxel centre, mm."""
        x, y, z = (
            self.thickness + self.gap if axis == self.axis else self.in_plane for axis in range(3)
        )
        return x, y, z


@dataclass(frozen=True, slots=True)
class GeometryRange:
    """Geometries of one style.

    Attributes:
        in_plane: mm.
        thickness: mm; where `relative`, in units of the side in the plane.
        gap: in units of the thickness.
        axes: how often slices lie across x, y and z.
    """

    in_plane: Span
    thickness: Span
    gap: Span
    axes: tuple[float, float, float]
    relative: bool = False


GEOMETRY_RANGES: Mapping[Style, GeometryRange] = {
    # 1 2 3 4: sagittal partitions, cubes of 0.7 to 1.0 mm or 1.2 mm across
    Style.VOLUMETRIC: GeometryRange(
        (0.7, 1.1), (1.0, 1.25), (0, 0), (0.7, 0.1, 0.2), relative=True
    ),
    # 3 4 5 6: 3 mm without a gap to 6 mm with one
    Style.SLICES: GeometryRange((0.4, 1.0), (3, 6), (0, 0.3), (0.15, 0.15, 0.7)),
}
"""Voxel sizes in use, by style of examination."""


def draw_geometry(rng: np.random.Generator, style: Style) -> Geometry:
    """Voxels as some hospital may have set them up; every other stack of slices has no gap."""
    ranges = GEOMETRY_RANGES[Style(style)]
    in_plane = float(rng.uniform(*ranges.in_plane))
    thickness = float(rng.uniform(*ranges.thickness)) * (in_plane if ranges.relative else 1.0)
    gap = thickness * float(rng.uniform(*ranges.gap)) * float(rng.random() < 0.5)
    return Geometry(in_plane, thickness, gap, int(rng.choice(3, p=ranges.axes)))
