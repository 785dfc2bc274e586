"""Heads and scans without data: anatomy, physics, scanner."""

from __future__ import annotations

from medi2i.simulate.anatomy import Head, procedural_head
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
from medi2i.simulate.scanner import acquire, phantom

__all__ = [
    "LABELS",
    "PROTOCOLS",
    "Head",
    "InversionRecovery",
    "Mprage",
    "Relaxation",
    "Sequence",
    "SpinEcho",
    "SpoiledGradientEcho",
    "Tissue",
    "acquire",
    "phantom",
    "procedural_head",
    "protocol",
    "relaxation",
    "with_contrast_agent",
]
