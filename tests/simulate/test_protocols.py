from __future__ import annotations

import itertools

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.simulate.physics import (
    InversionRecovery,
    Mprage,
    Sequence,
    SpinEcho,
    SpoiledGradientEcho,
    Tissue,
    relaxation,
    with_contrast_agent,
)
from medi2i.simulate.protocols import (
    GEOMETRY_RANGES,
    PROTOCOL_RANGES,
    Geometry,
    Style,
    draw_geometry,
    draw_sequence,
    null_time,
)

DRAWS = 400
BOTH = [pytest.param(field, id=f"{field:g}T") for field in (1.5, 3.0)]


def _draws(contrast: Contrast, style: Style, field: float) -> list[Sequence]:
    rng = np.random.default_rng(11)
    return [draw_sequence(contrast, rng, style=style, field=field) for _ in range(DRAWS)]


def _ratios(sequence: Sequence, field: float) -> tuple[float, float]:
    """Grey and fluid, relative to white matter."""
    white, grey, fluid = (
        sequence.signal(relaxation(tissue, field=field))
        for tissue in (Tissue.WHITE_MATTER, Tissue.CORTEX, Tissue.CSF)
    )
    return grey / white, fluid / white


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize("style", Style)
def test_t1w_ratios(style: Style, field: float) -> None:
    kinds: dict[type, tuple[float, float, float]] = {
        Mprage: (0.55, 0.85, 0.45),
        SpinEcho: (0.75, 0.95, 0.60),
        SpoiledGradientEcho: (0.65, 0.90, 0.50),
    }
    met = set()
    for sequence in _draws(Contrast.T1W, style, field):
        low, high, fluid_below = kinds[type(sequence)]
        met.add(type(sequence))
        grey, fluid = _ratios(sequence, field)
        assert low <= grey <= high, sequence
        assert abs(fluid) < fluid_below, sequence
    first = Mprage if style is Style.VOLUMETRIC else SpinEcho
    assert met == {first, SpoiledGradientEcho}


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize("style", Style)
def test_t2w_ratios(style: Style, field: float) -> None:
    for sequence in _draws(Contrast.T2W, style, field):
        grey, fluid = _ratios(sequence, field)
        assert 1.2 <= grey <= 1.7, sequence
        assert fluid > 2.2, sequence


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize("style", Style)
def test_flair_ratios(style: Style, field: float) -> None:
    """Fluid is dark, and below its null point or at it: never bright."""
    lesion = relaxation(Tissue.LESION, field=field)
    for sequence in _draws(Contrast.FLAIR, style, field):
        assert isinstance(sequence, InversionRecovery)
        grey, fluid = _ratios(sequence, field)
        assert 1.05 <= grey <= 1.4, sequence
        assert -0.4 < fluid <= 1e-6, sequence
        white = sequence.signal(relaxation(Tissue.WHITE_MATTER, field=field))
        assert sequence.signal(lesion) > 1.3 * white


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize("style", Style)
def test_pdw_ratios(style: Style, field: float) -> None:
    for sequence in _draws(Contrast.PDW, style, field):
        grey, fluid = _ratios(sequence, field)
        assert 1.02 <= grey <= 1.3, sequence
        assert 0.6 <= fluid <= 1.5, sequence


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize("style", Style)
def test_the_agent_shines(style: Style, field: float) -> None:
    white = relaxation(Tissue.WHITE_MATTER, field=field)
    for sequence in _draws(Contrast.T1CE, style, field):
        vessel = sequence.signal(with_contrast_agent(Tissue.BLOOD, field=field))
        assert vessel > 1.1 * sequence.signal(white), sequence


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize(("style", "contrast"), PROTOCOL_RANGES)
def test_corners_of_every_range_make_a_sequence(
    style: Style, contrast: Contrast, field: float
) -> None:
    """The extremes fit together: trains into TI and TR, echoes before repetitions."""

    class Corner:
        """Stands for a generator that always draws an end of the range."""

        def __init__(self, ends: tuple[int, ...]) -> None:
            self.ends = iter(ends)

        def uniform(self, low: float, high: float) -> float:
            return (low, high)[next(self.ends)]

    for row in PROTOCOL_RANGES[style, contrast]:
        assert all(0 < low <= high for low, high in row.spans.values())
        for ends in itertools.product((0, 1), repeat=len(row.spans)):
            made = row.draw(Corner(ends), field=field)  # type: ignore[arg-type]
            assert np.isfinite(made.signal(relaxation(Tissue.CORTEX, field=field)))


def test_every_contrast_style_and_field_has_a_protocol() -> None:
    for style, contrast, field in itertools.product(Style, Contrast, (1.5, 3.0)):
        rows = PROTOCOL_RANGES[style, contrast]
        assert any(field in row.fields for row in rows)


def test_fluid_is_null_at_the_null_time() -> None:
    for field, tr, te in itertools.product((1.5, 3.0), (5000, 9000, 12000), (90, 140)):
        fluid = relaxation(Tissue.CSF, field=field)
        ti = null_time(tr=tr, te=te, t1=fluid.t1)
        assert InversionRecovery(tr=tr, te=te, ti=ti).signal(fluid) == pytest.approx(0, abs=1e-12)
    assert null_time(tr=1e6, te=10, t1=1000) == pytest.approx(1000 * np.log(2))
    # 3-D FLAIR at 3 T is commonly set to TR 5000, TI 1800; 2-D to 9000 and 2500.
    assert null_time(tr=5000, te=120, t1=4300) == pytest.approx(1800, abs=30)
    assert null_time(tr=9000, te=120, t1=4300) == pytest.approx(2500, abs=40)


def test_draws_are_reproducible_and_differ() -> None:
    def draw(seed: int) -> Sequence:
        return draw_sequence("t1", np.random.default_rng(seed), style=Style.VOLUMETRIC)

    assert draw(5) == draw(5)
    assert len({repr(draw(seed)) for seed in range(20)}) == 20
    assert draw_geometry(np.random.default_rng(5), Style.SLICES) == draw_geometry(
        np.random.default_rng(5), Style.SLICES
    )


# --- geometry -------------------------------------------------------------------------------------


def test_slices_are_thick_and_volumes_nearly_cubes() -> None:
    rng = np.random.default_rng(1)
    slices = [draw_geometry(rng, Style.SLICES) for _ in range(DRAWS)]
    for made in slices:
        assert 0.4 <= made.in_plane <= 1.0
        assert 3.0 <= made.thickness <= 6.0
        assert 0.0 <= made.gap <= 0.3 * made.thickness
    assert 0.35 < np.mean([made.gap == 0 for made in slices]) < 0.65
    assert np.mean([made.axis == 2 for made in slices]) > 0.6
    assert {made.axis for made in slices} == {0, 1, 2}
    for _ in range(DRAWS):
        made = draw_geometry(rng, Style.VOLUMETRIC)
        assert made.gap == 0
        assert 0.7 <= made.in_plane <= 1.1
        assert 1.0 <= made.thickness / made.in_plane <= 1.25
    for ranges in GEOMETRY_RANGES.values():
        assert sum(ranges.axes) == pytest.approx(1)


def test_spacing_puts_the_slices_across_the_axis() -> None:
    assert Geometry(0.5, 4.0, 1.0, 0).spacing == (5.0, 0.5, 0.5)
    assert Geometry(0.5, 4.0, 0.0, 2).spacing == (0.5, 0.5, 4.0)


# --- refusals -------------------------------------------------------------------------------------


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"field is 7\.0"):
        draw_sequence(Contrast.T1W, rng, style=Style.SLICES, field=7.0)
    with pytest.raises(ContrastError, match="bold"):
        draw_sequence("bold", rng, style=Style.SLICES)
    with pytest.raises(UsageError, match="spiral"):
        Style("spiral")
    with pytest.raises(UsageError, match="thickness is 0"):
        Geometry(1.0, 0.0, 0.0, 2)
    with pytest.raises(UsageError, match="in_plane is -1"):
        Geometry(-1.0, 3.0, 0.0, 2)
    with pytest.raises(UsageError, match="gap is -1"):
        Geometry(1.0, 3.0, -1.0, 2)
    with pytest.raises(UsageError, match="axis is 3"):
        Geometry(1.0, 3.0, 0.0, 3)
