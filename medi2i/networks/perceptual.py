"""VGG-19 as a judge of images (Simonyan & Zisserman 2015, arXiv:1409.1556; Johnson et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from medi2i.errors import MissingFileError, ModelError, UsageError

__all__ = ["LAYER_WEIGHTS", "VGG19Features", "grey_photographs"]

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Channels of the convolutions up to conv5_1; 0 halves the image by maxima."""
SHOWN = (0, 2, 4, 8, 12)
"""The convolutions whose ReLU is shown: relu1_1, relu2_1, relu3_1, relu4_1, relu5_1."""
LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""What pix2pixHD gives to each of them."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the photographs that the network was trained with, in [0, 1], by colour."""


class VGG19Features(nn.Module):
    """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG-19; it never learns.

    Args:
        standardise: bring images from [-1, 1] to the mean and deviation of the photographs that
            the network was trained with. pix2pixHD's authors hand images over as they are.
    """

    def __init__(self, *, standardise: bool = False) -> None:
        super().__init__()
        self.standardise = standardise
        channels = (3, *(width for width in WIDTHS if width))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(given, wide, 3, padding=1) for given, wide in pairwise(channels)
        )
        self.requires_grad_(False)

    @classmethod
    def read(cls, path: Path, *, standardise: bool = False) -> VGG19Features:
        """Read weights from a safetensors file with torchvision's names.

        Args:
            path: holds "features.0.weight" (or "0.weight") and so on; what lies behind conv5_1 is
                not needed and may be there or not.
            standardise: see the class.

        Raises:
            MissingFileError: no such file. ModelError: not safetensors, or a tensor is missing or
                has another shape.
        """
        if not path.is_file():
            raise MissingFileError(
                f'the VGG-19 weights "{path}" do not exist; give the path of a safetensors file, '
                "or none to leave the perceptual loss out"
            )
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f'"{path}" is no safetensors file: {error}') from error
        with torch.device("meta"):  # drawing weights would disturb the random numbers of a run
            network = cls(standardise=standardise)
        positions = [place for place, width in enumerate(_layers()) if width]
        state = {}
        for number, position in enumerate(positions):
            for name, parameter in network.convolutions[number].named_parameters():
                key = f"features.{position}.{name}"
                tensor = found.get(key, found.get(key.removeprefix("features.")))
                if tensor is None or tensor.shape != parameter.shape:
                    came = "nothing" if tensor is None else tuple(tensor.shape)
                    raise ModelError(
                        f'"{path}" has {came} as "{key}"; VGG-19 has {tuple(parameter.shape)}'
                    )
                state[f"convolutions.{number}.{name}"] = tensor.float()
        network.load_state_dict(state, assign=True)
        return network.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> the five maps, the first at full size.

        Raises:
            UsageError: the image is smaller than 16 x 16.
        """
        if min(image.shape[2:]) < 16:
            raise UsageError(
                f"an image of size {tuple(image.shape[2:])} given; VGG-19 needs 16 x 16 or more"
            )
        x = image
        if self.standardise:
            mean, deviation = (x.new_tensor(v).reshape(3, 1, 1) for v in (MEAN, DEVIATION))
            x = ((x + 1) / 2 - mean) / deviation
        maps = []
        layers = iter(self.convolutions)
        number = 0
        for width in WIDTHS:
            if not width:
                x = functional.max_pool2d(x, 2)
                continue
            x = functional.relu(next(layers)(x))
            if number in SHOWN:
                maps.append(x)
            number += 1
        return maps


def grey_photographs(image: Tensor, at: Sequence[int]) -> list[Tensor]:
    """Scans as a network for colour photographs wants them: each channel thrice, and flat.

    Args:
        image: (B, C, *spatial).
        at: for three spatial axes the position of the slice across each; unused for two.

    Returns:
        One tensor (B * C, 3, H, W) for a flat image; three for a volume, one per axis.
    """
    flat = [image] if image.dim() == 4 else [image.select(2 + a, at[a]) for a in range(3)]
    return [one.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1) for one in flat]


def _layers() -> list[int]:
    """The layers that names count: each convolution is followed by its ReLU, a pool by none."""
    return [entry for width in WIDTHS for entry in ((width, 0) if width else (0,))]
