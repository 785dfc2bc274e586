from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.systems.vae import VAE


def fixture(**more: object) -> VAE:
    torch.manual_seed(0)
    return VAE(**{"features": 4, "halvings": 2, "code": 3, **more})  # type: ignore[arg-type]


def test_the_code_has_its_places_and_numbers() -> None:
    mean, log_variance = fixture().code_of(torch.rand(2, 1, 16, 24))
    assert mean.shape == log_variance.shape == (2, 3, 4, 6)
    mean, _ = fixture(dims=3).code_of(torch.rand(2, 1, 8, 8, 16))
    assert mean.shape == (2, 3, 2, 2, 4)


def test_the_losses_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    system = fixture(kl=0.5)
    mean, log_variance = torch.full((2, 3, 2, 2), 0.6), torch.full((2, 3, 2, 2), math.log(0.25))
    monkeypatch.setattr(system, "code_of", lambda source: (mean, log_variance))
    monkeypatch.setattr(system.decoder, "forward", lambda code: torch.zeros(2, 1, 8, 8))
    source = torch.full((2, 1, 8, 8), 0.5)
    weight = torch.zeros(2, 1, 8, 8)
    weight[:, :, :3] = 1
    (turn,) = system.play(Batch(source, source, weight))
    # 24 voxels of each image count, each off by 0.5 of a range of 2
    assert float(turn.losses["reconstruction"]) == pytest.approx(24 * 0.25)
    # 12 numbers of each image: (mean^2 + variance - ln variance - 1) / 2
    each = (0.36 + 0.25 - math.log(0.25) - 1) / 2
    assert float(turn.losses["kl"]) == pytest.approx(0.5 * 12 * each)


def test_learning_draws_a_code_and_translating_takes_its_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = fixture().eval()
    codes: list[Tensor] = []
    system.decoder.register_forward_pre_hook(lambda _, given: codes.append(given[0]))
    source = torch.rand(1, 1, 16, 16)
    mean, log_variance = system.code_of(source)
    for _ in range(2):
        system.translate(source)
    assert torch.equal(codes[0], mean)
    assert torch.equal(codes[1], mean)
    codes.clear()
    monkeypatch.setattr(system, "code_of", lambda padded: (mean, log_variance * 0 + math.log(4.0)))
    for _ in range(200):
        next(iter(system.play(Batch(source, source))))
    drawn = torch.stack(codes).detach() - mean.detach()
    assert float(drawn.std()) == pytest.approx(2.0, rel=0.05)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.1)


def test_neighbours_go_in_and_the_centre_comes_out() -> None:
    system = fixture(slices=3)
    source = torch.rand(2, 3, 16, 16)
    (turn,) = system.play(Batch(source, source[:, 1:2]))
    assert turn.player == "autoencoder"
    assert system.translate(source).shape == (2, 1, 16, 16)
    assert system.eval().translate(source[..., :13, :11]).shape == (2, 1, 13, 11)


def test_parameters() -> None:
    def count(dims: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in VAE(dims=dims).parameters())

    def expected(dims: int, first: int, kernel: int) -> int:
        wide = [first, 2 * first, 4 * first, 4 * first]
        total, width = 0, 1
        for channels in wide:  # convolution with bias; batch norm has scale and shift
            total += kernel**dims * width * channels + 3 * channels
            width = channels
        total += width * 32 + 32  # to mean and log variance of 16 numbers
        total += 16 * width + 3 * width
        for channels in [4 * first, 2 * first, first, first]:
            total += 4**dims * width * channels + 3 * channels
            width = channels
        return total + width + 1

    assert count(2) == expected(2, 32, 5)
    assert count(3) == expected(3, 16, 3)


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="2 conditions"):
        fixture(conditions=2)
    with pytest.raises(UsageError, match="1 in, 2 out"):
        fixture(outputs=2)
    with pytest.raises(UsageError, match="halvings is 0"):
        fixture(halvings=0)
