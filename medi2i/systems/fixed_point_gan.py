"""Fixed-Point GAN (Rahman Siddiquee et al. 2019, arXiv:1908.06965; mahfuzmohammad/Fixed-Point-GAN).

Its authors have applied for a patent on the method: see their repository's notice before any
commercial use.

StarGAN that is also asked to leave an image in its own domain, and then to change nothing: so it
learns to change only what makes the difference between domains. Asked to look healthy, a diseased
image loses its lesion, and what has changed shows where the lesion was; labels of whole images
suffice. The generator draws a change, which is added to the image. In every round the critic
moves, which also names the domain, against images taken across domains; in every `n_critic`-th
round the generator follows, across domains and within them:

    there   -critic(fake) + named as asked + way back        fake = T(x, asked)
    here    -critic(same) + named as it is + way back + identity |same - x|, same = T(x, own)

What differs from the authors' code, and why:
- T(x, c) = tanh(x + change) can leave no image as it is: tanh(x) is not x, by up to 0.24 at the
  ends of the range, and 1 itself is out of reach. Here the default is a fixed point where the
  change is zero: x + change, clamped to [-1, 1]. `head: tanh` is the paper's. The clamp passes
  gradients straight through, or a change that went too far could never come back; voxels of the
  image beyond the range keep their value.
- Domains are one-hot with one cross entropy (see `systems.domains`). The authors give a label of
  one bit, or of several, each with a logistic loss; for two domains the two are equal in kind.
- Domains that were asked for are always others than the own: the authors shuffle the labels of the
  batch, by which half of eight images or more stay where they are, which the second group does
  anyway. The real image beside a generated one is the batch's target, as in `stargan`.
- The generated image of a round serves both players, as in `stargan`.
- Instance norm keeps no running statistics: the authors' must not be used at test time.
- Their learning rate hardly decays; the configuration keeps it constant.
- Added: 3-D (the classifier then looks at one position at a time) and neighbouring slices: the
  change is one of the centre slice.

The penalty differentiates twice, which compiled networks cannot.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medi2i.batch import Pairing
from medi2i.errors import UsageError
from medi2i.losses import absolute_error
from medi2i.systems.base import Paper
from medi2i.systems.domains import Crossing
from medi2i.systems.stargan import StarGAN

__all__ = ["FixedPointGAN"]

Head = Literal["exact", "tanh"]


class FixedPointGAN(StarGAN):
    """Any domain to any other with the least change, and to itself with none.

    Args:
        head: "exact": image + change within [-1, 1], an exact fixed point where the change is
            zero; "tanh": tanh(image + change), the paper's.
        features: channels of the generator's first layer; None chooses 64 in 2-D, 32 in 3-D.
        blocks: residual blocks.
        discriminator_features: channels of the critic's first layer; None chooses as above.
        discriminator_layers: strided layers; None chooses 6 in 2-D, 5 in 3-D.
        window: side of the training windows, which the classifier takes in at once; None chooses
            256 in 2-D, and 0, one position at a time, in 3-D. See `StarGANDiscriminator`.
        n_critic: the generator moves in every so-many-th round.
        classification, cycle, penalty: weights of the paper.
        identity: weight of leaving an image in its own domain as it is; 0.1 is the authors' for
            BRATS, 10 for faces.
        staying: whether the generator is also asked for the own domain; without it, and with
            `identity` 0, this is StarGAN with another head.

    The rest: see :class:`Translator`; as many `outputs` as `inputs`.

    Raises:
        UsageError: `inputs` and `outputs` differ, `n_critic` is less than 1, or an identity is to
            be learned without staying.
    """

    paper = Paper("Rahman Siddiquee et al. 2019, arXiv:1908.06965")
    pairing = Pairing.UNPAIRED
    bounded = False
    usual_window = 256

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        head: Head = "exact",
        features: int | None = None,
        blocks: int = 6,
        discriminator_features: int | None = None,
        discriminator_layers: int | None = None,
        window: int | None = None,
        n_critic: int = 5,
        classification: float = 1.0,
        cycle: float = 10.0,
        penalty: float = 10.0,
        identity: float = 0.1,
        staying: bool = True,
    ) -> None:
        if head not in ("exact", "tanh"):
            raise UsageError(f'head is "{head}"; exact or tanh was expected')
        if identity and not staying:
            raise UsageError(
                f"identity is {identity:g}, but images are not asked to stay: set it to 0, or "
                "`staying` to true"
            )
        super().__init__(
            dims=dims,
            inputs=inputs,
            slices=slices,
            outputs=outputs,
            conditions=conditions,
            features=features,
            blocks=blocks,
            discriminator_features=discriminator_features,
            discriminator_layers=discriminator_layers,
            window=window,
            n_critic=n_critic,
            classification=classification,
            cycle=cycle,
            penalty=penalty,
        )
        self.head = head
        self.identity = identity
        self.staying = staying

    def generator_losses(self, images: Crossing, fake: Tensor) -> dict[str, Tensor]:
        """Across domains and within them; the critic never judges an image that stayed."""
        losses = self.drawing_losses(images, fake, images.asked)
        if self.staying:
            same = self.generated(images.source, images.origin)
            losses |= self.drawing_losses(images, same, images.origin, "_same")
            losses["identity"] = self.identity * absolute_error(same, images.image, images.weight)
        return losses

    def generated(self, source: Tensor, domain: Tensor) -> Tensor:
        """T(source, domain) for a source of any size: (B, C, *spatial)."""
        return self.changed(self.centre(source), super().generated(source, domain))

    def changed(self, image: Tensor, change: Tensor) -> Tensor:
        """An image and a change of it: the head."""
        whole = image + change
        if self.head == "tanh":
            return torch.tanh(whole)
        # within [-1, 1], or no further out than the image: its own highlights are no mistake
        low, high = image.detach().clamp(max=-1.0), image.detach().clamp(min=1.0)
        bounded = whole.detach().clamp(low, high)
        return whole + (bounded - whole.detach())
