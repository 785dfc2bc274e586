"""Names that a person chooses among: members of an enumeration, by their values."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from medi2i.errors import UsageError

__all__ = ["called"]

E = TypeVar("E", bound=StrEnum)


def called(what: str, name: str, kind: type[E]) -> E:
    """The member of `kind` with that value.

    Args:
        what: how messages call its members.

    Raises:
        UsageError: there is none; the message names those that there are.
    """
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise UsageError(f'{what} "{name}" is unknown; one of {known} was expected') from None
