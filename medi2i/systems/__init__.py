"""The catalogue: every translation system by name. One file is one published method."""

from __future__ import annotations

import difflib

from medi2i.errors import ModelError
from medi2i.systems.alignflow import AlignFlow
from medi2i.systems.base import Paper, Translator, Turn, frozen
from medi2i.systems.bayesian_cgan import BayesianCGAN
from medi2i.systems.bicyclegan import BicycleGAN
from medi2i.systems.branchgan import BranchGAN
from medi2i.systems.cegan import CEGAN
from medi2i.systems.cgan_hu2018 import CGANHu2018
from medi2i.systems.cut import CUT
from medi2i.systems.cyclegan import CycleGAN
from medi2i.systems.denoising_autoencoder import DenoisingAutoencoder
from medi2i.systems.discogan import DiscoGAN
from medi2i.systems.dosgan import DosGAN
from medi2i.systems.drit import DRIT
from medi2i.systems.dualgan import DualGAN
from medi2i.systems.fixed_point_gan import FixedPointGAN
from medi2i.systems.flow_deformation import FlowDeformation
from medi2i.systems.flow_disentangle import FlowDisentangle
from medi2i.systems.implicit_pairs import ImplicitPairs
from medi2i.systems.munit import MUNIT
from medi2i.systems.pix2pix import Pix2pix
from medi2i.systems.pix2pix_flow import Pix2pixFlow
from medi2i.systems.pix2pixhd import Pix2pixHD
from medi2i.systems.qgan import QGAN
from medi2i.systems.reggan import RegGAN
from medi2i.systems.revgan import RevGAN
from medi2i.systems.stargan import StarGAN
from medi2i.systems.starganv2 import StarGANv2
from medi2i.systems.tunit import TUNIT
from medi2i.systems.unet import UNetRegression
from medi2i.systems.unit import UNIT
from medi2i.systems.vae import VAE
from medi2i.systems.xgan import XGAN

__all__ = ["SYSTEMS", "Paper", "Translator", "Turn", "frozen", "system_named"]

SYSTEMS: dict[str, type[Translator]] = {
    "alignflow": AlignFlow,
    "bayesian_cgan": BayesianCGAN,
    "bicyclegan": BicycleGAN,
    "branchgan": BranchGAN,
    "cegan": CEGAN,
    "cgan_hu2018": CGANHu2018,
    "cut": CUT,
    "cyclegan": CycleGAN,
    "denoising_autoencoder": DenoisingAutoencoder,
    "discogan": DiscoGAN,
    "dosgan": DosGAN,
    "drit": DRIT,
    "dualgan": DualGAN,
    "fixed_point_gan": FixedPointGAN,
    "flow_deformation": FlowDeformation,
    "flow_disentangle": FlowDisentangle,
    "implicit_pairs": ImplicitPairs,
    "munit": MUNIT,
    "pix2pix": Pix2pix,
    "pix2pix_flow": Pix2pixFlow,
    "pix2pixhd": Pix2pixHD,
    "qgan": QGAN,
    "reggan": RegGAN,
    "revgan": RevGAN,
    "stargan": StarGAN,
    "starganv2": StarGANv2,
    "tunit": TUNIT,
    "unet": UNetRegression,
    "unit": UNIT,
    "vae": VAE,
    "xgan": XGAN,
}


def system_named(name: str) -> type[Translator]:
    """The class behind a name of the catalogue.

    Raises:
        ModelError: no such system; the message names the nearest one.
    """
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ModelError(f'system "{name}" is not in the catalogue ({", ".join(SYSTEMS)}){hint}')
    return SYSTEMS[name]
