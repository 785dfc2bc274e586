"""What a system remembers between rounds: for checkpoints, never for model folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medi2i.errors import UsageError

__all__ = ["ImagePool", "Memory"]


class Memory(nn.Module):
    """Buffers that only training needs.

    They hold what was seen in training, so they are in a run's checkpoint, which makes resuming
    exact, and never in a model folder, which is given away. A buffer may begin empty and take its
    shape from the first that is stored in it or loaded.
    """

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        for name, buffer in self._buffers.items():
            found = state_dict.get(prefix + name)
            if buffer is not None and found is not None and buffer.shape != found.shape:
                self._buffers[name] = buffer.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)


class ImagePool(Memory):
    """Generated images of earlier rounds, so that a discriminator does not forget them.

    Until it is full every image is stored and handed back. From then on an image comes back itself
    in half of the cases; in the others a stored one comes back, and the new one takes its place
    (Shrivastava et al. 2017, arXiv:1612.07828, in the form of CycleGAN's code).

    Args:
        size: images kept; 0 hands everything back.
    """

    images: Tensor
    stored: Tensor

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        if size < 0:
            raise UsageError(f"a pool of {size} images was asked for; 0 or more was expected")
        self.size = size
        self.register_buffer("images", torch.empty(0))
        self.register_buffer("stored", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, C, *spatial) -> as many images, new and old; without gradient."""
        images = images.detach()
        if self.size == 0:
            return images
        if self.images.shape[1:] != images.shape[1:]:
            self.images = images.new_zeros(self.size, *images.shape[1:])
            self.stored.zero_()
        given = images.clone()
        for place, image in enumerate(images):
            filled = int(self.stored)
            if filled < self.size:
                self.images[filled] = image
                self.stored += 1
            elif torch.rand(()) < 0.5:
                old = int(torch.randint(self.size, ()))
                given[place] = self.images[old]
                self.images[old] = image
        return given
