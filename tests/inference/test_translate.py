from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medi2i.batch import Batch, Pairing
from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, InputError, MissingFileError, UsageError
from medi2i.inference.translate import Scans, choose_device, run_model, translate
from medi2i.model import Model, write_model
from medi2i.systems import SYSTEMS
from medi2i.systems.base import Paper, Translator, Turn
from medi2i.task import Task, View
from medi2i.volume import Volume, load_volume, save_volume

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
PAIR = Task((T1W,), (T2W,))
ANY = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
ODD = (7, 9, 5)
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


class Echo(Translator):
    """Gives back a source contrast's centre slice, `gain` times, plus `offset`.

    Output m is source m; a condition picks the offset: `offset` times the position asked for.
    """

    paper = Paper("none")
    pairing = Pairing.PAIRED
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        gain: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, slices=slices, outputs=outputs, conditions=conditions
        )
        self.gain, self.offset = gain, offset
        self.seen: list[tuple[int, ...]] = []

    def play(self, batch: Batch) -> Iterator[Turn]:
        yield from ()

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        self.seen.append(tuple(source.shape))
        centres = source[:, self.slices // 2 :: self.slices]
        offset = torch.full((len(source),), self.offset, device=source.device)
        if self.conditions:
            assert target is not None
            offset = offset * target
        picked = centres[:, torch.arange(self.outputs) % self.inputs]
        if (self.gain, self.offset) == (1.0, 0.0):
            return picked
        return picked * self.gain + offset.reshape([-1] + [1] * (source.dim() - 1))


def echo(
    task: Task = PAIR, view: View | None = None, normaliser: Any = "none", **settings: float
) -> Model:
    view = view or View()
    system = Echo(
        dims=view.dims,
        slices=view.slices,
        inputs=task.inputs,
        outputs=task.outputs,
        conditions=task.conditions,
        **settings,
    )
    return Model("echo", "echo", settings, task, view, system.eval(), normaliser)


def seen(model: Model) -> list[tuple[int, ...]]:
    assert isinstance(model.system, Echo)
    return model.system.seen


def numbered(shape: tuple[int, int, int] = ODD) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(100, 50, shape).astype(np.float32)


def head(shape: tuple[int, int, int] = (24, 20, 12)) -> NDArray[np.float32]:
    """A smooth positive ball in blank air."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    ball = np.clip(1 - np.square(1.3 * grid).sum(0), 0, None)
    scaled: NDArray[np.float32] = (800 * ball).astype(np.float32)
    return scaled


def oblique(order: tuple[int, ...], signs: tuple[int, ...]) -> NDArray[np.float64]:
    turn = np.array([[0.936, -0.312, 0.164], [0.330, 0.938, -0.103], [-0.122, 0.151, 0.981]])
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(turn)[0] @ np.eye(3)[list(order)].T * np.array(signs) * 1.3
    affine[:3, 3] = (-71.25, 12.5, 33.75)
    return affine


@pytest.fixture
def where(device: torch.device) -> str:
    return device.type


# ---- the law: an identity gives the scan back


@pytest.mark.parametrize(
    "view",
    [View(), View(slices=3), View(dims=3, patch=4), View(dims=3, patch=4, overlap=0)],
    ids=["slices", "slabs", "patches", "patches side by side"],
)
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_an_identity_returns_every_voxel_exactly(
    where: str, order: tuple[int, ...], signs: tuple[int, ...], view: View
) -> None:
    volume = Volume.of(numbered(), oblique(order, signs))
    result = run_model(echo(view=view), {T1W: volume}, T2W, device=where).volume
    assert np.array_equal(result.voxels, volume.voxels)
    assert np.array_equal(result.affine, volume.affine)
    assert result.header is volume.header


@pytest.mark.parametrize("scale", [1.0, 255.0, 1e7])
def test_an_identity_of_normalised_values_is_true_to_a_millionth(where: str, scale: float) -> None:
    voxels = head() / 800 * scale
    result = run_model(echo(normaliser="robust"), {T1W: Volume.of(voxels)}, T2W, device=where)
    np.testing.assert_allclose(result.volume.voxels, voxels, rtol=0, atol=1e-6 * scale)
    scaling = result.scaling["T1w"]
    assert scaling.low == 0
    assert 0.9 * voxels.max() < scaling.high <= voxels.max()


def test_geometry_and_codes_survive_the_way_through_files(tmp_path: Path, where: str) -> None:
    volume = Volume.of(numbered(), oblique((2, 0, 1), (1, -1, 1)))
    volume.header.set_sform(volume.affine, code=4)
    volume.header.set_qform(volume.affine, code=1, strip_shears=True)
    volume.header.set_xyzt_units("mm", "sec")
    source = save_volume(volume, tmp_path / "sub-1_T1w.nii.gz")
    result = translate(source, to="t2", model=echo(), device=where)
    back = load_volume(save_volume(result, tmp_path / "sub-1_T2w.nii.gz"))
    original = load_volume(source)
    assert np.array_equal(back.voxels, original.voxels)
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        assert np.array_equal(back.header[field], original.header[field]), field


@pytest.mark.parametrize("view", [View(slices=3), View(dims=3, patch=4)], ids=["slabs", "patches"])
def test_the_batch_size_does_not_matter(where: str, view: View) -> None:
    volume, told = Volume.of(numbered()), []
    for size in (None, 1, 3, 1000):
        result = run_model(echo(view=view), {T1W: volume}, T2W, device=where, batch_size=size)
        assert np.array_equal(result.volume.voxels, volume.voxels)
    run_model(
        echo(),
        {T1W: volume},
        T2W,
        device=where,
        batch_size=2,
        watch=lambda *progress: told.append(progress),
    )
    assert told == [(2, 5), (4, 5), (5, 5)]


# ---- what the network sees


def test_slices_lie_across_the_head_whatever_the_file(where: str) -> None:
    """A sagittal file (its first axis runs along A, its last along R) is still cut axially."""
    volume = Volume.of(numbered((9, 5, 7)), oblique((1, 2, 0), (1, 1, 1)))
    assert volume.canonical().shape == (7, 9, 5)
    model = echo(view=View(slices=3))
    run_model(model, {T1W: volume}, T2W, device=where)
    assert seen(model) == [(5, 3, 7, 9)]


def test_several_sources_come_onto_the_grid_of_the_first(where: str) -> None:
    """Both show one anatomy; the FLAIR's grid starts 2 voxels later and runs the other way."""
    voxels = np.zeros((10, 9, 8), np.float32)
    voxels[4:7, 3:6, 2:6] = numbered((3, 3, 4))
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = (9, 2, 0)
    flair = Volume.of(voxels[::-1, 2:], affine)
    model = echo(Task((T1W, FLAIR), (T2W, PDW)), View(slices=3))
    scans = {FLAIR: flair, T1W: Volume.of(2 * voxels)}
    first, second = (run_model(model, scans, target, device=where).volume for target in (T2W, PDW))
    assert seen(model)[0] == (8, 6, 10, 9)
    np.testing.assert_allclose(first.voxels, 2 * voxels, rtol=0, atol=1e-4)
    np.testing.assert_allclose(second.voxels, voxels, rtol=0, atol=1e-4)


def test_the_asked_target_reaches_the_network(where: str) -> None:
    volume = Volume.of(np.zeros(ODD, np.float32))
    model = echo(ANY, offset=10.0)
    for target, value in ((T2W, 10), (FLAIR, 20)):
        result = run_model(model, {T1W: volume}, target, device=where).volume
        assert (result.voxels == value).all()


@pytest.mark.parametrize(
    ("view", "working"),
    [(View(spacing=1.0), (12, 10, 12)), (View(dims=3, patch=8, spacing=1.0), (12, 10, 24))],
    ids=["slices", "patches"],
)
def test_the_working_resolution_and_back(
    where: str, view: View, working: tuple[int, int, int]
) -> None:
    """0.5 mm in plane and 2 mm slices: a network for 1 mm sees 1 mm, and gives the grid back."""
    volume = Volume.of(head((24, 20, 12)), np.diag([0.5, 0.5, 2.0, 1]))
    result = run_model(echo(view=view), {T1W: volume}, T2W, device=where)
    assert result.working_shape == working
    assert result.volume.shape == volume.shape
    assert np.array_equal(result.volume.affine, volume.affine)
    error = np.abs(result.volume.voxels - volume.voxels)
    assert error.max() < 0.1 * 800
    assert error.mean() < 0.01 * 800


# ---- air


def test_blank_air_stays_blank(where: str) -> None:
    """A network's haze outside the head is removed, but for a rim of one voxel."""
    voxels = head()
    model = echo(normaliser="robust", offset=0.2)
    result = run_model(model, {T1W: Volume.of(voxels)}, T2W, device=where).volume
    outside = np.ones_like(voxels, bool)
    for x, y in itertools.product((-1, 0, 1), repeat=2):
        outside &= np.roll(voxels, (x, y), (0, 1)) == 0
    assert outside.mean() > 0.3
    assert not result.voxels[outside].any()
    assert (result.voxels[voxels > 0] > voxels[voxels > 0]).all()


def test_noisy_air_is_the_networks_business(where: str) -> None:
    noise = np.random.default_rng(0).uniform(0, 20, head().shape).astype(np.float32)
    voxels = head() + noise
    model = echo(normaliser="robust", offset=0.2)
    result = run_model(model, {T1W: Volume.of(voxels)}, T2W, device=where).volume
    assert (result.voxels > voxels).all()


def test_a_magnitude_image_stays_one(where: str) -> None:
    model = echo(normaliser="robust", offset=-0.5)
    positive = run_model(model, {T1W: Volume.of(head() + 1)}, T2W, device=where).volume
    assert positive.voxels.min() == 0
    signed = Volume.of(np.where(head() > 0, head() - 300, 0))
    assert run_model(model, {T1W: signed}, T2W, device=where).volume.voxels.min() < -300


def test_the_input_is_left_alone(where: str) -> None:
    voxels = head()
    before = voxels.copy()
    run_model(echo(normaliser="robust", gain=0.5), {T1W: Volume.of(voxels)}, T2W, device=where)
    assert np.array_equal(voxels, before)


# ---- which contrast, which model


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save_volume(Volume.of(numbered()), tmp_path / "sub-1_T1w.nii.gz")


def test_names_tell_the_contrast(scan: Path) -> None:
    expected = load_volume(scan)
    ways: list[Scans] = [scan, str(scan), expected, [scan], {"t1": scan}, {T1W: expected}]
    for given in ways:
        result = translate(given, to="flair", model=echo(ANY), device="cpu")
        assert np.array_equal(result.voxels, expected.voxels)
    assert np.array_equal(
        translate(Volume.of(numbered()), to=T2W, source="mprage", model=echo()).voxels, numbered()
    )


def test_side_cars_tell_it_too(tmp_path: Path) -> None:
    path = save_volume(Volume.of(numbered()), tmp_path / "scan.nii.gz")
    with pytest.raises(
        ContrastError, match=r'which contrast is ".*scan.nii.gz"\? Neither .* give it with --from'
    ):
        translate(path, to="t2", model=echo())
    (tmp_path / "scan.json").write_text(json.dumps({"SeriesDescription": "T1 MPRAGE"}))
    assert translate(path, to="t2", model=echo()).shape == ODD


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"to": "t1"}, ContrastError, "the scan is T1w already; another target"),
        ({"to": "pd"}, ContrastError, 'model "echo" turns any of .*; T1w -> PDw was asked for'),
        ({"to": "t9"}, ContrastError, '"t9" is not a contrast'),
        ({"to": "t2", "source": "pd"}, ContrastError, "PDw -> T2w was asked for"),
        ({"to": "t2", "device": "tpu"}, UsageError, 'device "tpu" is unknown; auto, cpu or cuda'),
    ],
)
def test_what_cannot_be(
    scan: Path, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        translate(scan, model=echo(ANY), **arguments)


def test_scans_that_do_not_fit_together(scan: Path, tmp_path: Path) -> None:
    nameless = Volume.of(numbered())
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ([], {}, UsageError, "no scan was given"),
        ([scan, scan], {}, InputError, "two scans are T1w; one of each contrast"),
        ({"t1": scan, "T1w": scan}, {}, InputError, "t1, T1w name a contrast twice"),
        ([scan, scan], {"source": "t1"}, UsageError, "`source` names one contrast"),
        (nameless, {}, ContrastError, 'which contrast is "this volume"'),
        ({T1W: scan, T2W: scan}, {"to": FLAIR}, ContrastError, r"T1w \+ T2w -> FLAIR was asked"),
        (tmp_path / "no_T1w.nii", {}, MissingFileError, "does not exist"),
    ]
    for scans, more, error, sentence in cases:
        with pytest.raises(error, match=sentence):
            translate(scans, **{"to": "t2", "model": echo(ANY), **more})


def test_a_model_that_needs_more_than_it_got(scan: Path) -> None:
    model = echo(Task((T1W, FLAIR), (T2W,)))
    with pytest.raises(ContrastError, match=r"turns T1w\+FLAIR -> T2w; T1w -> T2w was asked for"):
        translate(scan, to="t2", model=model)


def test_models_may_be_folders(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "echo", Echo)
    folder = write_model(echo(gain=2.0), tmp_path / "model")
    for given in (folder, str(folder)):
        result = translate(scan, to="t2", model=given, device="cpu")
        np.testing.assert_allclose(result.voxels, 2 * numbered(), rtol=1e-6)


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="cuda was asked for, but torch sees no GPU; use auto or"):
        choose_device("cuda")


def test_the_time_of_each_stage_is_told(where: str) -> None:
    result = run_model(echo(), {T1W: Volume.of(numbered())}, T2W, device=where)
    assert set(result.seconds) == {"normalise", "network", "stitch"}
    assert all(seconds >= 0 for seconds in result.seconds.values())
