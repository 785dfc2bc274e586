"""The authors' networks, rebuilt layer by layer under their names, against their import."""

from __future__ import annotations

import math
import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from medi2i.cli import app
from medi2i.contrasts import Contrast
from medi2i.errors import MissingFileError, ModelError, UsageError
from medi2i.model import Model, read_model
from medi2i.systems import Translator
from medi2i.task import Task
from medi2i.zoo.official import import_official

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
PAIR = Task((T1W,), (T2W,))
ANY = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)


def normed(kind: str, channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels)]


def raised(wide: int, out: int, *, bias: bool, linear: bool = False) -> list[nn.Module]:
    if not linear:
        return [nn.ConvTranspose2d(wide, out, 4, 2, 1, bias=bias)]
    return [
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ReflectionPad2d(1),
        nn.Conv2d(wide, out, 3),
    ]


class Level(nn.Module):
    """A level of the U-Net of pix2pix, and of BicycleGAN's with the code at its input."""

    def __init__(
        self,
        level: int,
        widths: list[int],
        ends: tuple[int, int],
        kind: str,
        linear: bool,
        biased: bool,
    ) -> None:
        super().__init__()
        last, wide = level == len(widths) - 1, widths[level]
        bias = biased or kind == "instance"
        self.outer = level == 0
        below, out = ends if self.outer else (widths[level - 1],) * 2
        down: list[nn.Module] = [nn.Conv2d(below, wide, 4, 2, 1, bias=bias)]
        if not self.outer:
            down = [nn.LeakyReLU(0.2, True), *down, *([] if last else normed(kind, wide))]
        middle = [] if last else [Level(level + 1, widths, ends, kind, linear, biased)]
        up = [
            nn.ReLU(True),
            *raised(wide * (1 if last else 2), out, bias=bias or self.outer, linear=linear),
        ]
        up += [nn.Tanh()] if self.outer else normed(kind, out)
        drop = [nn.Dropout(0.5)] if level >= 4 and not last else []
        self.model = nn.Sequential(*down, *middle, *up, *drop)
        self.biased = biased

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.model(x)
        if self.outer:
            return made
        return torch.cat([made, x] if self.biased else [x, made], 1)


class UNet(nn.Module):
    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        kind: str = "batch",
        depth: int = 6,
        linear: bool = False,
        biased: bool = False,
    ) -> None:
        super().__init__()
        widths = [4 * min(2**level, 8) for level in range(depth)]
        self.model = Level(0, widths, (inputs, outputs), kind, linear, biased)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.model(x))


class CodedLevel(nn.Module):
    def __init__(self, level: int, widths: list[int], code: int, linear: bool) -> None:
        super().__init__()
        last, wide = level == len(widths) - 1, widths[level]
        self.level, self.last = level, last
        below = widths[level - 1] if level else 1
        down: list[nn.Module] = [nn.Conv2d(below + code, wide, 4, 2, 1)]
        if level:
            down = [nn.LeakyReLU(0.2, True), *down, *([] if last else normed("instance", wide))]
        self.down = nn.Sequential(*down)
        self.submodule = None if last else CodedLevel(level + 1, widths, code, linear)
        up = raised(wide * (1 if last else 2), below, bias=True, linear=linear)
        tail = normed("instance", below) if level else [nn.Tanh()]
        self.up = nn.Sequential(nn.ReLU(), *up, *tail)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        planes = z[:, :, None, None].expand(-1, -1, *x.shape[2:])
        made = self.down(torch.cat([x, planes], 1))
        made = self.up(made if self.submodule is None else self.submodule(made, z))
        return torch.cat([made, x], 1) if self.level else torch.as_tensor(made)


class Coded(nn.Module):
    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.model = CodedLevel(0, [4 * min(2**i, 8) for i in range(6)], 3, linear)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.as_tensor(self.model(x, z))


class HDBlock(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        layer = [nn.ReflectionPad2d(1), nn.Conv2d(wide, wide, 3), nn.InstanceNorm2d(wide)]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(wide, wide, 3), nn.InstanceNorm2d(wide)]
        self.conv_block = nn.Sequential(*layer, nn.ReLU(True), *again)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.conv_block(x))


def hd_unit(layer: nn.Module, wide: int) -> list[nn.Module]:
    return [layer, nn.InstanceNorm2d(wide), nn.ReLU(True)]


def hd_up(wide: int) -> list[nn.Module]:
    return hd_unit(nn.ConvTranspose2d(wide * 2, wide, 3, 2, 1, output_padding=1), wide)


def hd_down(wide: int) -> list[nn.Module]:
    return hd_unit(nn.Conv2d(wide, wide * 2, 3, 2, 1), wide * 2)


def hd_global(wide: int) -> nn.Sequential:
    return nn.Sequential(
        *[nn.ReflectionPad2d(3), *hd_unit(nn.Conv2d(1, wide, 7), wide)],
        *[*hd_down(wide), *hd_down(2 * wide), HDBlock(4 * wide), HDBlock(4 * wide)],
        *[*hd_up(2 * wide), *hd_up(wide)],
        *[nn.ReflectionPad2d(3), nn.Conv2d(wide, 1, 7), nn.Tanh()],
    )


class HD(nn.Module):
    def __init__(self, local: bool) -> None:
        super().__init__()
        self.local = local
        self.model = hd_global(8 if local else 4)
        if local:
            self.model = nn.Sequential(*list(self.model)[:-3])
            self.model1_1 = nn.Sequential(
                nn.ReflectionPad2d(3), *hd_unit(nn.Conv2d(1, 4, 7), 4), *hd_down(4)
            )
            self.model1_2 = nn.Sequential(
                *[HDBlock(8), HDBlock(8), HDBlock(8), *hd_up(4)],
                *[nn.ReflectionPad2d(3), nn.Conv2d(4, 1, 7), nn.Tanh()],
            )

    def forward(self, x: Tensor) -> Tensor:
        if not self.local:
            return torch.as_tensor(self.model(x))
        half = functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return torch.as_tensor(self.model1_2(self.model1_1(x) + self.model(half)))


class StarBlock(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(wide, wide, 3, 1, 1, bias=False) for _ in range(2))
        self.main = nn.Sequential(first, *star_norm(wide), second, star_norm(wide)[0])

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.main(x))


def star_norm(wide: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(wide, affine=True, track_running_stats=True), nn.ReLU()]


class Star(nn.Module):
    def __init__(self, colours: int = 1, domains: int = 3) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *[nn.Conv2d(colours + domains, 8, 7, 1, 3, bias=False), *star_norm(8)],
            *[nn.Conv2d(8, 16, 4, 2, 1, bias=False), *star_norm(16)],
            *[nn.Conv2d(16, 32, 4, 2, 1, bias=False), *star_norm(32)],
            *[StarBlock(32) for _ in range(2)],
            *[nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), *star_norm(16)],
            *[nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), *star_norm(8)],
            *[nn.Conv2d(8, colours, 7, 1, 3, bias=False), nn.Tanh()],
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        planes = label[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.as_tensor(self.main(torch.cat([x, planes], 1)))


class V2Block(nn.Module):
    def __init__(self, a: int, b: int, *, normalize: bool = False, down: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(a, a, 3, 1, 1), nn.Conv2d(a, b, 3, 1, 1)
        self.norm1, self.norm2 = (
            nn.InstanceNorm2d(a, affine=True) if normalize else nn.Identity() for _ in range(2)
        )
        self.conv1x1 = nn.Conv2d(a, b, 1, bias=False) if a != b else nn.Identity()
        self.down = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.conv1(functional.leaky_relu(self.norm1(x), 0.2)))
        y = self.conv2(functional.leaky_relu(self.norm2(y), 0.2))
        return torch.as_tensor((self.down(self.conv1x1(x)) + y) / math.sqrt(2))


class V2AdaIN(nn.Module):
    def __init__(self, style: int, wide: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style, 2 * wide)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        gamma, beta = self.fc(s)[:, :, None, None].chunk(2, 1)
        return torch.as_tensor((1 + gamma) * functional.instance_norm(x) + beta)


class V2Styled(nn.Module):
    def __init__(self, a: int, b: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(a, b, 3, 1, 1), nn.Conv2d(b, b, 3, 1, 1)
        self.norm1, self.norm2 = V2AdaIN(6, a), V2AdaIN(6, b)
        self.conv1x1 = nn.Conv2d(a, b, 1, bias=False) if a != b else nn.Identity()
        self.up = nn.Upsample(scale_factor=2, mode="nearest") if up else nn.Identity()

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        y = self.conv1(self.up(functional.leaky_relu(self.norm1(x, s), 0.2)))
        y = self.conv2(functional.leaky_relu(self.norm2(y, s), 0.2))
        return torch.as_tensor((self.conv1x1(self.up(x)) + y) / math.sqrt(2))


class V2Generator(nn.Module):
    """For images of 64: two halvings, 4 -> 8 -> 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.from_rgb = nn.Conv2d(1, 4, 3, 1, 1)
        down = [V2Block(a, b, normalize=True, down=True) for a, b in ((4, 8), (8, 12))]
        flat = [V2Block(12, 12, normalize=True) for _ in range(2)]
        self.encode = nn.ModuleList([*down, *flat])
        up = [V2Styled(12, 8, up=True), V2Styled(8, 4, up=True)]
        self.decode = nn.ModuleList([V2Styled(12, 12), V2Styled(12, 12), *up])
        self.to_rgb = nn.Sequential(
            nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1)
        )

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        x = self.from_rgb(x)
        for block in self.encode:
            x = block(x)
        for block in self.decode:
            x = block(x, s)
        return torch.as_tensor(self.to_rgb(x))


class V2Heads(nn.Module):
    def __init__(self, shared: nn.Sequential, unshared: list[nn.Module]) -> None:
        super().__init__()
        self.shared, self.unshared = shared, nn.ModuleList(unshared)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        return torch.as_tensor(self.unshared[domain](self.shared(x).flatten(1)))


def v2_networks() -> dict[str, nn.Module]:
    def dense(*widths: int) -> list[nn.Module]:
        pairs = pairwise(widths)
        return [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]

    mapping = V2Heads(
        nn.Sequential(*dense(5, 10, 10, 10, 10)),
        [nn.Sequential(*dense(10, 10, 10, 10), nn.Linear(10, 6)) for _ in range(3)],
    )
    widths = ((4, 8), (8, 12), (12, 12), (12, 12))
    trunk = nn.Sequential(
        *[nn.Conv2d(1, 4, 3, 1, 1), *(V2Block(a, b, down=True) for a, b in widths)],
        *[nn.LeakyReLU(0.2), nn.Conv2d(12, 12, 4), nn.LeakyReLU(0.2)],
    )
    encoder = V2Heads(trunk, [nn.Linear(12, 6) for _ in range(3)])
    return {"generator": V2Generator(), "mapping_network": mapping, "style_encoder": encoder}


def randomised(network: nn.Module, seed: int = 3) -> nn.Module:
    """Every tensor, running statistics too, away from where it began."""
    random = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            size = (2 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.2
            centre = 1.0 if key.endswith("running_var") else 0.1
            noise = torch.randn(value.shape, generator=random)
            value.copy_(size * noise if value.dim() > 1 else centre + size * noise.abs())
    return network


def saved(network: nn.Module, folder: Path) -> Path:
    path = folder / "latest_net_G.pth"
    torch.save(network.state_dict(), path)
    return path


def image(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(1)) - 1


def same(ours: Tensor, theirs: Tensor) -> None:
    assert float(theirs.detach().std()) > 1e-2, "an image with nothing in it proves nothing"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def generator_of(model: Model) -> nn.Module:
    assert not model.system.training
    return torch.nn.Module.get_submodule(model.system, "generator")


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_pix2pix(kind: str, tmp_path: Path) -> None:
    theirs = randomised(UNet(kind=kind))
    model = import_official(saved(theirs, tmp_path), "pytorch-CycleGAN-and-pix2pix", PAIR)
    x = image(1, 1, 128, 128)
    with torch.no_grad():
        same(generator_of(model)(x), theirs.eval()(x))  # their --eval
        if kind == "batch":  # their default: dropout and the statistics of this image
            torch.manual_seed(5)
            wanted = theirs.train()(x)
            torch.manual_seed(5)
            same(model.system.translate(x), wanted)
        else:
            same(model.system.translate(x), theirs.eval()(x))
    assert model.card["networks"] == "imported generator; discriminator fresh"


def test_pix2pix_of_three_contrasts_and_of_three_slices(tmp_path: Path) -> None:
    origin = "pytorch-CycleGAN-and-pix2pix"
    colour = saved(randomised(UNet(3, 2, "instance")), tmp_path)
    task = Task((T1W, T2W, FLAIR), (PDW, Contrast.T1CE))
    model = import_official(colour, origin, task)
    assert model.system.translate(image(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    with pytest.raises(UsageError, match=r"3 channels in and 2 out.*one channel each, so colour"):
        import_official(colour, origin, PAIR)
    slab = saved(randomised(UNet(3, 1, "instance")), tmp_path)
    assert import_official(slab, origin, PAIR, slices=3).view.slices == 3


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("where", ["all", "input"])
def test_bicyclegan(where: str, linear: bool, tmp_path: Path) -> None:
    inputs = UNet(1 + 3, 1, "instance", linear=linear, biased=True)
    theirs = randomised(Coded(linear) if where == "all" else inputs).eval()
    model = import_official(saved(theirs, tmp_path), "BicycleGAN", PAIR)
    x, z = image(2, 1, 128, 128), torch.randn(2, 3)
    planes = z[:, :, None, None].expand(-1, -1, 128, 128)
    with torch.no_grad():
        wanted = theirs(x, z) if where == "all" else theirs(torch.cat([x, planes], 1))
        same(model.system.sample(x, z), wanted)
    assert "encoder, discriminator, discriminator_random fresh" in model.card["networks"]


@pytest.mark.parametrize("local", [False, True])
def test_pix2pixhd(local: bool, tmp_path: Path) -> None:
    theirs = randomised(HD(local)).eval()
    model = import_official(saved(theirs, tmp_path), "pix2pixHD", PAIR)
    x = image(2, 1, 32, 40)
    with torch.no_grad():
        same(model.system.translate(x), theirs(x))


def test_stargan(tmp_path: Path) -> None:
    theirs = randomised(Star())
    model = import_official(saved(theirs, tmp_path), "stargan", ANY)
    x = image(2, 1, 32, 40)
    with torch.no_grad():  # in training mode, as they translate: the running statistics mislead
        wanted = theirs.train()(x, torch.eye(3)[[2, 0]])
        same(model.system.translate(x, target=torch.tensor([2, 0])), wanted)
    with pytest.raises(UsageError, match=r"know 3 domains.*has 2"):
        import_official(saved(theirs, tmp_path), "stargan", PAIR)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_starganv2(prefix: str, tmp_path: Path) -> None:
    theirs: Any = {name: randomised(net) for name, net in v2_networks().items()}
    path = tmp_path / "100000_nets_ema.ckpt"
    state = {
        name: {prefix + key: value for key, value in network.state_dict().items()}
        for name, network in theirs.items()
    }
    torch.save(state, path)
    model = import_official(path, "stargan-v2", ANY)
    system: Any = model.system
    x, z = image(2, 1, 64, 64), torch.randn(2, 5)
    domain = torch.tensor([2, 2])
    with torch.no_grad():
        style = theirs["mapping_network"](z, 2)
        same(system.mapping(z, domain), style)
        same(system.encoder(x, domain), theirs["style_encoder"](x, 2))
        same(system.sample(x, z, target=domain), theirs["generator"](x, style))
    assert model.card["networks"].endswith("discriminator fresh")

    state["generator"][prefix + "hpf.filter"] = torch.ones(1, 1, 3, 3)
    torch.save(state, path)
    with pytest.raises(ModelError, match="w_hpf"):
        import_official(path, "stargan-v2", ANY)
    del state["style_encoder"]
    torch.save(state, path)
    with pytest.raises(ModelError, match="lacks the networks style_encoder"):
        import_official(path, "stargan-v2", ANY)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_file_is_refused_and_does_not_run(plain: bool, tmp_path: Path) -> None:
    path, sprung = tmp_path / "latest_net_G.pth", tmp_path / "sprung"
    content = {"main.0.weight": Trap(sprung)}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(ModelError, match="mkdir, and only tensors" if not plain else "tensors"):
        import_official(path, "stargan", ANY)
    assert not sprung.exists()
    torch.load(path, weights_only=False) if not plain else pickle.loads(path.read_bytes())  # noqa: S301
    assert sprung.exists(), "the trap works"


def test_a_whole_network_and_a_torn_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "G.pth"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    with pytest.raises(ModelError, match=r"would call torch.nn.modules.*state_dict\(\) alone"):
        import_official(path, "stargan", ANY)
    torch.save(Star().state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="damaged"):
        import_official(path, "stargan", ANY)
    with pytest.raises(MissingFileError, match="is not there"):
        import_official(tmp_path / "none.pth", "stargan", ANY)
    with pytest.raises(UsageError, match='did you mean "stargan"'):
        import_official(path, "starGAN", ANY)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "G.ckpt"
    whole = Star().state_dict()

    def refused(state: dict[str, Any], message: str) -> None:
        torch.save(state, path)
        with pytest.raises(ModelError, match=message):
            import_official(path, "stargan", ANY)

    refused({**whole, "extra.weight": torch.ones(1)}, "has unknown extra.weight;")
    refused({k: v for k, v in whole.items() if k != "main.4.bias"}, "lacks main.4.bias;")
    refused(
        {**whole, "main.3.weight": torch.ones(16, 8, 3, 3)},
        r"main.3.weight \(16, 8, 3, 3\) instead of \(16, 8, 4, 4\)",
    )
    refused({"main": whole}, "several networks")
    refused({**whole, "epoch": 3}, '"epoch".* is int; names and tensors')
    refused(UNet().state_dict(), 'lacks "main.0.weight".* --from')


def test_the_command_line_writes_a_model_that_reads_back(tmp_path: Path) -> None:
    theirs = randomised(UNet(kind="instance")).eval()
    output = tmp_path / "mine"
    command = ["models", "import", "--from", "pytorch-CycleGAN-and-pix2pix"]
    command += [str(saved(theirs, tmp_path)), "-o", str(output), "--source", "t1", "--target"]
    result = CliRunner().invoke(app, [*command, "t2"])
    assert result.exit_code == 0, result.output
    assert "imported generator; discriminator fresh" in result.output
    model = read_model(output)
    assert (model.name, model.task, model.normaliser, model.view.dims) == (
        "mine",
        PAIR,
        "robust",
        2,
    )
    system: Translator = model.system
    x = image(1, 1, 64, 64)
    with torch.no_grad():
        same(system.translate(x), theirs(x))
    again = CliRunner().invoke(app, [*command, "flair"])
    assert again.exit_code == 3
    assert "exists" in again.stderr
    assert read_model(output).task == PAIR
