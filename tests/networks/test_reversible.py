from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.errors import TrainingError, UsageError
from medi2i.networks.layers import conv
from medi2i.networks.resnet import residual_function
from medi2i.networks.reversible import Coupling, ReversibleCore

MIB = 2**20


def core(
    blocks: int = 3, channels: int = 8, kind: Any = "additive", dims: int = 2, **changes: Any
) -> ReversibleCore:
    torch.manual_seed(0)
    half = channels // 2
    wide = half if kind == "additive" else channels
    return ReversibleCore(
        [
            Coupling(residual_function(dims, half, wide, edge="reflect", first=dims == 3), kind)
            for _ in range(2 * blocks)
        ],
        **changes,
    )


def image(channels: int = 8, size: int = 8, seed: int = 1, dims: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *[size] * dims, generator=random)


def saved_bytes(network: nn.Module, run: Any) -> int:
    """Bytes that autograd keeps for the backward pass, weights aside, no storage counted twice."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result.requires_grad
    return sum(kept.values())


def gradients(network: ReversibleCore, x: Tensor, *, backwards: bool) -> list[Tensor]:
    """Of the input and of every weight, from a loss that weighs each voxel otherwise."""
    x = x.clone().requires_grad_()
    y = network.inverse(x) if backwards else network(x)
    weigh = image(x.shape[1], x.shape[2], seed=2, dims=x.dim() - 2).to(x.dtype)
    found = torch.autograd.grad((y * weigh).sum(), [x, *network.parameters()])
    return list(found)


# ---- the inverse


@pytest.mark.parametrize("kind", ["additive", "affine"])
@pytest.mark.parametrize(
    ("kind_of_number", "error"), [(torch.float32, 1e-3), (torch.float64, 1e-10)]
)
def test_the_inverse_is_exact(kind: Any, kind_of_number: torch.dtype, error: float) -> None:
    network = core(9, channels=16, kind=kind).to(kind_of_number)
    x = image(16, 16).to(kind_of_number)
    with torch.no_grad():
        y = network(x)
        assert (y - x).abs().mean() > 0.5, "the core does something"
        assert (network.inverse(y) - x).abs().max() < error
        assert (network(network.inverse(x)) - x).abs().max() < error


def test_by_hand() -> None:
    """x = (1, 2); F doubles, G triples: y1 = 1 + 2 * 2 = 5, y2 = 2 + 3 * 5 = 17, and back."""
    f, g = conv(2, 1, 1, 1, bias=False), conv(2, 1, 1, 1, bias=False)
    nn.init.constant_(f.weight, 2.0)
    nn.init.constant_(g.weight, 3.0)
    network = ReversibleCore([Coupling(f), Coupling(g)])
    x = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).requires_grad_()
    y = network(x)
    assert y.flatten().tolist() == [5, 17]
    assert network.inverse(y).flatten().tolist() == [1, 2]
    y.sum().backward()  # y1 + y2 = 4 x1 + 9 x2 with f = 2; d/df = 4 x2, d/dg = y1
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [4, 9]
    assert f.weight.grad is not None
    assert g.weight.grad is not None
    assert (float(f.weight.grad), float(g.weight.grad)) == (8, 5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_identity_to_begin_with(dims: int) -> None:
    for kind in ("additive", "affine"):
        network = core(2, kind=kind, dims=dims)
        network.start_as_identity()
        x = image(dims=dims)
        assert torch.equal(network(x), x)
        assert torch.equal(network.inverse(x), x)


def test_the_same_input_gives_the_same_bytes() -> None:
    network, x = core(), image()
    assert torch.equal(network.train()(x), network.eval()(x))
    assert torch.equal(network.inverse(x), network.inverse(x))


# ---- gradients


@pytest.mark.parametrize("kind", ["additive", "affine"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("blocks", [1, 3, 9, 18])
def test_gradients_equal_those_of_stored_activations(
    blocks: int, backwards: bool, kind: Any
) -> None:
    network, x = core(blocks, kind=kind).double(), image().double()
    found = gradients(network, x, backwards=backwards)
    network.recompute = False
    expected = gradients(network, x, backwards=backwards)
    for one, other in zip(found, expected, strict=True):
        # a bias before a norm has no effect; what is left of its gradient is rounding
        assert (one - other).norm() < 1e-6 * other.norm().clamp_min(1e-3)


@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_in_single_precision_and_3d(backwards: bool) -> None:
    network, x = core(3, dims=3), image(dims=3, size=6)
    found = gradients(network, x, backwards=backwards)
    network.recompute = False
    for one, other in zip(found, gradients(network, x, backwards=backwards), strict=True):
        assert (one - other).norm() < 1e-3 * other.norm().clamp_min(1e-2)


@pytest.mark.parametrize("kind", ["additive", "affine"])
@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_equal_finite_differences(backwards: bool, kind: Any) -> None:
    torch.manual_seed(0)
    wide = 2 if kind == "additive" else 4
    steps = [Coupling(nn.Sequential(conv(2, 2, wide, 1), nn.Tanh()), kind) for _ in range(4)]
    network = ReversibleCore(steps).double()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = list(network.parameters())

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return network.inverse(x) if backwards else network(x)

    assert torch.autograd.gradcheck(run, (x, *weights))


def test_both_directions_add_up_in_the_weights() -> None:
    network, x = core().double(), image().double()
    each = [gradients(network, x, backwards=backwards)[1:] for backwards in (False, True)]
    weigh = image(seed=2).double()
    ((network(x) * weigh).sum() + (network.inverse(x) * weigh).sum()).backward()
    for parameter, forth, back in zip(network.parameters(), *each, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, forth + back)


def test_frozen_weights_let_the_gradient_pass() -> None:
    network, x = core().double(), image().double().requires_grad_()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    (network(x) * image(seed=2)).sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    found = x.grad
    network.recompute, x.grad = False, None
    (network(x) * image(seed=2)).sum().backward()
    assert found is not None
    torch.testing.assert_close(found, x.grad)


def test_weights_alone_may_be_asked_for() -> None:
    """As a trainer does: `backward(inputs=...)` with an input that needs no gradient."""
    network, x = core(), image()
    one = next(network.parameters())
    (network(x) * image(seed=2)).sum().backward(inputs=[one])
    assert one.grad is not None
    assert sum(parameter.grad is not None for parameter in network.parameters()) == 1


def test_a_step_between_forward_and_backward_is_refused() -> None:
    network, x = core(), image()
    y = network(x)
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    with pytest.raises(TrainingError, match="changed between its forward and its backward"):
        y.sum().backward()


# ---- memory


def test_saved_activations_do_not_grow_with_depth() -> None:
    """64 channels of 32 x 32 in float32 are 0.25 MiB: the output, whatever the depth."""
    x = torch.randn(1, 64, 32, 32, requires_grad=True)
    kept = {}
    for blocks in (3, 9, 18):
        network = core(blocks, channels=64)
        kept[blocks] = saved_bytes(network, lambda network=network: network(x))
        assert saved_bytes(network, lambda network=network: network.inverse(x)) == kept[blocks]
    assert set(kept.values()) == {MIB // 4}


def test_stored_activations_do() -> None:
    x = torch.randn(1, 64, 32, 32, requires_grad=True)
    kept = []
    for blocks in (3, 9, 18):
        network = core(blocks, channels=64, recompute=False)
        kept.append(saved_bytes(network, lambda network=network: network(x)) / MIB)
    assert kept[0] > 3
    assert kept[1] == pytest.approx(3 * kept[0], rel=0.1)
    assert kept[2] == pytest.approx(6 * kept[0], rel=0.1)


def test_without_gradients_nothing_is_kept() -> None:
    with torch.inference_mode():
        assert not core()(image()).requires_grad


# ---- the rest


def test_single_precision_under_autocast() -> None:
    network, x = core(), image()
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x.bfloat16())
        again = network.inverse(y)
    assert y.dtype == torch.float32
    assert (again - x.bfloat16()).abs().max() < 1e-4
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_odd_number_of_channels_has_no_halves() -> None:
    with pytest.raises(UsageError, match="7 channels given; an even number"):
        core()(image(7))
