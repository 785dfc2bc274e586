from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.anomaly.calibration import RATES, Calibration, calibrate, own_calibration
from medi2i.anomaly.change import change_scores, pseudo_healthy
from medi2i.anomaly.find import anomalies_in, find_anomalies
from medi2i.anomaly.intensity import equalised, intensity_scores
from medi2i.anomaly.lesions import find_lesions, lesion_table
from medi2i.anomaly.tissue import eroded, find_brain, smoothed
from medi2i.contrasts import Contrast
from medi2i.errors import (
    ConfigError,
    ContrastError,
    DimensionError,
    InputError,
    ModelError,
    UsageError,
)
from medi2i.model import Model, build_system, read_model, write_model
from medi2i.task import Task, View
from medi2i.volume import Volume, load_volume

FLAIR, T1W = Contrast.FLAIR, Contrast.T1W
SHAPE = (40, 44, 12)
AFFINE = np.array([[-1.0, 0, 0, 20], [0, 1.0, 0, -22], [0, 0, 4.0, -20], [0, 0, 0, 1]])
SPOT = (slice(10, 15), slice(20, 25), slice(5, 8))


def ball() -> NDArray[np.bool_]:
    axes = (np.linspace(-1, 1, n) for n in SHAPE)
    inside: NDArray[np.bool_] = np.square(np.stack(np.meshgrid(*axes, indexing="ij"))).sum(0) < 0.9
    return inside


def flair(*, lesion: bool = True, seed: int = 0) -> Volume:
    brain = ball()
    voxels = np.where(brain, 400 + 30 * np.random.default_rng(seed).standard_normal(SHAPE), 0)
    if lesion:
        voxels[SPOT] = 700
    return Volume.of(voxels.clip(0).astype(np.float32), AFFINE, "x_FLAIR.nii")


def domain_model(**card: object) -> Model:
    task, view = Task((FLAIR,), (FLAIR,), domains=("healthy", "diseased")), View()
    torch.manual_seed(0)
    arguments = {"features": 2, "blocks": 1, "discriminator_features": 2} | {
        "discriminator_layers": 2,
        "window": 8,
    }
    system = build_system("stargan", arguments, task, view).eval()
    return Model("tiny", "stargan", arguments, task, view, system, card=card)


def healing(model: Model, monkeypatch: pytest.MonkeyPatch, *, by: float = 0.6) -> list[Tensor]:
    """An oracle: whatever is brighter than 0.5 becomes darker by a fixed amount."""
    asked: list[Tensor] = []

    def translate(source: Tensor, *, target: Tensor | None = None) -> Tensor:
        assert target is not None
        asked.append(target)
        return torch.where(source > 0.5, source - by, source)

    monkeypatch.setattr(model.system, "translate", translate)
    return asked


# ---- healthy tissue


def test_the_threshold_has_its_false_positive_rate() -> None:
    random = np.random.default_rng(0)
    maps = [random.random((50, 50, 50)), random.random((50, 50, 50)) + 0.2]
    healthy = [np.ones((50, 50, 50), bool)] * 2
    known = calibrate(maps, healthy, origin="noise")
    assert known.rates == RATES
    for rate in (0.01, 0.001):
        found = [float((m >= known.threshold(rate)).mean()) for m in maps]
        assert known.threshold(rate) == pytest.approx(1.1 - rate, abs=2e-3)
        assert found[0] == 0  # the mean of both scans lies above all of the first
    alone = calibrate(maps[:1], healthy[:1])
    assert float((maps[0] >= alone.threshold(0.003)).mean()) == pytest.approx(0.003, rel=0.2)


def test_a_small_sample_knows_no_rare_rates() -> None:
    scores = np.linspace(0, 1, 2000).reshape(10, 10, 20)
    known = calibrate([scores], [np.ones(scores.shape, bool)])
    assert known.rates[-1] == 0.005
    with pytest.raises(UsageError, match=r"from 0\.005 to 0\.5"):
        known.threshold(0.001)
    with pytest.raises(UsageError, match="10 voxels"):
        calibrate([scores], [scores < scores.ravel()[10]])


def test_probability_is_the_share_of_healthy_tissue_below() -> None:
    known = Calibration((0.5, 0.1, 0.01), (2.0, 3.0, 4.0))
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    shares = known.probability(scores)
    assert shares[:5].tolist() == pytest.approx([0, 0.25, 0.5, 0.9, 0.99])
    assert np.all(np.diff(shares) > 0)
    assert shares[-1] < 1
    at = np.array([known.threshold(0.03)])
    assert known.probability(at)[0] == pytest.approx(0.97)
    assert Calibration.from_dict(known.as_dict()) == known
    for rates, values in (
        ((0.5,), (1.0,)),
        ((0.1, 0.5), (1.0, 2.0)),
        ((0.5, 0.1), (2.0, 1.0)),
        ((0.5, 0.0), (1.0, 2.0)),
    ):
        with pytest.raises(ConfigError, match="falling rates"):
            Calibration(rates, values)
    with pytest.raises(ConfigError, match="no calibration"):
        Calibration.from_dict({"rates": [0.5, 0.1]})


def test_normal_noise_calibrates_itself() -> None:
    scores = np.abs(np.random.default_rng(0).standard_normal(200_000)) * 3
    everywhere = np.ones(scores.shape, bool)
    known = own_calibration(scores, everywhere)
    assert known.threshold(0.05) == pytest.approx(3 * 1.96, rel=0.02)
    assert float((scores >= known.threshold(0.01)).mean()) == pytest.approx(0.01, rel=0.1)
    with pytest.raises(UsageError, match="median score of the brain is 0"):
        own_calibration(scores * 0, everywhere)


# ---- the baseline


def test_equalisation_forgets_the_scale() -> None:
    scan = flair()
    brain = scan.voxels > 0
    one = equalised(scan.voxels, brain)
    assert np.array_equal(one, equalised(np.exp(scan.voxels.astype(float) / 300), brain))
    assert one[brain].mean() == pytest.approx(0.5)
    assert not one[~brain].any()
    with pytest.raises(UsageError, match="no voxel of brain"):
        equalised(scan.voxels, np.zeros(SHAPE, bool))


def test_smoothing_stays_inside() -> None:
    mask = ball()
    image = np.where(mask, 2.0, 77.0)
    smooth = smoothed(image, mask, 2.0, (1, 1, 4))
    np.testing.assert_allclose(smooth[mask], 2, rtol=1e-5)
    assert not smooth[~mask].any()
    point = np.zeros((21, 21, 21))
    point[10, 10, 10] = 1
    spread = smoothed(point, np.ones(point.shape, bool), 2.0, (1, 2, 4))
    assert spread[12, 10, 10] == pytest.approx(spread[10, 11, 10], rel=0.02)  # 2 mm either way


def test_erosion_leaves_thick_slices_alone() -> None:
    mask = np.ones((9, 9, 3), bool)
    assert np.array_equal(eroded(mask, 2.0, (1, 1, 5)).sum((0, 1)), [25, 25, 25])
    assert int(eroded(np.ones((9, 9, 9), bool), 2.0, (1, 1, 1)).sum()) == 125
    assert eroded(mask, 0.0, (1, 1, 5)) is mask


def test_a_scan_too_thin_to_be_judged_is_taken_whole_with_a_warning() -> None:
    scan = flair()
    brain = find_brain(scan)
    assert np.array_equal(brain.mask, scan.voxels > 0)
    assert "all that is not air" in brain.unseen


def test_the_baseline_finds_the_bright_spot_and_says_where() -> None:
    found = find_anomalies(flair(), model="intensity", smallest=50)
    (lesion,) = found.lesions
    assert 0.1 < lesion.volume_ml <= 75 * 4 / 1000  # smoothing takes the rim
    # voxel (12, 22, 6) by the affine
    assert lesion.centre_mm == pytest.approx((8, 0, 4), abs=0.3)
    assert found.score == lesion.peak == pytest.approx(float(found.scores.voxels[SPOT].max()))
    assert found.probability.voxels[12, 22, 6] > 1 - found.rate
    assert not found.labels.voxels[20:, :, :].any()
    assert found.healthy is None
    assert found.score > find_anomalies(flair(lesion=False), model="intensity", smallest=50).score
    assert find_anomalies(flair(), model="intensity", smallest=400).lesions == ()


def test_the_baseline_is_for_flair() -> None:
    with pytest.raises(ContrastError, match="T1w came"):
        anomalies_in({T1W: flair()})
    with pytest.raises(DimensionError, match="a brain of shape"):
        anomalies_in({FLAIR: flair()}, brain=np.ones((3, 3, 3), bool))
    with pytest.raises(UsageError, match="smallest lesion is -1"):
        anomalies_in({FLAIR: flair()}, smallest=-1)
    with pytest.raises(UsageError, match="mask is empty"):
        anomalies_in({FLAIR: flair()}, brain=np.zeros(SHAPE, bool))


def test_lesions_by_hand() -> None:
    found = np.zeros((10, 10, 10), bool)
    found[1:3, 1:3, 1:3] = True  # 8 voxels of 2 mm3
    found[5:8, 5:8, 5] = True  # 9 voxels
    found[0, 9, 9] = True  # one
    scores = np.arange(1000.0).reshape(10, 10, 10)
    affine = np.diag([2.0, -1.0, 1.0, 1.0])
    labels, lesions = find_lesions(scores, found, affine, smallest=16)
    assert [one.id for one in lesions] == [1, 2]
    assert [one.volume_ml for one in lesions] == pytest.approx([0.018, 0.016])
    assert lesions[0].centre_mm == pytest.approx((12, -6, 5))
    assert (lesions[0].peak, lesions[0].mean) == (775, 665)
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert (labels[6, 6, 5], labels[1, 1, 1], labels[0, 9, 9]) == (1, 2, 0)
    assert len(find_lesions(scores, found, affine, smallest=16.1)[1]) == 1
    assert lesion_table(()).count("\n") == 1


# ---- a model of domains


def test_a_model_of_domains_is_written_and_read(tmp_path: Path) -> None:
    model = domain_model()
    again = read_model(write_model(model, tmp_path / "m"))
    assert again.task == model.task
    assert (again.task.conditions, again.task.inputs) == (2, 1)
    assert str(again.task) == "FLAIR as any of healthy, diseased"
    with pytest.raises(ConfigError, match="fixed_point_gan or stargan"):
        build_system("unet", {}, model.task, model.view)
    with pytest.raises(UsageError, match="none twice"):
        Task((FLAIR,), (FLAIR,), domains=("a", "a"))
    with pytest.raises(UsageError, match="same contrasts"):
        Task((FLAIR,), (T1W,), domains=("healthy", "diseased"))


def test_who_reconstructs_learns_one_domain_and_the_others_several(tmp_path: Path) -> None:
    alone, both = (Task((FLAIR,), (FLAIR,), domains=d) for d in (("healthy",), ("ill", "healthy")))
    arguments = {"features": 2, "halvings": 1, "code": 1}
    for task in (both, Task((T1W,), (FLAIR,))):
        with pytest.raises(ConfigError, match='"vae" learns one domain'):
            build_system("vae", arguments, task, View())
    with pytest.raises(ConfigError, match='"stargan" goes from one to another'):
        build_system("stargan", {}, alone, View())
    system = build_system("vae", arguments, alone, View()).eval()
    model = Model("tiny", "vae", arguments, alone, View(), system)
    again = read_model(write_model(model, tmp_path / "m"))
    found = find_anomalies({FLAIR: flair()}, model=again, device="cpu", brain=ball())
    assert found.healthy is not None
    assert found.score > 0


def test_an_oracle_heals_and_the_rest_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scan = domain_model(), flair()
    asked = healing(model, monkeypatch)
    healthy, changes, _ = pseudo_healthy(model, {FLAIR: scan}, device="cpu")
    assert all(bool((target == 0).all()) for target in asked)
    inside = np.zeros(SHAPE, bool)
    inside[SPOT] = True
    assert np.array_equal(healthy.voxels[~inside], scan.voxels[~inside])
    # -0.6 of 2 is 30 % of the range, the top of which is 700
    assert changes[FLAIR][inside] == pytest.approx(-0.3, abs=1e-5)
    assert healthy.voxels[inside] == pytest.approx(490, abs=3)
    assert np.array_equal(healthy.affine, scan.affine)

    found = find_anomalies(
        scan, model=model, device="cpu", calibration=_flat(0.05, 0.1), smallest=9
    )
    assert found.difference is not None
    assert found.difference.voxels[12, 22, 6] == pytest.approx(210, abs=3)
    (lesion,) = found.lesions
    assert lesion.centre_mm == pytest.approx((8, 0, 4), abs=0.3)
    assert found.score == pytest.approx(0.3, abs=0.01)


def test_what_becomes_darker_is_a_lesion_where_lesions_are_bright() -> None:
    brain, change = np.ones((8, 8, 8), bool), np.zeros((8, 8, 8), np.float32)
    change[:2], change[6:] = -0.3, 0.2
    wide = (1e3, 1e3, 1e3)  # mm: nothing is smoothed away
    for contrast, brighter in ((FLAIR, 0.0), (T1W, 0.2)):
        scores = change_scores({contrast: change}, brain, wide)
        assert scores[0] == pytest.approx(0.3)
        assert scores[7] == pytest.approx(brighter)
    both = change_scores({FLAIR: change, T1W: change}, brain, wide)
    assert both[7] == pytest.approx(0.1)


def _flat(low: float, high: float) -> Calibration:
    return Calibration((0.5, 0.0001), (low, high))


def test_without_a_calibration_the_scan_serves_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, scan = domain_model(), flair()

    def noisy(source: Tensor, *, target: Tensor | None = None) -> Tensor:
        del target
        random = torch.Generator().manual_seed(0)
        noise = 0.02 * torch.randn(source.shape, generator=random)
        return torch.where(source > 0.5, source - 0.6, source + noise)

    monkeypatch.setattr(model.system, "translate", noisy)
    found = find_anomalies(scan, model=model, device="cpu")
    assert any("no calibration on healthy tissue" in warning for warning in found.warnings)
    assert len(found.lesions) == 1

    known = domain_model(calibration=_flat(0.2, 0.4).as_dict())
    healing(known, monkeypatch)
    found = find_anomalies(scan, model=known, device="cpu")
    assert found.calibration == _flat(0.2, 0.4)
    assert not any("calibration" in warning for warning in found.warnings)
    wrong = domain_model(calibration={"rates": "many"})
    healing(wrong, monkeypatch)
    with pytest.raises(ModelError, match='card of model "tiny"'):
        find_anomalies(scan, model=wrong, device="cpu")


def test_other_models_are_refused() -> None:
    model = domain_model()
    with pytest.raises(ContrastError, match="FLAIR as any of healthy, diseased; T1w came"):
        anomalies_in({T1W: flair()}, model=model, device="cpu", brain=ball())
    ill = domain_model()
    ill.task = Task((FLAIR,), (FLAIR,), domains=("young", "old"))
    with pytest.raises(ModelError, match='"healthy" among them'):
        anomalies_in({FLAIR: flair()}, model=ill)


def test_an_empty_brain_is_no_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    from medi2i.anomaly import tissue

    class Seen:
        brain_mask = np.zeros(SHAPE, bool)
        head = 0.01

    monkeypatch.setattr(tissue, "glance", lambda volume, net=None: Seen())
    with pytest.raises(InputError, match="shows no brain"):
        find_brain(flair())


def test_a_skull_is_left_out_and_a_stripped_brain_is_taken_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from medi2i.anomaly import find, tissue

    inner = np.zeros(SHAPE, bool)
    inner[10:30, 10:34, 2:10] = True
    inner &= ball()

    class Seen:
        brain_mask = inner
        head = 1.0

    monkeypatch.setattr(tissue, "glance", lambda volume, net=None: Seen())
    monkeypatch.setattr(find, "guarded", lambda *seen, **least: [])
    whole = find_brain(flair())
    assert not whole.stripped
    assert np.array_equal(whole.mask, inner)
    # its rim, where bone may be taken for brain, is not judged
    found = anomalies_in({FLAIR: flair()}, brain=inner)
    assert np.array_equal(found.brain, eroded(inner, 2.0, flair().spacing))
    assert found.brain.sum() < 0.9 * inner.sum()
    monkeypatch.setattr(Seen, "brain_mask", ball() & (np.arange(12) > 0))
    stripped = find_brain(flair())
    assert stripped.stripped
    assert np.array_equal(stripped.mask, flair().voxels > 0)
    assert np.array_equal(anomalies_in({FLAIR: flair()}).brain, stripped.mask)


def test_real_lesions_are_brighter_than_healthy_tissue(shared_data: object) -> None:
    from pathlib import Path

    from medi2i.anomaly.scoring import voxel_scores

    root = Path(str(shared_data)) / "openms"
    scan = load_volume(root / "sub-MS26/anat/sub-MS26_FLAIR.nii.gz")
    truth = load_volume(
        root / "derivatives/expert/sub-MS26/anat/sub-MS26_label-lesion_mask.nii.gz"
    ).resampled_onto(scan, linear=False)
    keep = (slice(None), slice(None), slice(80, 120))
    voxels, lesions = scan.voxels[keep], truth.voxels[keep] > 0
    brain = voxels > 0
    scores = voxel_scores(
        intensity_scores(voxels, brain, scan.spacing),
        brain,
        lesions,
        threshold=0.916,
        spacing=scan.spacing,
    )
    assert scores.auprc > 20 * lesions.sum() / brain.sum()
    assert scores.dice > 0.3
