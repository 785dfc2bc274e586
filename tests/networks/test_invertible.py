from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from medi2i.errors import TrainingError, UsageError
from medi2i.networks.invertible import (
    ActNorm,
    ConditionPyramid,
    CouplingLayer,
    FactorOut,
    Flow,
    Invertible,
    InvertibleConvolution,
    Squeeze,
    bits_per_dimension,
    dequantised,
    log_standard_normal,
    nats_per_voxel,
    standard_normal,
    through,
)

SHAPES = {2: (2, 4, 6, 4), 3: (2, 4, 2, 4, 2)}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


M = TypeVar("M", bound=nn.Module)


def disturbed(network: M, size: float = 0.1) -> M:
    """Weights as training might leave them: nothing is zero any more, nothing starts over."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
        for module in network.modules():
            if isinstance(module, ActNorm):
                module.initialised.fill_(1)
    return network


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log |det| of a map of one sample, by autograd."""
    matrix = torch.autograd.functional.jacobian(lambda v: function(v).flatten(), x)
    log_det: Tensor = torch.linalg.slogdet(matrix.reshape(x.numel(), x.numel()))[1]
    return log_det


LAYERS: dict[str, Callable[[int], Invertible]] = {
    "actnorm": lambda dims: ActNorm(4),
    "convolution": lambda dims: InvertibleConvolution(4),
    "additive": lambda dims: CouplingLayer(dims, 4, 8, kind="additive"),
    "affine": lambda dims: CouplingLayer(dims, 4, 8, kind="affine"),
    "sigmoid": lambda dims: CouplingLayer(dims, 4, 8, kind="sigmoid"),
    "fold": lambda dims: Squeeze("fold"),
    "haar": lambda dims: Squeeze("haar"),
}


# ---- every layer


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_undone_and_knows_its_determinant(name: str, dims: int) -> None:
    torch.manual_seed(0)
    layer = disturbed(LAYERS[name](dims)).double()
    x = numbers(*SHAPES[dims], dtype=torch.float64)
    y, forth = layer(x)
    again, back = layer.inverse(y)
    assert torch.allclose(again, x, rtol=0, atol=1e-12)
    assert torch.allclose(forth + back, torch.zeros(2, dtype=torch.float64), atol=1e-12)
    for sample in range(2):
        measured = jacobian(lambda v: layer(v)[0], x[sample : sample + 1])
        assert abs(float(forth[sample].detach() - measured)) < 1e-10


def test_actnorm_takes_its_numbers_from_the_first_batch_and_never_again() -> None:
    layer = ActNorm(3)
    x = numbers(4, 3, 8, 8) * torch.tensor([0.5, 2.0, 30.0])[:, None, None] + 5
    y, log_det = layer(x)
    flat = y.transpose(0, 1).flatten(1)
    assert flat.mean(1).abs().max() < 1e-5
    assert (flat.std(1, correction=0) - 1).abs().max() < 1e-3
    deviations = x.transpose(0, 1).flatten(1).std(1, correction=0)
    assert torch.allclose(log_det, -64 * deviations.log().sum().expand(4), rtol=1e-4)
    layer(100 * x)
    again = ActNorm(3)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x)[0], y), "a reloaded layer must not start over"
    assert int(layer.initialised) == 1


def test_actnorm_leaves_a_constant_channel_in_bounds_and_waits_for_data() -> None:
    layer = ActNorm(1)
    with pytest.raises(UsageError, match="run it forward once"):
        layer.inverse(torch.zeros(1, 1, 2, 2))
    x = torch.full((2, 1, 4, 4), -1.0)
    assert torch.equal(layer.eval()(x)[0], x), "without training nothing is set"
    assert torch.equal(layer.train()(x)[0], torch.zeros_like(x))
    assert layer.log_gain.exp().tolist() == pytest.approx([100])


def test_ranks_pool_their_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = numbers(3, 2, 4, 4), 3 * numbers(3, 2, 4, 4, seed=1) + 1
    together = ActNorm(2)
    together(torch.cat([here, there]))

    def add_theirs(moments: Tensor) -> None:
        flat = there.transpose(0, 1).flatten(1).double()
        moments += torch.stack([flat.mean(1), flat.square().mean(1)])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", add_theirs)
    alone = ActNorm(2)
    alone(here)
    for name, value in together.state_dict().items():
        assert torch.allclose(alone.state_dict()[name], value, atol=1e-6), name


def test_the_convolution_starts_as_a_rotation() -> None:
    torch.manual_seed(3)
    layer = InvertibleConvolution(6)
    permutation, lower, upper = layer.factors()
    weight = permutation @ lower @ upper
    one = torch.eye(6, dtype=torch.float64)
    assert torch.allclose(weight @ weight.T, one, atol=1e-6)
    disturbed(layer)
    permutation, lower, upper = layer.factors()
    determinant = torch.linalg.slogdet(permutation @ lower @ upper)[1]
    assert torch.allclose(determinant.float(), layer.log_scale.sum(), atol=1e-5)


def test_a_fresh_coupling_is_the_identity_and_glows_contracts() -> None:
    x = numbers(2, 4, 6, 6)
    for kind in ("additive", "affine"):
        y, log_det = CouplingLayer(2, 4, 8, kind=kind)(x)
        assert torch.equal(y, x)
        assert torch.equal(log_det, torch.zeros(2))
    y, log_det = CouplingLayer(2, 4, 8, kind="sigmoid")(x)
    assert torch.equal(y[:, :2], x[:, :2])
    assert torch.allclose(y[:, 2:], 0.880797 * x[:, 2:], rtol=1e-5)
    assert torch.allclose(log_det, torch.full((2,), 72 * math.log(0.880797)), rtol=1e-5)


def test_an_affine_scale_has_a_bound() -> None:
    layer = disturbed(CouplingLayer(2, 4, 8, bound=0.5), size=3.0)
    _, log_scale = layer.terms(100 * numbers(2, 2, 6, 6), None)
    assert log_scale is not None
    assert log_scale.abs().max() <= 0.5
    assert log_scale.abs().max() > 0.49


@pytest.mark.parametrize("dims", [2, 3])
def test_haar_keeps_lengths_and_gives_the_means_first(dims: int) -> None:
    x = numbers(2, 3, *[4] * dims)
    y, _ = Squeeze("haar")(x)
    assert y.shape == (2, 3 * 2**dims, *[2] * dims)
    assert torch.allclose(y.square().sum(), x.square().sum())
    pool = nn.functional.avg_pool2d if dims == 2 else nn.functional.avg_pool3d
    assert torch.allclose(y[:, :3], pool(x, 2) * 2 ** (dims / 2), atol=1e-6)
    flat, _ = Squeeze("haar")(torch.ones(1, 1, *[4] * dims))
    assert flat[:, 1:].abs().max() < 1e-6


def test_haar_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert Squeeze("haar")(x)[0].flatten().tolist() == [5, -1, -2, 0]
    assert Squeeze("fold")(x)[0].flatten().tolist() == [1, 2, 3, 4]
    with pytest.raises(UsageError, match="even"):
        Squeeze("haar")(torch.zeros(1, 1, 3, 4))


def test_what_leaves_is_whitened_by_what_stays() -> None:
    torch.manual_seed(0)
    leave = FactorOut(2, 4)
    x = numbers(2, 4, 4, 4)
    keep, latent, log_det = leave(x)
    assert torch.equal(torch.cat([keep, latent], 1), x)
    assert not log_det.any()
    disturbed(leave)
    keep, latent, log_det = leave(x)
    mean, log_deviation = leave.expected(keep)
    assert torch.allclose(latent * log_deviation.exp() + mean, x[:, 2:], atol=1e-6)
    # the density of what left is that of its normal distribution
    normal = torch.distributions.Normal(mean, log_deviation.exp()).log_prob(x[:, 2:])
    ours = log_standard_normal([latent]) + log_det
    assert torch.allclose(ours, normal.flatten(1).sum(1), rtol=1e-5)
    again, back = leave.inverse(keep, latent)
    assert torch.allclose(again, x, atol=1e-6)
    assert torch.allclose(back, -log_det)


# ---- the whole flow

STACKS: dict[str, dict[str, Any]] = {
    "additive": {"dims": 2, "kind": "additive"},
    "affine": {"dims": 2},
    "sigmoid, fold, two channels": {"dims": 2, "kind": "sigmoid", "squeeze": "fold", "channels": 2},
    "3-D": {"dims": 3, "levels": 2},
    "without expectations": {"dims": 2, "expecting": False},
}


def flow_of(**changes: Any) -> Flow:
    torch.manual_seed(0)
    given: dict[str, Any] = {"levels": 2, "steps": 2, "width": 8}
    return Flow(**(given | changes))


@pytest.mark.parametrize("name", STACKS)
def test_the_determinant_of_the_whole(name: str) -> None:
    flow = disturbed(flow_of(**STACKS[name])).double()
    channels = STACKS[name].get("channels", 1)
    size = [8, 4] if STACKS[name]["dims"] == 2 else [4, 4, 4]
    x = numbers(1, channels, *size, dtype=torch.float64)

    def flat(v: Tensor) -> Tensor:
        return torch.cat([z.flatten() for z in flow(v)[0]])

    assert abs(float(flow(x)[1].detach()) - float(jacobian(flat, x).detach())) < 1e-9


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_the_whole_is_undone(name: str, recompute: bool) -> None:
    arguments = {"levels": 3, "steps": 4} | STACKS[name]
    dims = arguments["dims"]
    flow = flow_of(**arguments, recompute=recompute).train()
    x = 0.4 * numbers(2, arguments.get("channels", 1), *([32, 16] if dims == 2 else [8] * 3))
    flow(x)  # ActNorm
    for stage, network in (("fresh", flow), ("disturbed", disturbed(flow, 0.02))):
        for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            network = network.to(dtype)
            latents, forth = network(x.to(dtype))
            assert sum(z.numel() for z in latents) == x.numel()
            assert [z.shape for z in latents] == network.shapes(2, x.shape[2:])
            again, back = network.inverse(latents)
            error = float((again - x).detach().abs().max())
            assert error < limit, f"{stage}, {dtype}: {error}"
            assert torch.allclose(forth, -back, rtol=1e-4)


def rings(count: int, size: int, seed: int) -> Tensor:
    """Discs of random place, size and brightness on black: what a slice looks like from afar."""
    random = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    x, y, radius, light = (
        torch.rand(4, count, generator=random) * torch.tensor([[0.6], [0.6], [0.3], [1.0]])
        + torch.tensor([[-0.3], [-0.3], [0.4], [0.0]])
    )[..., None, None]
    distance = ((axis[:, None] - y) ** 2 + (axis - x) ** 2).sqrt()
    image: Tensor = (distance < radius) * (1 + light) - 1
    return image[:, None]


def trained(steps: int = 20) -> tuple[Flow, list[float]]:
    flow = flow_of(levels=2, steps=3, width=16, dims=2).train()
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    bits = []
    for step in range(steps):
        x = dequantised(rings(4, 16, step))
        loss = bits_per_dimension(flow.log_density(x), x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        bits.append(float(loss.detach()))
    return flow, bits


def test_a_trained_flow_is_still_undone() -> None:
    torch.manual_seed(0)
    flow, bits = trained()
    assert bits[-1] < bits[0] - 0.3, "twenty steps must be worth something"
    x = rings(4, 32, 99)
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        flow = flow.to(dtype).eval()
        latents, _ = flow(x.to(dtype))
        again, _ = flow.inverse(latents)
        error = float((again - x).detach().abs().max())
        assert error < limit, f"{dtype}: {error}"


def test_lower_precision_does_not_reach_a_flow() -> None:
    flow = disturbed(flow_of(dims=2), 0.02).eval()
    x = 0.4 * numbers(2, 1, 16, 16)
    plain, _ = flow(x)
    with torch.autocast("cpu", torch.bfloat16):
        under, _ = flow(x)
        again, _ = flow.inverse(under)
    assert all(torch.equal(one, other) for one, other in zip(plain, under, strict=True))
    assert (again - x).abs().max() < 1e-5
    assert flow(x.bfloat16())[0][0].dtype == torch.float32


def test_a_density_sums_to_one() -> None:
    torch.manual_seed(0)
    layers: list[Invertible] = []
    for _ in range(2):
        layers += [ActNorm(2), InvertibleConvolution(2), CouplingLayer(2, 2, 8)]
    disturbed(nn.ModuleList(layers), 0.3).double()
    step = 0.05
    axis = torch.arange(-12, 12, step, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)[:, :, None, None]
    with torch.no_grad():
        y, log_det = through(layers, x)
        mass = (log_standard_normal([y]) + log_det).exp().sum() * step**2
    assert float(mass) == pytest.approx(1, abs=1e-2)


def test_samples_follow_the_temperature() -> None:
    flow, _ = trained(10)
    flow.eval()
    cold, warm = (flow.draw(64, (16, 16), temperature=t) for t in (0.0, 1.0))
    assert torch.equal(cold, cold[:1].expand_as(cold))
    assert warm.shape == (64, 1, 16, 16)
    latents, _ = flow(warm)
    flat = torch.cat([z.flatten() for z in latents])
    assert float(flat.detach().std()) == pytest.approx(1, abs=0.03)


# ---- recomputation


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
def test_recomputing_gives_the_same_gradients(backwards: bool, conditioned: bool) -> None:
    conditions = 3 if conditioned else 0
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        layers: list[Invertible] = []
        for kind in ("affine", "additive"):
            layers += [
                ActNorm(4),
                InvertibleConvolution(4),
                CouplingLayer(2, 4, 8, kind=kind, conditions=conditions),
            ]
        chain = disturbed(nn.ModuleList(layers)).double()
        x = numbers(2, 4, 6, 6, dtype=torch.float64).requires_grad_()
        told = numbers(2, 3, 6, 6, seed=1, dtype=torch.float64).requires_grad_()
        y, log_det = through(
            layers, x, told if conditioned else None, backwards=backwards, recompute=recompute
        )
        leaves = [x, *chain.parameters()] + ([told] if conditioned else [])
        loss = y.square().sum() + (log_det * torch.tensor([1.0, 3.0])).sum()
        found.append([y, log_det, *torch.autograd.grad(loss, leaves)])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-10)


def test_recomputing_stores_no_more_for_more_steps() -> None:
    def stored(steps: int, recompute: bool) -> int:
        flow = disturbed(flow_of(dims=2, steps=steps, recompute=recompute))
        own = {p.data_ptr() for p in flow.parameters()}
        kept: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            if t.data_ptr() not in own and t.dim() > 2:
                kept[t.data_ptr()] = t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            latents, _ = flow(0.4 * numbers(2, 1, 16, 16))
        del latents
        return sum(kept.values())

    assert stored(6, True) == stored(2, True)
    assert stored(6, False) > 2.5 * stored(2, False)
    assert stored(6, True) < stored(6, False) / 10


def test_weights_must_not_move_before_the_backward_pass() -> None:
    flow = disturbed(flow_of(dims=2, recompute=True))
    loss = flow.log_density(numbers(1, 1, 8, 8)).sum()
    with torch.no_grad():
        next(flow.parameters()).add_(1)
    with pytest.raises(TrainingError, match="step after"):
        loss.backward()


# ---- conditions, accounting, sizes


@pytest.mark.parametrize("dims", [2, 3])
def test_a_condition_changes_the_image_and_not_the_inverse(dims: int) -> None:
    torch.manual_seed(0)
    size = [16] * dims
    pyramid = ConditionPyramid(dims=dims, inputs=2, features=[4, 8]).eval()
    told = pyramid(numbers(2, 2, *size))
    assert [tuple(t.shape[1:]) for t in told] == [(4, *[8] * dims), (8, *[4] * dims)]
    flow = disturbed(flow_of(dims=dims, conditions=4)).eval()
    told = ConditionPyramid(dims=dims, inputs=2, features=[4, 4])(numbers(2, 2, *size))
    x = 0.4 * numbers(2, 1, *size)
    latents, _ = flow(x, told)
    assert (flow.inverse(latents, told)[0] - x).abs().max() < 1e-4
    wrong = [t.roll(1, 0) for t in told]
    assert (flow.inverse(latents, wrong)[0] - x).abs().max() > 1e-2
    with pytest.raises(UsageError, match="condition"):
        flow(x)


def test_nats_and_bits_by_hand() -> None:
    image = torch.zeros(1, 2, 3, 3)
    # uniform over [-1, 1]: ln 2 for each of 18 numbers; 8 bits at 256 bins, 1.386 nats a voxel
    log_density = torch.tensor([-18 * math.log(2)])
    assert float(bits_per_dimension(log_density, image)) == pytest.approx(8)
    assert float(bits_per_dimension(log_density, image, 16)) == pytest.approx(4)
    assert float(nats_per_voxel(log_density, image)) == pytest.approx(2 * math.log(2))
    z = standard_normal([(200, 1, 16, 16), (200, 8)])
    expected = -0.5 * (256 + 8) * (1 + math.log(2 * math.pi))
    assert float(log_standard_normal(z).mean()) == pytest.approx(expected, rel=0.01)


def test_dequantising_stays_within_a_bin() -> None:
    torch.manual_seed(0)
    noise = dequantised(torch.zeros(10_000), 64)
    assert noise.abs().max() <= 1 / 64
    assert abs(float(noise.mean())) < 1e-3
    assert float(noise.std()) == pytest.approx(2 / 64 / 12**0.5, rel=0.02)
    assert not dequantised(torch.zeros(3), 0).any()


@pytest.mark.parametrize(
    ("levels", "steps", "width", "millions"),
    [(3, 32, 512, 32.0), (4, 16, 128, 2.9), (4, 8, 64, 0.63)],
)
def test_as_many_parameters_as_glow(levels: int, steps: int, width: int, millions: float) -> None:
    with torch.device("meta"):
        flow = Flow(dims=2, levels=levels, steps=steps, width=width)
    # Glow's couplings have ActNorm where these have biases, a gain per output, and one more input
    # channel, which tells the padding, in both convolutions 3
    channels = [4 * 2**level for level in range(levels)]
    glow = steps * sum(2 * width + c + 9 * (width + c) for c in channels)
    assert sum(p.numel() for p in flow.parameters()) + glow == pytest.approx(
        1e6 * millions, rel=0.05
    )
