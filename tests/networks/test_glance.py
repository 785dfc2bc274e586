from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from medi2i.networks.glance import DEPTHS, GlanceNet, described


@pytest.fixture
def net() -> GlanceNet:
    torch.manual_seed(0)
    return GlanceNet(classes=6, features=(4, 6, 8, 8), hidden=5)


def test_shapes(net: GlanceNet) -> None:
    brain, contrast, head = net(torch.zeros(2, 1, 16, 32, 48))
    assert brain.shape == (2, 1, 16, 32, 48)
    assert contrast.shape == (2, 6)
    assert head.shape == (2,)
    assert net.multiple == 16


def ball(*brightness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A round brain of three shells, outermost first, in air; and the logits of its mask."""
    at = torch.stack(torch.meshgrid(*[torch.arange(32.0) - 15.5] * 3, indexing="ij"))
    radius = at.square().sum(0).sqrt()
    scan = torch.full((32, 32, 32), -1.0)
    for outer, bright in zip((12.0, 10.0, 7.0), brightness, strict=True):
        scan[radius < outer] = bright - 1
    return scan[None, None], torch.where(radius < 12, 5.0, -5.0)[None, None]


def test_every_parameter_learns(net: GlanceNet) -> None:
    scans = torch.cat([ball(0.2, 0.5, 1.0)[0], ball(1.5, 0.5, 0.2)[0]])
    outputs = net(scans + 0.1 * torch.randn_like(scans))
    sum(output.square().mean() for output in outputs).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.network.parameters() if p.grad is not None)


def test_the_classifier_does_not_pull_at_the_mask(net: GlanceNet) -> None:
    _, contrast, head = net(torch.randn(2, 1, 32, 32, 32))
    (contrast.sum() + head.sum()).backward()
    assert all(p.grad is None for p in net.network.parameters())


def test_a_description_knows_no_place_and_no_scale() -> None:
    scan, mask = ball(0.2, 0.5, 1.0)
    told = described(scan, mask)
    moved = [torch.roll(image, (2, -3, 1), (2, 3, 4)) for image in (scan, mask)]
    torch.testing.assert_close(described(*moved), told, atol=1e-3, rtol=0)
    torch.testing.assert_close(described(1.2 * (scan + 1) - 1, mask), told, atol=0.02, rtol=0)


def test_a_description_knows_what_is_bright_at_which_depth() -> None:
    one, other = (described(*ball(*shells))[0] for shells in ((0.2, 0.5, 1.0), (1.5, 0.5, 1.0)))
    rows = (one - other)[: (len(DEPTHS) - 1) * 25].reshape(-1, 25)[:, :24].abs().sum(1)
    layers = [f"{a}..{b}" for a, b in pairwise(DEPTHS)]
    changed = {layer for layer, row in zip(layers, rows.tolist(), strict=True) if row > 0.1}
    assert changed == {"0..2", "2..3"}  # the outer shell is two voxels thick


def test_a_description_knows_which_way_is_up() -> None:
    scan, mask = ball(0.2, 0.5, 1.0)
    mask[..., :12] = -5
    assert not torch.allclose(described(scan, mask), described(scan.flip(4), mask.flip(4)))


def test_no_brain_is_described_as_none() -> None:
    told = described(torch.zeros(1, 1, 16, 16, 16), torch.full((1, 1, 16, 16, 16), -5.0))
    assert torch.isfinite(told).all()
    assert not told.any()


def test_one_scan_of_a_batch_does_not_change_another(net: GlanceNet) -> None:
    scans = torch.randn(3, 1, 16, 16, 32)
    net.eval()
    for together, alone in zip(net(scans), net(scans[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)
