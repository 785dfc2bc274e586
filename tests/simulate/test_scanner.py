from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, UsageError
from medi2i.simulate import (
    Head,
    InversionRecovery,
    Relaxation,
    SpinEcho,
    Tissue,
    acquire,
    phantom,
    relaxation,
)
from medi2i.simulate.shapes import WHOLE

SHAPE, SPACING = (40, 48, 40), (4.0, 4.0, 4.0)


def _tiny(shares: list[dict[Tissue, int]]) -> Head:
    """A row of voxels with the given shares, twice along the other axes."""
    stack = np.zeros((len(Tissue), len(shares), 2, 2), np.uint8)
    for voxel, parts in enumerate(shares):
        for tissue, part in parts.items():
            stack[list(Tissue).index(tissue), voxel] = part
    labels = np.zeros(stack.shape[1:], np.int16)
    return Head(labels, stack, tuple(Tissue), (1.0, 1.0, 1.0), np.eye(4))


def test_a_voxel_is_the_sum_of_its_tissues() -> None:
    half = {Tissue.WHITE_MATTER: 51, Tissue.CSF: 204}  # 20 and 80 %
    head = _tiny([{Tissue.WHITE_MATTER: WHOLE}, half, {Tissue.CSF: WHOLE}])
    sequence = SpinEcho(tr=5000, te=100)
    white, fluid = (sequence.signal(relaxation(t)) for t in (Tissue.WHITE_MATTER, Tissue.CSF))
    image = acquire(head, sequence, noise=0, bias=0)[:, 0, 0]
    top = np.percentile(np.repeat([white, 0.2 * white + 0.8 * fluid, fluid], 4), 99.9)
    expected = np.array([white, 0.2 * white + 0.8 * fluid, fluid]) * 1000 / top
    np.testing.assert_allclose(image, expected, rtol=1e-5)


def test_opposite_magnetisation_cancels() -> None:
    """Before the fluid's null point, fluid is negative: a mixed voxel is darker than either."""
    mixed = {Tissue.WHITE_MATTER: 128, Tissue.CSF: 127}
    head = _tiny([{Tissue.WHITE_MATTER: WHOLE}, mixed, {Tissue.CSF: WHOLE}])
    white, between, fluid = acquire(
        head, InversionRecovery(tr=9000, te=10, ti=1100), noise=0, bias=0
    )[:, 0, 0]
    assert between < min(white, fluid)


@pytest.mark.parametrize("field", [1.5, 3.0])
@pytest.mark.parametrize(
    ("contrast", "brightest_first"),
    [
        ("T1w", ((2, 41), (3, 42), (24, 4, 43))),
        ("T2w", ((24, 4, 43), (3, 42), (2, 41))),
        ("FLAIR", ((3, 42), (2, 41), (24, 4, 43))),
        ("PDw", ((3, 42), (2, 41))),
        ("ce-gad_T1w", ((2, 41), (3, 42), (24, 4, 43))),
    ],
)
def test_white_grey_and_fluid(
    head: Head, contrast: str, brightest_first: tuple[tuple[int, ...], ...], field: float
) -> None:
    image = acquire(head, contrast, seed=2, field=field)
    medians = [float(np.median(image[np.isin(head.labels, g)])) for g in brightest_first]
    assert all(a > 1.05 * b for a, b in itertools.pairwise(medians))


def test_enhanced_vessels_and_mucosa(head: Head) -> None:
    plain, enhanced = (acquire(head, c, noise=0, bias=0) for c in ("t1", "t1c"))
    white = np.isin(head.labels, (2, 41))
    for label in (514, 509):
        there = head.labels == label
        before = np.median(plain[there]) / np.median(plain[white])
        assert np.median(enhanced[there]) / np.median(enhanced[white]) > 1.5 * before


def test_the_same_seed_gives_the_same_bytes(head: Head) -> None:
    one, two, other = (acquire(head, "t1", seed=s) for s in (7, 7, 8))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()
    assert one.dtype == np.float32
    assert one.min() >= 0


def test_noise_is_rician() -> None:
    """In air the magnitude is Rayleigh: mean sigma sqrt(pi/2); in bright tissue sigma remains."""
    parts = [{Tissue.AIR: WHOLE}, {Tissue.FAT: WHOLE}]
    small = _tiny(parts)
    head = Head(
        np.repeat(small.labels, 60, axis=1).repeat(60, axis=2),
        np.repeat(small.shares, 60, axis=2).repeat(60, axis=3),
        small.tissues,
        small.spacing,
        small.affine,
    )
    air, fat = acquire(head, "t1", seed=1, noise=0.05, bias=0)
    assert air.mean() == pytest.approx(50 * np.sqrt(np.pi / 2), rel=0.02)
    assert fat.std() == pytest.approx(50, rel=0.03)
    assert fat.mean() == pytest.approx(1000, rel=0.01)


def test_bias_is_smooth_and_as_strong_as_asked(head: Head) -> None:
    even, uneven = (acquire(head, "t1", seed=4, noise=0, bias=b) for b in (0.0, 0.2))
    inside = even > 100
    field = np.log(uneven[inside] / even[inside])
    assert 0.03 < field.std() < 0.4
    ratio = np.where(inside, uneven / np.maximum(even, 1), np.nan)
    assert np.nanmax(np.abs(np.diff(ratio, axis=0))) < 0.05


def test_phantom_on_one_grid() -> None:
    scans = phantom(2, contrasts=["t1", Contrast.FLAIR], shape=SHAPE, spacing=SPACING)
    assert list(scans) == [Contrast.T1W, Contrast.FLAIR]
    one, two = scans.values()
    np.testing.assert_array_equal(one.affine, two.affine)
    assert one.spacing == pytest.approx(SPACING)
    assert one.shape == two.shape == SHAPE
    assert one.voxels.tobytes() != two.voxels.tobytes()
    alone = phantom(2, contrasts=["flair"], shape=SHAPE, spacing=SPACING)[Contrast.FLAIR]
    assert alone.voxels.tobytes() == two.voxels.tobytes()


def test_refusals(head: Head) -> None:
    with pytest.raises(UsageError, match="negative"):
        acquire(head, "t1", noise=-0.1)
    with pytest.raises(ContrastError):
        acquire(head, "t9")
    with pytest.raises(ContrastError):
        phantom(contrasts=["nothing"], shape=SHAPE, spacing=SPACING)


def test_any_sequence_will_do(head: Head) -> None:
    class Water:
        def signal(self, tissue: Relaxation) -> float:
            return tissue.pd

    image = acquire(head, Water(), noise=0, bias=0)
    assert np.median(image[head.labels == 4]) == pytest.approx(1000, rel=0.01)


@pytest.mark.slow
def test_a_head_at_1_mm_takes_seconds() -> None:
    start = time.process_time()
    scans = phantom(0)
    assert {v.shape for v in scans.values()} == {(160, 192, 160)}
    assert time.process_time() - start < 60
