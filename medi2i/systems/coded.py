"""What BicycleGAN and CEGAN share: a generator that draws an image from a source and a code."""

from __future__ import annotations

import torch
from torch import Tensor

from medi2i.networks.bicyclegan import BicycleGenerator, CodeEncoder
from medi2i.networks.layers import pad_to_multiple, tiled
from medi2i.systems.base import Translator, one_hot

__all__ = ["CodedTranslator"]


class CodedTranslator(Translator):
    """Images by code; the constructor of a subclass sets `generator`, `encoder` and `code_size`."""

    one_to_many = True
    generator: BicycleGenerator
    encoder: CodeEncoder

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of the code of zeros, which is the mean of the codes."""
        return self.sample(source, source.new_zeros(len(source), self.code_size), target=target)

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of a code; see :meth:`Translator.sample`."""
        dressed, _ = self.dressed(source, target)
        return self.generated(dressed, code)

    def code_of(self, image: Tensor) -> Tensor:
        """(B, outputs, *spatial) -> (B, code): the mean code of a target image, to imitate it."""
        mean: Tensor
        mean, _ = self.encoder(image)
        return mean

    def dressed(self, source: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """The source with one constant plane per contrast on demand, and these planes alone."""
        condition = one_hot(target, self.conditions, source)
        planes = source[:, :0] if condition is None else tiled(condition, source)
        return torch.cat([source, planes], dim=1), planes

    def generated(self, dressed: Tensor, code: Tensor) -> Tensor:
        """The generator's image for a dressed source of any size."""
        padded, crop = pad_to_multiple(dressed, self.generator.multiple)
        fake: Tensor = self.generator(padded, code)
        return fake[crop]
