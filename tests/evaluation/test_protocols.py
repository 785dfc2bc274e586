"""Each protocol against its reference, written out here from the published code, to 1e-6."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medi2i.errors import DimensionError, IntensityError, UsageError
from medi2i.evaluation.protocols import PROTOCOLS, protocol
from medi2i.evaluation.scoring import thick_axis

Array = NDArray[Any]
CLOSE: dict[str, Any] = {"rel": 1e-6, "abs": 1e-6}


def head(shape: tuple[int, int, int], seed: int = 0) -> tuple[Array, Array, Array]:
    """A smooth blob in air as target, a wrong-looking prediction of it, the blob's mask."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    mask: Array = np.sum(np.square(grid), axis=0) < 0.7
    target = np.where(mask, 400 + 900 * gaussian_filter(rng.standard_normal(shape), 1.5), 0.0)
    noise = gaussian_filter(rng.standard_normal(shape), 1.0)
    predicted = np.where(mask, 300 + 0.6 * target + 150 * noise, 0.0)
    return predicted.clip(0), target.clip(0), mask


def skimage_ssim(x: Array, y: Array, **options: Any) -> Any:
    from skimage.metrics import structural_similarity

    return structural_similarity(x, y, **options)


WANG: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def brain_by_hand(predicted: Array, target: Array, mask: Array) -> tuple[Array, Array]:
    low, high = np.percentile(target[mask], [0.5, 99.5])
    unit = np.where(mask, np.clip((target - low) / (high - low), 0, 1), 0)
    design = np.stack([predicted[mask], np.ones(mask.sum())], axis=1)
    (gain, offset), *_ = np.linalg.lstsq(design, unit[mask], rcond=None)
    return np.where(mask, np.clip(gain * predicted + offset, 0, 1), 0), unit


def test_brain_3d_against_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    predicted, target, mask = head((30, 34, 26))
    source = np.where(mask, 5.0, -1.0)
    fitted, unit = brain_by_hand(predicted, target, mask)
    _, full = skimage_ssim(fitted, unit, data_range=1, full=True, **WANG)
    scores = protocol("brain-3d").score(predicted, target, source=source)
    assert scores.protocol == "brain-3d@1"
    assert scores.ssim == pytest.approx(full[mask].mean(), **CLOSE)
    peak = peak_signal_noise_ratio(unit[mask], fitted[mask], data_range=1)
    assert scores.psnr == pytest.approx(peak, **CLOSE)
    assert scores.mae == pytest.approx(np.abs(fitted - unit)[mask].mean(), **CLOSE)
    assert scores.nmse == pytest.approx(np.sum((fitted - unit) ** 2) / np.sum(unit**2), **CLOSE)
    assert scores.voxels == mask.sum()
    assert protocol("brain-3d").score(predicted, target, mask=mask) == scores


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_brain_3d_takes_thick_stacks_slice_by_slice(axis: int) -> None:
    predicted, target, mask = (np.moveaxis(array, 2, axis) for array in head((30, 34, 9)))
    mask = mask.copy()
    corner = np.moveaxis(mask, axis, 2)
    corner[..., 0] = False
    corner[3, 3, 0] = True  # a slice with one voxel of the mask, which is left out
    fitted, unit = brain_by_hand(predicted, target, mask)
    means = []
    for index in range(1, 9):
        inside = mask.take(index, axis)
        if inside.any():
            pair = fitted.take(index, axis), unit.take(index, axis)
            means.append(skimage_ssim(*pair, data_range=1, full=True, **WANG)[1][inside].mean())
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.01
    scores = protocol("brain-3d").score(predicted, target, mask=mask, spacing=tuple(spacing))  # type: ignore[arg-type]
    assert scores.ssim == pytest.approx(np.mean(means), **CLOSE)


def test_thick_axis() -> None:
    assert thick_axis((1.0, 1.0, 3.0)) is None
    assert thick_axis((1.0, 3.1, 1.0)) == 1
    assert thick_axis((0.5, 4.0, 4.0)) is None


def test_brain_3d_ignores_gain_offset_and_background() -> None:
    predicted, target, mask = head((20, 22, 18))
    score = protocol("brain-3d@1").score
    scores = score(predicted, target, mask=mask)
    other = score(np.where(mask, 7 - 3 * predicted, 1e6), target * 40 - 9, mask=mask)
    assert (other.psnr, other.ssim) == pytest.approx((scores.psnr, scores.ssim), abs=1e-9)
    flat = score(np.zeros_like(target), target, mask=mask)
    unit = brain_by_hand(predicted, target, mask)[1][mask]
    assert flat.psnr == pytest.approx(-10 * math.log10(unit.var()), abs=1e-9)


def test_brain_3d_toy_by_hand() -> None:
    # Target 0, 1 in the mask (percentiles 0.005 and 0.995), prediction equal to it but for a flip.
    target = np.zeros((2, 2, 2))
    target[0] = 1.0
    predicted = target.copy()
    predicted[0, 0, 0] = 0.0
    scores = protocol("brain-3d").score(predicted, target, mask=np.ones((2, 2, 2)))
    # Fit: mean of the target where the prediction is 1 -> 1; where it is 0 -> 1 of 5 -> 0.2.
    # Errors: 3 x 0, 4 x 0.2, 1 x 0.8: MSE (4 * 0.04 + 0.64) / 8 = 0.1, MAE 1.6 / 8 = 0.2.
    assert scores.psnr == pytest.approx(10.0)
    assert scores.mae == pytest.approx(0.2)
    assert scores.nmse == pytest.approx(0.8 / 4)


def test_skimage_3d() -> None:
    from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio

    predicted, target, _ = head((24, 20, 16))
    scores = protocol("skimage-3d").score(predicted, target)
    data_range = target.max() - target.min()
    assert scores.ssim == pytest.approx(
        skimage_ssim(predicted, target, data_range=data_range), **CLOSE
    )
    peak = peak_signal_noise_ratio(target, predicted, data_range=data_range)
    assert scores.psnr == pytest.approx(peak, **CLOSE)
    assert scores.nmse == pytest.approx(normalized_root_mse(target, predicted) ** 2, **CLOSE)
    assert scores.mae == pytest.approx(np.abs(target - predicted).mean(), **CLOSE)


def test_wang2004_against_monai_and_scikit_image() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.metrics")
        predicted, target, _ = head((24, 20, 16))
        data_range = float(np.ptp(target))
        x, y = (torch.from_numpy(image)[None, None] for image in (predicted, target))
        metric = monai.SSIMMetric(spatial_dims=3, data_range=data_range)
        reference = float(metric(x, y))
    scores = protocol("wang2004").score(predicted, target)
    assert scores.ssim == pytest.approx(reference, abs=1e-6)
    expected = skimage_ssim(predicted, target, data_range=data_range, **WANG)
    assert scores.ssim == pytest.approx(expected, **CLOSE)


def test_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pytest.importorskip("torchmetrics.functional.image")
    predicted, target, _ = head((24, 20, 16))
    predicted *= 2  # the wider range of the two is the prediction's
    x, y = (torch.from_numpy(array)[None, None] for array in (predicted, target))
    scores = protocol("torchmetrics").score(predicted, target)
    assert scores.ssim == pytest.approx(
        float(image.structural_similarity_index_measure(x, y)), abs=1e-6
    )
    peak = image.peak_signal_noise_ratio(x, y, data_range=float(np.ptp(target)))
    assert scores.psnr == pytest.approx(float(peak), abs=1e-5)


@pytest.mark.parametrize("shape", [(170, 201, 5), (131, 256, 4), (256, 255, 3)])
def test_syndiff_against_its_test_script(shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    predicted, target, _ = head(shape)
    target[..., 0] = 0  # an empty slice: NaN in the script, left out by its nanmean
    psnrs, ssims, maes = [], [], []
    for index in range(shape[2]):
        pair = []
        for volume in (predicted, target):
            image = torch.from_numpy(volume[..., index].T)  # rows front-back, columns left-right
            rows, columns = ((256 - size) // 2 for size in image.shape)
            image = torch.nn.functional.pad(image, (columns, columns, rows, rows))
            image = image / image.max()
            short = 256 - image.shape[0]  # the centre crop fills up a missing row
            image = torch.nn.functional.pad(image, (0, 0, short // 2, (short + 1) // 2))
            left = round((image.shape[1] - 152) / 2.0)
            pair.append(image[:, left : left + 152])
        fake, real = pair
        error = torch.mean((fake - real) ** 2)
        psnrs.append(float(20 * torch.log10(fake.max() / torch.sqrt(error))))
        maes.append(float((fake - real).abs().mean()))
        if not math.isnan(psnrs[-1]):
            ssims.append(skimage_ssim(real.numpy(), fake.numpy(), data_range=float(real.max())))
    scores = protocol("syndiff").score(predicted, target)
    assert math.isnan(psnrs[0])
    assert scores.psnr == pytest.approx(np.nanmean(psnrs), **CLOSE)
    assert scores.mae == pytest.approx(np.nanmean(maes), **CLOSE)
    assert scores.ssim == pytest.approx(np.mean(ssims), **CLOSE)


def test_brasyn_against_its_script_with_the_map_indexed_as_meant() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pytest.importorskip("torchmetrics.functional.image")
    predicted, target, _ = head((24, 22, 18))
    predicted -= 30  # negative 0.5 percentile: 0 is taken
    tumour = np.zeros(target.shape, dtype=bool)
    tumour[8:15, 9:14, 0:6] = True

    def clip(array: Array) -> Any:
        low, high = np.percentile(array, [0.5, 99.5])
        low = max(low, 0)
        return torch.from_numpy((np.clip(array, low, high) - low) / (high - low))[None, None]

    expected = {}
    for name, region in (("inside", tumour), ("outside", ~tumour)):
        mask = torch.from_numpy(region)[None, None]
        _, full = image.structural_similarity_index_measure(
            clip(predicted) * mask, clip(target) * mask, return_full_image=True
        )
        expected[name] = float(full[mask].mean())
    scores = protocol("brasyn").score(predicted, target, mask=tumour)
    assert scores.ssim == pytest.approx(expected["outside"], abs=1e-6)
    assert scores.extra["ssim_tumour"] == pytest.approx(expected["inside"], abs=1e-6)
    assert scores.as_dict()["ssim_tumour"] == scores.extra["ssim_tumour"]
    whole = protocol("brasyn").score(predicted, target)
    mean = image.structural_similarity_index_measure(clip(predicted), clip(target))
    assert whole.ssim == pytest.approx(float(mean), abs=1e-6)
    assert whole.extra == {}


@pytest.mark.parametrize("masked", [True, False])
def test_synthrad2023(masked: bool) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    predicted, target, mask = head((20, 24, 18))
    predicted, target = predicted * 4 - 1200, target * 4 - 1200  # some below -1024 and above 3000
    weight = mask.astype(float) if masked else np.ones(target.shape)
    mae = np.sum(np.abs(target * weight - predicted * weight)) / weight.sum()
    x, y = (np.clip(image, -1024, 3000) for image in (predicted, target))
    psnr = peak_signal_noise_ratio(y[weight == 1], x[weight == 1], data_range=4024.0)
    x, y = (np.where(weight == 0, -1024, image) + 1024 for image in (x, y))
    mean, full = skimage_ssim(y, x, data_range=4024.0, full=True)
    inner = (slice(3, -3),) * 3
    ssim = full[inner][weight[inner].astype(bool)].mean() if masked else mean
    scores = protocol("synthrad2023").score(predicted, target, mask=mask if masked else None)
    assert (scores.mae, scores.psnr, scores.ssim) == pytest.approx((mae, psnr, ssim), **CLOSE)


@pytest.mark.parametrize("key", PROTOCOLS)
def test_every_protocol(key: str) -> None:
    entry = PROTOCOLS[key]
    assert protocol(entry.name) is protocol(key) is entry
    assert key == f"{entry.name}@{entry.version}"
    assert all(isinstance(word, str | int) and word for word in entry.as_dict().values())
    predicted, target, mask = head((20, 22, 16))
    if entry.mask_role == "none":
        with pytest.raises(UsageError, match="leave the mask out"):
            entry.score(predicted, target, mask=mask)
    lesion = np.zeros_like(mask)
    lesion[8:14, 9:13, 5:10] = True
    inside = {"inside": mask, "lesion": lesion, "none": None}[entry.mask_role]
    # The same pair in single precision scores the same.
    scores = entry.score(predicted, target, mask=inside)
    single = entry.score(predicted.astype("f4"), target.astype("f4"), mask=inside)
    assert single.psnr == pytest.approx(scores.psnr, rel=1e-5)
    assert single.ssim == pytest.approx(scores.ssim, rel=1e-5)
    # The target itself scores best; brain-3d clips the target, not what is fitted to it.
    perfect = entry.score(target, target, mask=inside)
    assert perfect.ssim == pytest.approx(1.0, abs=1e-4)
    assert perfect.mae == pytest.approx(0.0, abs=1e-3)
    assert perfect.psnr > (50 if entry.name == "brain-3d" else 200)
    # Neither the arrays nor the mask are written to.
    for array in (predicted, target, mask):
        array.setflags(write=False)
    entry.score(predicted, target, mask=inside)


@pytest.mark.parametrize("key", PROTOCOLS)
def test_bad_input(key: str) -> None:
    entry = PROTOCOLS[key]
    predicted, target, mask = head((20, 22, 16))
    inside = None if entry.mask_role == "none" else mask
    with pytest.raises(DimensionError, match="3-D"):
        entry.score(predicted[0], target[0])
    with pytest.raises(DimensionError, match="prediction"):
        entry.score(predicted[1:], target, mask=inside)
    with pytest.raises(IntensityError, match="NaN"):
        entry.score(np.where(mask, np.nan, 0), target, mask=inside)
    if key != "synthrad2023@1":
        with pytest.raises(IntensityError):
            entry.score(predicted, np.zeros_like(target), mask=inside)
    if entry.mask_role != "none":
        with pytest.raises(IntensityError, match="mask is empty"):
            entry.score(predicted, target, mask=np.zeros_like(mask))
    if key not in ("brain-3d@1", "syndiff@1"):
        with pytest.raises(DimensionError, match="too small"):
            entry.score(predicted[:4], target[:4])


def test_brain_3d_needs_source_or_mask() -> None:
    predicted, target, _ = head((20, 22, 16))
    with pytest.raises(UsageError, match="source is above 0"):
        protocol("brain-3d").score(predicted, target)


def test_syndiff_takes_no_large_slices() -> None:
    with pytest.raises(DimensionError, match="257 x 3"):
        protocol("syndiff").score(np.ones((257, 3, 3)), np.ones((257, 3, 3)))


def test_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r'did you mean "brain-3d"\? Known: brain-3d@1, '):
        protocol("brain3d")
    with pytest.raises(UsageError, match='"brain-3d@1"'):
        protocol("brain-3d@2")
