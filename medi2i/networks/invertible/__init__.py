"""Networks that are bijections with a known Jacobian: normalising flows of images, 2-D and 3-D.

Forward goes from data to latents: log p(x) = log p(latents) + log |det d latents / d x|. Every
layer returns its result and a log-determinant per sample, (B,), in nats, in both directions.
"""

from __future__ import annotations

from medi2i.networks.invertible.flow import Flow
from medi2i.networks.invertible.layers import (
    ActNorm,
    CouplingLayer,
    FlowCoupling,
    Invertible,
    InvertibleConvolution,
)
from medi2i.networks.invertible.likelihood import (
    bits_per_dimension,
    dequantised,
    log_standard_normal,
    nats_per_voxel,
    standard_normal,
)
from medi2i.networks.invertible.pyramid import ConditionPyramid
from medi2i.networks.invertible.recompute import through
from medi2i.networks.invertible.scales import FactorOut, Squeeze, Squeezing, bent

__all__ = [
    "ActNorm",
    "ConditionPyramid",
    "CouplingLayer",
    "FactorOut",
    "Flow",
    "FlowCoupling",
    "Invertible",
    "InvertibleConvolution",
    "Squeeze",
    "Squeezing",
    "bent",
    "bits_per_dimension",
    "dequantised",
    "log_standard_normal",
    "nats_per_voxel",
    "standard_normal",
    "through",
]
