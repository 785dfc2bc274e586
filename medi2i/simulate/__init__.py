"""Heads and scans without data: anatomy, physics, scanner."""

from __future__ import annotations

from medi2i.simulate.anatomy import Head, procedural_head
from medi2i.simulate.lesions import Pathology
from medi2i.simulate.physics import (
    LABELS,
    PROTOCOLS,
    InversionRecovery,
    Mprage,
    Relaxation,
    Sequence,
    SpinEcho,
    SpoiledGradientEcho,
    Tissue,
    protocol,
    relaxation,
    with_contrast_agent,
)
from medi2i.simulate.protocols import Style
from medi2i.simulate.scanner import acquire, phantom
from medi2i.simulate.simulator import Simulated, simulate

__all__ = [
    "LABELS",
    "PROTOCOLS",
    "Head",
    "InversionRecovery",
    "Mprage",
    "Pathology",
    "Relaxation",
    "Sequence",
    "Simulated",
    "SpinEcho",
    "SpoiledGradientEcho",
    "Style",
    "Tissue",
    "acquire",
    "phantom",
    "procedural_head",
    "protocol",
    "relaxation",
    "simulate",
    "with_contrast_agent",
]
