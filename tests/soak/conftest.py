"""The command line's own fixtures; commands that can be killed; a summary of a soak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.cli.conftest import call, shipped, tiny
from tests.soak.launcher import Launcher

__all__ = ["call", "launch", "shipped", "tiny"]


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Runs commands that can be killed, one thread each."""
    launcher = Launcher(tmp_path_factory.mktemp("launcher"))
    yield launcher
    launcher.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many inputs and kills there were, how they ended, and what threads change."""
    for what in ("inputs", "kills"):
        ends: Counter[str] = Counter()
        for reports in terminalreporter.stats.values():
            for report in reports:
                if getattr(report, "when", "") == "call":
                    ends.update(dict(report.user_properties).get(what, {}))
        if ends:
            told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            terminalreporter.write_line(f"{ends.total()} {what}: {told}")
    for report in terminalreporter.stats.get("passed", ()):
        for what, apart in report.user_properties:
            if what == "threads":
                said = f"one thread and two: at most {apart:.2g} of the largest value apart"
                terminalreporter.write_line(said)
