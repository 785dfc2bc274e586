from __future__ import annotations

import pytest

from medi2i.simulate import Head, procedural_head


@pytest.fixture(scope="session")
def head() -> Head:
    """One person at 2 mm."""
    return procedural_head(1, shape=(80, 96, 80), spacing=(2.0, 2.0, 2.0))
