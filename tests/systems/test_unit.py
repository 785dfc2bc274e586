from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses.multiscale import contested, deceived
from medi2i.systems import unit
from medi2i.systems.base import Turn
from medi2i.systems.unit import UNIT, noisy


def small(**changes: Any) -> UNIT:
    torch.manual_seed(0)
    return UNIT(**({"features": 4, "blocks": 1, "layers": 2, "scales": 2} | changes))


def batch_of(size: int = 2, slices: int = 1, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.rand(size, slices, 16, 24, generator=random) - 1 for _ in range(2))
    weight, target_weight = torch.rand(2, size, 1, 16, 24, generator=random)
    centre = slice(slices // 2, slices // 2 + 1)
    return Batch(a, b[:, centre], weight, target_weight=target_weight, target_slab=b)


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def reached(loss: Tensor, network: nn.Module) -> bool:
    found = torch.autograd.grad(
        loss, list(network.parameters()), retain_graph=True, allow_unused=True
    )
    return any(slope is not None and bool(slope.any()) for slope in found)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "noisy", lambda code: code)


def test_the_later_generation_has_the_authors_size() -> None:
    with torch.device("meta"):
        grey, colour = UNIT(), UNIT(inputs=3, outputs=3)
    assert count(grey.generator_a) == count(grey.generator_b) == 11_127_937
    assert count(colour.generator_a) == 11_140_483
    assert count(grey.discriminator_a) == 8_265_027
    assert count(colour.discriminator_a) == 8_271_171
    weights = (grey.gan, grey.recon, grey.cycle, grey.kl, grey.kl_cycle)
    assert weights == (1, 10, 10, 0.01, 0.01)


def test_the_papers_generation_has_the_authors_size() -> None:
    with torch.device("meta"):
        system = UNIT(shared=True)
    assert count(system.encoder_shared) == count(system.decoder_shared) == 1_180_160
    generators = [system.get_submodule(name) for name in system.players["generators"]]
    assert count(*generators) == 18_004_482
    discriminators = [system.get_submodule(name) for name in system.players["discriminators"]]
    assert count(*discriminators) == 25_227_521
    weights = (system.gan, system.recon, system.cycle, system.kl, system.kl_cycle)
    assert weights == (10, 100, 100, 0.1, 0.1)


def test_code_and_logits_have_the_sheets_shapes() -> None:
    system = small(layers=4, scales=3)
    image = torch.zeros(1, 1, 256, 256)
    assert system.code_of("a", image).shape == (1, 16, 64, 64)
    maps = system.judged("a", image)
    assert [tuple(m.shape) for m in maps] == [(1, 1, 16, 16), (1, 1, 8, 8), (1, 1, 4, 4)]
    with pytest.raises(UsageError, match="needs at least 64 along each side"):
        system.judged("a", image[..., :48])


@pytest.mark.parametrize("shared", [False, True])
def test_translation_has_no_noise_and_training_has(shared: bool) -> None:
    system = small(shared=shared)
    batch = batch_of()
    with torch.no_grad():
        assert torch.equal(system.translate(batch.source), system.translate(batch.source))
        one, other = (list(system.play(batch))[1].losses["recon_a"] for _ in range(2))
    assert one != other
    drawn = noisy(torch.full((100_000,), 3.0))
    assert abs(float(drawn.mean()) - 3) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02


def test_the_code_is_blind_to_gain_and_offset() -> None:
    system = small()
    x = batch_of().source
    code = system.code_of("a", x).detach()
    torch.testing.assert_close(system.code_of("a", 3 * x - 0.7), code, rtol=0, atol=1e-3)
    assert float(code.abs().max()) > 0.5
    shared = small(shared=True)  # its first layers have no norm
    assert not torch.allclose(
        shared.code_of("a", 3 * x - 0.7), shared.code_of("a", x), rtol=0, atol=0.05
    )


def test_the_losses_are_the_sheets(silence: None) -> None:
    system = small()
    batch = batch_of()
    a, b, weights = batch.source, batch.target, (batch.weight, batch.target_weight)
    _, generators = system.play(batch)
    losses = generators.losses
    code_a, code_b = (system.code_of(d, x) for d, x in (("a", a), ("b", b)))
    fake_a = system.drawn("a", code_b, a)
    back_b = system.drawn("b", system.code_of("a", fake_a), b)

    def l1(one: Tensor, other: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return ((one - other).abs() * weight).sum() / weight.sum()

    again = system.drawn("a", code_a, a)
    wanted = {
        "recon_a": 10 * l1(again, a, weights[0]),
        "cycle_b": 10 * l1(back_b, b, weights[1]),
        "kl_a": 0.01 * code_a.square().mean(),
        "kl_cycle_b": 0.01 * system.code_of("a", fake_a).square().mean(),
        "gan_a": sum((m - 1).square().mean() for m in system.judged("a", fake_a)),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], torch.as_tensor(value), msg=name)
    assert len(losses) == 10


def test_the_divergence_moves_encoders_alone() -> None:
    system = small()
    losses = list(system.play(batch_of()))[1].losses
    assert reached(losses["kl_a"], system.generator_a.encoder)
    others = (system.generator_a.decoder, system.generator_b)
    assert not any(reached(losses["kl_a"], network) for network in others)


def test_scales_are_summed_and_not_halved() -> None:
    real, fake = [torch.tensor([1.0, 0.0]), torch.tensor([2.0])], [torch.zeros(1), torch.ones(1)]
    assert float(contested(real, fake, "least-squares")) == pytest.approx(0.5 + 1 + 0 + 1)
    assert float(deceived(fake, "least-squares")) == pytest.approx(1.0)
    zero = [torch.zeros(3), torch.zeros(2)]
    assert float(contested(zero, zero, "vanilla")) == pytest.approx(4 * 0.6931472)


@pytest.mark.parametrize("shared", [False, True])
def test_each_step_moves_its_own_side(shared: bool) -> None:
    system = small(shared=shared)
    first, second = system.play(batch_of())
    judges = [system.get_submodule(name) for name in system.players["discriminators"]]
    coders = [system.get_submodule(name) for name in system.players["generators"]]
    for turn, own, others in ((first, judges, coders), (second, coders, judges)):
        assert all(reached(turn.objective, n) for n in own if count(n)), turn.player
        assert not any(reached(turn.objective, n) for n in others if count(n)), turn.player


def test_no_discriminator_sees_the_other_domains_real_images() -> None:
    system, batch = small(), batch_of()
    seen: list[Tensor] = []
    system.discriminator_a.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    list(system.play(batch))
    assert any(torch.equal(x, batch.source) for x in seen)
    assert not any(torch.equal(x, batch.target) for x in seen)


def test_sharing_is_one_object_that_either_domain_moves() -> None:
    shared, separate = small(shared=True), small()
    losses = list(shared.play(batch_of()))[1].losses
    for name in ("recon_a", "recon_b"):
        assert reached(losses[name], shared.encoder_shared)
        assert reached(losses[name], shared.decoder_shared)
    assert not count(separate.encoder_shared)
    ids = [{id(p) for p in g.parameters()} for g in (separate.generator_a, separate.generator_b)]
    assert not ids[0] & ids[1]
    losses = list(separate.play(batch_of()))[1].losses
    assert not reached(losses["recon_a"], separate.generator_b)


def test_without_a_way_back_there_is_none() -> None:
    system = small(cycle=0.0, kl_cycle=0.0)
    losses = list(system.play(batch_of()))[1].losses
    assert set(losses) == {f"{name}_{d}" for name in ("recon", "kl", "gan") for d in "ab"}


@pytest.mark.parametrize("shared", [False, True])
def test_swapped_domains_have_the_same_loss(shared: bool, silence: None) -> None:
    system, batch = small(shared=shared), batch_of()
    before = [turn.objective for turn in system.play(batch)]
    system.generator_a, system.generator_b = system.generator_b, system.generator_a
    judges = system.discriminator_a, system.discriminator_b
    system.discriminator_b, system.discriminator_a = judges
    swapped = Batch(batch.target, batch.source, batch.target_weight, target_weight=batch.weight)
    after = [turn.objective for turn in system.play(swapped)]
    torch.testing.assert_close(after, before)


def test_the_way_back_sees_a_slab_of_itself(silence: None) -> None:
    system, batch = small(slices=3), batch_of(slices=3)
    looked: list[Tensor] = []
    system.generator_a.encoder.register_forward_pre_hook(lambda _, args: looked.append(args[0]))
    turns: list[Turn] = list(system.play(batch))
    assert torch.isfinite(turns[1].objective)
    true, back = looked[-2:]  # the source, then what was drawn from the target
    assert torch.equal(true, batch.source)
    assert torch.equal(back, back[:, :1].expand(-1, 3, -1, -1))


def test_dropout_is_off_when_it_translates() -> None:
    system, source = small(shared=True, dropout=0.5), batch_of().source
    assert not torch.equal(system.translate(source), system.translate(source))
    system.eval()
    assert torch.equal(system.translate(source), system.translate(source))


def test_contrasts_on_demand_are_refused() -> None:
    with pytest.raises(UsageError, match="two domains"):
        small(conditions=3)
