from __future__ import annotations

import math

import numpy as np
import pytest

from medi2i.anomaly.froc import candidates, detections, froc
from medi2i.anomaly.scoring import (
    VoxelScores,
    auprc,
    auroc,
    auroc_interval,
    best_dice,
    dice,
    millilitres,
    residual,
    slice_scores,
    summarise,
    voxel_scores,
)
from medi2i.errors import DimensionError, IntensityError, UsageError


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    # diseased 3, 5, 5; healthy 1, 3, 4, 5: of 12 pairs 3>1, 5>1, 5>3, 5>4 (twice) are right: 1+3+3,
    # ties 3=3 and twice 5=5 count half: (7 + 1.5) / 12
    scores, labels = [3, 5, 5, 1, 3, 4, 5], [True, True, True, False, False, False, False]
    assert auroc(scores, labels) == pytest.approx(8.5 / 12)
    assert auroc([1, 1, 1, 1], [True, False, True, False]) == 0.5
    assert auroc([1, 2], [False, True]) == 1
    assert auroc([1, 2], [True, False]) == 0


def test_auroc_equals_counting_pairs_and_any_rising_function_keeps_it() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 9, 60) / 9, random.random(60) < 0.4
    pairs = scores[labels][:, None] - scores[~labels][None]
    counted = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    assert auroc(scores, labels) == pytest.approx(counted)
    assert auroc(np.exp(3 * scores), labels) == pytest.approx(counted)
    assert auroc(scores, ~labels) == pytest.approx(1 - counted)


def test_auroc_wants_both_kinds() -> None:
    with pytest.raises(UsageError, match="2 diseased and 0 healthy"):
        auroc([1, 2], [True, True])
    with pytest.raises(DimensionError, match="2 scores and 1 labels"):
        auroc([1, 2], [True])
    with pytest.raises(IntensityError, match="not finite"):
        auroc([1, math.nan], [True, False])


def test_the_interval_of_auroc_keeps_people_together() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(120) % 2 == 0
    scores = labels + 1.2 * random.standard_normal(120)
    interval = auroc_interval(scores, labels)
    assert interval is not None
    low, high = interval
    assert low < auroc(scores, labels) < high
    assert 0.05 < high - low < 0.25
    # each person ten times: nothing new is known, so that the interval may not shrink
    again = auroc_interval(
        np.repeat(scores, 10), np.repeat(labels, 10), [f"{n // 10:03d}" for n in range(1200)]
    )
    assert again == pytest.approx(interval)
    assert auroc_interval([1, 2], [True, False], ["a", "a"]) is None


def test_average_precision_by_hand() -> None:
    # from the top: hit (1/1), miss, hit (2/3), two of equal score of which one is a hit (3/5)
    scores, truth = [9, 8, 7, 5, 5, 1], [True, False, True, True, False, False]
    assert auprc(scores, truth) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert auprc([1, 1, 1, 1], [True, False, False, False]) == 0.25  # no ranking: the prevalence
    assert auprc([2, 1], [True, False]) == 1
    assert math.isnan(auprc([2, 1], [False, False]))


def test_dice_by_hand() -> None:
    assert dice([1, 1, 1, 0], [0, 1, 1, 1]) == pytest.approx(2 * 2 / 6)
    assert math.isnan(dice([0, 0], [0, 0]))
    assert dice([1, 0], [0, 0]) == 0
    with pytest.raises(DimensionError):
        dice([1], [1, 0])


def test_the_best_dice_is_the_best_of_all_thresholds() -> None:
    random = np.random.default_rng(2)
    truth = random.random(200) < 0.3
    scores = np.round(truth + random.standard_normal(200), 1)
    tried = {t: dice(scores >= t, truth) for t in np.unique(scores)}
    value, at = best_dice(scores, truth)
    assert value == pytest.approx(max(tried.values()))
    assert dice(scores >= at, truth) == value


def test_volumes_and_residual() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[:2, 0, 0] = True
    assert millilitres(mask, (10, 5, 2)) == pytest.approx(0.2)
    difference = np.where(mask, 5.0, -0.25).astype(np.float32)
    everything = np.ones_like(mask)
    assert residual(difference, everything, mask) == 0.25
    assert residual(difference, everything) == pytest.approx((2 * 5 + 62 * 0.25) / 64)
    with pytest.raises(UsageError, match="no tissue"):
        residual(difference, mask, mask)


def test_slices_take_their_highest_value_in_the_brain() -> None:
    anomaly = np.zeros((3, 3, 4), np.float32)
    anomaly[0, 0] = [1, 2, 3, 9]
    anomaly[2, 2] = 7  # skull
    tissue = np.zeros((3, 3, 4), bool)
    tissue[:2, :2, :3] = True  # the last slice shows no brain
    lesions = np.zeros((3, 3, 4), bool)
    lesions[0, :2, 1] = True
    lesions[0, 0, 2] = True
    scores, labels = slice_scores(anomaly, tissue, lesions)
    assert (scores.tolist(), labels.tolist()) == ([1, 2, 3], [False, True, True])
    scores, labels = slice_scores(anomaly, tissue, lesions, least=2)  # one voxel: neither
    assert (scores.tolist(), labels.tolist()) == ([1, 2], [False, True])


def test_a_scan_by_hand() -> None:
    anomaly = np.array([[[0.9, 0.8]], [[0.7, 0.1]], [[0.99, 0.95]]], np.float32)
    tissue = np.array([[[1, 1]], [[1, 1]], [[0, 0]]], bool)
    lesions = np.array([[[1, 0]], [[1, 0]], [[0, 1]]], bool)  # the last lies outside the brain
    scores = voxel_scores(anomaly, tissue, lesions, threshold=0.75, spacing=(1, 2, 5))
    # in order: hit .9, miss .8, hit .7, miss .1, and the voxel outside last: a hit
    assert scores.auprc == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert scores.best_dice == pytest.approx(2 * 3 / (5 + 3))
    assert scores.dice == pytest.approx(2 * 1 / (2 + 3))
    assert scores.false_positive_ml == pytest.approx(0.01)
    assert scores.lesion_ml == pytest.approx(0.03)


def test_a_healthy_scan_has_false_positives_alone() -> None:
    anomaly, tissue = np.ones((2, 2, 2), np.float32), np.ones((2, 2, 2), bool)
    scores = voxel_scores(anomaly, tissue, ~tissue, threshold=0.5, spacing=(10, 10, 10))
    assert scores.false_positive_ml == 8
    assert (scores.dice, scores.lesion_ml) == (0, 0)
    assert math.isnan(scores.auprc)


def test_a_summary_leaves_out_what_is_not_known() -> None:
    def scan(value: float, known: float) -> VoxelScores:
        return VoxelScores(known, known, known, value, value, value)

    table = summarise([scan(1, 0.5), scan(2, math.nan), scan(6, 0.7)])
    assert table["dice"][0] == 3
    low, high = table["dice"][1] or (0, 0)
    assert 1 <= low < 3 < high <= 6
    assert table["auprc"][0] == pytest.approx(0.6)
    with pytest.raises(UsageError):
        summarise([])


def blob(*corner: int, size: int = 4, shape: tuple[int, ...] = (24, 24)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + size) for c in corner)] = True
    return mask


def test_a_candidate_of_ten_voxels_is_none() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2, :10] = True
    mask[8, :11] = True
    labels, count = candidates(mask)
    assert count == 1
    assert np.array_equal(labels > 0, mask & (np.arange(20) == 8)[:, None])


def test_corners_connect() -> None:
    mask = np.eye(12, dtype=bool)
    assert candidates(mask)[1] == 1


def test_detections_by_hand() -> None:
    lesions = blob(2, 2) | blob(2, 14) | blob(14, 2)
    found = blob(2, 2, size=3) | blob(3, 15, size=4) | blob(16, 16)
    assert detections(found, lesions, smallest=1) == (2, 1, 3)
    # two candidates in one lesion: found once, and no false alarm
    wide = blob(2, 2, size=12)
    assert detections(blob(3, 3, size=3) | blob(9, 9, size=3), wide, smallest=1) == (1, 0, 1)
    assert detections(np.zeros_like(wide), wide) == (0, 0, 1)


def test_a_ring_around_its_lesion_may_find_it_and_beside_it_may_not() -> None:
    ring = blob(4, 4, size=9) & ~blob(6, 6, size=5)
    assert detections(ring, blob(8, 8, size=1)) == (1, 0, 1)  # its centre lies in the hole
    assert detections(ring, ring & blob(4, 4, size=9)) == (0, 1, 1)  # a lesion shaped like it


def test_an_oracle_finds_everything_without_false_alarms() -> None:
    lesions = [blob(2, 2) | blob(14, 14), blob(8, 8), np.zeros((24, 24), bool)]
    curve = froc([m.astype(np.float32) for m in lesions], lesions, thresholds=[0.5])
    assert (curve.sensitivity, curve.false_positives) == ((1.0,), (0.0,))
    assert (curve.lesions, curve.images) == (3, 3)
    assert curve.at(0) == 1


def test_the_curve_by_hand() -> None:
    lesions = [blob(2, 2) | blob(14, 14), np.zeros((24, 24), bool)]
    first = 0.9 * blob(2, 2) + 0.5 * blob(14, 14) + 0.7 * blob(2, 14)
    second = 0.6 * blob(8, 8) + 0.4 * blob(2, 2)
    curve = froc([first, second], lesions, thresholds=[0.4, 0.5, 0.6, 0.7, 0.9])
    assert curve.thresholds == (0.9, 0.7, 0.6, 0.5, 0.4)
    assert curve.sensitivity == (0.5, 0.5, 0.5, 1, 1)
    assert curve.false_positives == (0, 0.5, 1, 1, 1.5)
    assert (curve.at(0.4), curve.at(1), curve.at(-1)) == (0.5, 1, 0)


def test_volumes_slice_by_slice() -> None:
    lesion = np.zeros((24, 24, 4), bool)
    lesion[..., 1:3] = blob(4, 4)[..., None]
    anomaly = np.where(lesion, 1.0, 0.0)
    anomaly[..., 3] = -np.inf  # no brain: no image
    whole = froc([anomaly], [lesion], thresholds=[0.5])
    assert (whole.lesions, whole.images) == (1, 1)
    sliced = froc([anomaly], [lesion], thresholds=[0.5], sliced=True)
    assert (sliced.lesions, sliced.images, sliced.at()) == (2, 3, 1.0)


def test_thresholds_come_from_the_maps() -> None:
    random = np.random.default_rng(0)
    lesions = blob(4, 4, size=6)
    noise = random.random((24, 24))
    curve = froc([noise + 2 * lesions], [lesions])
    assert curve.at(0) == 1
    assert curve.thresholds[0] == pytest.approx(float((noise + 2 * lesions).max()))
    with pytest.raises(UsageError, match="no image shows a lesion"):
        froc([noise], [np.zeros_like(lesions)])
    with pytest.raises(UsageError, match="1 maps and 0 masks"):
        froc([noise], [])
    with pytest.raises(DimensionError):
        froc([noise], [lesions[:5]])
