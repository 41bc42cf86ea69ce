# The fixtures that the scenarios with rollouts share, and the table of what clients saw of each fault.
import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fixtures import SEEN_FAULTS, fleet  # noqa: F401


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEEN_FAULTS:
        terminalreporter.section("what clients saw")
        line = "{:46} {:>7} {:>7} {:>10} {:>9} {:>13} {:>5}"
        terminalreporter.write_line(line.format("fault", "sent", "failed", "longest s", "outage s", "acknowledged", "lost"))
        for row in SEEN_FAULTS:
            terminalreporter.write_line(line.format(*row))
