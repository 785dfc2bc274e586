"""The encoder and the latent discriminator of a CEGAN-style game, on BicycleGAN's parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medi2i.networks.bicyclegan import CodeEncoder
from medi2i.networks.layers import Norm

__all__ = ["EmbeddingEncoder", "latent_critic"]


class EmbeddingEncoder(CodeEncoder):
    """BicycleGAN's encoder, whose pooled features may also say how bright the image is.

    Instance norm hides gain and offset of an image, and these are what differs between scanners.

    Args:
        moments: put each channel's mean and standard deviation behind the pooled features.
        dims, inputs, code, features, blocks, kind: as of `CodeEncoder`.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        code: int = 8,
        features: int = 64,
        blocks: int = 4,
        kind: Norm = "instance",
        moments: bool = False,
    ) -> None:
        super().__init__(
            dims=dims, inputs=inputs, code=code, features=features, blocks=blocks, kind=kind
        )
        self.moments = moments
        if moments:
            for name in ("mean", "log_variance"):
                head: nn.Linear = getattr(self, name)
                wider = nn.Linear(head.in_features + 2 * inputs, code)
                nn.init.xavier_normal_(wider.weight, 0.02)
                nn.init.zeros_(wider.bias)
                setattr(self, name, wider)

    @property
    def width(self) -> int:
        """Numbers in the embedding of an image."""
        return self.mean.in_features

    def pooled(self, image: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, width): the embedding, which both heads see."""
        embedding = super().pooled(image)
        if not self.moments:
            return embedding
        voxels = image.flatten(2)
        return torch.cat([embedding, voxels.mean(2), voxels.std(2)], dim=1)


def latent_critic(inputs: int, width: int) -> nn.Sequential:
    """(B, inputs) -> (B, 1): logits for embedded images; three layers, no norm."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
    )
