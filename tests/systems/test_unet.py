from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses import structural_dissimilarity
from medi2i.systems.unet import UNetRegression


def small(**changes: Any) -> UNetRegression:
    torch.manual_seed(0)
    return UNetRegression(**({"features": (8, 16)} | changes))


def blobs(count: int, size: int = 32) -> Tensor:
    """(count, 1, size, size): smooth images in [-1, 1]."""
    random = torch.Generator().manual_seed(0)
    rough = torch.rand(count, 1, 6, 6, generator=random) * 2 - 1
    return torch.nn.functional.interpolate(rough, size=(size, size), mode="bicubic").clamp(-1, 1)


# ---- the published sizes

CLASSIC = (32, 64, 128, 256, 512)
FLAT = (*CLASSIC, 512)  # nnU-Net stops at 512 channels in 2-D
DEEP = (*FLAT, 512)
SOLID = (32, 64, 128, 256, 320, 320)  # and at 320 in 3-D

COUNTS = [
    ("classic", 2, CLASSIC, 7_762_465),
    ("classic", 2, (64, 128, 256, 512, 1024), 31_036_481),
    ("plain", 2, FLAT, 20_618_085),
    ("plain", 2, DEEP, 33_470_310),
    ("plain", 3, SOLID, 31_194_789),
    ("residual-encoder", 2, FLAT, 71_815_589),
    ("residual-encoder", 2, DEEP, 105_915_302),
    ("residual-encoder", 3, SOLID, 102_348_965),
    ("residual", 2, FLAT, 81_952_837),
    ("residual", 2, DEEP, 123_660_358),
    ("residual", 3, SOLID, 118_081_285),
]


@pytest.mark.parametrize(("shape", "dims", "features", "published"), COUNTS)
def test_parameters(shape: Any, dims: int, features: tuple[int, ...], published: int) -> None:
    with torch.device("meta"):
        system = UNetRegression(shape=shape, dims=dims, features=features)
    # nnU-Net's decoder carries a 1x1 head (weights and one bias) at each stage for deep
    # supervision, and translation uses the one at full resolution only: all stages but the first
    # and the bottleneck have one that is left out here.
    heads = 0 if shape == "classic" else sum(wide + 1 for wide in features[1:-1])
    assert sum(p.numel() for p in system.parameters()) == published - heads


def test_the_heads_left_out() -> None:
    assert sum(wide + 1 for wide in FLAT[1:-1]) == 65 + 129 + 257 + 513


# ---- laws


@pytest.mark.parametrize("shape", ["classic", "plain", "residual-encoder", "residual"])
def test_any_size_is_padded_to_what_the_network_needs(shape: Any) -> None:
    system = small(
        shape=shape, features=(2, 4, 4), up="linear" if shape == "residual" else "transpose"
    )
    for size in ((16, 16), (17, 23), (9, 40)):
        assert system.translate(torch.randn(1, 1, *size)).shape == (1, 1, *size)


def test_training_and_evaluation_mode_agree_with_instance_norm() -> None:
    system, source = small(), torch.randn(2, 1, 16, 16)
    assert torch.equal(system.train().translate(source), system.eval().translate(source))


def test_batch_norm_treats_a_slice_alike_whatever_lies_beside_it() -> None:
    system = small(norm="batch")
    for _ in range(3):
        system.train().translate(torch.randn(4, 1, 16, 16))
    system.eval()
    one, other = torch.randn(1, 1, 16, 16), torch.randn(1, 1, 16, 16) * 9
    together = system.translate(torch.cat([one, other]))
    torch.testing.assert_close(together[:1], system.translate(one), rtol=1e-5, atol=1e-5)


def test_the_condition_decides_once_it_is_trained() -> None:
    """Two targets of one source, told apart by the condition alone."""
    system = small(conditions=2, features=(8, 8))
    source, asked = blobs(1).expand(2, -1, -1, -1), torch.tensor([0, 1])
    fresh = system.translate(source, target=asked)
    torch.testing.assert_close(fresh[0], fresh[1], rtol=0, atol=1e-5)
    batch = Batch(source, torch.cat([source[:1], -source[1:]]), target_contrast=asked)
    train(system, batch, rounds=60, lr=1e-2)
    trained = system.translate(source, target=asked)
    assert (trained - batch.target).abs().mean() < 0.15
    with pytest.raises(UsageError, match="say which"):
        system.translate(source)


def test_heads_learn_from_every_target_that_was_acquired() -> None:
    system = small(conditions=3, conditioning="heads")
    source, every = blobs(2), torch.randn(2, 3, 32, 32)
    known = torch.tensor([[True, False, False], [True, True, False]])
    batch = Batch(
        source, every[:, :1], target_contrast=torch.tensor([0, 1]), every=every, known=known
    )
    (turn,) = system.play(batch)
    error = (system.all_images(source, None)[0] - every).abs().mean((2, 3))
    torch.testing.assert_close(turn.losses["error"], error[known].mean())
    turn.objective.backward()
    head: Any = system.network.head
    assert head.weight.grad[:2].any()
    assert not head.weight.grad[2].any(), "nobody has the third"
    with pytest.raises(UsageError, match="heads learn from `every` target"):
        next(system.play(Batch(source, every[:, :1])))


def test_the_condition_picks_a_head() -> None:
    system = small(conditions=3, conditioning="heads").eval()
    source, asked = blobs(2), torch.tensor([2, 0])
    heads = system.all_images(source, None)[0]
    translated = system.translate(source, target=asked)
    assert torch.equal(translated, torch.stack([heads[0, 2], heads[1, 0]])[:, None])


def test_losses_are_named_and_weighted_where_they_are_written() -> None:
    source, target = blobs(2), -blobs(2)
    weight = torch.rand(2, 1, 32, 32)
    system = small(ssim=0.25)
    (turn,) = system.play(Batch(source, target, weight))
    predicted = system.translate(source)
    assert list(turn.losses) == ["error", "ssim"]
    expected = ((predicted - target).abs() * weight).sum() / weight.sum()
    torch.testing.assert_close(turn.losses["error"], expected)
    torch.testing.assert_close(
        turn.losses["ssim"], 0.25 * structural_dissimilarity(predicted, target, weight)
    )
    (turn,) = small(error="squared").play(Batch(source, target))
    assert list(turn.losses) == ["error"]
    torch.testing.assert_close(turn.losses["error"], (predicted - target).square().mean())


# ---- it learns


def train(system: UNetRegression, batch: Batch, *, rounds: int, lr: float) -> None:
    optimiser = torch.optim.Adam(system.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=rounds)
    for _ in range(rounds):
        for turn in system.play(batch):
            optimiser.zero_grad()
            turn.objective.backward()
            optimiser.step()
        schedule.step()


def test_two_slices_are_learned_by_heart() -> None:
    images, system = blobs(4), small()
    batch = Batch(images[:2], images[2:])
    train(system, batch, rounds=300, lr=1e-2)
    assert (system.translate(batch.source) - batch.target).abs().mean() < 0.01 * 2


def test_the_identity_is_learned_quickly() -> None:
    images, system = blobs(2), small()
    train(system, Batch(images, images), rounds=60, lr=1e-2)
    assert (system.translate(images) - images).abs().mean() < 0.05 * 2


def test_the_spread_learns_the_expected_error_and_leaves_the_image_alone() -> None:
    plain, knowing = small(), small(spread=1.0)
    assert not plain.uncertain
    assert knowing.uncertain
    assert knowing.network.head.out_channels == 2
    source = blobs(2)
    with pytest.raises(UsageError, match="spread"):
        plain.with_spread(source)

    # one half of the target is noise that nobody can foresee, the other is known
    def batch(seed: int) -> Batch:
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed))
        noise[..., :16] = 0
        return Batch(source, 0.5 * noise)

    optimiser = torch.optim.Adam(knowing.parameters(), 1e-2)
    for number in range(80):
        (turn,) = knowing.play(batch(number))
        optimiser.zero_grad()
        turn.objective.backward()
        optimiser.step()
    with torch.no_grad():
        image, spread = knowing.eval().with_spread(source)
    assert image.shape == spread.shape == source.shape
    assert (spread > 0).all()
    assert float(spread[..., 18:].mean()) == pytest.approx(0.4, abs=0.1)  # 0.5 sqrt(2 / pi)
    assert float(spread[..., :14].mean()) < 0.5 * float(spread[..., 18:].mean())
    torch.testing.assert_close(image, knowing.translate(source).detach())


def test_the_image_does_not_learn_from_the_spread() -> None:
    system = small(spread=1.0)
    (turn,) = system.play(Batch(blobs(2), -blobs(2)))
    turn.losses["spread"].backward()
    head: Any = system.network.head
    assert not head.weight.grad[0].any()
    assert head.weight.grad[1].any()
