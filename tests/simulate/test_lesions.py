from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medi2i.contrasts import Contrast
from medi2i.errors import DimensionError, MissingFileError, UsageError
from medi2i.simulate import Tissue, protocol, relaxation, with_contrast_agent
from medi2i.simulate.lesions import Lesions, Pathology, draw_lesions
from medi2i.simulate.lesions.places import Brain, shape_files
from medi2i.simulate.lesions.shapes import FAR, front, jacobian, noise
from medi2i.volume import Volume, load_volume, save_volume

Mask = NDArray[np.bool_]

ALWAYS = {
    Pathology.STROKE: {Tissue.ISCHAEMIA},
    Pathology.MS: {Tissue.LESION},
    Pathology.TUMOUR: {Tissue.OEDEMA},
    Pathology.SMALL_VESSEL: {Tissue.LESION},
    Pathology.HAEMORRHAGE: {Tissue.HAEMORRHAGE, Tissue.OEDEMA},
}
SOMETIMES = {
    Pathology.STROKE: {Tissue.NECROSIS, Tissue.HAEMORRHAGE},
    Pathology.MS: {Tissue.NECROSIS, Tissue.ENHANCING},
    Pathology.TUMOUR: {Tissue.TUMOUR, Tissue.ENHANCING, Tissue.NECROSIS},
    Pathology.SMALL_VESSEL: {Tissue.CSF},
    Pathology.HAEMORRHAGE: {Tissue.NECROSIS},
}
HEAVY = (Pathology.TUMOUR, Pathology.HAEMORRHAGE)
FIELDS = (1.5, 3.0)


@dataclass(frozen=True)
class Toy:
    """A brain of ellipsoids: cortex around white matter around two ventricles."""

    white: Mask
    tissue: Mask

    def draw(
        self,
        kind: Pathology | str,
        seed: int,
        shapes: Path | None = None,
        mass_effect: bool = False,
    ) -> Lesions:
        rng = np.random.default_rng(seed)
        return draw_lesions(
            kind,
            white=self.white,
            tissue=self.tissue,
            rng=rng,
            shapes=shapes,
            mass_effect=mass_effect,
        )


@pytest.fixture(scope="module")
def toy() -> Toy:
    x, y, z = np.ogrid[-52:52, -64:64, -48:48]
    outer = (x / 48) ** 2 + (y / 60) ** 2 + (z / 44) ** 2 < 1
    inner = (x / 43) ** 2 + (y / 54) ** 2 + (z / 33) ** 2 < 1
    ventricles = ((np.abs(x) - 9) / 4) ** 2 + ((y - 8) / 20) ** 2 + ((z + 2) / 7) ** 2 < 1
    falx = (np.abs(x) < 1) & (np.abs(z + 2) > 14)
    tissue = outer & ~ventricles & ~falx
    return Toy(inner & tissue, tissue)


def _total(lesions: Lesions) -> NDArray[np.float64]:
    zero = np.zeros(lesions.mask.shape)
    return np.asarray(sum(lesions.shares.values(), zero))


@pytest.mark.parametrize("kind", Pathology)
def test_the_same_seed_gives_the_same_bytes(toy: Toy, kind: Pathology) -> None:
    one, two, other = (toy.draw(kind, seed, mass_effect=True) for seed in (3, 3, 4))
    assert list(one.shares) == list(two.shares)
    for tissue in one.shares:
        assert one.shares[tissue].tobytes() == two.shares[tissue].tobytes()
    assert one.mask.tobytes() == two.mask.tobytes()
    if one.displacement is not None:
        assert two.displacement is not None
        assert one.displacement.tobytes() == two.displacement.tobytes()
    assert one.mask.tobytes() != other.mask.tobytes()


@pytest.mark.parametrize("kind", Pathology)
def test_shares_fill_a_voxel_at_most_and_only_tissue(toy: Toy, kind: Pathology) -> None:
    for seed in range(3):
        lesions = toy.draw(kind, seed)
        assert lesions.pathology is kind
        assert lesions.displacement is None
        total = _total(lesions)
        for share in lesions.shares.values():
            assert share.dtype == np.float32
            assert share.shape == toy.tissue.shape
            assert 0 <= share.min() <= share.max() <= 1
        assert total.max() <= 1 + 1e-6
        assert total[~toy.tissue].max() == 0
        clear = np.abs(total - 0.5) > 1e-5
        np.testing.assert_array_equal(lesions.mask[clear], (total >= 0.5)[clear])
        assert 0 < lesions.mask.sum() < 0.5 * toy.tissue.sum()


@pytest.mark.parametrize("kind", Pathology)
def test_each_disease_is_made_of_its_own_tissues(toy: Toy, kind: Pathology) -> None:
    seen: set[Tissue] = set()
    for seed in range(10):
        tissues = set(toy.draw(kind, seed).shares)
        assert tissues >= ALWAYS[kind]
        seen |= tissues
    assert seen <= ALWAYS[kind] | SOMETIMES[kind]
    assert seen > ALWAYS[kind]


def test_rims_are_soft(toy: Toy) -> None:
    """Oedema fades: much of it lies in voxels that it shares with what was there."""
    lesions = toy.draw(Pathology.HAEMORRHAGE, 1)
    oedema = lesions.shares[Tissue.OEDEMA]
    assert ((oedema > 0.05) & (oedema < 0.5)).sum() > 0.2 * (oedema >= 0.5).sum()


def test_oedema_spares_grey_matter(toy: Toy) -> None:
    grey = toy.tissue & ~toy.white
    for seed in range(4):
        oedema = toy.draw(Pathology.TUMOUR, seed).shares[Tissue.OEDEMA]
        near = ndimage.binary_dilation(oedema > 0.3, iterations=3)
        if (near & grey).sum() > 50:
            assert oedema[near & grey].mean() < 0.6 * oedema[near & toy.white].mean()


@pytest.mark.parametrize("kind", HEAVY)
def test_masses_push_tissue_away_without_folding_it(toy: Toy, kind: Pathology) -> None:
    x, y, z = (g.astype(np.float64) for g in np.ogrid[tuple(slice(0, n) for n in toy.white.shape)])
    largest = 0.0
    for seed in range(4):
        lesions = toy.draw(kind, seed, mass_effect=True)
        u = lesions.displacement
        assert u is not None
        assert u.shape == (3, *toy.white.shape)
        assert jacobian(u).min() > 0.05
        largest = max(largest, float(np.abs(u).max()))
        # What comes to a voxel was nearer to the lesion's heart, which stays where it is.
        heart = np.unravel_index(np.argmin(np.where(lesions.mask, (u**2).sum(0), 9e9)), u.shape[1:])
        outwards = u[0] * (x - heart[0]) + u[1] * (y - heart[1]) + u[2] * (z - heart[2])
        assert (outwards[np.abs(u).max(0) > 0.3] < 0).mean() > 0.97
        # The skull does not move.
        closed = ndimage.binary_fill_holes(ndimage.binary_closing(toy.tissue, iterations=3))
        assert np.abs(u[:, ~ndimage.binary_dilation(closed, iterations=2)]).max() < 0.3
        # Lesions lie only where tissue comes to.
        at = u + np.indices(u.shape[1:])
        tissue = ndimage.map_coordinates(toy.tissue.astype(np.uint8), at, order=0, mode="nearest")
        assert _total(lesions)[tissue == 0].max() == 0
    assert largest > 1.5


@pytest.mark.parametrize("kind", [Pathology.MS, Pathology.SMALL_VESSEL])
def test_plaques_push_nothing(toy: Toy, kind: Pathology) -> None:
    assert toy.draw(kind, 0, mass_effect=True).displacement is None


def test_the_healthy_masks_are_left_alone(toy: Toy) -> None:
    white, tissue = toy.white.copy(), toy.tissue.copy()
    toy.draw(Pathology.TUMOUR, 1, mass_effect=True)
    assert (white == toy.white).all()
    assert (tissue == toy.tissue).all()


def test_without_a_place_there_is_no_lesion() -> None:
    nothing, full = np.zeros((20, 22, 24), bool), np.ones((20, 22, 24), bool)
    for tissue in (nothing, full):
        lesions = Toy(nothing, tissue).draw(Pathology.TUMOUR, 0, mass_effect=True)
        assert not lesions.shares
        assert not lesions.mask.any()
        assert lesions.mask.shape == tissue.shape
        assert lesions.displacement is None


def test_refusals(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stroke, ms, tumour"):
        toy.draw("measles", 0)
    with pytest.raises(DimensionError, match="one grid"):
        Toy(toy.white[1:], toy.tissue).draw("ms", 0)
    with pytest.raises(MissingFileError, match=r"stroke-\*\.nii\.gz"):
        toy.draw("stroke", 0, tmp_path)
    with pytest.raises(MissingFileError, match="no lesion masks"):
        toy.draw("ms", 0, tmp_path / "nowhere")


def test_a_mask_keeps_its_place_and_size(toy: Toy, tmp_path: Path) -> None:
    """A ball at MNI (30, -30, 30), in a file whose x axis runs to the left."""
    affine = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    i, j, k = np.ogrid[:181, :217, :181]
    ball = (90 - i - 30) ** 2 + (j - 126 + 30) ** 2 + (k - 72 - 30) ** 2 < 12**2
    save_volume(Volume.of(ball, affine), tmp_path / "stroke-1.nii.gz")

    brain = Brain(toy.white, toy.tissue)
    millimetres = abs(np.linalg.det(brain.matrix))  # MNI mm^3 in a voxel of this small head
    for seed in range(4):
        lesions = toy.draw("stroke", seed, tmp_path)
        centre = np.array(ndimage.center_of_mass(_total(lesions)))
        mni = brain.matrix @ centre + brain.offset
        assert np.linalg.norm(np.abs(mni) - 30) < 13  # it is moved by some 3 mm along each axis
        volume = (_total(lesions) > 0.3).sum() * millimetres
        assert 0.4 < volume / ball.sum() < 2.0


def test_the_frame_follows_a_turned_head(toy: Toy) -> None:
    points = np.array([[60.0, 70.0, 40.0], [20.0, 30.0, 60.0]])
    brain = Brain(toy.white, toy.tissue)
    for point in points:
        np.testing.assert_allclose(
            brain.voxel(brain.matrix @ point + brain.offset), point, atol=1e-6
        )
    # Rolled by 20 degrees about the x axis, MNI stays with the tissue.
    turned = [
        ndimage.rotate(m.astype(np.float32), 20, axes=(1, 2), reshape=False, order=1) > 0.5
        for m in (toy.white, toy.tissue)
    ]
    other = Brain(turned[0], turned[1])
    middle = (np.array(toy.white.shape) - 1) / 2
    c, s = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    rotation = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])  # input = rotation @ output
    for point in points:
        there = rotation.T @ (point - middle) + middle
        expected = brain.matrix @ point + brain.offset
        np.testing.assert_allclose(other.matrix @ there + other.offset, expected, atol=2.5)


def test_ventricles_are_found(toy: Toy) -> None:
    distance = Brain(toy.white, toy.tissue).from_ventricles
    x, y, z = np.ogrid[-52:52, -64:64, -48:48]
    inside = ((np.abs(x) - 9) / 4) ** 2 + ((y - 8) / 20) ** 2 + ((z + 2) / 7) ** 2 < 1
    assert (distance[inside[::2, ::2, ::2]] == 0).mean() > 0.7
    assert distance[toy.tissue[::2, ::2, ::2]].min() > 0


def test_a_front_goes_around_and_prefers_white_matter() -> None:
    seeds, tissue = np.zeros((41, 21, 5), bool), np.ones((41, 21, 5), bool)
    seeds[:3], tissue[19:22, :15] = True, False  # a wall with a gap
    white = tissue.copy()
    plain = front(seeds, np.ones_like(white), np.ones_like(tissue), grey=3.0)
    np.testing.assert_allclose(plain[10, 10, 2], 8, atol=0.01)
    around = front(seeds, white, tissue, grey=3.0)
    assert around[30, 0, 2] > plain[30, 0, 2] + 5
    grey = front(seeds, np.zeros_like(white), np.ones_like(tissue), grey=3.0)
    np.testing.assert_allclose(grey[10, 10, 2], 24, atol=0.01)
    tissue[18:23] = False
    assert front(seeds, white, tissue, grey=3.0)[38, 10, 2] == FAR


def test_the_jacobian_by_hand() -> None:
    x, y, _ = np.indices((5, 6, 7)).astype(np.float32)
    u = np.stack([0.5 * x + 0.25 * y, 0.5 * x, np.zeros_like(x)])
    np.testing.assert_allclose(jacobian(u), 1.5 * 1 - 0.25 * 0.5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0, 12.0])
def test_noise_is_of_unit_variance_and_smooth(scale: float) -> None:
    rng = np.random.default_rng(0)
    fields = [noise((48, 40, 44), rng, scale) for _ in range(6)]
    assert 0.75 < np.std(fields) < 1.25
    slope = np.mean([np.std(np.diff(f, axis=1)) for f in fields])
    assert slope < 1.1 / scale


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("tissue", [Tissue.LESION, Tissue.OEDEMA, Tissue.TUMOUR, Tissue.ISCHAEMIA])
def test_fluid_rich_tissue_is_bright_in_t2_and_dark_in_t1(tissue: Tissue, field: float) -> None:
    def contrast(name: Contrast) -> float:
        sequence = protocol(name, field=field)
        white = sequence.signal(relaxation(Tissue.WHITE_MATTER, field=field))
        return sequence.signal(relaxation(tissue, field=field)) / white

    assert contrast(Contrast.FLAIR) > 1.3
    assert contrast(Contrast.T2W) > 1.3
    assert contrast(Contrast.T1W) < 0.85


@pytest.mark.parametrize("field", FIELDS)
def test_only_what_takes_up_contrast_agent_is_bright_after_it(field: float) -> None:
    sequence = protocol(Contrast.T1W, field=field)
    white = sequence.signal(relaxation(Tissue.WHITE_MATTER, field=field))
    assert sequence.signal(relaxation(Tissue.ENHANCING, field=field)) < 0.85 * white
    assert sequence.signal(with_contrast_agent(Tissue.ENHANCING, field=field)) > 1.3 * white
    for tissue in (Tissue.OEDEMA, Tissue.NECROSIS, Tissue.TUMOUR, Tissue.ISCHAEMIA):
        assert with_contrast_agent(tissue, field=field) == relaxation(tissue, field=field)


def test_t1_of_what_enhances_falls_as_measured() -> None:
    """838 +- 210 ms at 3 T (doi:10.1002/nbm.4242)."""
    fall = relaxation(Tissue.ENHANCING).t1 - with_contrast_agent(Tissue.ENHANCING).t1
    assert 628 < fall < 1048


@pytest.mark.parametrize("field", FIELDS)
def test_early_subacute_blood_is_bright_in_t1_and_dark_in_t2(field: float) -> None:
    blood, white = (relaxation(t, field=field) for t in (Tissue.HAEMORRHAGE, Tissue.WHITE_MATTER))
    for name, brighter in ((Contrast.T1W, True), (Contrast.T2W, False), (Contrast.FLAIR, False)):
        sequence = protocol(name, field=field)
        assert (sequence.signal(blood) > sequence.signal(white)) is brighter


@pytest.fixture(scope="module")
def real_head(shared_data: Path) -> NDArray[np.int16]:
    """Tilted by 34 degrees against MNI space; its own lesions called white matter."""
    labels = load_volume(shared_data / "anatomy" / "head-01.nii.gz").canonical().voxels
    whole: NDArray[np.int16] = labels.astype(np.int16)
    whole[whole == 25], whole[whole == 57] = 2, 41
    return whole


def _toy_of(labels: NDArray[np.int16]) -> Toy:
    brain = (2, 3, 7, 8, 10, 11, 12, 13, 16, 17, 18, 26, 28)
    right = (41, 42, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
    return Toy(np.isin(labels, (2, 41)), np.isin(labels, brain + right))


def test_deep_nuclei_lie_where_the_atlas_has_them(real_head: NDArray[np.int16]) -> None:
    head = _toy_of(real_head)
    brain = Brain(head.white, head.tissue)
    for label, mni in {49: (11, -19, 6), 50: (13, 9, 10), 51: (25, 0, 0)}.items():
        there = np.argwhere(real_head == label).mean(0)
        assert np.linalg.norm(brain.matrix @ there + brain.offset - mni) < 8


def test_real_shapes_lie_where_they_did(real_head: NDArray[np.int16], shared_data: Path) -> None:
    shapes = shared_data / "lesions"
    assert len(shape_files(shapes, "stroke")) == 242
    assert len(shape_files(shapes, "ms")) == 29
    head = _toy_of(real_head)
    plaques = head.draw("ms", 2, shapes)
    distance = ndimage.distance_transform_edt(~np.isin(real_head, (4, 43)))
    assert np.median(distance[plaques.mask]) < 0.7 * np.median(distance[head.white])
    assert head.draw("ms", 2).mask.tobytes() != plaques.mask.tobytes()
    assert head.draw("stroke", 1, shapes).mask.any()
