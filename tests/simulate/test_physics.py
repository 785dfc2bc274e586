from __future__ import annotations

import itertools
import math

import pytest

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.simulate.physics import (
    LABELS,
    InversionRecovery,
    Mprage,
    Relaxation,
    Sequence,
    SpinEcho,
    SpoiledGradientEcho,
    Tissue,
    protocol,
    relaxation,
    with_contrast_agent,
)

# T1 = 1000 / ln 2: recovery halves every second, so that the exponentials are powers of 1/2.
HALVING = Relaxation(pd=0.8, t1=1000 / math.log(2), t2=100 / math.log(2), t2s=10 / math.log(2))
LONG, SHORT = 1e7, 1e-6
FIELDS = (1.5, 3.0)


def test_spin_echo_by_hand() -> None:
    # 0.8 * (1 - 2 * 2^-1.95 + 2^-2) * 2^-1
    assert SpinEcho(tr=2000, te=100).signal(HALVING) == pytest.approx(0.292948, abs=1e-6)


def test_inversion_recovery_by_hand() -> None:
    # 0.8 * (1 - 2 * 2^-1 + 2 * 2^-3.95 - 2^-4) * 2^-1
    signal = InversionRecovery(tr=4000, te=100, ti=1000).signal(HALVING)
    assert signal == pytest.approx(0.026763, abs=1e-6)


def test_spoiled_gradient_echo_by_hand() -> None:
    # 0.8 * sin 90 * (1 - 2^-1) * 2^-1; then 0.8 * sin 60 * 0.5 / (1 - 0.5 * 0.5) * 2^-1
    assert SpoiledGradientEcho(tr=1000, te=10, flip=90).signal(HALVING) == pytest.approx(0.2)
    signal = SpoiledGradientEcho(tr=1000, te=10, flip=60).signal(HALVING)
    assert signal == pytest.approx(0.8 * math.sqrt(3) / 2 / 0.75 / 4)


def test_mprage_is_the_fixed_point_of_its_own_simulation() -> None:
    sequence = Mprage(tr=2000, ti=900, te=3, flip=9, echo_spacing=8, echoes=100, efficiency=0.9)
    tissue = Relaxation(pd=1.0, t1=1100, t2=80, t2s=50)

    def free(m: float, time: float) -> float:
        return 1 - (1 - m) * math.exp(-time / tissue.t1)

    m, middle = 1.0, 0.0
    for _ in range(50):  # periods, pulse by pulse
        m = free(-0.9 * m, 500)  # until the train: 900 - 50 * 8
        for pulse in range(100):
            if pulse == 50:
                middle = m
            m = free(m * math.cos(math.radians(9)), 8)
        m = free(m, 700)
    expected = middle * math.sin(math.radians(9)) * math.exp(-3 / 50)
    assert sequence.signal(tissue) == pytest.approx(expected, rel=1e-9)


def test_mprage_without_pulses_is_inversion_recovery() -> None:
    tissue = Relaxation(pd=1.0, t1=900, t2=80, t2s=1e9)
    sequence = Mprage(tr=2300, ti=1000, te=3, flip=1e-4, efficiency=1)
    per_angle = sequence.signal(tissue) / math.sin(math.radians(1e-4))
    free = 1 - 2 * math.exp(-1000 / 900) / (1 + math.exp(-2300 / 900))
    assert per_angle == pytest.approx(free, abs=1e-6)


@pytest.mark.parametrize("tissue", [t for t in Tissue if t is not Tissue.AIR])
def test_limits(tissue: Tissue) -> None:
    body = relaxation(tissue)
    # TE -> 0 and TR -> infinity leave the proton density.
    assert SpinEcho(tr=LONG, te=SHORT).signal(body) == pytest.approx(body.pd, rel=1e-4)
    # TE -> 0 alone leaves saturation recovery.
    expected = body.pd * (1 - math.exp(-500 / body.t1))
    assert SpinEcho(tr=500, te=SHORT).signal(body) == pytest.approx(expected, rel=1e-3)
    # TR -> 0 leaves nothing.
    assert SpinEcho(tr=2 * SHORT, te=SHORT).signal(body) == pytest.approx(0, abs=1e-6)
    # A 90 degree gradient echo with a long TR is a spin echo that decays with T2*.
    echo = SpoiledGradientEcho(tr=LONG, te=1, flip=90).signal(body)
    assert echo == pytest.approx(body.pd * math.exp(-1 / body.t2s), rel=1e-6)


@pytest.mark.parametrize("t1", [300.0, 900.0, 4300.0])
def test_null_point(t1: float) -> None:
    tissue = Relaxation(pd=1, t1=t1, t2=100, t2s=50)
    at_null = InversionRecovery(tr=LONG, te=10, ti=t1 * math.log(2))
    assert at_null.signal(tissue) == pytest.approx(0, abs=1e-9)
    before = InversionRecovery(tr=LONG, te=10, ti=t1 * 0.6).signal(tissue)
    after = InversionRecovery(tr=LONG, te=10, ti=t1 * 0.8).signal(tissue)
    assert before < 0 < after


def test_ernst_angle() -> None:
    tissue, tr = Relaxation(pd=1, t1=900, t2=80, t2s=50), 20.0
    ernst = math.degrees(math.acos(math.exp(-tr / 900)))
    best = SpoiledGradientEcho(tr=tr, te=3, flip=ernst).signal(tissue)
    for flip in (ernst - 1, ernst + 1):
        assert SpoiledGradientEcho(tr=tr, te=3, flip=flip).signal(tissue) < best


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("contrast", "order"),
    [  # brightest first
        (Contrast.T1W, (Tissue.FAT, Tissue.WHITE_MATTER, Tissue.CORTEX, Tissue.CSF)),
        (Contrast.T2W, (Tissue.CSF, Tissue.CORTEX, Tissue.WHITE_MATTER, Tissue.MUSCLE)),
        (Contrast.FLAIR, (Tissue.LESION, Tissue.CORTEX, Tissue.WHITE_MATTER, Tissue.CSF)),
        (Contrast.PDW, (Tissue.CORTEX, Tissue.WHITE_MATTER, Tissue.CORTICAL_BONE)),
    ],
)
def test_order_of_tissues(contrast: Contrast, order: tuple[Tissue, ...], field: float) -> None:
    sequence = protocol(contrast, field=field)
    signals = [abs(sequence.signal(relaxation(tissue, field=field))) for tissue in order]
    assert signals == sorted(signals, reverse=True)
    assert all(a > 1.05 * b for a, b in itertools.pairwise(signals))


@pytest.mark.parametrize("field", FIELDS)
def test_flair_nulls_fluid(field: float) -> None:
    sequence = protocol("flair", field=field)
    fluid = sequence.signal(relaxation(Tissue.CSF, field=field))
    white = sequence.signal(relaxation(Tissue.WHITE_MATTER, field=field))
    assert abs(fluid) < 1e-3 * white


@pytest.mark.parametrize("field", FIELDS)
def test_contrast_agent(field: float) -> None:
    for tissue in (Tissue.WHITE_MATTER, Tissue.CORTEX, Tissue.CSF):  # behind the barrier
        assert with_contrast_agent(tissue, field=field) == relaxation(tissue, field=field)
    before = relaxation(Tissue.MUCOSA, field=3.0)
    after = with_contrast_agent(Tissue.MUCOSA, field=3.0)
    assert 1000 / after.t1 == pytest.approx(1000 / before.t1 + 5.0 * 0.6)
    assert 1000 / after.t2 == pytest.approx(1000 / before.t2 + 7.1 * 0.6)
    sequence = protocol("t1c", field=field)
    enhanced = sequence.signal(with_contrast_agent(Tissue.BLOOD, field=field))
    assert enhanced > sequence.signal(relaxation(Tissue.WHITE_MATTER, field=field))


def test_tables_are_plausible() -> None:
    for tissue in Tissue:
        for field in FIELDS:
            body = relaxation(tissue, field=field)
            assert 0 <= body.pd <= 1
            assert 0 < body.t2s <= body.t2 <= body.t1
        # T1 grows with the field.
        assert relaxation(tissue, field=1.5).t1 <= relaxation(tissue, field=3.0).t1
    drawn_as_lesions = {
        Tissue.OEDEMA,
        Tissue.NECROSIS,
        Tissue.TUMOUR,
        Tissue.ENHANCING,
        Tissue.HAEMORRHAGE,
        Tissue.ISCHAEMIA,
    }
    assert set(LABELS.values()) == set(Tissue) - drawn_as_lesions


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpinEcho(tr=100, te=100), r"te \(100 ms\) must be shorter than tr"),
        (lambda: SpinEcho(tr=-1, te=10), "tr is -1"),
        (lambda: SpinEcho(tr=float("nan"), te=10), "tr is nan"),
        (lambda: InversionRecovery(tr=1000, te=100, ti=900), "must be shorter than tr"),
        (lambda: SpoiledGradientEcho(tr=10, te=3, flip=0), "flip is 0"),
        (lambda: Mprage(tr=1000, ti=900, te=3, flip=9), "does not fit"),
    ],
)
def test_impossible_sequences(make: type[Sequence], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_unknown_field_and_contrast() -> None:
    with pytest.raises(UsageError, match=r"7\.0 T"):
        relaxation(Tissue.CORTEX, field=7.0)
    with pytest.raises(ContrastError):
        protocol("t9")
