from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medi2i.errors import MissingFileError, ModelError, UsageError
from medi2i.networks.perceptual import VGG19Features, grey_photographs

CONFIGURATION = "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M"
"""Column E of table 1 of the paper."""


@pytest.fixture(scope="module")
def whole_network() -> nn.Sequential:
    """All the layers of VGG-19's feature half, in torchvision's numbering."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for entry in CONFIGURATION.split():
        if entry == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, int(entry), 3, padding=1), nn.ReLU()]
        channels = int(entry)
    return nn.Sequential(*layers).requires_grad_(False)


@pytest.fixture(scope="module")
def weights(whole_network: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    state = {f"features.{name}": tensor for name, tensor in whole_network.state_dict().items()}
    save_file(state | {"classifier.0.bias": torch.zeros(3)}, path)
    return path


def test_the_five_maps_are_those_of_the_layer_list(
    whole_network: nn.Sequential, weights: Path
) -> None:
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    maps = VGG19Features.read(weights)(image)
    x: Tensor = image
    expected = []
    for number, layer in enumerate(whole_network):
        x = layer(x)
        if number in (1, 6, 11, 20, 29):  # relu1_1, 2_1, 3_1, 4_1, 5_1
            expected.append(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 48),
        (128, 16, 24),
        (256, 8, 12),
        (512, 4, 6),
        (512, 2, 3),
    ]
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_standardised_images_have_the_photographs_mean_and_deviation(weights: Path) -> None:
    plain, standard = (VGG19Features.read(weights, standardise=s) for s in (False, True))
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    by_hand = torch.stack(
        [((image[0, c] + 1) / 2 - mean[c]) / deviation[c] for c in range(3)]
    ).unsqueeze(0)
    torch.testing.assert_close(standard(image)[4], plain(by_hand)[4])


def test_it_never_learns_and_lets_gradients_through(weights: Path) -> None:
    state = torch.get_rng_state()
    network = VGG19Features.read(weights)
    assert torch.equal(torch.get_rng_state(), state), "a resumed run is the same run"
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(image)[4].sum().backward()
    assert image.grad is not None
    assert image.grad.any()
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_names_without_the_prefix_will_do(tmp_path: Path, whole_network: nn.Sequential) -> None:
    save_file(dict(whole_network[:29].state_dict()), tmp_path / "bare.safetensors")
    VGG19Features.read(tmp_path / "bare.safetensors")


def test_what_is_wrong_is_named(tmp_path: Path, whole_network: nn.Sequential) -> None:
    path = tmp_path / "some.safetensors"
    with pytest.raises(MissingFileError, match="do not exist"):
        VGG19Features.read(path)
    path.write_bytes(b"not at all")
    with pytest.raises(ModelError, match="no safetensors file"):
        VGG19Features.read(path)
    save_file({"features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(ModelError, match=r"\(64, 1, 3, 3\) as .features.0.weight.*\(64, 3, 3, 3\)"):
        VGG19Features.read(path)
    state = dict(whole_network[:29].state_dict())
    del state["28.bias"]
    save_file(state, path)
    with pytest.raises(ModelError, match=r"nothing as .features.28.bias"):
        VGG19Features.read(path)


def test_small_images_are_refused() -> None:
    with torch.device("meta"):
        network = VGG19Features()
    with pytest.raises(UsageError, match=r"\(16, 15\)"):
        network(torch.zeros(1, 3, 16, 15))


def test_scans_become_grey_photographs() -> None:
    flat, solid = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 4, 5, 6)
    (photographs,) = grey_photographs(flat, [])
    assert photographs.shape == (6, 3, 4, 5)
    assert torch.equal(photographs[5, 0], flat[1, 2])
    assert torch.equal(photographs[5, 2], flat[1, 2])
    views = grey_photographs(solid, [3, 0, 2])
    assert [tuple(view.shape) for view in views] == [(2, 3, 5, 6), (2, 3, 4, 6), (2, 3, 4, 5)]
    assert torch.equal(views[0][1, 1], solid[1, 0, 3])
    assert torch.equal(views[1][0, 0], solid[0, 0, :, 0])
    assert torch.equal(views[2][0, 0], solid[0, 0, :, :, 2])
