from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.systems.branchgan import BranchGAN

NETWORKS = ("encoder", "decoder_a", "decoder_b", "judge_a", "judge_b")


def small(**changes: Any) -> BranchGAN:
    torch.manual_seed(0)
    given: dict[str, Any] = {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4}
    return BranchGAN(**(given | changes))


def batch_of(slices: int = 1, contrasts: int = 1, dims: int = 2, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source, slab = (
        2 * torch.rand(2, contrasts * slices, *[16] * dims, generator=random) - 1 for _ in range(2)
    )
    weight, other = (torch.rand(2, 1, *[16] * dims, generator=random) for _ in range(2))
    centre = slab[:, slices // 2 :: slices]
    return Batch(source, centre, weight, target_weight=other, target_slab=slab)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def reached(system: BranchGAN) -> set[str]:
    """The networks with a gradient other than zero."""
    return {
        name
        for name in NETWORKS
        if any(p.grad is not None and p.grad.any() for p in system.get_submodule(name).parameters())
    }


# ---- the published sizes


@pytest.mark.parametrize("kind", ["instance", "batch"])
def test_as_many_parameters_as_the_authors_networks(kind: str) -> None:
    with torch.device("meta"):
        system = BranchGAN(block_norm=kind)  # type: ignore[arg-type]  # parametrized as str
    assert count(system.encoder) == 3_914_240
    assert count(system.decoder_a) == count(system.decoder_b) == 3_913_985
    assert count(system.judge_a) == count(system.judge_b) == 660_929


def test_a_judgement_is_of_34_voxels() -> None:
    with torch.device("meta"):
        judge = BranchGAN().judge_a
        assert judge(torch.empty(1, 1, 128, 128)).shape == (1, 1, 30, 30)
        assert judge(torch.empty(1, 1, 256, 256)).shape == (1, 1, 62, 62)
        assert judge(torch.empty(1, 1, 34, 35)).shape == (1, 1, 6, 6)
    plain = nn.Sequential(*(m for m in _layers() if isinstance(m, nn.Conv2d)))
    image = torch.ones(1, 1, 64, 64, requires_grad=True)
    for parameter in plain.parameters():
        nn.init.constant_(parameter, 0.1)
    (gradient,) = torch.autograd.grad(plain(image)[0, 0, 7, 7], image)
    assert int((gradient[0, 0] != 0).any(0).sum()) == 34


def _layers() -> list[nn.Module]:
    return list(BranchGAN(features=2, patch_features=1).judge_a.judge)


def test_a_code_is_behind_a_relu() -> None:
    code = small().encode(torch.randn(1, 1, 16, 16))
    assert code.shape == (1, 16, 4, 4)
    assert float(code.detach().min()) == 0


# ---- the order of turns


def test_one_step_of_the_discriminators_for_three_of_the_generators() -> None:
    system, order = small(), []
    for number in range(6):
        order += [turn.player[0] for turn in system.play(batch_of(seed=number))]
        system.rounds += 1
    assert "".join(order) == "dgggdggg"
    with pytest.raises(UsageError, match="generator_rounds is 0"):
        small(generator_rounds=0)


def test_equals_a_loop_written_by_hand() -> None:
    """The authors' iteration, with an optimiser for each network; plain descent, without Adam,
    which would make whole steps of rounding errors."""
    ours, theirs = small(pool=0).double(), small(pool=0).double()
    optimisers = {
        player: torch.optim.SGD(ours.parameters_of(player), 0.01) for player in ours.players
    }
    f, g_a, g_b, d_a, d_b = (theirs.get_submodule(name) for name in NETWORKS)
    steps = {
        network: torch.optim.SGD(network.parameters(), 0.01) for network in (f, g_a, g_b, d_a, d_b)
    }

    def mse(logits: Tensor, label: float) -> Tensor:
        return ((logits - label) ** 2).mean()

    def l1(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean()

    for number in range(4):
        both = batch_of(seed=number)
        batch = Batch(both.source.double(), both.target.double())
        for turn in ours.play(batch):
            optimisers[turn.player].zero_grad()
            turn.objective.backward(inputs=ours.parameters_of(turn.player))
            optimisers[turn.player].step()
        ours.rounds += 1

        a, b = batch.source, batch.target
        if number % 3 == 0:
            with torch.no_grad():
                ab, ba = g_b(f(a)), g_a(f(b))
            for network, real, fake in ((d_a, a, ba), (d_b, b, ab)):
                steps[network].zero_grad()
                (mse(network(real), 1) + mse(network(fake), 0)).backward()
                steps[network].step()
        v_a, v_b = f(a), f(b)
        aa, ab, ba, bb = g_a(v_a), g_b(v_a), g_a(v_b), g_b(v_b)
        aba, bab = g_a(f(ab)), g_b(f(ba))
        loss = sum(mse(d_a(x), 1) for x in (aa, ba, aba)) + sum(
            mse(d_b(x), 1) for x in (bb, ab, bab)
        )
        loss = loss + 8 * (l1(aa, a) + l1(bb, b))
        kept_a, kept_b = v_a.detach(), v_b.detach()
        loss = loss + 10 * (l1(f(aa), kept_a) + l1(f(bb), kept_b))
        loss = loss + 10 * (l1(f(ba), kept_b) + l1(f(ab), kept_a))
        for optimiser in steps.values():
            optimiser.zero_grad()
        loss.backward()
        for network in (f, g_a, g_b):
            steps[network].step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


# ---- what each loss asks for


def test_one_encoder_serves_both_domains() -> None:
    system, batch = small(), batch_of()
    losses = list(system.play(batch))[1].losses
    losses["same_a"].backward()
    assert reached(system) == {"encoder", "decoder_a"}
    with torch.no_grad():
        before = system.encode(batch.target)
        for parameter in system.encoder.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
        assert not torch.equal(system.encode(batch.target), before)


@pytest.mark.parametrize(
    ("loss", "networks"),
    [
        ("same_b", {"encoder", "decoder_b"}),
        ("code_aa", {"encoder", "decoder_a"}),
        ("code_ab", {"encoder", "decoder_b"}),
        ("code_ba", {"encoder", "decoder_a"}),
        ("gan_aa", {"encoder", "decoder_a"}),
        ("gan_ab", {"encoder", "decoder_b"}),
        ("gan_aba", {"encoder", "decoder_a", "decoder_b"}),
        ("gan_bab", {"encoder", "decoder_a", "decoder_b"}),
    ],
)
def test_each_loss_reaches_its_networks(loss: str, networks: set[str]) -> None:
    system = small()
    list(system.play(batch_of()))[1].losses[loss].backward()
    assert reached(system) == networks


def test_no_gradient_through_the_code_that_is_aimed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way through the drawn image cut, nothing is left of the encoding loss."""
    system, batch = small(), batch_of()
    real = system.encoded_again
    monkeypatch.setattr(system, "encoded_again", lambda image: real(image).detach())
    losses = list(system.play(batch))[1].losses
    for name in ("code_aa", "code_bb", "code_ab", "code_ba"):
        assert not losses[name].requires_grad
    assert losses["same_a"].requires_grad


def test_only_translations_are_shown_as_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(pool=0), batch_of()
    seen: list[tuple[nn.Module, Tensor]] = []
    real = system.judged

    def spy(judge: nn.Module, image: Tensor) -> Tensor:
        seen.append((judge, image))
        return real(judge, image)

    monkeypatch.setattr(system, "judged", spy)
    for turn in system.play(batch):
        if turn.player == "discriminators":
            shown = [image for _, image in seen]
            assert [judge for judge, _ in seen] == [system.judge_a] * 2 + [system.judge_b] * 2
            assert torch.equal(shown[0], batch.source)
            assert torch.equal(shown[2], batch.target)
            b_in_a = system.decode(system.decoder_a, system.encode(batch.target), (16, 16))
            torch.testing.assert_close(shown[1], b_in_a)
            torch.testing.assert_close(shown[3], system.translate(batch.source))
            assert not shown[1].requires_grad
            turn.objective.backward()
            assert reached(system) == {"judge_a", "judge_b"}
            seen.clear()
    assert len(seen) == 6


def test_exchanging_the_domains_changes_nothing() -> None:
    system = small(slices=3, inputs=2, outputs=2, pool=0)
    batch = batch_of(slices=3, contrasts=2)
    turns = [turn.losses for turn in system.play(batch)]
    assert batch.target_slab is not None
    swapped = Batch(
        batch.target_slab,
        batch.source[:, 1::3],
        batch.target_weight,
        target_weight=batch.weight,
        target_slab=batch.source,
    )
    for part in ("decoder", "judge"):
        one, other = getattr(system, f"{part}_a"), getattr(system, f"{part}_b")
        setattr(system, f"{part}_a", other)
        setattr(system, f"{part}_b", one)
    exchanged = str.maketrans("ab", "ba")
    for losses, again in zip(turns, system.play(swapped), strict=True):
        for name, loss in losses.items():
            stem, _, sides = name.rpartition("_")
            there = again.losses[f"{stem}_{sides.translate(exchanged)}"]
            torch.testing.assert_close(there, loss, msg=name)


def test_the_voxel_error_counts_by_each_sides_own_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(), batch_of()
    monkeypatch.setattr(system, "decode", lambda decoder, code, extent: torch.zeros(2, 1, 16, 16))
    losses = list(system.play(batch))[1].losses
    for side, image, weight in (
        ("a", batch.source, batch.weight),
        ("b", batch.target, batch.target_weight),
    ):
        assert weight is not None
        expected = 8 * (weight * image.abs()).sum() / weight.sum()
        torch.testing.assert_close(losses[f"same_{side}"], expected)


def test_games() -> None:
    batch, x = batch_of(), torch.tensor([[-1.0, 2.0]])
    ours, squashed, vanilla = (small(game=game) for game in ("least-squares", "sigmoid", "vanilla"))
    judge = nn.Identity()
    assert torch.equal(ours.judged(judge, x), x)
    assert torch.equal(squashed.judged(judge, x), torch.sigmoid(x))
    assert torch.equal(vanilla.judged(judge, x), x)
    for system in (squashed, vanilla):
        for name in ("judge_a", "judge_b"):
            for parameter in system.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
    first, second = squashed.play(batch)
    assert float(first.losses["contest_a"].detach()) == pytest.approx(0.5)  # 1/4 + 1/4, no half
    assert float(second.losses["gan_aba"].detach()) == pytest.approx(0.25)
    first, _ = vanilla.play(batch)
    assert float(first.losses["contest_a"].detach()) == pytest.approx(2 * 0.6931, abs=1e-3)


# ---- what it can look at


def test_only_the_drawn_slice_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = small(slices=3), batch_of(slices=3)
    seen: list[Tensor] = []
    real = system.encode

    def spy(x: Tensor) -> Tensor:
        seen.append(x)
        return real(x)

    monkeypatch.setattr(system, "encode", spy)
    list(system.play(batch))
    assert torch.equal(seen[0], batch.source)
    assert torch.equal(seen[1], torch.as_tensor(batch.target_slab))
    assert len(seen) == 6
    for again in seen[2:]:
        assert torch.equal(again, again[:, 1:2].expand(-1, 3, -1, -1))


def test_images_of_any_size() -> None:
    system = small().eval()
    for shape in ((5, 3), (33, 40)):
        image = system.translate(torch.randn(2, 1, *shape))
        assert image.shape == (2, 1, *shape)
        assert float(image.detach().abs().max()) < 1


def test_with_instance_norm_training_mode_is_no_other_network() -> None:
    x = torch.randn(2, 1, 16, 16)
    ours, theirs = small(), small(block_norm="batch")
    assert torch.equal(ours.train().translate(x), ours.eval().translate(x))
    assert not torch.equal(theirs.train().translate(x), theirs.eval().translate(x))


def test_in_3d() -> None:
    system = small(dims=3)
    players = [turn.player for turn in system.play(batch_of(dims=3))]
    assert players == ["discriminators", "generators"]
    assert system.translate(torch.randn(1, 1, 9, 6, 11)).shape == (1, 1, 9, 6, 11)


def test_what_it_refuses() -> None:
    assert BranchGAN.pairing is Pairing.UNPAIRED
    with pytest.raises(UsageError, match="on demand"):
        small(conditions=3)
    with pytest.raises(UsageError, match="as many contrasts"):
        small(inputs=2)
