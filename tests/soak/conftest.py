"""The command line's own fixtures."""

from __future__ import annotations

from tests.cli.conftest import call, shipped, tiny

__all__ = ["call", "shipped", "tiny"]
