"""CycleGAN's generators, rebuilt layer by layer under their names, against their import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from medi2i.cli import app
from medi2i.contrasts import Contrast
from medi2i.errors import ModelError, UsageError
from medi2i.model import read_model
from medi2i.task import Task
from medi2i.zoo.official import import_official

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
PAIR = Task((T1W,), (T2W,))


def normed(wide: int, kind: str) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(wide)
    return nn.InstanceNorm2d(wide, track_running_stats=kind == "old")


class Block(nn.Module):
    def __init__(self, wide: int, kind: str, dropout: bool) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            *[nn.ReflectionPad2d(1), nn.Conv2d(wide, wide, 3), normed(wide, kind), nn.ReLU(True)],
            *([nn.Dropout(0.5)] if dropout else []),
            *[nn.ReflectionPad2d(1), nn.Conv2d(wide, wide, 3), normed(wide, kind)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.conv_block(x))


class Resnet(nn.Module):
    """netG resnet_*: reflected edges, two halvings, blocks, two doublings."""

    def __init__(
        self, channels: int = 1, blocks: int = 3, kind: str = "instance", dropout: bool = False
    ) -> None:
        super().__init__()
        relu = nn.ReLU(True)
        self.model = nn.Sequential(
            *[nn.ReflectionPad2d(3), nn.Conv2d(channels, 4, 7), normed(4, kind), relu],
            *[nn.Conv2d(4, 8, 3, 2, 1), normed(8, kind), relu],
            *[nn.Conv2d(8, 16, 3, 2, 1), normed(16, kind), relu],
            *[Block(16, kind, dropout) for _ in range(blocks)],
            *[nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), normed(8, kind), relu],
            *[nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), normed(4, kind), relu],
            *[nn.ReflectionPad2d(3), nn.Conv2d(4, channels, 7), nn.Tanh()],
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.model(x))


class Level(nn.Module):
    """A level of netG unet_*, around the next one."""

    def __init__(self, level: int, widths: list[int], kind: str) -> None:
        super().__init__()
        last, self.outer, wide = level == len(widths) - 1, level == 0, widths[level]
        below = 1 if self.outer else widths[level - 1]
        bias = kind != "batch"
        first = nn.Conv2d(below, wide, 4, 2, 1, bias=bias)
        middle = [] if last else [Level(level + 1, widths, kind)]
        rise = nn.ConvTranspose2d(
            wide * (1 if last else 2), below, 4, 2, 1, bias=bias or self.outer
        )
        self.model = nn.Sequential(
            *([] if self.outer else [nn.LeakyReLU(0.2)]),
            first,
            *([] if self.outer or last else [normed(wide, kind)]),
            *[*middle, nn.ReLU(), rise, nn.Tanh() if self.outer else normed(below, kind)],
        )

    def forward(self, x: Tensor) -> Tensor:
        made = torch.as_tensor(self.model(x))
        return made if self.outer else torch.cat([x, made], 1)


class UNet(nn.Module):
    def __init__(self, kind: str = "instance", depth: int = 5) -> None:
        super().__init__()
        self.model = Level(0, [4 * min(2**level, 8) for level in range(depth)], kind)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.model(x))


def randomised(network: nn.Module, seed: int = 3) -> nn.Module:
    """Every tensor, running statistics too, away from where it began."""
    random = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=random)
            fan = value[0].numel() if value.dim() > 1 else 25
            value.copy_(noise.abs() + 0.5 if "running_var" in key else noise * (2 / fan) ** 0.5)
    return network


def saved(network: nn.Module, folder: Path, prefix: str = "") -> Path:
    path = folder / "latest_net_G_A.pth"
    torch.save({prefix + key: value for key, value in network.state_dict().items()}, path)
    return path


def image(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(1)) - 1


def same(ours: Tensor, theirs: Tensor) -> None:
    assert float(theirs.detach().std()) > 1e-2, "an image with nothing in it proves nothing"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("theirs", "arguments"),
    [
        (Resnet(), {"generator": "resnet", "features": 4, "blocks": 3}),
        (Resnet(blocks=6), {"generator": "resnet", "features": 4, "blocks": 6}),
        (Resnet(dropout=True), {"generator": "resnet", "features": 4, "blocks": 3}),
        (UNet(), {"generator": "unet", "features": 4, "depth": 5}),
    ],
    ids=["resnet", "six blocks", "dropout", "unet"],
)
def test_cyclegan(
    theirs: nn.Module, arguments: dict[str, Any], prefix: str, tmp_path: Path
) -> None:
    randomised(theirs).eval()
    model = import_official(saved(theirs, tmp_path, prefix), "CycleGAN", PAIR)
    assert model.arguments == arguments
    assert not model.system.training
    x = image(2, 1, 64, 96)
    with torch.no_grad():
        same(model.system.translate(x), theirs(x))
    # no discriminator, no way back and no picture comes along
    assert model.card["networks"] == "imported a_to_b; b_to_a, judge_a, judge_b fresh"


def test_running_statistics_of_old_instance_norms_are_left_out(tmp_path: Path) -> None:
    old = randomised(Resnet(kind="old"))
    state = old.state_dict()
    assert "model.2.running_mean" in state
    assert "model.10.conv_block.2.num_batches_tracked" in state
    model = import_official(saved(old, tmp_path), "CycleGAN", PAIR)
    x = image(1, 1, 32, 32)
    theirs = Resnet()
    theirs.load_state_dict(
        {k: v for k, v in state.items() if "running" not in k and "tracked" not in k}
    )
    with torch.no_grad():
        same(model.system.translate(x), theirs(x))
        assert not torch.allclose(old.eval()(x), theirs(x), atol=0.05), "they would have mattered"
    torch.save({**state, "model.99.running_thing": torch.ones(1)}, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=r"unknown model.99.running_thing;"):
        import_official(tmp_path / "odd.pth", "CycleGAN", PAIR)


def test_the_same_file_gives_the_same_model_and_leaves_chance_alone(tmp_path: Path) -> None:
    path = saved(randomised(Resnet()), tmp_path)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, other = (import_official(path, "CycleGAN", PAIR).system.state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_several_contrasts_and_slices(tmp_path: Path) -> None:
    path = saved(randomised(Resnet(2)), tmp_path)
    both = Task((T1W, FLAIR), (T2W, PDW))
    assert import_official(path, "CycleGAN", both).system.translate(image(1, 2, 8, 8)).shape[1] == 2
    with pytest.raises(UsageError, match="2 channels in and 2 out"):
        import_official(path, "CycleGAN", PAIR)
    with pytest.raises(UsageError, match="one target; leave out on demand"):
        import_official(
            saved(Resnet(), tmp_path), "CycleGAN", Task((T1W, T2W), (T1W, T2W), on_demand=True)
        )


@pytest.mark.parametrize("theirs", [Resnet(kind="batch"), UNet(kind="batch")])
def test_batch_norm_is_refused(theirs: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"batch norm.*--norm instance"):
        import_official(saved(theirs, tmp_path), "CycleGAN", PAIR)


def test_the_pix2pix_door_says_where_a_residual_generator_belongs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--from CycleGAN"):
        import_official(saved(Resnet(), tmp_path), "pytorch-CycleGAN-and-pix2pix", PAIR)
    with pytest.raises(UsageError, match='did you mean "CycleGAN"'):
        import_official(saved(Resnet(), tmp_path), "cyclegan", PAIR)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G_A.pth"
    state = Resnet().state_dict()
    del state["model.13.bias"]
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"does not fit cyclegan: it lacks model.13.bias;"):
        import_official(path, "CycleGAN", PAIR)


def test_the_command_line_writes_a_model_that_reads_back(tmp_path: Path) -> None:
    theirs = randomised(Resnet()).eval()
    output = tmp_path / "mine"
    command = ["models", "import", str(saved(theirs, tmp_path)), "--from", "CycleGAN"]
    command += ["-o", str(output), "--source", "t1", "--target", "t2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "imported a_to_b; b_to_a, judge_a, judge_b fresh" in result.output
    model = read_model(output)
    assert (model.system_name, model.task) == ("cyclegan", PAIR)
    x = image(1, 1, 32, 40)
    with torch.no_grad():
        same(model.system.translate(x), theirs(x))
