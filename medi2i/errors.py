"""Every error that medi2i raises on purpose, in one small tree.

    Medi2iError
    ├── UsageError(ValueError)             the call itself is wrong            exit 2
    ├── InputError(ValueError)             what was handed in is wrong         exit 3
    │   ├── MissingFileError(FileNotFoundError)
    │   ├── FormatError                    not the format it claims to be
    │   ├── DimensionError                 wrong number or size of dimensions
    │   ├── GeometryError                  zooms or affine make no sense
    │   ├── IntensityError                 NaN, Inf, constant, empty
    │   ├── ContrastError                  unknown, missing or equal contrast
    │   ├── CohortError                    subjects, splits, tables
    │   ├── ConfigError                    an unknown key, a wrong type
    │   ├── OutputError(OSError)           exists, read-only, disk full
    │   └── DeviceMemoryError(MemoryError) too much at once for the memory
    ├── ModelError(ValueError)             weights or model folder are wrong   exit 4
    └── TrainingError(RuntimeError)        a run that cannot go on             exit 3

Each refines a built-in, so that callers who know nothing of medi2i can still
catch it. The message names the thing, what was expected, what came and, where
there is something to do, what to do. ``exit_code`` is what the command line
returns.
"""

from __future__ import annotations

__all__ = [
    "CohortError",
    "ConfigError",
    "ContrastError",
    "DeviceMemoryError",
    "DimensionError",
    "FormatError",
    "GeometryError",
    "InputError",
    "IntensityError",
    "Medi2iError",
    "MissingFileError",
    "ModelError",
    "OutputError",
    "TrainingError",
    "UsageError",
    "out_of_memory",
    "unreachable",
]


LONGEST = 2000
"""Characters of a message; what is longer, as it quotes what was handed in, loses its middle."""


class Medi2iError(Exception):
    r"""Base of all errors raised on purpose.

    Its message can be printed and read whatever it quotes.

    >>> str(Medi2iError("\udcff.nii does not exist"))
    '\\udcff.nii does not exist'
    """

    exit_code = 3

    def __str__(self) -> str:
        said = super().__str__().encode("utf-8", "backslashreplace").decode()
        if len(said) <= LONGEST:
            return said
        return f"{said[: LONGEST * 3 // 4]} [...] {said[-LONGEST // 5 :]}"


class UsageError(Medi2iError, ValueError):
    """The call contradicts itself or asks for something that does not exist."""

    exit_code = 2


class InputError(Medi2iError, ValueError):
    """Something that was handed in cannot be used."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder is not there, or holds no scan."""


class FormatError(InputError):
    """A file is not what its name or header claims."""


class DimensionError(InputError):
    """A volume or tensor has the wrong number or size of dimensions."""


class GeometryError(InputError):
    """Zooms or affine do not describe a grid in space."""


class IntensityError(InputError):
    """Voxel values that cannot be worked with: NaN, Inf, constant, empty."""


class ContrastError(InputError):
    """A contrast is unknown, missing, or equal to the one it should become."""


class CohortError(InputError):
    """Subjects, splits or tables that do not fit together."""


class ConfigError(InputError):
    """A configuration with an unknown key or a value of the wrong type."""


class OutputError(InputError, OSError):
    """A result cannot be written where it should go."""


class DeviceMemoryError(InputError, MemoryError):
    """More went through a network at once than the memory holds.

    Attributes:
        fits: how many windows would have fitted; 0 for none.
    """

    def __init__(self, said: str, fits: int = 0) -> None:
        super().__init__(said)
        self.fits = fits


class ModelError(Medi2iError, ValueError):
    """A model folder is incomplete, altered, or names a system that is not there."""

    exit_code = 4


class TrainingError(Medi2iError, RuntimeError):
    """A training run that cannot go on."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the system or a GPU had no memory left; torch says so in a RuntimeError."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("out of memory", "not enough memory", "can't allocate")
    )


def unreachable(error: OSError) -> InputError:
    """The sentence for a file that the system does not let us reach."""
    return InputError(f'"{error.filename}" cannot be reached: {error.strerror or error}')
