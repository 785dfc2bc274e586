"""Networks: modules that know no losses. Each takes ``dims`` = 2 or 3."""

from __future__ import annotations

from medi2i.networks.pix2pix import PatchDiscriminator, Pix2pixGenerator
from medi2i.networks.unet import UNet

__all__ = ["PatchDiscriminator", "Pix2pixGenerator", "UNet"]
