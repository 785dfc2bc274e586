"""One training run from its configuration: the place where data, system and trainer meet."""

from __future__ import annotations

from medi2i.data.settings import Data
from medi2i.experiment.configuration import (
    Config,
    Validation,
    begun_alike,
    read_config,
    remember,
)
from medi2i.experiment.run import run_experiment

__all__ = [
    "Config",
    "Data",
    "Validation",
    "begun_alike",
    "read_config",
    "remember",
    "run_experiment",
]
