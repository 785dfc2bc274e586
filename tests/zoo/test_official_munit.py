"""UNIT, MUNIT and DRIT, rebuilt layer by layer under their authors' names, against their import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medi2i.contrasts import Contrast
from medi2i.errors import ModelError, UsageError
from medi2i.model import Model, read_model, write_model
from medi2i.task import Task
from medi2i.zoo.official import import_official

PAIR = Task((Contrast.T1W,), (Contrast.T2W,))
F = 4
"""Channels at full size."""
Norm = Callable[[int], nn.Module] | None


def old_norm(wide: int) -> nn.Module:
    """As in files of older versions, which carry statistics that nothing may use."""
    return nn.InstanceNorm2d(wide, track_running_stats=True)


class LN(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(wide)), nn.Parameter(torch.zeros(wide))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        mean, std = (v[:, None, None, None] for v in (flat.mean(1), flat.std(1)))
        y = (x - mean) / (std + 1e-5)
        return y * self.gamma[:, None, None] + self.beta[:, None, None]


class Ruled(nn.Module):
    """AdaIN: `rule` is set from outside before each image."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.wide = wide
        self.rule = torch.empty(0)
        self.register_buffer("running_mean", torch.zeros(wide))
        self.register_buffer("running_var", torch.ones(wide))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        shift, scale = (part.reshape(-1) for part in self.rule.split(self.wide, 1))
        flat = functional.batch_norm(
            x.reshape(1, b * c, h, w), None, None, scale, shift, training=True
        )
        return flat.reshape(b, c, h, w)


class Unit(nn.Module):
    """A padded convolution with what follows it."""

    def __init__(
        self, a: int, b: int, k: int, s: int, p: int, norm: Norm = None, act: Any = nn.ReLU
    ) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(p)
        self.norm = norm(b) if norm else None
        self.act = act() if act else None
        self.conv = nn.Conv2d(a, b, k, s)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pad(x))
        x = self.norm(x) if self.norm else x
        return torch.as_tensor(self.act(x) if self.act else x)


class Held(nn.Module):
    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = torch.as_tensor(self.model(x))
        return x + y if self.residual else y


def blocks(wide: int, norm: Norm, number: int) -> Held:
    def one() -> Held:
        first = Unit(wide, wide, 3, 1, 1, norm)
        return Held(first, Unit(wide, wide, 3, 1, 1, norm, None), residual=True)

    return Held(*(one() for _ in range(number)))


def down(norm: Norm, halvings: int) -> list[nn.Module]:
    wides = [F * 2**i for i in range(halvings)]
    return [Unit(1, F, 7, 1, 3, norm), *(Unit(w, 2 * w, 4, 2, 1, norm) for w in wides)]


def up(norm: Norm, halvings: int, number: int) -> Held:
    layers: list[nn.Module] = [blocks(F * 2**halvings, norm, number)]
    for wide in (F * 2**i for i in reversed(range(halvings))):
        layers += [nn.Upsample(scale_factor=2), Unit(2 * wide, wide, 5, 1, 2, LN)]
    return Held(*layers, Unit(F, 1, 7, 1, 3, None, nn.Tanh))


class TheirUnit(nn.Module):
    def __init__(self, norm: Norm = nn.InstanceNorm2d, halvings: int = 2) -> None:
        super().__init__()
        self.enc = Held(*down(norm, halvings), blocks(F * 2**halvings, norm, 3))
        self.dec = up(norm, halvings, 3)


class Dense(nn.Module):
    def __init__(self, a: int, b: int, act: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(a, b)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = torch.as_tensor(self.fc(x))
        return y.relu() if self.act else y


class TheirMunit(nn.Module):
    def __init__(self, halvings: int = 2, number: int = 3) -> None:
        super().__init__()
        wide = F * 2**halvings
        deeper = [Unit(4 * F, 4 * F, 4, 2, 1) for _ in range(2)]
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * F, 5, 1)]
        self.enc_style = Held(*down(None, 2), *deeper, *pooled)
        self.enc_content = Held(
            *down(nn.InstanceNorm2d, halvings), blocks(wide, nn.InstanceNorm2d, number)
        )
        self.dec = up(Ruled, halvings, number)
        rules = 4 * wide * number
        self.mlp = Held(Dense(5, 12, True), Dense(12, 12, True), Dense(12, rules, False))

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        left = self.mlp(style)
        for norm in (m for m in self.dec.modules() if isinstance(m, Ruled)):
            norm.rule, left = left[:, : 2 * norm.wide], left[:, 2 * norm.wide :]
        return torch.as_tensor(self.dec(content))


def drit_conv(a: int, b: int, k: int, s: int, p: int, *after: nn.Module) -> Held:
    return Held(nn.ReflectionPad2d(p), nn.Conv2d(a, b, k, s), *after)


def drit_block(w: int) -> Held:
    half = [nn.ReflectionPad2d(1), nn.Conv2d(w, w, 3), nn.InstanceNorm2d(w)]
    again = [nn.ReflectionPad2d(1), nn.Conv2d(w, w, 3), nn.InstanceNorm2d(w)]
    return Held(*half, nn.ReLU(), *again, residual=True)


class DritNorm(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(w, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[1:]
        weight, bias = (p.expand(shape) for p in (self.weight, self.bias))
        return functional.layer_norm(x, shape, weight, bias)


def drit_up(a: int, b: int) -> Held:
    return Held(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), DritNorm(b), nn.ReLU())


class DritContent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("convA", "convB"):
            layers: list[nn.Module] = [drit_conv(1, F, 7, 1, 3, nn.LeakyReLU())]
            for wide in (2 * F, 4 * F):
                norm = nn.InstanceNorm2d(wide)
                layers.append(drit_conv(wide // 2, wide, 3, 2, 1, norm, nn.ReLU()))
            layers += [drit_block(4 * F) for _ in range(3)]
            setattr(self, name, nn.Sequential(*layers))
        self.conv_share = nn.Sequential(drit_block(4 * F))


class DritBasic(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        last = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(a, b, 3), nn.AvgPool2d(2))
        first = [nn.LeakyReLU(0.2), nn.ReflectionPad2d(1), nn.Conv2d(a, a, 3)]
        self.conv = nn.Sequential(*first, nn.LeakyReLU(0.2), last)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(a, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(x) + self.shortcut(x))


class DritAttribute(nn.Module):
    def __init__(self, concat: bool) -> None:
        super().__init__()
        for domain in "AB":
            if concat:
                self.joined(domain)
            else:
                self.plain(domain.lower())

    def joined(self, domain: str) -> None:
        layers: list[nn.Module] = [nn.ReflectionPad2d(1), nn.Conv2d(1, F, 4, 2)]
        layers += [DritBasic(F * n, F * (n + 1)) for n in (1, 2, 3)]
        layers += [nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1)]
        setattr(self, f"conv_{domain}", nn.Sequential(*layers))
        for head in ("fc", "fcVar"):
            setattr(self, f"{head}_{domain}", nn.Sequential(nn.Linear(4 * F, 6)))

    def plain(self, domain: str) -> None:
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(1, F, 7), nn.ReLU()]
        for a, b in ((1, 2), (2, 4), (4, 4), (4, 4)):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(a * F, b * F, 4, 2), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * F, 6, 1)]
        setattr(self, f"model_{domain}", nn.Sequential(*layers))


class DritMixing(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        for part in "12":
            padded = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(w, w, 3))
            setattr(self, f"conv{part}", nn.Sequential(padded, nn.InstanceNorm2d(w)))
            first = [nn.Conv2d(2 * w, 2 * w, 1), nn.ReLU()]
            mix = nn.Sequential(*first, nn.Conv2d(2 * w, w, 1), nn.ReLU())
            setattr(self, f"blk{part}", mix)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        y = x
        for part in "12":
            y = self.get_submodule(f"blk{part}")(join(self.get_submodule(f"conv{part}")(y), z))
        return x + y


def join(x: Tensor, z: Tensor) -> Tensor:
    return torch.cat([x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


class DritGenerator(nn.Module):
    def __init__(self, concat: bool) -> None:
        super().__init__()
        self.concat, w = concat, 4 * F
        if concat:
            self.dec_share = nn.Sequential(drit_block(w))
        for domain in "AB":
            named = f"dec{domain}"
            if concat:
                parts: list[nn.Module] = [
                    nn.Sequential(*(drit_block(w + 6) for _ in range(3))),
                    nn.Sequential(drit_up(w + 12, w // 2 + 6)),
                    nn.Sequential(drit_up(w // 2 + 12, w // 4 + 6)),
                    nn.Sequential(nn.ConvTranspose2d(w // 4 + 12, 1, 1), nn.Tanh()),
                ]
            else:
                ups = drit_up(w, w // 2), drit_up(w // 2, w // 4)
                head = nn.Sequential(*ups, nn.ConvTranspose2d(w // 4, 1, 1), nn.Tanh())
                parts = [*(DritMixing(w) for _ in range(4)), head]
                dense = [nn.Linear(6, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU()]
                setattr(self, f"mlp{domain}", nn.Sequential(*dense, nn.Linear(w, 4 * w)))
            for number, part in enumerate(parts, 1):
                setattr(self, f"{named}{number}", part)

    def draw(self, x: Tensor, z: Tensor) -> Tensor:
        part = self.get_submodule
        if self.concat:
            x = self.dec_share(x)
            for number in (1, 2, 3, 4):
                x = part(f"decB{number}")(join(x, z))
            return x
        for number, code in enumerate(part("mlpB")(z).chunk(4, 1), 1):
            x = part(f"decB{number}")(x, code)
        return torch.as_tensor(part("decB5")(x))


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Every tensor, running statistics too, away from where it began."""
    random = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            fan = value[0].numel() if value.dim() > 1 and "norm" not in key else 25
            value.copy_((2 / max(fan, 4)) ** 0.5 * torch.randn(value.shape, generator=random))
            if key.endswith("running_var"):
                value.abs_().add_(1.5)
    return network


def saved(content: dict[str, Any], folder: Path) -> Path:
    path = folder / "gen_00010000.pt"
    torch.save(content, path)
    return path


def states(**networks: nn.Module) -> dict[str, Any]:
    return {name: network.state_dict() for name, network in networks.items()}


def image(side: int = 48) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return 2 * torch.rand(2, 1, side, 40, generator=random) - 1


def same(ours: Tensor, theirs: Tensor) -> None:
    assert float(theirs.detach().std()) > 1e-2, "an image with nothing in it proves nothing"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("old", [False, True])
def test_unit(old: bool, tmp_path: Path) -> None:
    a, b = (randomised(TheirUnit(old_norm if old else nn.InstanceNorm2d), s) for s in (3, 4))
    path = saved(states(a=a, b=b), tmp_path)
    model = import_official(path, "UNIT", PAIR)
    x = image()
    for network in (a, b):
        network.train(old)
    assert isinstance(a, TheirUnit)
    assert isinstance(b, TheirUnit)
    with torch.no_grad():
        same(model.system.translate(x), b.dec(a.enc(x)))
    assert model.arguments == {"features": F, "blocks": 3}
    assert model.card["networks"] == (
        "imported generator_a, generator_b; discriminator_a, discriminator_b fresh"
    )
    again = read_model(write_model(model, tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(again.system.translate(x), model.system.translate(x))


@pytest.mark.parametrize("halvings", [1, 2])
def test_munit(halvings: int, tmp_path: Path) -> None:
    a, b = (randomised(TheirMunit(halvings), s) for s in (3, 4))
    assert isinstance(a, TheirMunit)
    assert isinstance(b, TheirMunit)
    model = import_official(saved(states(a=a, b=b), tmp_path), "MUNIT", PAIR)
    system: Any = model.system
    x, style = image(), torch.randn(2, 5)
    with torch.no_grad():
        content = a.enc_content(x)
        same(system.sample(x, style), b.decode(content, style))
        same(system.translate(x), b.decode(content, torch.zeros(2, 5)))
        found = b.enc_style(x).flatten(1)
        same(system.code_of(x), found)
        same(system.sample(x, found), b.decode(content, found))
    wanted = {"features": F, "halvings": halvings, "blocks": 3, "code": 5, "hidden": 12}
    assert model.arguments == wanted


@pytest.mark.parametrize("concat", [False, True])
def test_drit(concat: bool, tmp_path: Path) -> None:
    networks = {
        "enc_c": randomised(DritContent(), 3),
        "enc_a": randomised(DritAttribute(concat), 4),
        "gen": randomised(DritGenerator(concat), 5),
    }
    optimiser = torch.optim.Adam(networks["gen"].parameters()).state_dict()
    content: dict[str, Any] = {"disA": nn.Linear(2, 2).state_dict(), "gen_opt": optimiser}
    path = saved({**content, **states(**networks), "ep": 7, "total_it": 100}, tmp_path)
    model: Model = import_official(path, "DRIT", PAIR)
    system: Any = model.system
    x, z = image(), torch.randn(2, 6)
    enc_c, enc_a, gen = networks.values()
    with torch.no_grad():
        found = enc_c.get_submodule("conv_share")(enc_c.get_submodule("convA")(x))
        assert isinstance(gen, DritGenerator)
        same(system.sample(x, z), gen.draw(found, z))
        if concat:
            deep = enc_a.get_submodule("conv_B")(x).flatten(1)
            mean, log_variance = (enc_a.get_submodule(n)(deep) for n in ("fc_B", "fcVar_B"))
            same(system.attribute["b"](x)[1], log_variance)
        else:
            mean = enc_a.get_submodule("model_b")(x).flatten(1)
        same(system.code_of(x), mean)
    assert model.arguments["attribute"] == ("concat" if concat else "transform")
    assert model.card["networks"].endswith("; judge, judge_random, judge_content fresh")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    unit, munit = states(a=TheirUnit(), b=TheirUnit()), states(a=TheirMunit(), b=TheirMunit())

    def refused(content: dict[str, Any], origin: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            import_official(saved(content, tmp_path), origin, PAIR)

    refused(munit, "UNIT", 'lacks "a.enc.model.0.conv.weight".* --from')
    refused(unit, "MUNIT", 'lacks "a.enc_content.model.0.conv.weight".* --from')
    refused(unit, "DRIT", "lacks the networks enc_c, enc_a, gen; a file with enc_c, enc_a, gen was")
    refused({"a": unit["a"]}, "UNIT", "lacks the networks b; a file with a, b was expected")
    deep = states(a=TheirUnit(halvings=3), b=TheirUnit(halvings=3))
    refused(deep, "UNIT", "halves the image 3 times")
    munit["a"]["mlp.model.3.fc.weight"] = torch.ones(1)
    refused(munit, "MUNIT", "other depth")
    unit["b"]["extra.weight"] = torch.ones(1)
    refused(unit, "UNIT", "has unknown b.extra.weight;")
    path = saved(states(a=TheirUnit(), b=TheirUnit()), tmp_path)
    with pytest.raises(UsageError, match="1 channels in and 1 out"):
        import_official(path, "UNIT", Task((Contrast.T1W, Contrast.FLAIR), (Contrast.T2W,)))
