from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.reversal import reversed_gradient
from medi2i.networks.xgan import DomainClassifier
from medi2i.systems.xgan import XGAN

AUTOENCODERS = XGAN.players["autoencoders"]


def small(**changes: Any) -> XGAN:
    torch.manual_seed(0)
    given: dict[str, Any] = {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4}
    return XGAN(**(given | changes))


def batch_of(slices: int = 1, contrasts: int = 1, side: int = 16, dims: int = 2) -> Batch:
    random = torch.Generator().manual_seed(0)
    source, slab = (
        2 * torch.rand(2, contrasts * slices, *[side] * dims, generator=random) - 1
        for _ in range(2)
    )
    return Batch(source, slab[:, slices // 2 :: slices], target_slab=slab)


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def reached(system: XGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name in (*AUTOENCODERS, "critics")
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


# ---- the published sizes


def test_parameters_of_the_papers_vector() -> None:
    with torch.device("meta"):
        system = XGAN(code="vector")
    assert count(system.encoder_a) == count(system.encoder_b) == 33_472  # 33.5 k
    assert count(system.shared_encoder) == 5_901_056  # 5.9 M
    assert count(system.shared_decoder) == 10_487_296  # 10.5 M
    assert count(system.decoder_a) == count(system.decoder_b) == 656_768  # 0.66 M
    # 1024-256-64-1, and 1-16-32-32-32 with kernels of 4, then 512-1
    assert count(system.classifier) == 1024 * 256 + 256 + 256 * 64 + 64 + 64 + 1
    assert count(system.critics["b"]) == 272 + 8_224 + 16_416 + 16_416 + 513


def test_parameters_of_the_map() -> None:
    with torch.device("meta"):
        system = XGAN()
    assert count(system.encoder_a) == 372_224  # as RevGAN's, whose parts they are
    assert count(system.decoder_a) == 371_969
    assert count(system.shared_encoder) == count(system.shared_decoder) == 3 * 2 * 590_080
    assert count(system.critics["a"]) == 2_762_689  # PatchGAN of 70 voxels


def test_the_vector_holds_1024_numbers_and_the_map_256_per_position() -> None:
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert XGAN(code="vector").eval().encode_a(x).shape == (1, 1024, 1, 1)
        assert XGAN().encode_b(x).shape == (1, 256, 16, 16)


# ---- the losses


def test_semantic_consistency_asks_for_codes_and_not_for_voxels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """d_b turns a code round, e_b turns it back: no semantic error, and far from the image."""
    system, batch = small(), batch_of()
    system.classifier = DomainClassifier(dims=2, code=1)
    monkeypatch.setattr(system, "encode_a", lambda a: 2 * a + 1)
    monkeypatch.setattr(system, "decode_a", lambda code, extent: code.sin())
    monkeypatch.setattr(system, "encode_b", lambda b: -4 * b)
    monkeypatch.setattr(system, "decode_b", lambda code, extent: -0.25 * code)
    losses = next(system.play(batch)).losses
    assert float(losses["semantic_a"]) == 0
    expected_b = (2 * (-4 * batch.target).sin() + 1 + 4 * batch.target).abs().mean()
    torch.testing.assert_close(losses["semantic_b"], expected_b)
    expected = ((2 * batch.source + 1).sin() - batch.source).square().mean()
    torch.testing.assert_close(losses["reconstruction_a"], expected)
    assert float(losses["reconstruction_b"]) == 0


def test_without_the_other_weights_there_are_two_autoencoders() -> None:
    system, batch = small(dann=0.0, semantic=0.0, gan=0.0), batch_of()
    names = [n for n, _ in system.named_parameters() if "coder" in n]
    parameters = [p for n, p in system.named_parameters() if "coder" in n]
    objective = next(system.play(batch)).objective
    code_a, code_b = system.encode_a(batch.source), system.encode_b(batch.target)
    plain = (system.decode_a(code_a, (16, 16)) - batch.source).square().mean()
    plain = plain + (system.decode_b(code_b, (16, 16)) - batch.target).square().mean()
    ours = torch.autograd.grad(objective, parameters)
    theirs = torch.autograd.grad(plain, parameters)
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7, msg=name)


def test_the_encoders_get_minus_the_gradient_that_the_classifier_follows() -> None:
    system, batch = small(dann=0.5), batch_of()
    encoders = [*system.encoder_a.parameters(), *system.shared_encoder.parameters()]
    classifier = list(system.classifier.parameters())
    reversed_ = torch.autograd.grad(
        next(system.play(batch)).losses["dann"], encoders + classifier, retain_graph=True
    )
    named_a, named_b = (
        system.classifier(code)
        for code in (system.encode_a(batch.source), system.encode_b(batch.target))
    )
    bce = nn.functional.binary_cross_entropy_with_logits
    plain_loss = 0.5 * (
        bce(named_a, torch.zeros_like(named_a)) + bce(named_b, torch.ones_like(named_b))
    )
    plain = torch.autograd.grad(plain_loss, encoders + classifier)
    assert any(bool(g.abs().max() > 1e-7) for g in plain[: len(encoders)])
    for ours, theirs in zip(reversed_[: len(encoders)], plain, strict=False):
        torch.testing.assert_close(ours, -0.5 * theirs)
    for ours, theirs in zip(reversed_[len(encoders) :], plain[len(encoders) :], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_reversal_is_exact() -> None:
    x = torch.randn(5, requires_grad=True)
    y = reversed_gradient(x)
    assert torch.equal(y, x)
    (plain,) = torch.autograd.grad(x.pow(3).sum(), x)
    (turned,) = torch.autograd.grad(reversed_gradient(x).pow(3).sum(), x)
    assert torch.equal(turned, -plain)
    (none,) = torch.autograd.grad(reversed_gradient(x, 0.0).pow(3).sum(), x)
    assert not none.any()


def test_an_undecided_classifier_costs_ln_2() -> None:
    system = small()
    last: Any = system.classifier.layers[-1]
    nn.init.zeros_(last.weight)
    losses = next(system.play(batch_of())).losses
    assert float(losses["dann"].detach()) == pytest.approx(math.log(2))


# ---- who shares what, and who learns from what


def test_the_shared_halves_are_one_object() -> None:
    system, batch = small(dann=0.0, semantic=0.0, gan=0.0), batch_of()
    next(system.play(batch)).losses["reconstruction_a"].backward()
    assert reached(system) == {"encoder_a", "shared_encoder", "shared_decoder", "decoder_a"}
    with torch.no_grad():
        before = system.encode_b(batch.target)
        for parameter in system.shared_encoder.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=10)
        assert not torch.equal(system.encode_b(batch.target), before)
        assert torch.equal(
            system.encode_b(batch.target), system.shared_encoder(system.encoder_b(batch.target))
        )


def test_each_loss_reaches_its_networks() -> None:
    system, batch = small(), batch_of()
    way_a_to_b = {"encoder_a", "shared_encoder", "shared_decoder", "decoder_b"}
    way_b_to_a = {"encoder_b", "shared_encoder", "shared_decoder", "decoder_a"}
    expected = {
        "reconstruction_b": {"encoder_b", "shared_encoder", "shared_decoder", "decoder_b"},
        "dann": {"encoder_a", "encoder_b", "shared_encoder", "classifier"},
        "semantic_a": way_a_to_b | {"encoder_b"},
        "semantic_b": way_b_to_a | {"encoder_a"},
        "gan_a": way_b_to_a,
        "gan_b": way_a_to_b,
    }
    for loss, networks in expected.items():
        system.zero_grad(set_to_none=True)
        next(system.play(batch)).losses[loss].backward()
        assert reached(system) == networks, loss
    system.zero_grad(set_to_none=True)
    _, turn = system.play(batch)
    turn.objective.backward()
    assert (turn.player, reached(system)) == ("critics", {"critics"})


def test_an_embedding_has_unit_length() -> None:
    system = small(code="vector", window=32, features=2)
    code = system.encode_a(5 * torch.randn(3, 1, 48, 32))
    assert code.shape == (3, 64, 2, 1)  # a larger image has a vector for each place
    torch.testing.assert_close(code.norm(dim=1), torch.ones(3, 2, 1))


def test_a_critic_for_one_domain_or_for_both() -> None:
    one, both = small(critics="b"), small()
    autoencoders, critics = one.play(batch_of())
    assert {n for n in autoencoders.losses if "gan" in n} == {"gan_b"}
    assert set(critics.losses) == {"contest_b"}
    _, critics = both.play(batch_of())
    assert set(critics.losses) == {"contest_a", "contest_b"}


def test_exchanging_the_domains_changes_nothing() -> None:
    system, batch = small(slices=3, inputs=2, outputs=2), batch_of(slices=3, contrasts=2)
    losses = next(system.play(batch)).losses
    assert batch.target_slab is not None
    swapped = Batch(batch.target_slab, batch.source[:, 1::3], target_slab=batch.source)
    for part in ("encoder", "decoder"):
        one, other = getattr(system, f"{part}_a"), getattr(system, f"{part}_b")
        setattr(system, f"{part}_a", other)
        setattr(system, f"{part}_b", one)
    critics = system.critics
    system.critics = nn.ModuleDict({"a": critics["b"], "b": critics["a"]})
    last: Any = system.classifier.layers[-1]
    with torch.no_grad():
        last.weight.neg_()  # what it called A it calls B
        last.bias.neg_()
    again = next(system.play(swapped)).losses
    exchanged = {"a": "b", "b": "a"}
    for name, loss in losses.items():
        stem, _, side = name.rpartition("_")
        there = again[f"{stem}_{exchanged[side]}" if stem else name]
        torch.testing.assert_close(there, loss, msg=name)


# ---- what it can look at


def test_only_the_drawn_slice_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(slices=3), batch_of(slices=3)
    seen: list[Tensor] = []
    real = system.encode_b

    def spy(b: Tensor) -> Tensor:
        seen.append(b)
        return real(b)

    monkeypatch.setattr(system, "encode_b", spy)
    next(system.play(batch))
    assert torch.equal(seen[0], torch.as_tensor(batch.target_slab))
    fake = system.translate(batch.source)
    torch.testing.assert_close(seen[1], fake.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("code", ["spatial", "vector"])
def test_images_of_any_size(code: str) -> None:
    system = small(code=code, window=32).eval()
    for shape in ((5, 3), (33, 40)):
        image = system.translate(torch.randn(2, 1, *shape))
        assert image.shape == (2, 1, *shape)
        assert float(image.detach().abs().max()) < 1


def test_in_3d() -> None:
    system = small(dims=3)
    assert [turn.player for turn in system.play(batch_of(dims=3))] == ["autoencoders", "critics"]
    assert system.translate(torch.randn(1, 1, 9, 6, 11)).shape == (1, 1, 9, 6, 11)


def test_what_it_refuses() -> None:
    assert XGAN.pairing is Pairing.UNPAIRED
    with pytest.raises(UsageError, match="on demand"):
        small(conditions=3)
    with pytest.raises(UsageError, match="as many contrasts"):
        small(inputs=2)
    for window in (0, 40):
        with pytest.raises(UsageError, match=f"window is {window}"):
            small(code="vector", window=window)
    with pytest.raises(UsageError, match=r"\(16, 16\) voxels came; .* at least 32"):
        next(small(code="vector", window=32).play(batch_of()))
