from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.systems.denoising_autoencoder import DenoisingAutoencoder, coarse_noise

IMAGE = torch.zeros(6, 1, 64, 128)


def fixture(**more: object) -> DenoisingAutoencoder:
    torch.manual_seed(0)
    return DenoisingAutoencoder(**{"features": (4, 8), **more})  # type: ignore[arg-type]


def seen(system: DenoisingAutoencoder, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What goes into the network, which gives zeros."""
    inputs: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        inputs.append(x)
        return x[:, : system.outputs] * 0 + next(system.network.parameters()).sum() * 0

    monkeypatch.setattr(system.network, "forward", network)
    return inputs


def batch(image: Tensor, weight: Tensor | None = None, slices: int = 1) -> Batch:
    return Batch(image, image[:, slices // 2 :: slices], weight)


def test_noise_is_as_strong_as_it_says_where_it_is_drawn() -> None:
    torch.manual_seed(0)
    # a grain of one voxel leaves the draws alone
    fine = coarse_noise(torch.zeros(8, 2, 64, 64), grain=1, std=0.4)
    assert float(fine.std()) == pytest.approx(0.4, rel=0.01)
    assert float(fine.mean()) == pytest.approx(0, abs=0.01)
    # linear between two draws: variance 1 - 2t + 2t^2 of theirs, 2/3 on the mean, along each axis
    for dims in (2, 3):
        coarse = coarse_noise(torch.zeros(40, 1, *[32] * dims), grain=4, std=0.4)
        assert float(coarse.std()) == pytest.approx(0.4 * (2 / 3) ** (dims / 2), rel=0.05)


def test_noise_is_as_coarse_as_it_says() -> None:
    torch.manual_seed(0)
    noise = coarse_noise(IMAGE.double(), grain=8, std=1.0)
    for axis, size in ((2, 64), (3, 128)):
        bend = noise.diff(n=2, dim=axis).abs().amax((0, 1, 5 - axis))
        # piecewise linear with size / 8 draws: bends at most at two voxels beside each inner draw,
        # and around the seam of the roll
        bends = int((bend > 1e-9).sum())
        assert size // 8 - 2 <= bends <= 2 * (size // 8) + 2
    # neighbours are alike, voxels a grain apart are not
    flat = coarse_noise(torch.zeros(200, 1, 64, 64), grain=8, std=1.0)
    at = flat[:, 0, :, 30]

    def correlation(step: int) -> float:
        return float(torch.corrcoef(torch.stack([at[:, 20], at[:, 20 + step]]))[0, 1])

    assert correlation(1) > 0.9
    assert abs(correlation(18)) < 0.25


def test_the_place_of_the_draws_is_left_to_chance() -> None:
    torch.manual_seed(0)
    bends = set()
    for _ in range(6):
        bend = coarse_noise(IMAGE[:1].double(), grain=32, std=1.0).diff(n=2, dim=3).abs()
        bends.add(int(bend[0, 0, 0].argmax()))
    assert len(bends) > 2


def test_learning_sees_noise_where_there_is_tissue_and_translating_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = fixture(noise=0.2, grain=8)
    inputs = seen(system, monkeypatch)
    image = torch.rand(4, 1, 32, 32)
    weight = torch.zeros(4, 1, 32, 32)
    weight[..., 8:24] = 1
    (turn,) = system.play(batch(image, weight))
    added = inputs.pop() - image
    assert float(added[..., :8].abs().max()) == 0
    assert float(added[..., 24:].abs().max()) == 0
    # twice 0.2, as images span 2; two thirds for two axes
    assert float(added[..., 8:24].std()) == pytest.approx(0.4 * 2 / 3, rel=0.3)
    # the network gives zeros: the mean square of the image itself, in the tissue
    assert float(turn.losses["error"].detach()) == pytest.approx(
        float(image[..., 8:24].square().mean()), rel=1e-5
    )
    for training in (True, False):
        system.train(training)
        system.translate(image)
        assert torch.equal(inputs.pop(), image)


def test_neighbouring_slices_get_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    system = fixture(slices=3, inputs=2, outputs=2)
    inputs = seen(system, monkeypatch)
    image = torch.zeros(2, 6, 16, 16)
    next(iter(system.play(batch(image, slices=3))))
    first, second = inputs[0].split(3, dim=1)
    for contrast in (first, second):
        assert torch.equal(contrast[:, 0], contrast[:, 1])
        assert torch.equal(contrast[:, 0], contrast[:, 2])
    assert not torch.allclose(first, second)


def test_it_learns_to_take_a_blob_away() -> None:
    system = fixture(features=(8, 16), grain=4)
    optimiser = torch.optim.Adam(system.parameters(), 3e-3)
    torch.manual_seed(1)
    ramp = torch.linspace(-0.5, 0.5, 16).expand(8, 1, 16, 16)
    for _ in range(60):
        (turn,) = system.play(batch(ramp))
        optimiser.zero_grad()
        turn.objective.backward()
        optimiser.step()
    ill = ramp[:1].clone()
    ill[..., 5:10, 5:10] += 0.6
    with torch.no_grad():
        healed = system.eval().translate(ill)
    blob = (..., slice(5, 10), slice(5, 10))
    before = float((ill - ramp[:1])[blob].abs().mean())
    assert float((healed - ramp[:1])[blob].abs().mean()) < 0.5 * before


@pytest.mark.parametrize("slices", [1, 3])
def test_the_exact_head_changes_nothing_before_it_has_learned(slices: int) -> None:
    system = fixture(head="exact", slices=slices)
    image = torch.rand(2, slices, 24, 20)
    assert torch.equal(system.translate(image), image[:, slices // 2 :][:, :1])


def test_next_to_nothing_is_nothing_in_new_scans_alone() -> None:
    system, plain = (fixture(head="exact", still=still) for still in (0.01, 0.0))
    torch.nn.init.normal_(system.network.head.weight, std=0.01)
    plain.load_state_dict(system.state_dict())
    image = torch.rand(2, 1, 24, 20)
    with torch.no_grad():
        learned = plain.translate(image) - image
        assert torch.equal(system.translate(image), plain.translate(image)), "while it learns"
        found = system.eval().translate(image) - image
    small = learned.abs() <= 0.02  # of a range of 2
    assert small.any()
    assert not small.all()
    assert torch.equal(found[small], torch.zeros(int(small.sum())))
    torch.testing.assert_close(found[~small], (learned - 0.02 * learned.sign())[~small])


def test_with_twins_the_target_is_what_comes_back() -> None:
    ill, healthy = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    for error, wanted in (
        ("absolute", (ill - healthy).abs().mean()),
        ("squared", (ill - healthy).square().mean()),
    ):
        system = fixture(head="exact", noise=0.0, error=error)
        (turn,) = system.play(Batch(ill, healthy))
        assert float(turn.losses["error"].detach()) == pytest.approx(float(wanted), rel=1e-5)


def test_parameters() -> None:
    def count(**more: object) -> int:
        with torch.device("meta"):
            system = DenoisingAutoencoder(**more)  # type: ignore[arg-type]
        return sum(p.numel() for p in system.parameters())

    def expected(features: list[int], dims: int) -> int:
        kernel, total, width = 3**dims, 0, 1
        for wide in features:  # two convolutions, each with a bias; the norm has scale and shift
            total += kernel * width * wide + kernel * wide * wide + 2 * wide + 4 * wide
            width = wide
        for wide in features[-2::-1]:
            total += 2**dims * width * wide + wide
            total += kernel * 2 * wide * wide + kernel * wide * wide + 2 * wide + 4 * wide
            width = wide
        return total + width + 1

    assert count() == expected([64, 128, 256, 512], 2)
    assert count(dims=3) == expected([32, 64, 128, 256], 3)


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="3 conditions"):
        fixture(conditions=3)
    with pytest.raises(UsageError, match="2 in, 1 out"):
        fixture(inputs=2)
    with pytest.raises(UsageError, match="noise is -1 and"):
        fixture(noise=-1.0)
    with pytest.raises(UsageError, match=r'still is 0\.1 with head "image"'):
        fixture(still=0.1)
    with pytest.raises(UsageError, match="still is -1 "):
        fixture(head="exact", still=-1.0)
