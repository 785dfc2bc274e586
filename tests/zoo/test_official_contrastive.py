"""CUT's generators, rebuilt layer by layer under their names, against their import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from medi2i.cli import app
from medi2i.contrasts import Contrast
from medi2i.errors import ModelError, UsageError
from medi2i.model import read_model
from medi2i.task import Task
from medi2i.zoo.official import import_official

T1W, T2W, FLAIR, PDW = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.PDW
PAIR = Task((T1W,), (T2W,))


class Downsample(nn.Module):
    """Mirrored by one, blurred by 1, 2, 1, every second voxel; the blur is in the checkpoint."""

    filt: Tensor

    def __init__(self, wide: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2, 1])
        self.register_buffer("filt", (torch.outer(row, row) / 16).repeat(wide, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, [1] * 4, mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


class Upsample(nn.Module):
    """Replicated by one, spread by 1, 3, 3, 1 in steps of two, cut back."""

    filt: Tensor

    def __init__(self, wide: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3, 3, 1])
        self.register_buffer("filt", (torch.outer(row, row) / 64 * 4).repeat(wide, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, [1] * 4, mode="replicate")
        spread = functional.conv_transpose2d(
            padded, self.filt, stride=2, padding=2, groups=x.shape[1]
        )
        return spread[:, :, 1:, 1:][:, :, :-1, :-1]


def normed(wide: int, kind: str) -> nn.Module:
    return nn.BatchNorm2d(wide) if kind == "batch" else nn.InstanceNorm2d(wide)


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
    """netG resnet_*: module 4 and 8 halve, 12 is the first block."""

    def __init__(
        self,
        channels: int = 1,
        blocks: int = 9,
        *,
        kind: str = "instance",
        dropout: bool = False,
        blurred: tuple[bool, bool] = (True, True),
    ) -> None:
        super().__init__()
        down, up = blurred

        def halve(wide: int) -> list[nn.Module]:
            first = nn.Conv2d(wide, 2 * wide, 3, 1 if down else 2, 1)
            unit = [first, normed(2 * wide, kind), nn.ReLU(True)]
            return [*unit, Downsample(2 * wide)] if down else unit

        def double(wide: int) -> list[nn.Module]:
            half = wide // 2
            last = [normed(half, kind), nn.ReLU(True)]
            if up:
                return [Upsample(wide), nn.Conv2d(wide, half, 3, 1, 1), *last]
            return [nn.ConvTranspose2d(wide, half, 3, 2, 1, 1), *last]

        self.model = nn.Sequential(
            *[nn.ReflectionPad2d(3), nn.Conv2d(channels, 4, 7), normed(4, kind), nn.ReLU(True)],
            *[*halve(4), *halve(8)],
            *[Block(16, kind, dropout) for _ in range(blocks)],
            *[*double(16), *double(8)],
            *[nn.ReflectionPad2d(3), nn.Conv2d(4, channels, 7), nn.Tanh()],
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.model(x))


def randomised(network: nn.Module, seed: int = 3) -> nn.Module:
    """Every tensor that learns, away from where it began."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            fan = value[0].numel() if value.dim() > 1 else 25
            value.copy_(torch.randn(value.shape, generator=random) * (2 / fan) ** 0.5)
    return network


def saved(network: nn.Module, folder: Path, prefix: str = "") -> Path:
    path = folder / "latest_net_G.pth"
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
        (Resnet(), {"features": 4, "blocks": 9, "antialiased": True}),
        (Resnet(blocks=6), {"features": 4, "blocks": 6, "antialiased": True}),
        (Resnet(blocks=2, dropout=True), {"features": 4, "blocks": 2, "antialiased": True}),
        (
            Resnet(blocks=2, blurred=(False, False)),
            {"features": 4, "blocks": 2, "antialiased": False},
        ),
    ],
    ids=["nine blocks", "six blocks", "dropout", "no antialias"],
)
def test_cut(theirs: nn.Module, arguments: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    randomised(theirs).eval()
    model = import_official(saved(theirs, tmp_path, prefix), "CUT", PAIR)
    assert model.arguments == arguments
    x = image(2, 1, 32, 48)
    with torch.no_grad():
        same(model.system.translate(x), theirs(x))
    assert model.card["networks"] == "imported generator; discriminator, projection fresh"


def test_what_it_sees_is_what_the_authors_modules_give(tmp_path: Path) -> None:
    """Modules 0, 4, 8, 12 and 16 of their generator."""
    theirs: Any = randomised(Resnet())
    system: Any = import_official(saved(theirs, tmp_path), "CUT", PAIR).system
    x = image(2, 1, 32, 48)
    seen, y = [], x
    with torch.no_grad():
        for number, layer in enumerate(theirs.model):
            y = layer(y)
            if number in (0, 4, 8, 12, 16):
                seen.append(y.clone())
        for ours, wanted in zip(system.seen(x), seen, strict=True):
            same(ours, wanted)


def test_several_contrasts(tmp_path: Path) -> None:
    path = saved(randomised(Resnet(2, 1)), tmp_path)
    both = Task((T1W, FLAIR), (T2W, PDW))
    assert import_official(path, "CUT", both).system.translate(image(1, 2, 8, 8)).shape[1] == 2
    with pytest.raises(UsageError, match="2 channels in and 2 out"):
        import_official(path, "CUT", PAIR)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    whole = Resnet(blocks=1).state_dict()

    def refused(state: dict[str, Any], message: str) -> None:
        torch.save(state, path)
        with pytest.raises(ModelError, match=message):
            import_official(path, "CUT", PAIR)

    refused(Resnet(blocks=1, blurred=(True, False)).state_dict(), "only one of --no_antialias")
    refused(Resnet(blocks=1, blurred=(False, True)).state_dict(), "only one of --no_antialias")
    refused(Resnet(kind="batch").state_dict(), r"batch norm.*--normG instance")
    refused({"encoder.convs.1.0.weight": torch.ones(8, 3, 1, 1)}, "SinCUT.*residual generators")
    refused({**whole, "model.7.filt": whole["model.7.filt"] * 2}, '"model.7.filt".* another blur')
    refused({**whole, "model.13.filt": torch.ones(16, 1, 5, 5)}, '"model.13.filt".* another blur')
    refused({**whole, "model.99.filt": torch.ones(1)}, "has unknown model.99.filt;")
    refused({k: v for k, v in whole.items() if k != "model.8.bias"}, "lacks model.8.bias;")


def test_the_command_line_writes_a_model_that_reads_back(tmp_path: Path) -> None:
    theirs = randomised(Resnet(blocks=2)).eval()
    output = tmp_path / "mine"
    command = ["models", "import", str(saved(theirs, tmp_path)), "--from", "CUT"]
    command += ["-o", str(output), "--source", "t1", "--target", "t2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    model = read_model(output)
    assert (model.system_name, model.task) == ("cut", PAIR)
    x = image(1, 1, 32, 40)
    with torch.no_grad():
        same(model.system.translate(x), theirs(x))
