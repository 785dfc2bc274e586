"""Scans as a scanner gives them, made ready: even coils, one grid, a brain mask."""

from __future__ import annotations

from medi2i.preparation.outputs import Places, check_places, write_person
from medi2i.preparation.people import Person, everybody, one_person, prepare_files
from medi2i.preparation.prepare import Prepared, Steps, identify, prepare, prepare_person
from medi2i.preparation.rigid import Registration, register

__all__ = [
    "Person",
    "Places",
    "Prepared",
    "Registration",
    "Steps",
    "check_places",
    "everybody",
    "identify",
    "one_person",
    "prepare",
    "prepare_files",
    "prepare_person",
    "register",
    "write_person",
]
